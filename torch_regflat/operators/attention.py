"""Scaled dot-product attention as one fused nest: scores, softmax and values never leave the chip between them.

Dimensions: b = batch x key/value heads, g = query heads a key/value head, q queries, s keys, d query and key size,
e value size (d and e are never tiled). FLOPs follow torch's counter: the full square, 2·b·g·q·s·(d + e) forward and
2·b·g·q·s·(3d + 2e) backward (which recomputes the scores). With `is_causal` only a `domain_fraction` is executed:
query i sees keys 0..i (torch aligns the triangle to the top left), exactly Σ_i min(i + 1, s) of q·s. A mask given as
a tensor cannot be known to be causal: the whole square is executed and the mask read at its own, un-expanded size.

A score costs one exp (special) and `SCORE_OPS` vector operations: scale, running maximum, subtract, sum; one more
where a mask is added, two where dropout is applied; backward (exp again) `BACKWARD_OPS`: scale, subtract the
log-sum-exp, times the gradient, subtract the row's delta, scale.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from ..workload import LoopNest, Operation, Workload
from .registry import Call, Nests, operator
from .shapes import Loop, broadcast, dtype_name, packets

aten = torch.ops.aten

SCORE_OPS = 4
BACKWARD_OPS = 5
QUERIES_AND_KEYS = (2, 3)
"""Positions of the dimensions q and s, of which a causal nest runs the points with s <= q."""


def causal_fraction(queries: int, keys: int) -> float:
    """Share of the queries x keys square on or below the diagonal that starts at the top left."""
    if queries == 0 or keys == 0:
        return 1.0
    short = min(queries, keys)
    visible = short * (short + 1) // 2 + (queries - short) * keys
    return visible / (queries * keys)


def extending(workload: Workload) -> Workload:
    """The workload of new tokens that extend a cache, where attention is causal: the last query sees all keys.

    The mask given for that is a tensor, so `attention` takes the whole rectangle; kernels for serving run the part.
    """
    changed: dict[int, tuple[LoopNest, ...]] = {}

    def nests(op: Operation) -> tuple[LoopNest, ...]:
        if id(op.nests) not in changed:
            changed[id(op.nests)] = tuple(map(_extending, op.nests))
        return changed[id(op.nests)]

    return replace(workload, operations=tuple(replace(op, nests=nests(op)) for op in workload))


def _extending(nest: LoopNest) -> LoopNest:
    sizes = dict(nest.dims)
    queries, keys = sizes.get("q", 1), sizes.get("s", 1)
    if nest.kind != "attention" or nest.domain_fraction != 1.0 or not 1 < queries < keys:
        return nest
    fraction = 1.0 - (queries - 1) / 2 / keys
    special, vector = nest.special_ops * fraction, nest.vector_ops * fraction
    return replace(nest, domain_fraction=fraction, vector_ops=vector, special_ops=special)


class Heads:
    """Sizes of an attention call and what indexes its tensors; layout is (..., heads, length, size)."""

    def __init__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        self.heads = query.shape[-3] if query.dim() > 2 else 1
        self.kv_heads = key.shape[-3] if key.dim() > 2 else 1
        self.batch = math.prod(broadcast(query.shape[:-3], key.shape[:-3]))
        if self.kv_heads == 0 or self.heads % self.kv_heads:
            self.kv_heads = self.heads
        self.q, self.d = query.shape[-2:]
        self.s, self.e = value.shape[-2:]

    def loop(self, call: Call) -> Loop:
        groups = self.heads // self.kv_heads
        return Loop(call, b=self.batch * self.kv_heads, g=groups, q=self.q, s=self.s, d=self.d, e=self.e)

    @property
    def scores(self) -> int:
        """Scores of all heads, the full square."""
        return self.batch * self.heads * self.q * self.s

    def read_mask(self, loop: Loop, mask: torch.Tensor | None) -> None:
        """Add the mask as an operand: per batch, head, query and key only where it really differs."""
        if mask is None or mask.numel() == 0:
            return
        own = [size > 1 and step != 0 for size, step in zip(mask.shape, mask.stride(), strict=True)]
        own = [False] * (4 - len(own)) + own
        axes = (["b"] if own[-4] or own[-3] else []) + (["g"] if own[-3] and self.heads > self.kv_heads else [])
        loop.read(mask, *axes, *(["q"] if own[-2] else []), *(["s"] if own[-1] else []))


def _forward(
    call: Call,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    dropout: float,
) -> LoopNest:
    heads = Heads(query, key, value)
    loop = heads.loop(call)
    loop.read(query, "b", "g", "q", "d").read(key, "b", "s", "d").read(value, "b", "s", "e")
    heads.read_mask(loop, mask)
    loop.write(call.out[0], "b", "g", "q", "e")
    logsumexp = call.out[1] if len(call.out) > 1 else None
    if logsumexp is not None and logsumexp.numel() >= heads.batch * heads.heads * heads.q:
        if logsumexp.numel() >= heads.scores and heads.s > 1:
            loop.write(logsumexp, "b", "g", "q", "s")
        else:
            loop.write(logsumexp, "b", "g", "q")
    fraction = causal_fraction(heads.q, heads.s) if causal else 1.0
    executed = heads.scores * fraction
    per_score = SCORE_OPS + (mask is not None) + 2 * (dropout > 0)
    return loop.nest(
        "attention",
        dtype_name(query),
        flops=2 * heads.scores * (heads.d + heads.e),
        vector_ops=per_score * executed,
        special_ops=executed,
        whole=frozenset("de"),
        domain_fraction=fraction,
        causal=QUERIES_AND_KEYS if causal else None,
    )


@operator(
    *packets(
        aten,
        """scaled_dot_product_attention _scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention
        _scaled_dot_product_cudnn_attention _scaled_dot_product_fused_attention_overrideable
        _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math
        _scaled_dot_product_attention_math_for_mps""",
    )
)
def attention(call: Call) -> Nests:
    query, key, value = (call.arg(name) for name in ("query", "key", "value"))
    mask = call.arg("attn_mask", call.arg("attn_bias"))
    return _forward(call, query, key, value, mask, bool(call.arg("is_causal")), call.arg("dropout_p", 0.0) or 0.0)


@operator(*packets(aten, "_flash_attention_forward _efficient_attention_forward"))
def bare_attention(call: Call) -> Nests:
    """The kernels below SDPA, layout (batch, length, heads, size), or (total length, heads, size) when packed.

    A packed batch of unknown lengths is priced as if all were of the greatest length, as torch's counter does.
    """
    tensors = [call.arg(name) for name in ("query", "key", "value")]
    lengths = call.arg("cum_seq_q", call.arg("cu_seqlens_q"))
    causal = bool(call.arg("is_causal")) or call.arg("custom_mask_type", 0) in (1, 2)
    if lengths is None:
        moved = [t.transpose(-3, -2) for t in tensors]
        return _packed(call, tensors, moved, moved[0].shape[0], moved[0].shape[2], moved[1].shape[2], causal)
    q, s = (call.arg(f"max_{x}", call.arg(f"max_seqlen_{x}")) or tensors[0].shape[-3] for x in "qk")
    return _packed(call, tensors, [t.transpose(-3, -2) for t in tensors], lengths.numel() - 1, q, s, causal)


def _packed(
    call: Call, own: list[torch.Tensor], moved: list[torch.Tensor], batch: int, q: int, s: int, causal: bool
) -> LoopNest:
    heads = Heads(*moved)
    heads.batch, heads.q, heads.s = batch, q, s
    loop = heads.loop(call)
    for tensor, axes in zip(own, ("bgqd", "bsd", "bse"), strict=True):
        loop.read(tensor, *axes)
    loop.write(call.out[0], "b", "g", "q", "e")
    fraction = causal_fraction(q, s) if causal else 1.0
    executed = heads.scores * fraction
    flops = 2 * heads.scores * (heads.d + heads.e)
    counts: dict[str, Any] = {"vector_ops": SCORE_OPS * executed, "special_ops": executed}
    counts["causal"] = QUERIES_AND_KEYS if causal else None
    whole = frozenset("de")
    return loop.nest("attention", dtype_name(own[0]), flops=flops, whole=whole, domain_fraction=fraction, **counts)


@operator(
    *packets(
        aten,
        """_scaled_dot_product_flash_attention_backward _scaled_dot_product_efficient_attention_backward
        _scaled_dot_product_cudnn_attention_backward _scaled_dot_product_flash_attention_for_cpu_backward
        _scaled_dot_product_fused_attention_overrideable_backward""",
    )
)
def attention_backward(call: Call) -> Nests:
    """Gradients of query, key and value from those of the result; reads the result and the log-sum-exp as well."""
    gradient = call.arg("grad_out", call.arg("grad_out_"))
    gradient = call.args[0] if gradient is None else gradient
    query, key, value = (call.arg(name) for name in ("query", "key", "value"))
    heads = Heads(query, key, value)
    loop = heads.loop(call)
    loop.read(gradient, "b", "g", "q", "e").read(query, "b", "g", "q", "d")
    loop.read(key, "b", "s", "d").read(value, "b", "s", "e")
    loop.read(call.arg("out"), "b", "g", "q", "e").read(call.arg("logsumexp"), "b", "g", "q")
    heads.read_mask(loop, call.arg("attn_mask", call.arg("attn_bias")))
    for tensor, axes in zip(call.out, ("bgqd", "bsd", "bse"), strict=False):
        if tensor.numel():
            loop.write(tensor, *axes)
    fraction = causal_fraction(heads.q, heads.s) if call.arg("is_causal") else 1.0
    executed = heads.scores * fraction
    return loop.nest(
        "attention",
        dtype_name(query),
        flops=2 * heads.scores * (3 * heads.d + 2 * heads.e),
        vector_ops=BACKWARD_OPS * executed,
        special_ops=executed,
        whole=frozenset("de"),
        domain_fraction=fraction,
        causal=QUERIES_AND_KEYS if call.arg("is_causal") else None,
    )


def _flex(call: Call) -> Nests:
    """flex_attention: (query, key, value, score_mod, block_mask, ...): the share of blocks that the mask computes.

    A function that changes scores is taken as one vector operation a score; the block mask itself is not read.
    """
    query, key, value = call.args[:3]
    own = len(call.args) > 3 and getattr(call.args[3], "__name__", "_identity") != "_identity"
    nest = _forward(call, query, key, value, None, False, 0.0)
    fraction = call.facts.domain_fraction
    vector = (nest.vector_ops + (nest.special_ops if own else 0.0)) * fraction  # a special operation a score
    return replace(nest, domain_fraction=fraction, vector_ops=vector, special_ops=nest.special_ops * fraction)


_flex_operator = getattr(torch.ops.higher_order, "flex_attention", None)
if _flex_operator is not None:
    operator(_flex_operator)(_flex)
