"""The table from ATen operators to loop nests.

    @operator(aten.mm)
    def mm(call: Call) -> Nests:
        a, b = call.args
        return product(call, a, b)

A formula gets a `Call` (shapes in) and returns loop nests (none for a view). It never sees a chip. Operators are
known by name, so that one of a library that is not imported yet can have a formula: `@operator("mylib::op")`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch

from ..errors import InputError, near
from ..workload import Access, Axis, LoopNest, Operand, Role

Nests: TypeAlias = "LoopNest | list[LoopNest] | None"
Formula: TypeAlias = "Callable[[Call], Nests]"
Target: TypeAlias = "torch._ops.OpOverload | torch._ops.OpOverloadPacket | torch._ops.HigherOrderOperator | str"

_formulas: dict[str, Formula] = {}
"""By `namespace::name` for all overloads of an operator, by `namespace::name.overload` for one."""

_OWN_NAMESPACES = ("aten", "prims")
"""Those whose operators all exist as soon as torch is imported, so that a wrong name is refused at once."""


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


@dataclass(frozen=True)
class Facts:
    """What a call's arguments do not tell, and the graph around it does.

    How many experts each token picks (None: not seen) and how unevenly; the part of an attention's square that a
    block mask leaves; the rows that each expert with any gets, where they are known (else empty), and of how many
    tokens they are copies where the product itself gathers them (0: they were gathered before). Where experts are
    divided among ranks, how many experts and tokens all of them have (0: those of the call).
    """

    experts_per_token: int | None = None
    skew: float = 0.0
    domain_fraction: float = 1.0
    expert_rows: tuple[int, ...] = ()
    gathered_tokens: int = 0
    experts: int = 0
    tokens: int = 0


class Call:
    """One operator call as a formula sees it: real argument values, with meta tensors for tensors.

    `args` and `kwargs` are as recorded; `out` is the flat list of output tensors. `inputs` is the flat list of
    input tensors in order of first appearance, each once. A tensor's slot is its position in `inputs + out`; one
    that is both, as the result of an in-place operator, has two: it is read from the first and written to the second.
    """

    __slots__ = (
        "_read_slots", "_signature", "_write_slots", "args", "facts", "inputs", "kwargs", "out", "roles", "target",
    )  # fmt: skip

    def __init__(
        self,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: list[torch.Tensor],
        roles: dict[int, Role] | None = None,
        facts: Facts | None = None,
    ) -> None:
        self.target, self.args, self.kwargs, self.out = target, args, kwargs, out
        self.roles = {} if roles is None else roles
        self.facts = facts or Facts()
        self.inputs: list[torch.Tensor] = []
        self._signature = signature(target)
        self._read_slots: dict[int, int] = {}
        self._write_slots: dict[int, int] = {}
        self._collect(args)
        self._collect(kwargs.values())
        for slot, tensor in enumerate(out, len(self.inputs)):
            self._write_slots.setdefault(id(tensor), slot)

    def _collect(self, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, torch.Tensor):
                if id(value) not in self._read_slots:
                    self._read_slots[id(value)] = len(self.inputs)
                    self.inputs.append(value)
            elif isinstance(value, (list, tuple)):
                self._collect(value)

    def arg(self, name: str, default: Any = None) -> Any:
        """The value of the schema argument `name`, however it was passed; its schema default if it was not."""
        known = self._signature
        position = known.positions.get(name)
        if position is None:
            return default
        if position < len(self.args) and name not in known.keyword_only:
            return self.args[position]
        if name in self.kwargs:
            return self.kwargs[name]
        return known.defaults.get(name, default)

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
        slot = self._slot(tensor, access)
        return Operand(
            slot=slot,
            axes=tuple(((axis, 1),) if isinstance(axis, int) else axis for axis in axes),
            bits=tensor.dtype.itemsize * 8 if bits is None else bits,
            access=access,
            role=self.roles.get(slot, "activation"),
            distinct=distinct,
            extent=extent,
        )

    def _slot(self, tensor: torch.Tensor, access: Access) -> int:
        first, second = self._read_slots, self._write_slots
        if access != "read":
            first, second = second, first
        slot = first.get(id(tensor))
        if slot is None:
            slot = second.get(id(tensor))
        if slot is None:
            raise InputError(
                f"the formula of {self.target} describes a tensor of shape {tuple(tensor.shape)} that is neither an "
                "input nor an output of the call; use the tensors in call.inputs, call.args and call.out as they are"
            )
        return slot


def operator(*targets: Target, replace: bool = False) -> Callable[[Formula], Formula]:
    """Register a formula for operators: overloads, all overloads of one (a packet), or names such as "mylib::op".

    A name need not exist yet: it is looked up when the operator is met. A second formula for the same operator is
    refused unless `replace` says that it is meant.
    """
    keys = [key_of(target) for target in targets]

    def register(formula: Formula) -> Formula:
        if not callable(formula):
            raise InputError(f"@operator takes a function of one call, found {type(formula).__name__}")
        for key in keys:
            if key in _formulas and not replace:
                raise InputError(
                    f"{key} already has a formula, {_title(_formulas[key])}; it can have only one "
                    "(replace=True puts this one in its place)"
                )
            _formulas[key] = formula
        return formula

    return register


def key_of(target: Any) -> str:
    """`namespace::name`, with `.overload` for a single overload; `InputError` for what is no operator."""
    if isinstance(target, str):
        return _checked(target)
    if isinstance(target, torch._ops.OpOverload):
        return f"{target._schema.name}.{target._overloadname}"
    if isinstance(target, torch._ops.OpOverloadPacket):
        return str(target._qualified_op_name)
    if isinstance(target, torch._ops.HigherOrderOperator):
        return f"{target.namespace}::{target.__name__}"
    opoverload = getattr(target, "_opoverload", None)  # what torch.library.custom_op and triton_op return
    if isinstance(opoverload, torch._ops.OpOverload):
        return str(opoverload._schema.name)
    name = getattr(target, "__name__", type(target).__name__)
    raise InputError(
        f"{name!r} is a {type(target).__name__}, not an operator; name it as in 'aten::{name}' or torch.ops.aten.{name}"
    )


def _checked(name: str) -> str:
    space, colons, rest = name.partition("::")
    if not colons or not space or not rest:
        raise InputError(f"{name!r} does not name an operator; write namespace::name, as in 'mylib::op'")
    if space in _OWN_NAMESPACES:
        packet, _, overload = rest.partition(".")
        found = getattr(getattr(torch.ops, space), packet, None)
        if found is None:
            raise InputError(f"torch has no operator {name!r}{near(f'{space}::{packet}', _names(space))}")
        if overload and overload not in found.overloads():
            raise InputError(f"{space}::{packet} has no overload {overload!r}; it has {', '.join(found.overloads())}")
    return name


def _names(space: str) -> set[str]:
    """All operators of a namespace that exist now."""
    found = torch._C._dispatch_get_all_op_names()
    return {name.partition(".")[0] for name in found if name.startswith(f"{space}::")}


def _title(formula: Formula) -> str:
    return str(getattr(formula, "__qualname__", formula))


def formula_of(target: Any) -> Formula | None:
    """The formula of an overload, else of its operator, else None."""
    if isinstance(target, torch._ops.OpOverload):
        name = target._schema.name
        found = _formulas.get(f"{name}.{target._overloadname}")
        return _formulas.get(name) if found is None else found
    return _formulas.get(key_of(target))


def check_misspelt(target: Any) -> None:
    """Refuse an operator without a formula where one was given for a name that is almost its own and exists not."""
    if not isinstance(target, torch._ops.OpOverload):
        return
    name = target._schema.name
    space = name.partition("::")[0]
    others = [key for key in _formulas if key.startswith(f"{space}::") and space not in _OWN_NAMESPACES]
    exist = _names(space) if others else set()
    unknown = [key for key in others if key.partition(".")[0] not in exist and near(key, [name])]
    if unknown:
        given = unknown[0]
        raise InputError(f"a formula was given for {given!r}, but no such operator exists{near(given, [name])}")


def nests_of(call: Call, formula: Formula) -> tuple[LoopNest, ...]:
    """What a formula returns, checked: a nest, several, or none for a view."""
    made = formula(call)
    if made is None:
        return ()
    nests = (made,) if isinstance(made, LoopNest) else made
    if not isinstance(nests, (list, tuple)) or not all(isinstance(nest, LoopNest) for nest in nests):
        raise InputError(
            f"the formula {_title(formula)} of {call.target} returned {_kind(made)}; "
            "it must return a LoopNest, a list of them, or None for a view"
        )
    return tuple(nests)


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        odd = next(item for item in value if not isinstance(item, LoopNest))
        return f"a {type(value).__name__} with a {type(odd).__name__} in it"
    return f"a value of type {type(value).__name__}"
