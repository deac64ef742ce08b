"""Matrix products: 2·b·m·n·k FLOPs, as torch's counter has it (1 multiply-accumulate = 2).

Dimensions: b (batch, only where there is one), m rows, n columns, k summed. A matrix times a vector is m = 1 or
n = 1. A batch that only the left operand has is folded into its rows, as torch does; an operand that broadcasts
along the batch is not indexed by b. A bias, and `beta·self`, is one vector operation per output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..workload import LoopNest
from .registry import Call, Nests, operator
from .shapes import (
    Loop,
    broadcast,
    collapse,
    dtype_name,
    elementwise,
    expected_experts,
    expected_rows,
    histogram,
    packets,
)

aten = torch.ops.aten


def product(
    call: Call,
    a: torch.Tensor,
    b: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    transposed: bool = False,
    extra: Sequence[torch.Tensor] = (),
    out: torch.Tensor | None = None,
) -> LoopNest:
    """a[..., m, k] · b[..., k, n] (b[..., n, k] if `transposed`) plus a bias; vectors count as one row or column.

    `extra` are small tensors read once, as scales are.
    """
    m, k = (1, a.shape[0]) if a.dim() == 1 else (a.shape[-2], a.shape[-1])
    n = 1 if b.dim() == 1 else b.shape[-2] if transposed else b.shape[-1]
    left, right = a.shape[:-2], b.shape[:-2]
    names: tuple[str, ...] = ()
    batch: list[int] = []
    masks: list[tuple[bool, ...]] = []
    if left and not right:
        m *= math.prod(left)
    elif left or right:
        shape = broadcast(left, right)
        batch, masks = collapse(shape, ((left, a.stride()[:-2]), (right, b.stride()[:-2])))
        names = tuple("b" if i == 0 else f"b{i}" for i in range(len(batch)))
    a_batch = [name for name, mask in zip(names, masks, strict=True) if mask[0]]
    b_batch = [name for name, mask in zip(names, masks, strict=True) if mask[1]]
    loop = Loop(call, tuple(zip(names, batch, strict=True)), m=m, n=n, k=k)
    loop.read(a, *a_batch, "m", "k")
    loop.read(b, *b_batch, "n", "k") if transposed else loop.read(b, *b_batch, "k", "n")
    result = call.out[0] if out is None else out
    points = math.prod(batch) * m * n
    loop.write(result, *names, "m", "n")
    if bias is not None:
        loop.read(bias, *_bias_axes(bias, result, names, m, n))
    for tensor in extra:
        loop.read(tensor, distinct=float(tensor.numel()))
    return loop.nest("product", dtype_name(a), flops=2 * points * k, vector_ops=0.0 if bias is None else float(points))


def _bias_axes(bias: torch.Tensor, out: torch.Tensor, batch: tuple[str, ...], m: int, n: int) -> tuple[str, ...]:
    """What indexes a bias that broadcasts to the result, from its (un-expanded) size."""
    rows = bias.dim() >= 2 and bias.shape[-2] == m != 1 and bias.stride()[-2] != 0
    columns = bias.dim() >= 1 and bias.shape[-1] == n != 1 and bias.stride()[-1] != 0
    own_batch = batch if bias.dim() > 2 and bias.numel() == out.numel() else ()
    return own_batch + (("m",) if rows else ()) + (("n",) if columns else ())


@operator(aten.mm, aten.bmm, aten.matmul, aten.mv, aten.dot, aten.vdot, aten.linalg_matmul)
def mm(call: Call) -> Nests:
    a, b = call.args[:2]
    return product(call, a, b)


@operator(aten.inner)
def inner(call: Call) -> Nests:
    """Sums over the last axis of both: a[..., k], b[..., k] → [..., ...]."""
    a, b = call.args[:2]
    if a.dim() == 0 or b.dim() == 0:
        return elementwise(call, call.inputs, call.out, 1.0)
    k = a.shape[-1]
    m, n = a.numel() // max(k, 1), b.numel() // max(k, 1)
    loop = Loop(call, m=m, n=n, k=k).read(a, "m", "k").read(b, "n", "k").write(call.out[0], "m", "n")
    return loop.nest("product", dtype_name(a), flops=2 * m * n * k)


@operator(*packets(aten, "linear"))
def linear(call: Call) -> Nests:
    """x[..., k] · w[n, k] + bias[n]."""
    return product(call, call.arg("input"), call.arg("weight"), call.arg("bias"), transposed=True)


@operator(*packets(aten, "addmm baddbmm addmv _addmm_activation"))
def addmm(call: Call) -> Nests:
    """`beta·self + alpha·a·b`; with beta = 0 `self` is not read."""
    own, a, b = call.args[:3]
    return product(call, a, b, own if call.arg("beta", 1) != 0 else None)


@operator(*packets(aten, "addbmm"))
def addbmm(call: Call) -> Nests:
    """`self + Σ_b a[b]·b[b]`: the batch is summed, so it indexes both factors but not the result."""
    own, a, b = call.args[:3]
    (batch, m, k), n = a.shape, b.shape[-1]
    loop = Loop(call, b=batch, m=m, n=n, k=k).read(a, "b", "m", "k").read(b, "b", "k", "n").write(call.out[0], "m", "n")
    if call.arg("beta", 1) != 0:
        loop.read(own, *_bias_axes(own, call.out[0], (), m, n))
    return loop.nest("product", dtype_name(a), flops=2 * batch * m * n * k, vector_ops=float(m * n))


@operator(*packets(aten, "_scaled_mm _int_mm _scaled_mm_v2"))
def scaled_mm(call: Call) -> Nests:
    """8-bit or narrower factors with their scales: the scales are read once."""
    a, b = call.args[:2]
    bias = call.arg("bias")
    extra = [t for t in call.inputs if t is not a and t is not b and t is not bias]
    return product(call, a, b, bias, extra=extra)


@operator(*packets(aten, "_weight_int8pack_mm"))
def int8_weight_mm(call: Call) -> Nests:
    """x[m, k] · w[n, k] with int8 weights and a scale a column."""
    a, b = call.args[:2]
    return product(call, a, b, transposed=True, extra=call.inputs[2:])


@operator(*packets(aten, "_weight_int4pack_mm _weight_int4pack_mm_for_cpu _weight_int4pack_mm_with_scales_and_zeros"))
def int4_weight_mm(call: Call) -> Nests:
    """x[m, k] · w with packed 4-bit weights, priced by their stored bytes, plus scales and zeros."""
    a, packed = call.args[:2]
    (m, k), n = a.shape, call.out[0].shape[-1]
    bits = packed.numel() * packed.dtype.itemsize * 8 / (n * k)
    loop = Loop(call, m=m, n=n, k=k).read(a, "m", "k").read(packed, "k", "n", bits=bits, distinct=float(n * k))
    loop.write(call.out[0], "m", "n")
    for tensor in call.inputs[2:]:
        loop.read(tensor, distinct=float(tensor.numel()))
    return loop.nest("product", dtype_name(a), flops=2 * m * n * k, vector_ops=2.0 * n * k)


@operator(*packets(aten, "_grouped_mm _scaled_grouped_mm _scaled_grouped_mm_v2"))
def grouped_mm(call: Call) -> Nests:
    """A product a group: rows of x sorted by expert times that expert's weights (mixture of experts).

    x[R, k] · w[E, k, n] with end offsets [E]: R = T·(experts a token) rows, 2·R·n·k FLOPs exactly. The work is the
    expected one: D = `expected_experts` are hit, and only their weights are read. How many experts a token picks and
    how uneven the routing is comes with the call (`Facts`, found by `Lower` in the routing's topk); where unknown
    each row picks alone, `E·(1 - (1 - 1/E)^R)`. The nest is g = ⌈D⌉ groups of m = ⌈R/g⌉ rows; the
    rounded-up iteration space is larger than the work, so operands carry `distinct` and the FLOPs are given.

    x[m, R] · y[R, n] → [E, m, n] (the weights' gradient) sums the rows of each group; [E, m, k]·[E, k, n] is bmm.
    """
    x, w = call.args[:2]
    out, offsets = call.out[0], call.arg("offs")
    extra = [t for t in call.inputs if t is not x and t is not w]
    if x.dim() == 3 and w.dim() == 3:
        return product(call, x, w, extra=extra)
    if x.dim() == 2 and w.dim() == 3:
        return _rows_by_expert(call, x, w, out, extra)
    experts = out.shape[0] if x.dim() == 2 else x.shape[0]
    if x.dim() == 2:
        (m, total), n = x.shape, w.shape[1]
        loop = Loop(call, g=experts, m=m, n=n, k=math.ceil(total / experts))
        loop.read(x, "g", "m", "k", distinct=float(x.numel())).read(w, "g", "k", "n", distinct=float(w.numel()))
        loop.write(out, "g", "m", "n")
    else:
        (_, m, total), n = x.shape, w.shape[1]
        loop = Loop(call, g=experts, m=m, n=math.ceil(n / experts), k=total)
        loop.read(x, "g", "m", "k").read(w, "g", "k", "n", distinct=float(w.numel()))
        loop.write(out, "g", "m", "n", distinct=float(out.numel()))
    loop.read(offsets)
    return loop.nest("product", dtype_name(x), flops=2 * m * n * total)


def _rows_by_expert(
    call: Call, x: torch.Tensor, w: torch.Tensor, out: torch.Tensor, extra: Sequence[torch.Tensor]
) -> LoopNest:
    (total, k), (experts, _, n) = x.shape, w.shape
    facts = call.facts
    per_token = facts.experts_per_token or 1
    every, tokens = facts.experts or experts, facts.tokens or total / per_token
    # Of experts on other ranks too, every so many by popularity are here.
    rows = facts.expert_rows or expected_rows(every, tokens, per_token, facts.skew)[:: every // experts]
    hit = float(len(facts.expert_rows)) or expected_experts(every, tokens, per_token, facts.skew) * experts / every
    if facts.experts:
        hit = max(hit, 1.0)  # a step waits for a rank that has rows
    groups = max(1, min(experts, total, math.ceil(hit - 1e-9)))
    loop = Loop(call, g=groups, m=math.ceil(total / groups), n=n, k=k)
    loop.read(x, "g", "m", "k", distinct=float(min(total, facts.gathered_tokens or total) * k))
    loop.read(w, "g", "k", "n", distinct=hit * k * n)
    loop.write(out, "g", "m", "n", distinct=float(out.numel()))
    for tensor in extra:
        loop.read(tensor, distinct=float(tensor.numel()))
    return loop.nest("product", dtype_name(x), flops=2 * total * n * k, ragged=histogram(rows))


# By name: the operator exists only once transformers has been imported.
@operator("transformers::grouped_mm_fallback")
def grouped_mm_fallback(call: Call) -> Nests:
    """What transformers calls for dtypes that torch's own grouped product refuses: (input, weight, offsets)."""
    x, w = call.args[:2]
    return _rows_by_expert(call, x, w, call.out[0], call.inputs[2:])
