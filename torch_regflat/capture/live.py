"""The recorder for code that really runs: every operator computes what it would, and its twin is recorded beside it.

Nothing the code sees is changed: results, random numbers and gradients are its own. Of its tensors only places are
noted (storage, offset, sizes, strides, dtype), so that recording keeps no memory of the user's alive.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from ..errors import CaptureError
from . import state
from ._torch_distributed import is_dtensor_type
from ._torch_private import (
    OpInfo,
    StorageReference,
    active_handler,
    autograd_node,
    intercepted,
    lazy_graph_module,
    next_sequence_number,
    op_info,
    storage_key,
    whole_operators,
)
from .collectives import record as record_exchange
from .inputs import is_cache
from .names import attribute_name
from .recorder import Recorder
from .twins import Twins, has_own_dispatch, new_storage, on_storage

_Place = tuple[Any, ...]


class LiveTwins(Twins):
    """Twins of places rather than of tensors: what has the same storage, offset, layout and dtype is the same."""

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[_Place, torch.Tensor] = {}
        self._references: dict[int, StorageReference] = {}
        self._memory: dict[int, torch.UntypedStorage] = {}

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The twin of the place of a tensor, or the tensor itself where its place has none."""
        return self._places.get(_place(tensor), tensor)

    def make(self, tensor: torch.Tensor) -> torch.Tensor:
        """A twin for the place of a tensor."""
        number = self.number_of_user(tensor)
        if tensor.layout is torch.strided:
            if number not in self._memory:
                self._memory[number] = new_storage(tensor.untyped_storage().nbytes())
            twin = on_storage(self._memory[number], tensor)
        else:
            twin = torch.empty_like(tensor, device="meta")
        self._places[_place(tensor)] = twin
        self.assign(twin, number)
        return twin

    def forget(self, tensor: torch.Tensor) -> None:
        """Say that nothing has this place any more."""
        self._places.pop(_place(tensor), None)

    def number_of_user(self, tensor: torch.Tensor) -> int:
        """The number of the storage of a tensor; its address is not used again while the reference is held."""
        key = storage_key(tensor)
        number = self._user_numbers.get(key)
        if number is None:
            number = self._user_numbers[key] = self.fresh()
            if tensor.layout is torch.strided:
                self._references[number] = StorageReference(tensor)
            else:
                self.keep.append(tensor)
        return number

    def is_alive(self, number: int) -> bool:
        """Whether something outside still holds the memory of this storage."""
        reference = self._references.get(number)
        return reference is None or not reference.expired()


def _place(tensor: torch.Tensor) -> _Place:
    if tensor.layout is not torch.strided:
        return (id(tensor),)
    return (
        storage_key(tensor), tensor.storage_offset(), tensor.size(), tensor.stride(), tensor.dtype, tensor.is_conj(),
    )  # fmt: skip


