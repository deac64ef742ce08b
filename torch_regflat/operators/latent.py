"""Attention over a compressed cache (multi-head latent attention), with the expansion absorbed into the products.

DeepSeek-V2 (arXiv:2405.04434, section 2.1) keeps one latent vector of r elements and one rotary key of p elements a
token. Written out, each step expands the latents of all tokens to keys and values of every head. The expansion is
linear, so that queries can be brought into the space of the latents instead, and the sums of latents out of it:

    scores = (q W_k) latent' + q_rope k_rope',   result = softmax(scores) latent W_v'

`latent_attention` is what is left between these two products: all heads read the same cache, of r + p elements a token,
and the latents serve as keys and as values. FLOPs are 2 * b * h * q * s * (2r + p). The rotary keys are streamed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from .attention import SCORE_OPS
from .registry import Call, Nests, operator
from .shapes import Loop, dtype_name

_library: Any = torch.library.Library("regflat", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("latent_attention(Tensor query, Tensor latent, Tensor rope, float scale) -> Tensor")


def _latent_attention(query: Any, latent: Any, rope: Any, scale: float) -> Any:
    """query [b, h, q, r + p]; latent [b, 1, s, r]; rope [b, 1, s, p] -> [b, h, q, r]."""
    heads = query.shape[1]
    keys = torch.cat((latent, rope), dim=-1).expand(-1, heads, -1, -1)
    return F.scaled_dot_product_attention(query, keys, latent.expand(-1, heads, -1, -1), scale=scale)


def _latent_attention_meta(query: Any, latent: Any, rope: Any, scale: float) -> Any:
    return query.new_empty(*query.shape[:-1], latent.shape[-1])


_library.impl("latent_attention", _latent_attention, "CompositeExplicitAutograd")
_library.impl("latent_attention", _latent_attention_meta, "Meta")


@operator(torch.ops.regflat.latent_attention)
def latent_attention(call: Call) -> Nests:
    query, latent, rope = (call.arg(name) for name in ("query", "latent", "rope"))
    batch, heads, queries, size = query.shape
    keys, rank = latent.shape[-2:]
    loop = Loop(call, b=batch, g=heads, q=queries, s=keys, d=size, e=rank)
    loop.read(query, "b", "g", "q", "d").read(latent, "b", "s", "d", distinct=latent.numel())
    loop.read(rope, "b", "s", distinct=rope.numel()).write(call.out[0], "b", "g", "q", "e")
    scores = batch * heads * queries * keys
    return loop.nest(
        "attention",
        dtype_name(query),
        flops=2 * scores * (size + rank),
        vector_ops=SCORE_OPS * scores,
        special_ops=scores,
        whole=frozenset("de"),
    )
