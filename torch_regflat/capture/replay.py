"""One run of a layer as a template, and its copies for the layers like it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from ..operators.graph import input_nodes
from . import state
from ._torch_private import call_function
from .effects import CallInputs, Leaf, Made, NewObject, NotRepeatable, Same, Snapshot, Taken, changes
from .fingerprint import own_tensors, submodules
from .inputs import is_cache
from .names import attribute_name
from .twins import new_storage, on_storage
from .watch import picks_by_index

if TYPE_CHECKING:
    from .recorder import Recorder

Kind = Literal["input", "own", "constant", "same"]


class Before:
    """The recorder's state just before a layer runs."""

    def __init__(self, recorder: Recorder, module: torch.nn.Module, inputs: CallInputs) -> None:
        self.start = len(recorder.nodes)
        self.count = recorder.twins.count
        self.asked = recorder.values.asked
        self.own = list(own_tensors(module))
        self.input_nodes = [recorder.known(tensor) for tensor in inputs.tensors]
        self.own_nodes = [recorder.known(tensor) for tensor in self.own]
        self.state = Snapshot(inputs.objects)


class Template:
    """What one run of a layer did, in terms of its inputs and its own tensors."""

    def __init__(
        self, recorder: Recorder, module: torch.nn.Module, inputs: CallInputs, before: Before, result: Any
    ) -> None:
        self.recorder, self.module, self.inputs, self.own = recorder, module, inputs, before.own
        self.replays = 0
        self.dead = False
        self.count = before.count
        region = recorder.nodes[before.start :]
        self.nodes = [node for node in region if node.op == "call_function"]
        self._inside = set(self.nodes)
        self._input_at = _positions(inputs.tensors)
        self._own_at = _positions(before.own)
        if self._input_at.keys() & self._own_at.keys():
            raise NotRepeatable("a parameter of its own is passed in")
        self.sources = self._sources(before, region)
        self.numbers = self._numbers()
        self.writes = {node: recorder.values.writes[node] for node in self.nodes if node in recorder.values.writes}
        self.paths = [recorder.names.module(part) for part in submodules(module)]
        self.changes = [
            (c.object_at, c.path, self._describe(c.value, before.state))
            for c in changes(before.state, inputs.objects, inputs.index)
        ]
        leaves, self.result_spec = pytree.tree_flatten(result, is_leaf=is_cache)
        self.result = [self._describe_leaf(leaf) for leaf in leaves]
        self.rebound = self._rebound(before)
        self.exported = self._exported()

    def _sources(self, before: Before, region: list[Node]) -> dict[Node, tuple[Kind, Any]]:
        """Where each node comes from that is used here but not made here."""
        found: dict[Node, tuple[Kind, Any]] = {}
        for at, known in reversed(list(enumerate(before.own_nodes))):
            if known is not None:
                found[known] = ("own", at)
        for at, known in reversed(list(enumerate(before.input_nodes))):
            if known is not None:
                found[known] = ("input", at)
        here = set(region)
        for node in self.nodes:
            for used in input_nodes(node):
                if used not in self._inside and used not in found:
                    found[used] = self._source(used, used in here)
        return found

    def _source(self, node: Node, is_new: bool) -> tuple[Kind, Any]:
        if node.op != "get_attr":
            raise NotRepeatable(f"it uses {node.name}, which is not passed in")
        tensor = self.recorder.tensor_of[node]
        if id(tensor) in self._own_at:
            return "own", self._own_at[id(tensor)]
        if id(tensor) in self._input_at:
            return "input", self._input_at[id(tensor)]
        return ("constant", tensor) if is_new and node in self.recorder.constants else ("same", node)

    def _numbers(self) -> dict[int, Taken]:
        """The storages that went in."""
        number = self.recorder.storage_number
        found: dict[int, Taken] = {}
        for at, tensor in enumerate(self.own):
            found.setdefault(number(tensor), Taken("own", at))
        for at, tensor in enumerate(self.inputs.tensors):
            found.setdefault(number(tensor), Taken("input", at))
        return found

    def _describe_leaf(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._describe_tensor(value)
        if state.is_plain(value):
            return Same(value)
        for at, leaf in enumerate(self.inputs.leaves):
            if leaf is value:
                return Leaf(at)
        raise NotRepeatable(f"it returns a {type(value).__name__}")

    def _describe(self, value: Any, before: Snapshot) -> Any:
        """A value found in the state after the call."""
        if isinstance(value, torch.Tensor):
            return self._describe_tensor(value)
        if not state.is_container(value):
            return Same(value)
        if id(value) in before.known:
            raise NotRepeatable("it moved an object to another place")
        parts = tuple((step[1], self._describe(part, before)) for step, part in state.children(value))
        return NewObject(type(value), parts)

    def _describe_tensor(self, tensor: torch.Tensor) -> Any:
        for kind, positions in (("input", self._input_at), ("own", self._own_at)):
            if id(tensor) in positions:
                return Taken(kind, positions[id(tensor)])  # type: ignore[arg-type]
        node = self.recorder.known(tensor)
        if node is not None and node in self._inside:
            return Made(node, tensor, self.recorder.twins.number(tensor))
        if node is not None and node.op == "get_attr" and node not in self.recorder.constants:
            return Same(tensor)
        raise NotRepeatable("it returns a tensor that it did not make")

    def _rebound(self, before: Before) -> list[tuple[Taken, Node]]:
        """Tensors that went in and were changed in place."""
        found = []
        taken = [(Taken("input", i), t) for i, t in enumerate(self.inputs.tensors)]
        taken += [(Taken("own", i), t) for i, t in enumerate(self.own)]
        for source, tensor in taken:
            node = self.recorder.known(tensor)
            if node is not None and node in self._inside:
                found.append((source, node))
        return found

    def _exported(self) -> set[int]:
        described = [*self.result, *(value for _, _, value in self.changes)]
        found: set[int] = set()
        while described:
            value = described.pop()
            if isinstance(value, Made):
                found.add(id(value.like))
            elif isinstance(value, NewObject):
                described += [part for _, part in value.parts]
        twins = self.recorder.twins
        return found | {id(twins.of(tensor)) for tensor in (*self.inputs.tensors, *self.own)}

    def picks(self, index: int) -> bool:
        """Whether it picks from a tensor that was passed in what has the layer's index."""
        return any(
            node.all_input_nodes[0] in self.sources and picks_by_index(node, index)
            for node in self.nodes
            if node.all_input_nodes
        )

    def made_inside(self) -> dict[int, Node]:
        """The tensors made by this run that nothing outside should see, by id."""
        found: dict[int, Node] = {}
        for node in self.nodes:
            values = node.meta["val"] if isinstance(node.meta["val"], (list, tuple)) else (node.meta["val"],)
            for value in values:
                if isinstance(value, torch.Tensor) and id(value) not in self.exported:
                    found[id(value)] = node
        return found


def _positions(tensors: list[torch.Tensor]) -> dict[int, int]:
    found: dict[int, int] = {}
    for at, tensor in enumerate(tensors):
        found.setdefault(id(tensor), at)
    return found


class Replay:
    """Copies a template's nodes for another module and other inputs."""

    def __init__(self, template: Template, module: torch.nn.Module, inputs: CallInputs) -> None:
        self.template, self.recorder, self.module, self.inputs = template, template.recorder, module, inputs
        self.own = list(own_tensors(module))
        names = self.recorder.names
        self.paths = dict(zip(template.paths, map(names.module, submodules(module)), strict=True))
        self._path = ""
        self.nodes: dict[Node, Node] = {}
        self._numbers: dict[int, int] = {}
        self._storages: dict[int, torch.UntypedStorage] = {}
        self.made: dict[int, torch.Tensor] = {}

    def run(self) -> Any:
        """Append the copies and return what the module would have returned."""
        template = self.template
        template.replays += 1
        for node in template.nodes:
            self.copy(node)
        return self.finish()

    def finish(self) -> Any:
        """Do to the state what the layer did to it, and return what it would have returned."""
        template = self.template
        for source, node in template.rebound:
            self.recorder.bind(self._taken(source), self.nodes[node])
        for at, path, value in template.changes:
            holder = self.inputs.objects[at]
            for step in path[:-1]:
                holder = state.step_into(holder, step, self.inputs.index)
            state.put(holder, path[-1], self.inputs.index, self._build(value))
        return pytree.tree_unflatten([self._build(value) for value in template.result], template.result_spec)

    def copy(self, node: Node) -> None:
        recorder, meta = self.recorder, node.meta
        path = self._path = self.paths.get(meta["module_path"]) or meta["module_path"]
        args = map_arg(node.args, self._resolve)
        kwargs = map_arg(node.kwargs, self._resolve) if node.kwargs else {}
        copied = call_function(recorder.graph, node.target, args, kwargs, node.name)
        storage = meta["storage"]
        copied.meta = {
            "val": meta["val"],
            "module_path": path,
            "storage": self.number(storage) if type(storage) is int else self._tuple(storage),
            "template": meta.get("template", node),
        }
        for key in ("phase", "ranks"):
            if key in meta:
                copied.meta[key] = meta[key]
        recorder.values.order[copied] = len(recorder.nodes)
        recorder.nodes.append(copied)
        self.nodes[node] = copied
        if node in self.template.writes:
            for number in self.template.writes[node]:
                recorder.values.note_write(copied, self.number(number))

    def _resolve(self, used: Node) -> Node:
        """The copy of a node, or what takes the place of one from outside the template."""
        return self.nodes.get(used) or self.outside(used, self._path)

    def outside(self, node: Node, path: str) -> Node:
        """The node that takes the place of one from outside the template."""
        kind, what = self.template.sources[node]
        recorder = self.recorder
        if kind == "same":
            found: Node = what
        elif kind == "constant":
            found = recorder.constant(what)
            self._numbers[node.meta["storage"]] = found.meta["storage"]
            found.meta["module_path"] = path
        else:
            tensor = self._taken(Taken(kind, what))
            known = recorder.known(tensor)
            found = known or recorder.attribute(tensor, self._name(tensor), node if kind == "own" else None)
            if known is None:
                found.meta["module_path"] = path
        self.nodes[node] = found
        return found

    def _name(self, tensor: torch.Tensor) -> str | None:
        """The name of a tensor that is a plain attribute of some module below."""
        if self.recorder.names.tensor(tensor) is not None:
            return None
        for part in submodules(self.module):
            name = attribute_name(part, tensor)
            if name is not None:
                path = self.recorder.names.module(part) or ""
                return self.recorder.names.unique(f"{path}.{name}" if path else name)
        return None

    def _taken(self, source: Taken) -> torch.Tensor:
        return self.inputs.tensors[source.at] if source.kind == "input" else self.own[source.at]

    def _tuple(self, storage: Any) -> Any:
        if isinstance(storage, tuple):
            return tuple(map(self._tuple, storage))
        return None if storage is None else self.number(storage)

    def number(self, number: int) -> int:
        """The storage number that takes the place of the template's."""
        found = self._numbers.get(number)
        if found is None:
            twins = self.recorder.twins
            if number in self.template.numbers:
                found = self.recorder.storage_number(self._taken(self.template.numbers[number]))
            elif number > self.template.count and number not in twins.outside:
                found = twins.fresh()
            else:
                found = number
            self._numbers[number] = found
        return found

    def _build(self, value: Any) -> Any:
        if isinstance(value, Same):
            return value.value
        if isinstance(value, Taken):
            return self._taken(value)
        if isinstance(value, Leaf):
            return self.inputs.leaves[value.at]
        if isinstance(value, Made):
            return self.tensor(value)
        return self._object(value)

    def _object(self, value: NewObject) -> Any:
        parts = [(key, self._build(part)) for key, part in value.parts]
        if issubclass(value.kind, (list, tuple)):
            items = [part for _, part in parts]
            return value.kind(*items) if hasattr(value.kind, "_fields") else value.kind(items)
        if issubclass(value.kind, dict):
            return value.kind(parts)
        made = object.__new__(value.kind)
        for key, part in parts:
            object.__setattr__(made, key, part)
        return made

    def tensor(self, made: Made) -> torch.Tensor:
        tensor = self.made.get(id(made.like))
        if tensor is None:
            number = self.number(made.number)
            tensor = self.made[id(made.like)] = on_storage(self._storage(made), made.like)
            self.recorder.twins.assign(tensor, number)
            self.recorder.bind(tensor, self.nodes[made.node])
        return tensor

    def _storage(self, made: Made) -> torch.UntypedStorage:
        if made.number in self.template.numbers:
            taken = self._taken(self.template.numbers[made.number])
            self.recorder.node(taken)
            return self.recorder.twin(taken).untyped_storage()
        if self.number(made.number) == made.number:
            return made.like.untyped_storage()
        if made.number not in self._storages:
            self._storages[made.number] = new_storage(made.like.untyped_storage().nbytes())
        return self._storages[made.number]
