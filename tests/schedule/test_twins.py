"""A flat memory and a cache with the same capacity, energy and bandwidth move the same bytes.

The two memory models agree exactly where nothing is evicted: then both move each tensor across the chip's edge once,
and keep between kernels what fits. Beyond that they differ by what they are: a cache replaces what was used longest
ago and rereads whole bands of tiles, a managed memory evicts what is needed last and tiles freely. Both mappings are
chosen by time, so where external memory does not bound it, either may move more.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from torch_regflat.cost.shapes import KernelShape
from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import load as load_software
from torch_regflat.schedule.kernels import form_kernels
from torch_regflat.schedule.program import places_of
from torch_regflat.schedule.search import choose
from torch_regflat.schedule.select import Choice
from torch_regflat.schedule.shape import shape_of

from ..cost.cases import products
from .test_run import cnn, decoder

SOFTWARE = {
    "cache": load_software("cuda-libraries").replace({"residency_share": 1}),
    "register-flat": load_software("ideal-mapper"),
}
"""The libraries' menu of tiles with all of the L2 usable, as an ideal mapper has all of its memory."""


def twins(mib: int) -> tuple[Chip, Chip]:
    """An H100 whose L2 holds so much, and its flat twin with the L2's numbers and no launch cost on either side."""
    free = {"execution.launch_gap_stream": "0 us", "execution.launch_gap_graph": "0 us"}
    cached = load("h100-sxm").replace(
        **free, **{"memory.L2.capacity": f"{mib} MiB", "memory.L2.usable": None, "die.node": "5 nm"}
    )
    l2, cores = cached.level("L2"), cached.cores.count.value
    flat = cached.flatten().replace(
        **{
            "memory.registers.capacity": f"{l2.capacity_bytes / cores / 1024} KiB",
            "memory.registers.read_bandwidth": f"{l2.read_bytes_per_s / 1e12} TB/s",
            "memory.registers.write_bandwidth": f"{l2.write_bytes_per_s / 1e12} TB/s",
            "memory.registers.remote_bandwidth": None,
            "memory.registers.conflicts": "none",
            "memory.registers.read_energy": f"{l2.read_j_per_bit * 1e12} pJ/bit",
            "memory.registers.write_energy": f"{l2.write_j_per_bit * 1e12} pJ/bit",
            "memory.registers.wire_energy": "0 pJ/bit/mm",
        }
    )
    assert flat.on_chip[0].usable_bytes == pytest.approx(l2.usable_bytes)
    return cached, flat


CACHED, FLAT = twins(48)


def external(choices: list[Choice]) -> tuple[float, float]:
    return (
        math.fsum(choice.read_bytes[-1] for choice in choices),
        math.fsum(choice.write_bytes[-1] for choice in choices),
    )


@settings(max_examples=25, deadline=None)
@given(products())
def test_one_kernel_that_fits(shape: KernelShape) -> None:
    assume(sum(o.footprint_bytes for o in shape.operands) < 0.25 * FLAT.on_chip[0].usable_bytes)
    moved = [external(choose([shape], chip, SOFTWARE[chip.memory_system])) for chip in (CACHED, FLAT)]
    assert moved[0] == pytest.approx(moved[1], rel=1e-12)
    assert sum(moved[1]) == pytest.approx(sum(o.footprint_bytes for o in shape.operands), rel=1e-12)


@settings(max_examples=10, deadline=None)
@given(products(), st.sampled_from([CACHED, FLAT]))
def test_compulsory_traffic_is_what_both_start_from(shape: KernelShape, chip: Chip) -> None:
    compulsory = sum(o.footprint_bytes for o in shape.operands)
    assert sum(external(choose([shape], chip, SOFTWARE[chip.memory_system]))) >= compulsory * (1 - 1e-12)


@pytest.mark.parametrize("model", [decoder, cnn])
def test_a_model_that_fits_moves_the_same_bytes(model: object) -> None:
    cached, flat = twins(4096)
    moved = []
    for chip in (cached, flat):
        work = model()  # type: ignore[operator]
        kernels = form_kernels(work)
        places = places_of(kernels, work, chip, SOFTWARE[chip.memory_system])
        shapes = [shape_of(kernel, place, work) for kernel, place in zip(kernels, places, strict=True)]
        moved.append(external(choose(shapes, chip, SOFTWARE[chip.memory_system])))
    assert moved[0] == pytest.approx(moved[1], rel=1e-12)
