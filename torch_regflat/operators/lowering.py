"""Lowering: an fx graph of ATen operators gets an `Operation` (loop nests and tensors) in each node's meta.

`Lower` is the torch.fx pass; `workload` collects what it left behind; `lower_call`, of one call, is in `calls`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from ..errors import InputError
from ..workload import LoopNest, Operation, Role, Tensor, Workload, with_growing_caches
from .calls import Lowered, lower_call, mutated_tensors, price
from .collectives import collective_of, kind_of, writes_unsaid
from .graph import Routing, input_nodes, path_of, role_of, routing, storage_ids, storages_of
from .registry import Call, Facts, Signature, signature
from .shapes import checked_skew, dtype_name, tensors_in

__all__ = ["Lower", "Lowered", "lower_call", "workload"]

Source: TypeAlias = tuple[int, int]
"""Where an operation's tensor comes from: (index among the node's input nodes, element of that node's value)."""

_Pattern: TypeAlias = tuple[list[Source] | None, list[int], Operation]
"""What a repetition needs: sources (None: one tensor of each input node, in order), slots written in place though not
returned, and the operation."""

_Layout: TypeAlias = tuple[int, str, str]
"""A number for equal shapes, strides and dtype; the shape and the dtype as text."""

_OPERATORS = (torch._ops.OpOverload, torch._ops.HigherOrderOperator)


class Lower(PassBase):
    """The lowering pass: puts an `Operation` in `node.meta["operation"]` of every call_function node.

    Works on graphs of `torch_regflat.capture` and on any fx graph of ATen operators with `node.meta["val"]` (from
    `make_fx`, `torch.export`, a compile backend). Equal calls share the same tuple of nests; a node with a
    `meta["template"]` takes the nests of that node. Where `meta["storage"]` is missing it is filled in.
    `routing_skew` says how unevenly a mixture of experts is used: see `shapes.expected_experts`.
    """

    def __init__(self, routing_skew: float = 0.0) -> None:
        super().__init__()
        self.routing_skew = checked_skew(routing_skew)

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        state = _State(self.routing_skew)
        for node in graph_module.graph.nodes:
            state.visit(node)
        return PassResult(graph_module, True)


