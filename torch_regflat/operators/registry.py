"""The table from ATen operators to loop nests.

    @operator(aten.mm)
    def mm(call: Call) -> Nests:
        a, b = call.tensors("self", "mat2")
        ...

A formula gets a `Call` (shapes in) and returns loop nests (none for a view). It never sees a chip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch

from ..errors import InputError
from ..workload import Access, Axis, LoopNest, Operand, Role

Nests: TypeAlias = "LoopNest | list[LoopNest] | None"
Formula: TypeAlias = "Callable[[Call], Nests]"
Target: TypeAlias = "torch._ops.OpOverload | torch._ops.OpOverloadPacket"

_formulas: dict[Any, Formula] = {}


class Call:
    """One operator call as a formula sees it: real argument values, with meta tensors for tensors.

    `args` and `kwargs` are as recorded; `out` is the flat list of output tensors. `inputs` is the flat list of
    input tensors in order of first appearance, each once. A tensor's slot is its position in `inputs + out`.
    """

    __slots__ = ("_slots", "args", "inputs", "kwargs", "out", "roles", "target")

    def __init__(
        self,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: list[torch.Tensor],
        roles: dict[int, Role],
    ) -> None:
        self.target, self.args, self.kwargs, self.out, self.roles = target, args, kwargs, out, roles
        self.inputs: list[torch.Tensor] = []
        self._slots: dict[int, int] = {}
        self._collect(args)
        self._collect(kwargs.values())
        for tensor in out:
            self._slots.setdefault(id(tensor), len(self._slots))

    def _collect(self, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, torch.Tensor):
                if id(value) not in self._slots:
                    self._slots[id(value)] = len(self._slots)
                    self.inputs.append(value)
            elif isinstance(value, (list, tuple)):
                self._collect(value)

    def arg(self, name: str, default: Any = None) -> Any:
        """The value of the schema argument `name`, however it was passed; its schema default if it was not."""
        for position, argument in enumerate(self.target._schema.arguments):
            if argument.name == name:
                if not argument.kwarg_only and position < len(self.args):
                    return self.args[position]
                if name in self.kwargs:
                    return self.kwargs[name]
                return argument.default_value if argument.has_default_value() else default
        return default

    def operand(
        self,
        tensor: torch.Tensor,
        axes: Iterable[Axis | int],
        access: Access = "read",
        *,
        bits: float | None = None,
        distinct: float | None = None,
        extent: float | None = None,
    ) -> Operand:
        """Describe `tensor` as indexed by `axes` (a plain int d stands for the axis `((d, 1),)`)."""
        slot = self._slots[id(tensor)]
        return Operand(
            slot=slot,
            axes=tuple(((axis, 1),) if isinstance(axis, int) else axis for axis in axes),
            bits=tensor.dtype.itemsize * 8 if bits is None else bits,
            access=access,
            role=self.roles.get(slot, "activation"),
            distinct=distinct,
            extent=extent,
        )


def operator(*targets: Target) -> Callable[[Formula], Formula]:
    """Register a formula for overloads or whole overload packets; a second formula for the same key is refused."""

    def register(formula: Formula) -> Formula:
        for target in targets:
            if target in _formulas:
                raise InputError(
                    f"{target} already has a formula, {_formulas[target].__qualname__}; it can have only one"
                )
            _formulas[target] = formula
        return formula

    return register


def formula_of(target: Any) -> Formula | None:
    """The formula of an overload, else of its packet, else None."""
    found = _formulas.get(target)
    if found is None and isinstance(target, torch._ops.OpOverload):
        found = _formulas.get(target.overloadpacket)
    return found
