"""The operations of a row of experts: what the benchmark of each framework runs (collector/*/collect_moe.py of
NVIDIA's aiconfigurator).

- TensorRT-LLM: routing is inside; rows are copied in the order of the experts, and the results of a rank's own experts
  are summed
- vllm and sglang: routing is outside; the first product gathers its rows itself. vllm keeps room for the picks of all
  ranks: activation and sum run over all of them, and picks of other ranks are filled with zeros
- regflat-measure (`measurement/kernels.py`): grouped products of torch; which rows go where is known before, rows are
  copied in that order, and results are added up
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx

from ..operators.lowering import workload
from ..workload import Workload
from .formats import power_law
from .graphs import Builder
from .routing import rows_per_expert
from .rows import Moe

aten = torch.ops.aten

UNGATED = {(1856, 6, 128): "Nemotron 3 Nano", (2688, 22, 512): "Nemotron 3 Super", (5120, 22, 512): "Nemotron 3 Ultra"}
"""Models without a gate (squared ReLU), by width, experts a token and experts: two matrices instead of three."""


def experts(row: Moe, number: torch.dtype) -> Workload:
    """The workload of a row in a model of dtype `number`."""
    framework = row.source.removeprefix("aic/").partition("-")[0]
    layer = (row.hidden, row.inter, row.topk, row.num_experts)
    return _experts(framework, number, row.num_tokens, *layer, row.tp, row.ep, power_law(row.distribution))


@functools.lru_cache(maxsize=65536)
def _experts(
    framework: str,
    number: torch.dtype,
    tokens: int,
    hidden: int,
    inter: int,
    topk: int,
    count: int,
    tp: int,
    ep: int,
    alpha: float,
) -> Workload:
    build = Builder()
    local, width = max(1, count // ep), -(-inter // tp)
    per_expert = rows_per_expert(tokens, count, topk, ep, alpha)
    rows, picks = sum(per_expert), tokens * topk
    wide = width if (inter, topk, count) in UNGATED else 2 * width
    x = build.tensor(tokens, hidden, dtype=number)
    up = build.tensor(local, hidden, wide, dtype=number, role="weight")
    down = build.tensor(local, width, hidden, dtype=number, role="weight")
    offsets = build.tensor(local, dtype=torch.int32)
    cutlass, own_kernels = framework == "trtllm", framework == "regflat"
    kept = max(picks, rows) if framework == "vllm" else rows
    routing = [] if own_kernels else [_routed(build, tokens, topk, count) if cutlass else _sorted(build, picks)]

    def grouped(a: fx.Node, weight: fx.Node, columns: int, **facts: Any) -> fx.Node:
        result = build.call(aten._grouped_mm.default, a, weight, offsets, out=(rows, columns))
        result.meta.update(expert_rows=per_expert, **facts)
        return result

    def padded(result: fx.Node, columns: int) -> fx.Node:
        """With room for the picks of other ranks, which are zero."""
        if kept == rows:
            return result
        build.call(aten.fill.Scalar, build.tensor(kept - rows, columns, dtype=number), 0.0)
        return build.tensor(kept, columns, dtype=number)

    if cutlass or own_kernels:
        gathered = build.call(aten.index.Tensor, x, [build.tensor(rows, dtype=torch.int64)])
        first = grouped(gathered, up, wide)
    else:
        first = grouped(build.tensor(rows, hidden, dtype=number), up, wide, gathered_tokens=tokens)
    inner = _activated(build, padded(first, wide), kept, width, wide)
    own = inner if kept == rows else build.tensor(rows, width, dtype=number)
    second = padded(grouped(own, down, hidden), hidden)
    index = build.tensor(kept, dtype=torch.int64)
    total = build.call(aten.index_add.default, build.tensor(tokens, hidden, dtype=number), 0, index, second)
    return workload(build.graph(total, *routing))


def _activated(build: Builder, x: fx.Node, rows: int, width: int, wide: int) -> fx.Node:
    if wide == width:
        return build.call(aten.square.default, build.call(aten.relu.default, x))
    halves = [build.call(aten.slice.Tensor, x, 1, at * width, (at + 1) * width) for at in range(2)]
    gate = build.call(aten.silu.default, halves[0], out=(rows, width))
    return build.call(aten.mul.Tensor, gate, halves[1], out=(rows, width))


def _routed(build: Builder, tokens: int, topk: int, count: int) -> fx.Node:
    """The best experts of each token, and the picks in the order of the experts."""
    scores = build.tensor(tokens, count, dtype=torch.bfloat16)
    best = build.call(aten.topk.default, scores, topk)
    build.call(aten.softmax.int, build.tensor(tokens, topk, dtype=torch.float32), -1)
    _sorted(build, tokens * topk)
    return best


def _sorted(build: Builder, picks: int) -> fx.Node:
    return build.call(aten.sort.default, build.tensor(picks, dtype=torch.int32))
