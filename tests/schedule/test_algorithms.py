"""Winograd convolutions: where libraries have them, what they compute, and that they only ever help."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import torch_regflat as regflat
from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import for_chip
from torch_regflat.schedule.algorithms import algorithms
from torch_regflat.schedule.kernels import form_kernels
from torch_regflat.schedule.residency import Residency
from torch_regflat.schedule.select import choose
from torch_regflat.schedule.shape import shape_of

from .graphs import work_of

LAYERS = {"late": (32, 512, 14, 512), "early": (32, 64, 56, 64), "one image": (1, 256, 28, 256)}


def shape(size: tuple[int, int, int, int], taps: int = 3, stride: int = 1, dtype: torch.dtype = torch.float32):  # type: ignore[no-untyped-def]
    images, channels, width, filters = size
    x = torch.empty(images, channels, width, width, dtype=dtype, device="meta")
    w = torch.empty(filters, channels, taps, taps, dtype=dtype, device="meta")
    work = work_of(lambda x, w: F.conv2d(x, w, stride=stride, padding=taps // 2), x, w)
    (kernel,) = form_kernels(work)
    return shape_of(kernel, Residency(), work)


@pytest.mark.parametrize("name", LAYERS)
def test_a_ninth_of_a_tile_is_saved(name: str) -> None:
    """Lavin and Gray: (t + 2)^2 products for t^2 results of 9 each, where tiles divide the image."""
    chip = load("v100-sxm2")
    plain, fused, unfused = algorithms(shape(LAYERS[name]), chip, for_chip(chip))
    assert plain.algorithm == "" and plain.work / fused.work == pytest.approx(2.25)
    assert 4.0 * 0.7 < plain.work / unfused.work <= 4.0


@pytest.mark.parametrize("name", LAYERS)
def test_another_algorithm_is_taken_only_where_it_is_faster(name: str) -> None:
    chip, this = load("v100-sxm2"), shape(LAYERS[name])
    own = for_chip(chip)
    without = own.model_copy(update={"winograd": None})
    assert choose([this], chip, own)[0].latency_s <= choose([this], chip, without)[0].latency_s


@pytest.mark.parametrize(
    ("chip", "options"),
    [
        ("v100-sxm2", {"taps": 1}),
        ("v100-sxm2", {"taps": 5}),
        ("v100-sxm2", {"stride": 2}),
        ("v100-sxm2", {"dtype": torch.float16}),
        ("regflat-physical", {}),
    ],
)
def test_elsewhere_there_is_only_the_product(chip: str, options: dict) -> None:  # type: ignore[type-arg]
    found = load(chip)
    assert len(algorithms(shape(LAYERS["late"], **options), found, for_chip(found))) == 1


def test_executed_operations_are_those_of_the_algorithm() -> None:
    x = torch.empty(32, 512, 14, 14, device="meta")
    with torch.device("meta"):
        layer = torch.nn.Conv2d(512, 512, 3, padding=1, bias=False)
    fast = regflat.profile(layer, x, chip="v100-sxm2").total
    plain = regflat.profile(layer.half(), x.half(), chip="v100-sxm2").total
    assert fast.flops == plain.flops and fast.executed_flops < 0.5 * plain.executed_flops
