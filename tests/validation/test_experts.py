"""Rows of experts: the work of a layer whatever the framework, and what groups of unequal size cost."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import for_chip
from torch_regflat.schedule.select import choose
from torch_regflat.schedule.shape import shape_of_nest
from torch_regflat.validation.experts import UNGATED, experts
from torch_regflat.validation.rows import Moe
from torch_regflat.workload import LoopNest, Workload

FRAMEWORKS = ("aic/trtllm-1.3.0rc20", "aic/vllm-0.24.0", "aic/sglang-0.5.14")


def row(**changes: object) -> Moe:
    base = Moe(
        file="moe.csv", line=2, cells={}, source=FRAMEWORKS[0], gpu="H100-SXM", dtype="bf16", measured=1e-3,
        num_tokens=256, hidden=2048, inter=768, topk=8, num_experts=128, tp=1, ep=1, distribution="balanced",
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def products(work: Workload) -> list[LoopNest]:
    return [nest for op in work for nest in op.nests if nest.kind == "product"]


def flops(work: Workload) -> float:
    return math.fsum(nest.flops for nest in products(work))


@pytest.mark.parametrize("source", FRAMEWORKS)
def test_a_layer_multiplies_each_pick_by_three_matrices(source: str) -> None:
    work = experts(row(source=source), torch.bfloat16)
    assert flops(work) == pytest.approx(2.0 * 256 * 8 * 3 * 2048 * 768)


def test_models_without_a_gate_have_two() -> None:
    inter, topk, count = next(iter(UNGATED))
    mine = row(inter=inter, topk=topk, num_experts=count)
    assert flops(experts(mine, torch.bfloat16)) == pytest.approx(2.0 * 256 * topk * 2 * 2048 * inter)


def test_ranks_share_the_work() -> None:
    whole, parts = flops(experts(row(), torch.bfloat16)), flops(experts(row(ep=8), torch.bfloat16))
    assert parts == pytest.approx(whole / 8, rel=0.1)
    assert flops(experts(row(tp=2), torch.bfloat16)) == pytest.approx(whole / 2)


def test_unequal_experts_do_the_same_work_in_more_tiles() -> None:
    even, uneven = (products(experts(row(distribution=d), torch.bfloat16))[0] for d in ("balanced", "power_law_1.2"))
    assert math.fsum(size * count for size, count in uneven.ragged) == pytest.approx(even.flops / 2 / 2048 / 1536)
    chip = load("h100-sxm")
    filled = replace(even, ragged=((128.0, 16.0), (0.0, 112.0)))
    thin = replace(even, ragged=((1.0, 127.0), (2048.0 - 127.0, 1.0)))
    alike, apart = (c.core_s for c in choose([shape_of_nest(filled), shape_of_nest(thin)], chip, for_chip(chip)))
    assert apart > alike


@pytest.mark.parametrize("source", FRAMEWORKS)
def test_only_experts_that_are_picked_are_read(source: str) -> None:
    few = experts(row(source=source, num_tokens=1), torch.bfloat16)
    (first, _) = products(few)
    weights = [size for operand, size in zip(first.operands, first.footprints, strict=True) if operand.role == "weight"]
    assert weights == [pytest.approx(8 * 2048 * 1536 * 2)]
