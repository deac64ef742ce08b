"""The values of small tensors, worked out for real only when a model asks for them.

Asked for the value of a node, this walks the recorded graph backwards. If all that it depends on is known exactly
(factories such as `arange` and `full`, constants, inputs and buffers given with real data), that little part of the
graph is run on the CPU, in-place changes included and in their recorded order. Otherwise it says what is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from ..operators.graph import input_nodes
from ._torch_private import op_info

MAX_ELEMENTS = 1 << 22
MAX_NODES = 20_000

aten = torch.ops.aten
_SHAPE_ONLY: dict[Any, int] = {
    **{
        packet.default: 0
        for packet in (aten.full_like, aten.zeros_like, aten.ones_like, aten.new_full, aten.new_zeros, aten.new_ones)
    },
    **{packet.default: 1 for packet in (aten.expand_as, aten.view_as, aten.reshape_as, aten.type_as)},
    aten.to.other: 1,
}
"""Operators that look only at the shape and dtype of the argument at this position, never at its values."""


class Unknown(Exception):
    """A value that cannot be worked out; `why` completes "depends on ...", `advice` says what to do."""

    def __init__(self, why: str, advice: str, *, of_weights: bool = False) -> None:
        super().__init__(why)
        self.why, self.advice, self.of_weights = why, advice, of_weights


class Values:
    """What recording has to note so that values can be worked out later."""

    def __init__(self) -> None:
        self.real: dict[Node, torch.Tensor] = {}
        """Placeholders and get_attr nodes whose numbers are known."""
        self.assumed: dict[Node, torch.Tensor] = {}
        """Masks without values, taken to mask nothing (no padding): a single one, to be expanded."""
        self.used_assumptions: dict[str, None] = {}
        """Names of the inputs whose assumed values were asked for."""
        self.order: dict[Node, int] = {}
        self.writers: dict[int, list[Node]] = {}
        """Nodes that write in place, by the number of the storage written."""
        self.writes: dict[Node, list[int]] = {}
        """The other way round."""
        self.asked = 0

    def note_write(self, node: Node, number: int) -> None:
        """Say that `node` writes to the storage of this number."""
        self.writers.setdefault(number, []).append(node)
        self.writes.setdefault(node, []).append(number)

    def forget_writes(self, node: Node) -> list[int]:
        """Take back what was noted of a node; returns the storages it writes to."""
        numbers = self.writes.pop(node)
        for number in numbers:
            self.writers[number].remove(node)
        return numbers

    def evaluate(self, node: Node) -> Any:
        """The exact value of `node`, or `Unknown`."""
        return self.run(node.target, (node,), {}, lambda target, args, kwargs: args[0])

    def run(
        self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], call: Callable[..., Any] | None = None
    ) -> Any:
        """`target(*args, **kwargs)` for real, with the values of the nodes among the arguments; or `Unknown`."""
        self.asked += 1
        roots: list[Node] = []
        map_arg((args, kwargs), roots.append)
        known: dict[Node, Any] = {}
        for node in sorted(self._needed(roots), key=self.order.__getitem__):
            known[node] = self._compute(node, known)
        actual: Any = map_arg((args, kwargs), known.__getitem__)
        return (call or _call)(target, *actual)

    def _needed(self, roots: list[Node]) -> set[Node]:
        """All nodes that have to be run: ancestors, and whatever wrote to the storages of those."""
        needed: set[Node] = set()
        pending = list(roots)
        while pending:
            node = pending.pop()
            if node in needed:
                continue
            needed.add(node)
            self._check(node, len(needed))
            pending += reversed(_read(node))
            for number in _numbers(node.meta["storage"]):
                pending += self.writers.get(number, ())
        self._check_written(needed)
        return needed

    def _written(self, node: Node) -> bool:
        return any(self.writers.get(number) for number in _numbers(node.meta["storage"]))

    def _check_written(self, needed: set[Node]) -> None:
        seen: set[int] = set()
        for node in needed:
            if node in self.real and self._written(node):
                if node.meta["storage"] in seen:  # copies of views of one storage would not see each other's changes
                    raise Unknown(
                        f"{_described(node)}, which is changed in place", "pass a tensor that shares no memory"
                    )
                seen.add(node.meta["storage"])

    def _check(self, node: Node, count: int) -> None:
        if node.op in ("placeholder", "get_attr"):
            if node not in self.real and node not in self.assumed:
                raise _missing(node)
        elif not isinstance(node.target, torch._ops.OpOverload):
            pass
        elif op_info(node.target).random:
            raise Unknown(f"random numbers ({node.target})", "pass the numbers in as a real CPU tensor")
        elif op_info(node.target).uninitialised:
            raise Unknown(f"uninitialised memory ({node.target})", "make the tensor with torch.zeros or torch.full")
        if count > MAX_NODES or _elements(node.meta["val"]) > MAX_ELEMENTS:
            raise Unknown(
                f"more than {MAX_ELEMENTS} numbers ({node.name})",
                "compute the value beforehand and pass it as a number",
            )

    def _compute(self, node: Node, known: dict[Node, Any]) -> Any:
        if node in self.real:
            real = self.real[node].detach().to("cpu")
            return real.clone() if self._written(node) else real
        if node in self.assumed:
            self.used_assumptions[str(node.meta.get("input", node.name))] = None
            return self.assumed[node].expand(node.meta["val"].shape).clone()
        at = _SHAPE_ONLY.get(node.target)
        if at is not None:
            return _of_shape(node, at, known)
        args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
        return _call(node.target, args, kwargs)


def _read(node: Node) -> list[Node]:
    """The nodes whose values an operator looks at."""
    at = _SHAPE_ONLY.get(node.target)
    return input_nodes(node) if at is None else [n for i, n in enumerate(node.args) if i != at and isinstance(n, Node)]


def _of_shape(node: Node, at: int, known: dict[Node, Any]) -> Any:
    """The value of an operator that looks only at the shape of its argument `at`."""
    like: Any = node.args[at]
    rest: tuple[Any, ...] = tuple(map_arg(arg, known.__getitem__) for i, arg in enumerate(node.args) if i != at)
    if at == 0:
        return _call(node.target, (like.meta["val"], *rest), {**node.kwargs, "device": torch.device("cpu")})
    shaped = torch.empty((), dtype=like.meta["val"].dtype).expand(like.meta["val"].shape)
    return _call(node.target, (rest[0], shaped, *rest[1:]), dict(node.kwargs))


def _call(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if isinstance(target, torch._ops.OpOverload):
        at = op_info(target).device_at
        if at is not None and at < len(args):
            args = (*args[:at], torch.device("cpu"), *args[at + 1 :])
        elif kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
    return target(*args, **kwargs)


def _numbers(storage: Any) -> tuple[int, ...]:
    numbers = storage if isinstance(storage, (tuple, list)) else (storage,)
    return tuple(number for number in numbers if number is not None)


def _elements(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel()
    return sum(map(_elements, value)) if isinstance(value, (list, tuple)) else 0


def _described(node: Node) -> str:
    if node.op == "placeholder":
        return f"the input {node.meta.get('input', node.name)!r}"
    kind = "parameter" if node.meta["role"] == "weight" else "tensor"
    return f"the {kind} {node.target!r}"


def _missing(node: Node) -> Unknown:
    what = _described(node)
    if node.op == "placeholder":
        return Unknown(f"{what}, whose values are not known", f"pass a real CPU tensor for {what.removeprefix('the ')}")
    of_weights = node.meta["role"] == "weight"
    return Unknown(f"{what}, whose values are not known", f"give {what} real values on the CPU", of_weights=of_weights)