class _State:
    """What one run of the pass remembers: roles of storages, calls already priced, nodes that others may repeat."""

    def __init__(self, routing_skew: float) -> None:
        self.routing_skew = routing_skew
        self.roles: dict[int, Role] = {}
        self.count = 0
        self._priced: dict[Any, tuple[tuple[LoopNest, ...], bool]] = {}
        self._lowered: dict[fx.Node, _Pattern] = {}
        self._targets: dict[int, tuple[Signature, str]] = {}
        self._fresh: dict[int, int] = {}
        self._layouts: dict[int, _Layout] = {}
        self._numbers: dict[Any, int] = {}
        self._aliases: list[torch.Tensor] = []

    def visit(self, node: fx.Node) -> None:
        if node.op == "call_function":
            node.meta["operation"] = self._repeat(node) or self._lower(node)
            self.count += 1
        elif node.op in ("placeholder", "get_attr"):
            role = role_of(node)
            for storage in storages_of(node, self._new_storage):
                self.roles.setdefault(storage, role)
        elif node.op != "output":
            raise InputError(
                f"node {node.name} is a {node.op} of {node.target!r}, not an ATen operator; "
                "record the module with torch_regflat.capture first"
            )

    def _repeat(self, node: fx.Node) -> Operation | None:
        """The operation of a node that repeats another: the same nests, its own tensors and path."""
        meta = node.meta
        template = meta.get("template")
        known = self._lowered.get(template) if template is not None else None
        if known is None:
            return None
        sources, written, old = known
        given: list[Any] = [n.meta.get("storage") for n in input_nodes(node)]
        inputs = tuple(given) if sources is None else _pick(given, sources)
        storage = meta.get("storage")
        outputs: tuple[int, ...] = (storage,) if type(storage) is int else tuple(storage_ids(storage))
        if len(inputs) != len(old.inputs) or None in inputs:
            return None
        if written:
            outputs += tuple([inputs[slot] for slot in written])
        if len(outputs) != len(old.outputs):
            return None
        return Operation(
            self.count, old.target, path_of(node), old.nests, inputs, outputs,
            old.shapes, old.modelled, node.name, old.dtype, meta.get("phase", ""), old.collective,
        )  # fmt: skip

    def _lower(self, node: fx.Node) -> Operation:
        known, name = self._target(node.target)
        values, places = self._values(node)
        args = fx.node.map_arg(node.args, values.__getitem__)
        kwargs = {k: fx.node.map_arg(v, values.__getitem__) for k, v in node.kwargs.items() if k not in known.outs}
        written = storages_of(node, self._new_storage)
        outs = tensors_in(node.meta.get("val"))
        if known.outs and not outs:  # it returns nothing, and writes what it was given for its results
            filled = [node.kwargs[name] for name in known.outs if name in node.kwargs]
            outs = tensors_in(fx.node.map_arg(filled, values.__getitem__))
            written = [places[id(t)][1] for t in outs]
        returned: list[int] = []
        order = [k for k, (_, s) in places.items() if node.target is not operator.getitem or s in written]
        given = [places[key][1] for key in order]
        nests: tuple[LoopNest, ...] = ()
        modelled = True
        is_view = not known.mutated and bool(written) and all(s in given for s in written)
        is_view = is_view and not writes_unsaid(node.target) and not known.outs
        kind, collective = kind_of(node.target), None
        if kind is not None:
            call = Call(node.target, args, kwargs, outs)
            order = [id(t) for t in call.inputs]
            given = [places[key][1] for key in order]
            collective = collective_of(node, kind, call.inputs)
        elif not is_view and isinstance(node.target, _OPERATORS):
            changed = [t for t in mutated_tensors(known, args, kwargs) if places[id(t)][1] not in written]
            call = Call(node.target, args, kwargs, outs + changed)
            order = [id(t) for t in call.inputs]
            returned = [order.index(id(t)) for t in changed]
            given = [places[key][1] for key in order]
            nests, modelled = self._price(node, call, given, written + [given[i] for i in returned])
        inputs = tuple(given)
        layouts = [self._layouts[key] for key in order] or [self._layout(t) for t in outs[:1]]
        operation = Operation(
            self.count, name, path_of(node), nests, inputs, (*written, *[inputs[i] for i in returned]),
            " ".join([layout[1] for layout in layouts]), modelled, node.name, layouts[0][2] if layouts else "",
            node.meta.get("phase", ""), collective,
        )  # fmt: skip
        sources = [places[key][0] for key in order]
        given_by = input_nodes(node)
        simple = sources == [(i, 0) for i in range(len(given_by))] and all(
            isinstance(n.meta.get("storage"), int) for n in given_by
        )
        self._lowered[node] = (None if simple else sources, returned, operation)
        return operation

    def _target(self, target: Any) -> tuple[Signature, str]:
        found = self._targets.get(id(target))
        if found is None:
            name = str(target) if isinstance(target, _OPERATORS) else getattr(target, "__name__", str(target))
            found = self._targets[id(target)] = (signature(target), name)
        return found

    def _values(self, node: fx.Node) -> tuple[dict[fx.Node, Any], dict[int, tuple[Source, int]]]:
        """The meta value of each input node, and for each tensor (by id) where it comes from and its storage.

        Copies of a repeated layer share their `val`: where two such meet in one call, the second becomes an alias.
        """
        values: dict[fx.Node, Any] = {}
        places: dict[int, tuple[Source, int]] = {}
        for index, source in enumerate(input_nodes(node)):
            val, storage = source.meta.get("val"), source.meta.get("storage")
            if isinstance(val, torch.Tensor):
                values[source] = self._place(val, (index, 0), storage_ids(storage)[0], places)
            elif isinstance(val, (list, tuple)):
                storages = iter(enumerate(storage_ids(storage)))
                values[source] = [self._element(item, index, storages, places) for item in val]
            else:
                values[source] = val
        return values, places

    def _element(
        self, item: Any, index: int, storages: Iterator[tuple[int, int]], places: dict[int, tuple[Source, int]]
    ) -> Any:
        if not isinstance(item, torch.Tensor):
            return item
        number, storage = next(storages)
        return self._place(item, (index, number), storage, places)

    def _place(
        self, tensor: torch.Tensor, source: Source, storage: int, places: dict[int, tuple[Source, int]]
    ) -> torch.Tensor:
        known = places.get(id(tensor))
        if known is not None and known[1] != storage:
            tensor = tensor.detach()
            self._aliases.append(tensor)
            known = None
        if known is None:
            places[id(tensor)] = (source, storage)
            self._layout(tensor)
        return tensor

    def _price(
        self, node: fx.Node, call: Call, inputs: list[int], outputs: list[int]
    ) -> tuple[tuple[LoopNest, ...], bool]:
        """Nests of a call; calls equal in operator, scalars, layouts, roles and aliasing get the same tuple."""
        roles = [self.roles.get(storage, "activation") for storage in (*inputs, *outputs)]
        call.roles.update(enumerate(roles))
        if "expert_rows" in node.meta:
            tokens = node.meta.get("gathered_tokens", 0)
            call.facts = Facts(expert_rows=node.meta["expert_rows"], gathered_tokens=tokens)
        elif "grouped_mm" in node.name:
            known = routing(node) or Routing()
            call.facts = Facts(known.per_token, self.routing_skew, experts=known.experts, tokens=known.tokens)
        elif "domain_fraction" in node.meta:
            call.facts = Facts(domain_fraction=node.meta["domain_fraction"])
        slots = {id(t): i for i, t in enumerate(call.inputs)}
        aliased = tuple([s in inputs for s in outputs])
        args, kwargs = self._freeze(call.args, slots), self._freeze(tuple(call.kwargs.items()), slots)
        key = (id(call.target), args, kwargs, tuple(roles), aliased, call.facts)
        try:
            found = self._priced.get(key)
        except TypeError:
            return price(call)
        if found is None:
            found = self._priced[key] = price(call)
        return found

    def _freeze(self, value: Any, slots: dict[int, int]) -> Any:
        """A hashable description of arguments: tensors by slot and layout; numbers with their type (2 is not 2.0)."""
        slot = slots.get(id(value))
        if slot is not None:
            return (slot, self._layouts[id(value)][0])
        if isinstance(value, (list, tuple)):
            return tuple([self._freeze(item, slots) for item in value])
        return (type(value), value) if isinstance(value, (bool, int, float)) else value

    def _layout(self, tensor: torch.Tensor) -> _Layout:
        found = self._layouts.get(id(tensor))
        if found is None:
            shape, dtype = tuple(tensor.shape), tensor.dtype
            number = self._numbers.setdefault((shape, tensor.stride(), dtype), len(self._numbers))
            found = (number, "x".join(map(str, shape)) or "1", dtype_name(tensor))
            self._layouts[id(tensor)] = found
        return found

    def _new_storage(self, node: fx.Node, tensor: torch.Tensor) -> int:
        """An id for a storage that the graph does not number: an input's, where it is that memory, else a new one."""
        own = tensor.untyped_storage()._cdata
        for source in input_nodes(node):
            storages, tensors = storage_ids(source.meta.get("storage")), tensors_in(source.meta.get("val"))
            for storage, t in zip(storages, tensors, strict=False):
                if t.untyped_storage()._cdata == own:
                    return storage
        return self._fresh.setdefault(own, -1 - len(self._fresh))


