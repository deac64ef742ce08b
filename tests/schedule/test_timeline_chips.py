"""Time lines of real models on real chips: the profile's latency, kernel by kernel and transfer by transfer."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest

from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import for_chip
from torch_regflat.report.timeline import render
from torch_regflat.schedule.kernels import form_kernels
from torch_regflat.schedule.program import places_of
from torch_regflat.schedule.run import timeline
from torch_regflat.schedule.search import choose
from torch_regflat.schedule.shape import shape_of
from torch_regflat.schedule.timeline.chip import placed
from torch_regflat.timeline import Timeline

from .test_run import cnn, decoder, priced

GPUS = ("h100-sxm", "a100-sxm-80gb", "mi300x")
MANAGED = ("regflat-ideal", "regflat-physical", "regflat-pessimistic", "tpu-v5e")
MODELS = {"decoder": decoder, "cnn": cnn}


@cache
def line_of(model: str, name: str) -> Timeline:
    work, chip = MODELS[model](), load(name)
    return timeline(work, form_kernels(work), chip, for_chip(chip))


@pytest.mark.parametrize("name", (*GPUS, *MANAGED))
@pytest.mark.parametrize("model", MODELS)
def test_it_is_the_latency_of_the_profile(model: str, name: str) -> None:
    line, result = line_of(model, name), priced(MODELS[model](), name)
    assert line.latency_s == pytest.approx(result.total.latency_s, rel=1e-9)
    assert line.computing_s + math.fsum(line.stalls_s.values()) == pytest.approx(line.latency_s)
    assert line.computing_s > 0 and all(s > 0 for s in line.stalls_s.values())
    for span, kernel in zip(line.kernels, result.kernels, strict=True):
        assert (span.name, span.path) == (kernel.name, kernel.path)
        assert span.start_s == pytest.approx(kernel.start_s)
        assert span.start_s <= span.compute_s <= span.end_s
    external = result.levels[-1].traffic_bytes
    assert math.fsum(t.size_bytes for t in line.transfers) == pytest.approx(external, rel=1e-6)


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_runs_kernel_by_kernel_for_the_sum_of_their_latencies(name: str) -> None:
    work, chip = decoder(), load(name)
    kernels = form_kernels(work)
    places = places_of(kernels, work, chip, for_chip(chip))
    shapes = [shape_of(k, p, work) for k, p in zip(kernels, places, strict=True)]
    alone = [choice.latency_s for choice in choose(shapes, chip, for_chip(chip))]
    assert priced(work, name).total.latency_s == pytest.approx(math.fsum(alone), rel=1e-12)
    line = line_of("decoder", name)
    assert all(a.end_s == b.start_s for a, b in itertools.pairwise(line.kernels))
    assert line.stalls_s["launch"] > 0 and not line.on_chip


@pytest.mark.parametrize("name", MANAGED)
@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_overfull_and_no_kernel_overtakes(model: str, name: str) -> None:
    line, chip = line_of(model, name), load(name)
    assert 0 < line.peak_bytes <= chip.on_chip[-1].usable_bytes * (1 + 1e-6)
    assert line.on_chip[-1][1] == 0.0
    assert all(a.end_s <= b.start_s + 1e-15 for a, b in itertools.pairwise(line.kernels))
    for transfer in line.transfers:
        kernel = line.kernels[transfer.kernel]
        if transfer.what == "load":
            assert transfer.end_s <= kernel.end_s * (1 + 1e-9)
        if transfer.what == "store":
            assert transfer.end_s >= kernel.end_s * (1 - 1e-9)


@pytest.mark.parametrize("name", MANAGED)
def test_without_prefetch_and_overlap_latency_is_the_sum(name: str) -> None:
    work, chip = decoder(), load(name)
    kernels = form_kernels(work)
    places = places_of(kernels, work, chip, for_chip(chip))
    shapes = [shape_of(k, p, work) for k, p in zip(kernels, places, strict=True)]
    choices = choose(shapes, chip, for_chip(chip))
    apart = placed(chip, choices, places, prefetch=False, overlap=False)
    total = math.fsum(c.core_s + c.overhead_s + c.external_s for c in choices)
    assert apart.end_s == pytest.approx(total, rel=1e-9)
    assert placed(chip, choices, places).end_s < total


def test_the_text_names_the_causes_and_the_occupancy() -> None:
    text = render(line_of("decoder", "regflat-physical"))
    assert "computing" in text and "launch" in text and "on chip at most" in text and "longest waits:" in text
    assert "on chip at most" not in render(line_of("decoder", "h100-sxm"))
