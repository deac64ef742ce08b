"""Modes of execution: what is one kernel, what it moves, and that the arithmetic of a model is the same in all."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

import torch_regflat as regflat
from torch_regflat.errors import InputError
from torch_regflat.schedule.kernels import form_kernels
from torch_regflat.schedule.modes import GRAPH, MODES, named
from torch_regflat.schedule.serving import served
from torch_regflat.workload import Workload

from .graphs import meta, work_of


class Block(nn.Module):
    """Attention with grouped heads and a gated feed-forward, without a cache."""

    def __init__(self, gated: bool = True) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(64, 64), nn.Linear(64, 32), nn.Linear(64, 32)
        self.gate, self.up, self.down = nn.Linear(64, 96), nn.Linear(64, 96), nn.Linear(96, 64)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(1, 8, -1, 16).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + y.transpose(1, 2).reshape(1, 8, 64)
        return x + self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def block() -> Workload:
    with torch.device("meta"):
        return work_of(Block().to(torch.bfloat16), meta(1, 8, 64))


def flops(work: Workload) -> float:
    return math.fsum(nest.flops for op in work for nest in op.nests)


def weight_bytes(work: Workload) -> float:
    """Bytes of weights that products read."""
    return math.fsum(
        size
        for op in work
        for nest in op.nests
        for operand, size in zip(nest.operands, nest.footprints, strict=True)
        if operand.access == "read" and work.tensors[op.tensors[operand.slot]].role == "weight"
    )


def test_eager_runs_a_kernel_an_operator() -> None:
    work = block()
    kernels = form_kernels(work, MODES["eager"])
    assert [len(k.operations) for k in kernels] == [1] * sum(not op.is_view for op in work)
    assert len(form_kernels(work, MODES["compiled"])) < len(kernels)


def test_eager_moves_every_intermediate() -> None:
    work = block()
    eager, fused = (
        sum(sum(k.reads.values()) + sum(k.writes.values()) for k in form_kernels(work, MODES[name]))
        for name in ("eager", "graph")
    )
    assert eager > fused


def test_serving_merges_projections_and_keeps_their_work() -> None:
    work = block()
    merged = served(work)
    widths = [dict(nest.dims)["n"] for op in merged for nest in op.nests if nest.kind == "product"]
    assert widths == [64 + 32 + 32, 96 + 96, 64]
    assert flops(merged) == flops(work) and weight_bytes(merged) == pytest.approx(weight_bytes(work))
    assert [op.index for op in merged] == list(range(len(merged.operations)))
    producers = {t.producer for t in merged.tensors.values() if t.producer is not None}
    assert producers <= set(range(len(merged.operations)))


def test_serving_leaves_what_reads_other_rows_apart() -> None:
    def chain(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return (x @ a) @ b

    work = work_of(chain, meta(4, 64), meta(64, 64), meta(64, 64))
    assert len(served(work).operations) == len(work.operations)


def test_experts_gather_their_own_rows() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        num_hidden_layers=1, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=128, num_experts_per_tok=2, num_local_experts=8,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    found = {
        mode: regflat.profile(model, torch.zeros(1, 64, dtype=torch.long, device="meta"), mode=mode)
        for mode in ("graph", "serving")
    }
    totals = {mode: profile.total for mode, profile in found.items()}
    assert totals["serving"].flops == totals["graph"].flops
    assert totals["serving"].kernels < totals["graph"].kernels
    assert totals["serving"].latency_s < totals["graph"].latency_s


def test_fewer_launches_and_bytes_are_faster() -> None:
    with torch.device("meta"):
        model = Block().to(torch.bfloat16)
    found = {mode: regflat.profile(model, meta(1, 8, 64), mode=mode) for mode in MODES}
    latency = {mode: profile.total.latency_s for mode, profile in found.items()}
    assert latency["serving"] <= latency["graph"] < latency["compiled"] < latency["eager"]
    assert all(profile.result.mode == mode for mode, profile in found.items())


def test_graph_is_what_is_meant_without_a_mode() -> None:
    with torch.device("meta"):
        model = Block().to(torch.bfloat16)
    first, second = regflat.profile(model, meta(1, 8, 64)), regflat.profile(model, meta(1, 8, 64), mode="graph")
    assert first.total == second.total and first.execution.mode is GRAPH


def test_elasticities_and_reasons_follow_the_mode() -> None:
    with torch.device("meta"):
        model = Block().to(torch.bfloat16)
    profile = regflat.profile(model, meta(1, 8, 64), mode="eager")
    launches = next(e for e in profile.sensitivity() if "launch" in e.parameter)
    assert 0.0 <= launches.latency <= 1.0
    assert profile.explain("down")[0].latency_s == pytest.approx(
        next(k.latency_s for k in profile.chips[0].kernels if k.path == "down")
    )


def test_an_eager_cache_is_copied() -> None:
    kept = regflat.profile_model("gpt2-xl", phase="decode", context=512, mode="graph")
    copied = regflat.profile_model("gpt2-xl", phase="decode", context=512, mode="eager")
    copies, appends = (
        sum(size for kernel in p.chips[0].kernels for size in kernel.operand_bytes.values()) for p in (copied, kept)
    )
    assert copies > appends


def test_unknown_modes_and_software() -> None:
    with pytest.raises(InputError, match=r"unknown mode 'egaer'; did you mean eager\? it must be one of eager, "):
        named("egaer")
    with pytest.raises(InputError, match="software triton-experts is a variant of cuda-libraries, which"):
        regflat.profile(nn.Linear(4, 4), meta(4, 4), chip="regflat-physical", software="triton-experts")


def test_a_mode_is_plain_data() -> None:
    assert dataclasses.asdict(MODES["serving"])["merged"] is True
    assert MODES["eager"].conditions.launch == "stream" and GRAPH.conditions.launch == "graph"