def _pick(given: list[Any], sources: list[Source]) -> tuple[Any, ...]:
    """The storages at these places; fewer where the node does not have them, which the caller refuses."""
    found = [storage_ids(given[i])[j : j + 1] for i, j in sources if i < len(given)]
    return tuple([storage for one in found for storage in one])


def workload(graph_module: fx.GraphModule, name: str = "", phase: str = "", routing_skew: float = 0.0) -> Workload:
    """The operations of a graph in order and the storages between them; lowers the graph first if that is not done."""
    nodes = list(graph_module.graph.nodes)
    if any(n.op == "call_function" and "operation" not in n.meta for n in nodes):
        Lower(routing_skew)(graph_module)
    outputs: set[int] = set()
    for node in nodes:
        if node.op == "output":
            outputs = {s for n in input_nodes(node) for s in storage_ids(n.meta.get("storage"))}
    operations: list[Operation] = []
    tensors: dict[int, Tensor] = {}
    bytes_of: dict[int, int] = {}
    for node in nodes:
        if node.op == "output":
            continue
        call = node.op == "call_function"
        if call:
            operations.append(node.meta["operation"])
        storages = storage_ids(node.meta.get("storage"))
        if all([s in tensors for s in storages]):
            continue
        role: Role = "activation" if call else role_of(node)
        title, producer = (node.name, len(operations) - 1) if call else (str(node.target), None)
        for storage, tensor in zip(storages, tensors_in(node.meta.get("val")), strict=True):
            if storage in tensors:
                continue
            size = bytes_of.get(id(tensor))
            if size is None:
                size = bytes_of[id(tensor)] = tensor.untyped_storage().nbytes()
            tensors[storage] = Tensor(storage, title, size, role, producer, storage in outputs)
    return with_growing_caches(Workload(tuple(operations), tensors, name, phase))