class LiveRecorder(Recorder):  # type: ignore[no-untyped-call]
    """Records operators beside their real computation. Backward operators get the path of what caused them."""

    computes = True

    def __init__(self, root: torch.nn.Module | None, name: str, home: torch.device) -> None:
        super().__init__(root, name, home, repeats=False, saved=state.Saved())
        self.twins: LiveTwins = LiveTwins()
        self._newest: dict[int, Node] = {}
        """The node that last made something of a storage, by its number."""
        self._caches: set[int] = set()
        """Numbers of the storages that came in inside of cache objects."""
        self._inputs: set[int] = set()
        self._given: dict[int, tuple[str, torch.Tensor]] = {}
        """Names of parameters and buffers whose modules are not known, by the number of their storage."""
        self._returned: dict[int, Node] = {}
        """What modules called at the top returned, by the number of its storage."""
        self._marks: list[tuple[int, str]] = [(0, "")]
        """From which sequence number of autograd on operators belong to which module."""
        self._callers: list[int | None] = [None]
        """The backward node under which each module on the stack was called (recomputation)."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return True  # code under it may be compiled, and Dynamo is not to trace the recorder

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within this, what runs in this thread is recorded."""
        with intercepted(self), self, whole_operators():
            yield

    # --- operators -------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if active_handler() is not self or not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)  # of another recording inside this one
        if any(map(is_dtensor_type, types)):
            raise CaptureError(
                f"{self.here()}: operators on DTensors cannot be recorded while they run; pass the module to "
                "profile(), which captures it as it is divided"
            )
        if any(map(has_own_dispatch, types)):
            return NotImplemented  # the subclass first, then what it is made of
        info = op_info(func)
        if info.exchanges and func.namespace == "c10d":
            done = func(*args, **kwargs)
            with self.paused():
                record_exchange(self, func, args, kwargs)
            return done
        if info.returns_value or func is torch.ops.aten.detach_.default:
            return func(*args, **kwargs)
        with self.paused():
            if func is torch.ops.aten.lift_fresh.default:
                return self._constant(args[0])
            node_args, node_kwargs = self._nodes(args), self._nodes(kwargs)
            if info.metadata:  # its nodes, run again, will have the new sizes too
                self.twins.forget(args[0])
        out = func(*args, **kwargs)
        with self.paused():
            self._note_call(func, info, node_args, node_kwargs, out)
        return out

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record an exchange that was done already, by another operator; it wrote `out`, or its first argument."""
        written = kwargs.get("out", args[0])
        nodes = self._nodes(args), self._nodes(kwargs)
        self._note_call(func, op_info(func), *nodes, written)
        return written

    def _note_call(self, func: Any, info: OpInfo, args: Any, kwargs: Any, out: Any) -> None:
        if not info.writes and isinstance(out, torch.Tensor) and self.known(out) is not None:
            return  # it did nothing, or made a view that was there before
        node = self.append(func, info, args, kwargs, pytree.tree_map_only(torch.Tensor, self._twin_of_result, out))
        for number in _numbers(node.meta["storage"]):
            self._newest[number] = node

    def _twin_of_result(self, tensor: torch.Tensor) -> torch.Tensor:
        twin = self.twins.of(tensor)
        return self.twins.make(tensor) if twin is tensor else twin

    def _nodes(self, value: Any) -> Any:
        """Arguments as they are recorded."""
        if isinstance(value, torch.Tensor):
            return self.node(value)
        if isinstance(value, (list, tuple)):
            return (
                type(value)(map(self._nodes, value)) if type(value) in (list, tuple) else list(map(self._nodes, value))
            )
        if isinstance(value, dict):
            return {key: self._nodes(item) for key, item in value.items()}
        return None if isinstance(value, torch.Generator) else value

    def _constant(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor written into the code (`torch.tensor(3)`), as the recorder has it: copied where it is used."""
        if self.known(tensor) is None:
            source = self.constant(tensor.clone())
            func = torch.ops.aten.lift_fresh_copy.default
            self._note_call(func, op_info(func), (source,), {}, tensor)
        return tensor

    # --- nodes -----------------------------------------------------------------------------------------------------

    def node(self, tensor: torch.Tensor) -> Node:
        """The node that made what is at this place; memory met for the first time is an attribute or an input."""
        found = self.known(tensor)
        if found is None and tensor.layout is torch.strided:
            found = self._view_of_known(tensor)
        return found or self.attribute(tensor)

    def _view_of_known(self, tensor: torch.Tensor) -> Node | None:
        """A view that no operator made (autograd unpacks what it saved), as one of the newest of that memory."""
        newest = self._newest.get(self.twins.number_of_user(tensor))
        if newest is None or not isinstance(newest.meta["val"], torch.Tensor):
            return None
        view = torch.ops.aten.as_strided.default
        args = (newest, list(tensor.size()), list(tensor.stride()), tensor.storage_offset())
        return self.append(view, op_info(view), args, {}, self.twins.make(tensor))

    def attribute(self, tensor: torch.Tensor, name: str | None = None, like: Node | None = None) -> Node:
        """Parameters, buffers and attributes of modules by their name; all other memory is an input."""
        given = self._given.get(self.twins.number_of_user(tensor))
        if given is not None:
            node = super().attribute(tensor, self.names.unique(given[0]))
            node.meta["role"] = "weight" if isinstance(given[1], torch.nn.Parameter) else "state"
            return node
        known = self.names.tensor(tensor) is not None or isinstance(tensor, torch.nn.Parameter)
        if known or any(m is not None and attribute_name(m, tensor) is not None for _, m in self.stack):
            return super().attribute(tensor, name, like)
        first = next(iter(self.graph.nodes), None)
        at = self.graph.inserting_before(first) if first is not None else self.graph.inserting_after()
        number = self.twins.number_of_user(tensor)
        with at:
            node = self.graph.placeholder(self.names.unique("input"))
        twin = self.twins.make(tensor)
        self._note(node, twin, number)
        node.meta.update(role="kv_cache" if number in self._caches else "activation", input=node.name, module_path="")
        self._inputs.add(number)
        self._node_of[id(twin)] = node
        return node

    def name_memory(self, tensor: torch.Tensor, name: str) -> None:
        """Say that a tensor is the parameter or buffer of this name."""
        self._given.setdefault(self.twins.number_of_user(tensor), (name, tensor))

    def named(self, tensor: torch.Tensor) -> int | None:
        """The number of the storage of a tensor that is a parameter or buffer, None for any other."""
        number = self.twins.number_of_user(tensor)
        return number if number in self._given else None

    def _note_real(self, node: Node, tensor: torch.Tensor) -> None:
        """Values are there to be looked at; none has to be worked out."""

    def _note(self, node: Node, value: Any, storage: Any) -> Node:
        super()._note(node, value, storage)
        node.meta["module_path"] = self._path()
        return node

    # --- modules ---------------------------------------------------------------------------------------------------

    def call_module(
        self, call: Callable[..., Any], module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a module's call within its path."""
        outermost = len(self.stack) == 1
        if outermost:
            self._find_caches((args, kwargs))
        self._callers.append(_sequence_number())

        def marked(*inner: Any, **given: Any) -> Any:
            self._mark()
            return call(*inner, **given)

        try:
            result = super().call_module(marked, module, args, kwargs)
        finally:
            self._callers.pop()
            self._mark()
        if outermost:
            self.note_returned(result)
        return result

    @contextmanager
    def at(self, path: str) -> Iterator[None]:
        """Within this, operators belong to the module of this path; those of a backward graph too."""
        self._callers.append(_sequence_number())
        try:
            with super().at(path):
                self._mark()
                yield
        finally:
            self._callers.pop()
            self._mark()

    def note_returned(self, result: Any) -> None:
        """The tensors in `result` leave what is recorded."""
        for _, tensor in state.tensors(result):
            node = self.known(tensor)
            if node is not None and node.op == "call_function":
                self._returned[self.twins.number_of_user(tensor)] = node

    def _find_caches(self, arguments: Any) -> None:
        for leaf in pytree.tree_leaves(arguments, is_leaf=is_cache):
            if is_cache(leaf):
                self._caches.update(self.twins.number_of_user(tensor) for _, tensor in state.tensors(leaf))

    def _mark(self) -> None:
        self._marks.append((next_sequence_number(), self.stack[-1][0]))

    def _path(self) -> str:
        """The module that runs, or that caused the backward operator that runs."""
        node = autograd_node()
        if node is None or self._callers[-1] == node._sequence_nr():
            return self.stack[-1][0]
        variable = getattr(node, "variable", None)
        if variable is not None:  # a gradient is added to a parameter's
            return (self.names.tensor(variable) or "").rpartition(".")[0]
        # From the end: several marks with one number leave the last of them.
        at = bisect.bisect_right(self._marks, node._sequence_nr(), key=lambda mark: mark[0]) - 1
        return self._marks[max(at, 0)][1]

    # --- the end ---------------------------------------------------------------------------------------------------

    def modules(self) -> list[torch.nn.Module]:
        """Every module that was met."""
        return self.names.keep

    def graph_so_far(self) -> GraphModule:
        """What was recorded, as a graph of its own. Its outputs: what top modules returned, and what nothing reads."""
        graph = torch.fx.Graph()
        copies: dict[Node, Node] = {}
        graph.graph_copy(self.graph, copies)
        outputs = tuple(copies[node] for node in self._outputs())
        node = graph.output(outputs)
        node.meta = {
            "val": tuple(n.meta["val"] for n in outputs),
            "module_path": "",
            "storage": tuple(n.meta["storage"] for n in outputs),
        }
        return lazy_graph_module(self._attributes, graph, self.name)

    def _outputs(self) -> list[Node]:
        read: set[int] = set()
        for node in self.nodes:
            if node.op == "call_function":
                read.update(n for used in node.all_input_nodes for n in _numbers(used.meta["storage"]))
        outside = self._inputs | {
            n for node in self.nodes if node.op == "get_attr" for n in _numbers(node.meta["storage"])
        }
        found = dict(self._returned)
        for number, node in self._newest.items():
            if number not in read and number not in outside and self.twins.is_alive(number):
                found.setdefault(number, node)
        return [node for node in found.values() if isinstance(node.meta["val"], torch.Tensor)]


def _sequence_number() -> int | None:
    node = autograd_node()
    return None if node is None else int(node._sequence_nr())


def _numbers(storage: Any) -> list[int]:
    if isinstance(storage, (tuple, list)):
        return [number for part in storage for number in _numbers(part)]
    return [] if storage is None else [storage]
