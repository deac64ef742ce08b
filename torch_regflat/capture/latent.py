"""While capturing for a serving engine, decoding over a compressed cache does not expand it (`operators.latent`).

All models of transformers with multi-head latent attention have a method `expand_kv`, whose keys and values go to an
attention function. Within `absorbing(True)` the first hands on the cache as it is, and the second multiplies queries
and result by the halves of `kv_b_proj` instead. Prompts, and queries with a mask, are expanded as they are written.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from ..operators import latent as _latent  # defines the operator

__all__ = ["EXPAND", "absorbing", "deferred", "interface"]

EXPAND = "expand_kv"
_defined_by = _latent.__name__


@dataclass
class Absorbing:
    """Whether expansion is to be absorbed, and whether the last decoded token expanded its cache all the same."""

    wanted: bool = False
    expanded: bool = False


_state: ContextVar[Absorbing | None] = ContextVar("absorbing", default=None)


@contextmanager
def absorbing(wanted: bool) -> Iterator[Absorbing]:
    """Within this context single tokens are decoded as serving engines do, if that is wanted."""
    state = Absorbing(wanted)
    token = _state.set(state)
    try:
        yield state
    finally:
        _state.reset(token)


def deferred(original: Callable[..., Any]) -> Callable[..., Any]:
    """In place of `expand_kv`: rotary keys and latents as they are cached, in the place of keys and values."""

    def expand(self: Any, latent: torch.Tensor, rope: torch.Tensor) -> Any:
        return original(self, latent, rope) if _state.get() is None else (rope, latent)

    return expand


def interface(original: Callable[..., Any]) -> Callable[..., Any]:
    """In place of `AttentionInterface.get_interface`: the attention function, told of latents that come to it."""

    def get_interface(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(self, *args, **kwargs)
        state = _state.get()
        return found if state is None else functools.partial(_attend, found, state)

    return get_interface


def _attend(
    attention: Any, state: Absorbing, module: Any, query: Any, key: Any, value: Any, *args: Any, **kw: Any
) -> Any:
    expand = getattr(getattr(type(module), EXPAND, None), "__wrapped__", None)
    if expand is None or key.shape[1] != 1:
        return attention(module, query, key, value, *args, **kw)
    mask = args[0] if args else kw.get("attention_mask")
    rope, latent = key, value
    single = query.shape[2] == 1
    state.expanded = single and (mask is not None or not state.wanted)
    if state.expanded or not single:
        return attention(module, query, *expand(module, latent, rope), *args, **kw)
    scale = kw.get("scaling") or module.scaling
    return _absorbed(module, query, latent, rope, scale), None


def _absorbed(module: Any, query: torch.Tensor, latent: torch.Tensor, rope: torch.Tensor, scale: float) -> Any:
    """query [b, h, 1, nope + p], latent [b, 1, s, r], rope [b, 1, s, p] -> [b, 1, h, v]."""
    batch, heads = query.shape[:2]
    rank, width = latent.shape[-1], query.shape[-1] - rope.shape[-1]
    weight = module.kv_b_proj.weight
    halves = getattr(weight, "to_local", lambda: weight)().view(heads, -1, rank)  # of a shard, its own heads
    to_keys, to_values = torch.split(halves, [width, module.v_head_dim], dim=1)
    plain, turned = torch.split(query, [width, rope.shape[-1]], dim=-1)
    inside = torch.bmm(plain.squeeze(2).transpose(0, 1), to_keys).transpose(0, 1).unsqueeze(2)
    summed = torch.ops.regflat.latent_attention(torch.cat((inside, turned), dim=-1), latent, rope, scale)
    result = torch.bmm(summed.squeeze(2).transpose(0, 1), to_values.transpose(1, 2))
    return result.transpose(0, 1).reshape(batch, 1, heads, -1)
