"""Experts divided among ranks: how their tokens get there and back.

Which tokens go to which rank depends on values, which capture does not have. What is recorded is the expected case:
of T tokens that pick k experts each, every one of `ep` ranks gets T·k/ep copies (rounded up, and at least one: a step
waits for the ranks that have some).

- All ranks have the same tokens (no data parallelism): each runs its experts on its share, and an all-reduce adds up.
- Data-parallel groups have tokens of their own: an all-to-all takes the copies to their experts (dispatch), a second
  one takes the results back (combine). The ranks of a tensor-parallel group, which have the same tokens, send a part
  each, and gather afterwards. Where several ranks have slices of one expert, partial results are added up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..layout import Layout
from ..operators import routing as _routing  # defines regflat::rows_here
from ..sharded import even
from ._torch_distributed import Mesh

Forward = Callable[..., Tensor]
_functional = torch.ops._c10d_functional
_defined_by = _routing.__name__


@dataclass(frozen=True)
class Groups:
    """Groups of ranks, by name and size, that exchange tokens of experts."""

    layout: Layout
    experts: int
    across: str
    """Ranks with different experts."""
    same: str
    """Ranks with slices of the same experts."""
    tensor: str
    """Ranks of a tensor-parallel group."""
    parts: str = ""
    """Of these, the ones that send different parts of their tokens."""
    wide: str = ""
    """Data-parallel groups that share slices of the same experts."""

    @classmethod
    def of(cls, layout: Layout, experts: int) -> Groups:
        """The groups of the first rank."""
        tp, dp, pp, ep, same = layout.tp, layout.dp, layout.pp, layout.ep, layout.expert_tp
        base = Mesh((pp, dp, tp))
        inner = Mesh((pp, ep, same))
        parts = wide = ""
        if dp > 1 and same < tp:
            parts = Mesh((pp, dp, tp // same, same)).group(2)
        if dp > 1 and same > tp:
            wide = Mesh((pp, dp * tp // same, same // tp, tp)).group(2)
        return cls(layout, experts, inner.group(1), inner.group(2), base.group(2), parts, wide)


def install(experts: nn.Module, groups: Groups) -> None:
    """Let a module of experts, which has those of this rank only, be called with the tokens of this rank."""
    forward = experts.forward
    call = _exchanged if groups.layout.dp > 1 else _in_place

    def divided(hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        return call(forward, groups, hidden, chosen, weights)

    experts.forward = divided


def _in_place(forward: Forward, groups: Groups, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """The same tokens everywhere. hidden [T, h], chosen and weights [T, k]"""
    (tokens, k), ranks = chosen.shape, groups.layout.ep
    count = max(1, math.ceil(tokens * k / ranks))
    at, local = torch.ops.regflat.rows_here(chosen, count, groups.experts, ranks, tokens)
    token = at // k
    out = forward(hidden[token], local[:, None], weights.reshape(-1)[at][:, None])
    mixed = torch.zeros_like(hidden).index_add_(0, token, out.to(hidden.dtype))
    return _reduced(mixed, groups.tensor)


def _exchanged(forward: Forward, groups: Groups, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Tokens of its own in each data-parallel group."""
    layout, whole = groups.layout, hidden.shape[0]
    tokens = whole * layout.dp
    same, parts = layout.expert_tp, max(layout.tp // layout.expert_tp, 1)
    if parts > 1:  # rounded up, as the last part is shorter
        part = math.ceil(whole / parts)
        hidden, chosen, weights = hidden[:part], chosen[:part], weights[:part]
    if groups.wide:
        size = same // layout.tp
        hidden, chosen, weights = (_gathered(t, groups.wide, size) for t in (hidden, chosen, weights))
    out = _sent(forward, groups, hidden, chosen, weights, tokens)
    if groups.wide:
        out = _scattered(out, groups.wide, same // layout.tp)
        out = _reduced(out, groups.tensor) if layout.tp > 1 else out
    elif same > 1:
        out = _reduced(out, groups.same)
    return _gathered(out, groups.parts, parts)[:whole] if parts > 1 else out


def _sent(
    forward: Forward, groups: Groups, hidden: Tensor, chosen: Tensor, weights: Tensor, tokens: int
) -> Tensor:
    """Copies of tokens to the ranks of their experts, and the results back. hidden [T, h] -> [T, h]"""
    ranks, k = groups.layout.ep, chosen.shape[-1]
    order = torch.argsort(chosen.reshape(-1))
    sizes = even(order.shape[0], ranks)
    arrived = _all_to_all(hidden[order // k], sizes, groups.across)
    _, local = torch.ops.regflat.rows_here(chosen, arrived.shape[0], groups.experts, ranks, tokens)
    # Weights are applied where the token came from, so that they need not travel.
    out = forward(arrived, local[:, None], torch.ones_like(arrived[:, :1]))
    back = _all_to_all(out.to(hidden.dtype), sizes, groups.across)
    copies = torch.empty_like(back).index_copy_(0, order, back)
    return (copies.view(*chosen.shape, -1) * weights[..., None]).sum(1).to(hidden.dtype)


def _all_to_all(rows: Tensor, sizes: list[int], group: str) -> Tensor:
    return _waited(_functional.all_to_all_single(rows.contiguous(), sizes, sizes, group))


def _reduced(tensor: Tensor, group: str) -> Tensor:
    return _waited(_functional.all_reduce_(tensor.contiguous(), "sum", group))


def _gathered(tensor: Tensor, group: str, size: int) -> Tensor:
    return _waited(_functional.all_gather_into_tensor(tensor.contiguous(), size, group))


def _scattered(tensor: Tensor, group: str, size: int) -> Tensor:
    return _waited(_functional.reduce_scatter_tensor(tensor.contiguous(), "sum", size, group))


def _waited(started: Any) -> Tensor:
    done: Tensor = _functional.wait_tensor(started)
    return done
