"""The three readings of the register-flat chip: with the same mappings, no better reading is slower or costs more."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_regflat.cost.chip_tensors import chip_tensors
from torch_regflat.cost.shapes import KernelShape
from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import for_chip
from torch_regflat.schedule.managed import Search
from torch_regflat.schedule.mapper.found import Mapping
from torch_regflat.schedule.shape import shape_of_nest

from ..cost.cases import kernels, matrix_product

READINGS = ("regflat-ideal", "regflat-physical", "regflat-pessimistic")


def search(name: str) -> Search:
    chip = load(name)
    software = for_chip(chip)
    return Search(chip, software, chip_tensors([chip], [software]))


def priced(name: str, shapes: list[KernelShape], mappings: list[Mapping | None]) -> tuple[float, float]:
    """Seconds and joules of kernels one after the other."""
    costs = [group.cost for group in search(name).price(shapes, mappings)]
    return tuple(
        math.fsum(float(x) for cost in costs for x in getattr(cost, field).flatten())
        for field in ("latency_s", "energy_j")
    )  # type: ignore[return-value]


def ordered(shapes: list[KernelShape]) -> None:
    """Under the mappings that the smallest of the memories takes."""
    found = search(READINGS[-1]).found(shapes)
    mappings = [None if f is None else f.mappings[0] for f in found]
    prices = [priced(name, shapes, mappings) for name in READINGS]
    for better, worse in itertools.pairwise(prices):
        assert better[0] <= worse[0] * (1 + 1e-12)
        assert better[1] <= worse[1] * (1 + 1e-12)


@settings(max_examples=15, deadline=None)
@given(kernels)
def test_one_kernel(shape: KernelShape) -> None:
    ordered([shape])


@settings(max_examples=5, deadline=None)
@given(st.lists(kernels, min_size=2, max_size=4))
def test_a_chain(shapes: list[KernelShape]) -> None:
    ordered(shapes)


@pytest.mark.parametrize("m", [1, 512])
def test_the_readings_differ_where_their_memories_matter(m: int) -> None:
    shape = shape_of_nest(matrix_product(1, m, 4096, 4096))
    found = search(READINGS[-1]).found([shape])[0]
    assert found is not None
    prices = [priced(name, [shape], [found.mappings[0]]) for name in READINGS]
    assert prices[0][1] < prices[1][1] < prices[2][1]
    assert prices[0][0] < prices[1][0] < prices[2][0]
