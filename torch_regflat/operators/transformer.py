"""Encoder layers and multi-head attention that torch runs as one operator (the fast path of `nn.TransformerEncoder`).

Inside it are ordinary kernels: products, attention, norms. What they pass on lies in memory but is no tensor of the
call, so those operands carry the slot of the result and their own number of elements.
"""

from __future__ import annotations

import math

import torch

from ..workload import LoopNest
from .attention import SCORE_OPS
from .registry import Call, Nests, operator
from .shapes import Loop, dtype_name, flat, packets

aten = torch.ops.aten


class _Layer:
    """Collects the nests of a layer of `tokens` = batch x length rows of `width`."""

    def __init__(self, call: Call, x: torch.Tensor, width: int) -> None:
        self.call, self.x, self.width = call, x, width
        self.length = x.shape[-2]
        self.batch = math.prod(x.shape[:-2])
        self.tokens = self.batch * self.length
        self.buffer = call.out[0]
        self.nests: list[LoopNest] = []

    def product(
        self, weight: torch.Tensor, bias: torch.Tensor | None, source: torch.Tensor | None = None, activation: int = 0
    ) -> None:
        """rows x weight[n, k] + bias, and `activation` vector operations an output (with one special) on top."""
        n, k = weight.shape
        loop = Loop(self.call, m=self.tokens, n=n, k=k)
        loop.read(self.buffer if source is None else source, "m", "k", distinct=float(self.tokens * k))
        loop.read(weight, "n", "k").read(bias, "n").write(self.buffer, "m", "n", distinct=float(self.tokens * n))
        points = self.tokens * n
        special = float(points) if activation else 0.0
        vector = points * (activation + (bias is not None))
        flops = 2 * points * k
        dtype = dtype_name(self.x)
        self.nests.append(loop.nest("product", dtype, flops=flops, vector_ops=float(vector), special_ops=special))

    def attend(self, heads: int, keys: int, mask: torch.Tensor | None) -> None:
        size = self.width // heads
        loop = Loop(self.call, b=self.batch * heads, g=1, q=self.length, s=keys, d=size, e=size)
        for axes, rows in (("bgqd", self.length), ("bsd", keys), ("bse", keys)):
            loop.read(self.buffer, *axes, distinct=float(self.batch * rows * self.width))
        if mask is not None:
            loop.read(mask, "s", distinct=float(mask.numel()))
        loop.write(self.buffer, "b", "g", "q", "e", distinct=float(self.tokens * self.width))
        scores = self.batch * heads * self.length * keys
        counts = {"flops": 4 * scores * size, "vector_ops": float(SCORE_OPS * scores), "special_ops": float(scores)}
        self.nests.append(loop.nest("attention", dtype_name(self.x), whole=frozenset("de"), **counts))

    def norm(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """The residual is added and the sum normalized: 9 vector operations an element."""
        count = self.tokens * self.width
        nest = flat(self.call, [self.x, self.buffer, weight, bias], [self.buffer], vector=9.0 * count, kind="reduction")
        self.nests.append(nest)


@operator(*packets(aten, "_native_multi_head_attention"))
def multi_head_attention(call: Call) -> Nests:
    query, key = call.arg("query"), call.arg("key")
    layer = _Layer(call, query, call.arg("embed_dim"))
    layer.product(call.arg("qkv_weight"), call.arg("qkv_bias"), query)
    layer.attend(call.arg("num_head"), key.shape[-2], call.arg("mask"))
    layer.product(call.arg("proj_weight"), call.arg("proj_bias"))
    if len(call.out) > 1 and call.out[1].numel():
        layer.nests.append(flat(call, [], [call.out[1]]))
    return layer.nests


@operator(*packets(aten, "_transformer_encoder_layer_fwd"))
def encoder_layer(call: Call) -> Nests:
    x = call.arg("src")
    layer = _Layer(call, x, call.arg("embed_dim"))
    layer.product(call.arg("qkv_weight"), call.arg("qkv_bias"), x)
    layer.attend(call.arg("num_heads"), x.shape[-2], call.arg("mask"))
    layer.product(call.arg("proj_weight"), call.arg("proj_bias"))
    layer.norm(call.arg("norm_weight_1"), call.arg("norm_bias_1"))
    layer.product(call.arg("ffn_weight_1"), call.arg("ffn_bias_1"), activation=4 if call.arg("use_gelu") else 1)
    layer.product(call.arg("ffn_weight_2"), call.arg("ffn_bias_2"))
    layer.norm(call.arg("norm_weight_2"), call.arg("norm_bias_2"))
    return layer.nests
