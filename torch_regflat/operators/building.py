"""What a user's own formula is made of: the usual nests in one line, and `Loop` for any other.

@regflat.operator("mylib::scale_add")
def scale_add(call: regflat.Call):
    return regflat.elementwise(call, vector_ops=2)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..workload import LoopNest
from . import shapes
from .products import product
from .registry import Call

Loop = shapes.Loop


def elementwise(call: Call, vector_ops: float = 0.0, special_ops: float = 0.0) -> LoopNest:
    """All inputs broadcast to the first result; the counts are for each of its elements.

    `vector_ops`: additions, multiplications, comparisons; `special_ops`: exp, log, tanh, divisions, roots.
    """
    return shapes.elementwise(call, call.inputs, call.out, vector_ops, special_ops)


def stream(
    call: Call,
    vector_ops: float = 0.0,
    special_ops: float = 0.0,
    *,
    reads: Sequence[torch.Tensor] | None = None,
    writes: Sequence[torch.Tensor] | None = None,
) -> LoopNest:
    """Every tensor once: all inputs read and all results written, or those given. The counts are totals."""
    return shapes.flat(
        call,
        call.inputs if reads is None else reads,
        call.out if writes is None else writes,
        vector=vector_ops,
        special=special_ops,
        kind="reduction" if vector_ops or special_ops else "movement",
    )


def matmul(
    call: Call,
    a: torch.Tensor,
    b: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    transposed: bool = False,
    extra: Sequence[torch.Tensor] = (),
) -> LoopNest:
    """a[..., m, k] · b[..., k, n] (b[..., n, k] if `transposed`) + bias into the first result: 2·m·n·k FLOPs.

    `extra` are small tensors that are read once, as scales are.
    """
    return product(call, a, b, bias, transposed=transposed, extra=extra)
