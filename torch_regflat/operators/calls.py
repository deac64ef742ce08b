"""One operator call to loop nests: the formula if there is one, nothing for a view, else its traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ..workload import LoopNest, Operand, Role
from .movement import traffic
from .pointwise import is_pointwise, tagged
from .registry import Call, formula_of
from .shapes import tensors_in


@dataclass(frozen=True, slots=True)
class Lowered:
    """One call as loop nests; `inputs + outputs` are its tensors in slot order."""

    nests: tuple[LoopNest, ...]
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]
    modelled: bool


@dataclass(frozen=True)
class Signature:
    """What a schema says: argument positions, `out=` arguments, arguments written in place."""

    positions: dict[str, int]
    keyword_only: frozenset[str]
    defaults: dict[str, Any]
    outs: tuple[str, ...]
    mutated: tuple[str, ...]


@cache
def signature(target: Any) -> Signature:
    schema = getattr(target, "_schema", None)
    arguments = schema.arguments if schema is not None else ()
    written = [a for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    return Signature(
        positions={a.name: i for i, a in enumerate(arguments)},
        keyword_only=frozenset(a.name for a in arguments if a.kwarg_only),
        defaults={a.name: a.default_value for a in arguments if a.has_default_value()},
        outs=tuple(a.name for a in written if a.is_out),
        mutated=tuple(a.name for a in written if not a.is_out),
    )


class GraphCall(Call):
    """A `Call` that looks arguments up in a cached signature, and knows what the graph around it told.

    `experts_per_token` is how many experts the routing picks for each token, None where that is not seen.
    """

    __slots__ = ("experts_per_token", "signature")

    def __init__(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> None:
        super().__init__(target, args, kwargs, out, {})
        self.signature = signature(target)
        self.experts_per_token: int | None = None

    def arg(self, name: str, default: Any = None) -> Any:
        known = self.signature
        position = known.positions.get(name)
        if position is None:
            return default
        if position < len(self.args) and name not in known.keyword_only:
            return self.args[position]
        if name in self.kwargs:
            return self.kwargs[name]
        return known.defaults.get(name, default)


def lower_call(
    target: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    out: Any,
    roles: dict[int, Role] | None = None,
    experts_per_token: int | None = None,
) -> Lowered:
    """Price one operator call.

    `args`, `kwargs` and `out` (a tensor, or a list or tuple of them) are as the operator took and returned them, on
    meta or fake tensors; `roles` says what the tensor in a slot is. A view gives no nests. An operator without a
    formula gives one nest of its traffic and `modelled=False`.
    """
    known = signature(target)
    kwargs = {k: v for k, v in kwargs.items() if k not in known.outs} if known.outs else kwargs
    outs = _results(known, args, kwargs, tensors_in(out))
    call = GraphCall(target, args, kwargs, outs)
    call.roles.update(roles or {})
    call.experts_per_token = experts_per_token
    nests, modelled = ((), True) if _is_view(call, known) else price(call)
    return Lowered(nests, call.inputs, call.out, modelled)


def _results(
    known: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]
) -> list[torch.Tensor]:
    """All tensors a call writes, each an object of its own: results, and what it changes without returning it."""
    given = {id(t) for t in tensors_in(list(args))} | {id(t) for t in tensors_in(list(kwargs.values()))}
    result = [t.detach() if id(t) in given else t for t in out]
    if known.mutated:
        covered = {t.untyped_storage()._cdata for t in out}
        for tensor in mutated_tensors(known, args, kwargs):
            if tensor.untyped_storage()._cdata not in covered:
                result.append(tensor.detach())
    return result


def mutated_tensors(known: Signature, args: Sequence[Any], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for name in known.mutated:
        position = known.positions[name]
        found += tensors_in(args[position] if position < len(args) else kwargs.get(name))
    return found


def _is_view(call: Call, known: Signature) -> bool:
    """Nothing is written in place and every result lies in memory that an input already has."""
    if known.mutated or not call.out:
        return False
    own = {t.untyped_storage()._cdata for t in call.inputs}
    return all(t.untyped_storage()._cdata in own for t in call.out)


def price(call: Call) -> tuple[tuple[LoopNest, ...], bool]:
    """The nests of a call and whether a formula of its own gave them."""
    formula = formula_of(call.target) or _by_name(call.target)
    if formula is None and is_pointwise(call.target) and call.out:
        formula = tagged
    if formula is None:
        nest = traffic(call)
        return ((nest,) if nest is not None else (), nest is None)
    made = formula(call)
    if made is None:
        return (), True
    nests = (made,) if isinstance(made, LoopNest) else tuple(made)
    return tuple(n for nest in nests for n in _without_empty(nest, call)), True


def _by_name(target: Any) -> Any:
    schema = getattr(target, "_schema", None)
    return formula_of(schema.name) if schema is not None else None


def _without_empty(nest: LoopNest, call: Call) -> tuple[LoopNest, ...]:
    """A nest with an empty dimension does nothing but write the results that are not empty."""
    if all(size > 0 for _, size in nest.dims):
        return (nest,)
    written = [t for t in call.out if t.numel()]
    if not written:
        return ()
    longest = max(t.numel() for t in written)
    operands = tuple(
        Operand(call.operand(t, ()).slot, (((0, 1),),), t.dtype.itemsize * 8, "write", distinct=float(t.numel()))
        for t in written
    )
    return (LoopNest("movement", (("c", longest),), operands, nest.dtype),)
