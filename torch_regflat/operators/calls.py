"""One operator call to loop nests: the formula if there is one, nothing for a view, else its traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..workload import LoopNest, Role
from .movement import traffic
from .pointwise import is_pointwise, tagged
from .registry import Call, Facts, Signature, check_misspelt, formula_of, nests_of, signature
from .shapes import tensors_in


@dataclass(frozen=True, slots=True)
class Lowered:
    """One call as loop nests; `inputs + outputs` are its tensors in slot order."""

    nests: tuple[LoopNest, ...]
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]
    modelled: bool


def lower_call(
    target: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    out: Any,
    roles: dict[int, Role] | None = None,
    facts: Facts | None = None,
) -> Lowered:
    """Price one operator call.

    `args`, `kwargs` and `out` (a tensor, or a list or tuple of them) are as the operator took and returned them, on
    meta or fake tensors; `roles` says what the tensor in a slot is. A view gives no nests. An operator without a
    formula gives one nest of its traffic and `modelled=False`.
    """
    known = signature(target)
    kwargs = {k: v for k, v in kwargs.items() if k not in known.outs} if known.outs else kwargs
    outs = _results(known, args, kwargs, tensors_in(out))
    call = Call(target, args, kwargs, outs, dict(roles or {}), facts)
    nests, modelled = ((), True) if _is_view(call, known) else price(call)
    return Lowered(nests, call.inputs, call.out, modelled)


def _results(
    known: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]
) -> list[torch.Tensor]:
    """All tensors a call writes: results, and what it changes without returning it."""
    result = list(out)
    if known.mutated:
        covered = {t.untyped_storage()._cdata for t in out}
        for tensor in mutated_tensors(known, args, kwargs):
            if tensor.untyped_storage()._cdata not in covered:
                result.append(tensor)
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
    if call.out and not any([t.numel() for t in call.out]):
        return (), True  # nothing is written
    formula = formula_of(call.target)
    if formula is None and is_pointwise(call.target) and call.out:
        formula = tagged
    if formula is None:
        check_misspelt(call.target)
        nest = traffic(call)
        return ((nest,) if nest is not None else (), nest is None)
    return tuple(n for nest in nests_of(call, formula) for n in _without_empty(nest, call)), True


def _without_empty(nest: LoopNest, call: Call) -> tuple[LoopNest, ...]:
    """A nest with an empty dimension does nothing but write the results that are not empty."""
    if all(size > 0 for _, size in nest.dims):
        return (nest,)
    written = [t for t in call.out if t.numel()]
    if not written:
        return ()
    longest = max(t.numel() for t in written)
    operands = tuple(call.operand(t, (0,), "write", distinct=float(t.numel())) for t in written)
    return (LoopNest("movement", (("c", longest),), operands, nest.dtype),)
