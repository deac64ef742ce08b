"""An explanation says the same as the profile, and names what lost and why."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torch_regflat.errors import InputError
from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import for_chip
from torch_regflat.report.explain import render
from torch_regflat.schedule.explain import explain
from torch_regflat.schedule.fit import fit
from torch_regflat.schedule.kernels import form_kernels
from torch_regflat.schedule.run import run
from torch_regflat.workload import Workload

from .graphs import meta, work_of

CHIPS = ("h100-sxm", "regflat-physical", "tpu-v4")


def mlp() -> Workload:
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(1024, 4096, bias=False), nn.SiLU(), nn.Linear(4096, 1024, bias=False))
    return work_of(net.to(torch.bfloat16), meta(512, 1024))


@pytest.mark.parametrize("name", CHIPS)
def test_it_agrees_with_the_profile(name: str) -> None:
    work, chip = mlp(), load(name)
    kernels = form_kernels(work)
    costs = run(work, kernels, chip, for_chip(chip), fit(work, chip)).kernels
    (found,) = explain(work, kernels, chip, for_chip(chip), "0")
    assert found.mapping == costs[0].mapping
    assert found.busy_s == pytest.approx(costs[0].busy_s)
    if chip.memory_system == "cache":  # elsewhere the time line may make it wait for loads
        assert found.bound_by == costs[0].bound_by
    assert {axis: size for axis, size in found.sizes.items() if size > 1} == {"m": 512, "n": 4096, "k": 1024}
    assert sum(o.traffic_bytes[chip.external.name] for o in found.operands) == pytest.approx(
        costs[0].traffic_bytes[chip.external.name]
    )
    assert all(a.latency_s >= found.latency_s * (1 - 1e-12) for a in found.alternatives)
    assert len({found.mapping, *(a.mapping for a in found.alternatives)}) == len(found.alternatives) + 1
    assert found.candidates >= found.legal > 0


def test_every_block_of_a_gpu_loads_its_factors_through_the_shared_cache() -> None:
    work, chip = mlp(), load("h100-sxm")
    (found,) = explain(work, form_kernels(work), chip, for_chip(chip), "0")
    first, second = found.operands[:2]
    tile = {part[0]: int(part[1:]) for part in found.mapping.split(",")[0].split()[1:]}
    assert first.traffic_bytes["L2"] == first.footprint_bytes * -(-4096 // tile["n"])
    assert second.traffic_bytes["L2"] == second.footprint_bytes * -(-512 // tile["m"])


def test_what_does_not_fit_is_counted_by_level() -> None:
    work = mlp()
    chip = load("regflat-physical").replace(**{"memory.registers.capacity": "4 KiB"})
    found = explain(work, form_kernels(work), chip, for_chip(chip), "0")[0]
    assert found.rejected["registers"] == found.candidates - found.legal > 0
    assert f"{found.rejected['registers']} did not fit registers" in render(found)


def test_the_text_names_loops_operands_times_and_losers() -> None:
    work, chip = mlp(), load("h100-sxm")
    text = render(explain(work, form_kernels(work), chip, for_chip(chip), "2")[0])
    for words in (
        "mapping: tile m",
        "thread blocks over 132 SMs",
        "HBM3 traffic",
        "bound by",
        "the best that lost",
    ):
        assert words in text


def test_an_unknown_path_names_near_ones() -> None:
    work, chip = mlp(), load("h100-sxm")
    with pytest.raises(InputError, match="no kernel runs '7'"):
        explain(work, form_kernels(work), chip, for_chip(chip), "7")
