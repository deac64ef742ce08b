"""The dispatch mode that records ATen operators, run on meta twins, as nodes of an fx graph."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from ..errors import CaptureError
from . import higher_order, state
from ._torch_distributed import from_local, is_dtensor, is_dtensor_type, local, spread_by_head
from ._torch_private import (
    OpInfo,
    TorchDispatchMode,
    is_higher_order,
    lazy_graph_module,
    op_info,
    without_dispatch,
)
from .answers import Answers
from .autocast import casting, casts_to
from .collectives import ranks_in
from .collectives import record as record_exchange
from .hints import Hints
from .names import Names, attribute_name, readable, user_line
from .repeats import Repeats
from .twins import Twins, no_memory_layout
from .values import Values

_MASK = re.compile(r"(^|_)(attention_mask|pixel_mask)$")
"""Inputs that say which tokens or pixels count. Without values they are taken to be all ones: no padding."""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The dispatch mode: each operator is run on meta twins and appended to `graph`."""

    computes = False
    supports_higher_order_operators = True

    def __init__(
        self,
        root: torch.nn.Module | None,
        name: str,
        home: torch.device,
        *,
        repeats: bool,
        saved: state.Saved,
        work: Callable[[Callable[..., Any], Any], float] | None = None,
        hints: Hints | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name, self.home = name, home
        self.graph = self.main = Graph()
        """Where operators go, and where what the graph refers to goes: the same but for parts kept to be copied."""
        self.nodes: list[Node] = []
        self.twins = Twins()
        self.values = Values()
        self.answers = Answers(self, hints)
        self._work = work
        self.names = Names(root)
        self.saved = saved
        self.stack: list[tuple[str, torch.nn.Module | None]] = [("", None)]
        self.repeats = Repeats(self) if repeats else None
        self.tensor_of: dict[Node, torch.Tensor] = {}
        """The user's tensor behind each get_attr node."""
        self._untwinned: set[int] = set()
        """Tensors of the user's that have a node but no meta twin yet."""
        self.constants: set[Node] = set()
        self._attributes: dict[str, Any] = {}
        self._node_of: dict[int, Node] = {}
        self.notes: list[str] = []
        """What a reader of the profile has to know about what was recorded."""
        self.unwrapping = 0
        """How many operators on DTensors are being carried out, one inside another."""
        self._handing_on = False
        self._locals: set[int] = set()
        self._failed: tuple[BaseException, str, torch.nn.Module] | None = None
        for module in self.names.keep:
            saved.module(module)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # saves a wrapper around every operator; nothing is compiled while recording

    # --- operators -------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if types and any(map(is_dtensor_type, types)):
            return self.sharded(func, args, kwargs)
        if is_higher_order(func):
            return higher_order.record(self, func, args, kwargs)
        if self.unwrapping and not self.concerns(args, kwargs):
            return func(*args, **kwargs)
        info = op_info(func)
        if info.exchanges and func.namespace == "c10d":
            return record_exchange(self, func, args, kwargs)
        if info.metadata and func is not torch.ops.aten.detach_.default:
            self._before_metadata_change(func, args)
        elif func is torch.ops.aten.lift_fresh.default or func is torch.ops.aten.detach_.default:
            return self._fresh(func, args[0])
        values, node_args = self.split(args)
        node_kwargs: dict[str, Any] = {}
        for key, value in kwargs.items():
            kwargs[key], node_kwargs[key] = self.split(value)
        if info.devices:
            values, node_args = self._place(info, values, node_args, kwargs, node_kwargs)
        if info.returns_value:
            return self.answers.number(func, node_args, node_kwargs)
        out = self.answers.result(func, info, (values, kwargs), (node_args, node_kwargs))
        if func is _ATTENTION:
            out = _as_queries(out, values[0])
        elif func is _WAIT:
            out = torch.ops.aten.alias.default(values[0])
        if not info.writes and isinstance(out, torch.Tensor) and id(out) in self._node_of:
            return self.twins.user(out)  # it did nothing (`to` the same dtype, dropout in eval): no node
        self.append(func, info, node_args, node_kwargs, out)
        return self._as_users(out)

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run and record an operator on tensors of the caller."""
        return self.__torch_dispatch__(func, (), args, kwargs)

    def sharded(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Let an operator on DTensors be carried out: what it does to the local tensors is recorded."""
        if self._handing_on:  # the second time, from below
            self._handing_on = False
            return NotImplemented
        for tensor in pytree.tree_leaves((args, kwargs)):
            if is_dtensor(tensor):
                self._own_local(tensor)
        if func is _ATTENTION and spread_by_head(args[:3]):
            # DTensor would take it apart; heads have nothing to do with each other.
            out = self.call(func, (*map(local, args[:3]), *args[3:]), kwargs)
            return from_local(out, args[0])
        self._handing_on = True
        self.unwrapping += 1
        try:
            with self:
                return func(*args, **kwargs)
        finally:
            self._handing_on = False
            self.unwrapping -= 1

    def _own_local(self, tensor: torch.Tensor) -> None:
        held = local(tensor)
        if id(held) not in self._locals:
            self._locals.add(id(held))
            self.twins.keep.append(held)

    def concerns(self, args: Any, kwargs: Any) -> bool:
        """Whether tensors of the model are among the arguments. DTensor also runs operators to work out shapes."""
        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        return any(id(t) in self._locals or self.known(t) is not None or self.names.tensor(t) for t in tensors)

    def check_layout(self, out: Any) -> None:
        """Refuse a result that has no place in memory of its own."""
        if isinstance(out, torch.Tensor) and out.layout is not torch.strided:
            raise CaptureError(f"{self.here()}: {user_line()} makes {no_memory_layout(out)}")

    def values_of(self, tensor: torch.Tensor, asked: str) -> torch.Tensor:
        """The real values of a meta tensor, asked for outside any operator (`tolist`, `numpy`)."""
        return self.answers.values(tensor, asked)

    def work_of(self, branch: Callable[..., Any], operands: Any) -> float:
        """How much a branch has to do, to compare it with another."""
        return 0.0 if self._work is None else self._work(branch, operands)

    def casting(self, dtype: torch.dtype | None) -> AbstractContextManager[None]:
        """A context in which the code runs as under autocast to `dtype`, or as under a disabled one."""
        return casting(dtype)

    def casts_to(self) -> torch.dtype | None:
        """What autocast lowers to where the code is now."""
        return casts_to()

    def split(self, value: Any) -> tuple[Any, Any]:
        """An argument as it is run (meta twins) and as it is recorded (nodes)."""
        if isinstance(value, torch.Tensor):
            node = self.node(value)
            return self.twin(value), node
        if isinstance(value, (list, tuple)):
            if not value:
                return value, value
            pairs = [self.split(item) for item in value]
            kind = list if isinstance(value, list) else tuple
            return kind(pair[0] for pair in pairs), kind(pair[1] for pair in pairs)
        return value, value

    def _place(self, info: OpInfo, values: Any, node_args: Any, kwargs: Any, node_kwargs: Any) -> tuple[Any, Any]:
        """Run on meta whatever device is asked for, but record the device on which the user's tensors live."""
        if kwargs.get("device") is not None:
            node_kwargs["device"] = self._recorded_device(kwargs["device"])
            kwargs["device"] = torch.device("meta")
        at = info.device_at
        if at is not None and at < len(values) and values[at] is not None:
            node_args = (*node_args[:at], self._recorded_device(values[at]), *node_args[at + 1 :])
            values = (*values[:at], torch.device("meta"), *values[at + 1 :])
        for name in ("pin_memory", "generator"):
            if kwargs.get(name) is not None:
                kwargs[name] = None
                node_kwargs[name] = None
        return values, node_args

    def _recorded_device(self, device: torch.device | str) -> torch.device:
        # What the user sees of activations is meta, so `device=x.device` asks for meta and means the user's device.
        device = torch.device(device)
        return self.home if device.type == "meta" or self.home.type == "meta" else device

    def _fresh(self, func: Any, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor constant (`torch.tensor(3)`): recorded as an attribute that is copied each time it is used."""
        known = self.twins.of(tensor)
        if func is torch.ops.aten.detach_.default or id(known) in self._node_of:
            return tensor
        source = self.constant(tensor)
        info = op_info(torch.ops.aten.lift_fresh_copy.default)
        out = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")
        self.append(torch.ops.aten.lift_fresh_copy.default, info, (source,), {}, out)
        return out

    def _before_metadata_change(self, func: Any, args: Any) -> None:
        """Keep what earlier nodes say of a tensor true when its sizes are about to change in place."""
        node = self.node(args[0])
        twin = self.twin(args[0])
        if self.twins.user(twin) is not twin:
            raise CaptureError(
                f"{self.here()}: {user_line()} changes the shape of a tensor of the model in place ({func}); "
                "change the shape of a view instead (without the trailing underscore)"
            )
        node.meta["val"] = torch.ops.aten.alias.default(twin)
        self.twins.keep.append(twin)

    def append(self, func: Any, info: OpInfo, args: Any, kwargs: Any, out: Any) -> Node:
        """Add a call of an operator to the graph; `out` is what it gave."""
        self.check_layout(out)
        node = self.add(self.graph.call_function(func, args, kwargs), out)
        if info.exchanges and (ranks := ranks_in(func, args, kwargs)) is not None:
            node.meta["ranks"] = ranks
        for position, name in info.writes:
            written = args[position] if position < len(args) else kwargs.get(name)
            for target in written if isinstance(written, (list, tuple)) else (written,):
                if isinstance(target, Node):
                    self.values.note_write(node, target.meta["storage"])
        if isinstance(out, torch.Tensor):
            self._node_of[id(out)] = node
        elif isinstance(out, (list, tuple)):
            for i, part in enumerate(out):
                if isinstance(part, torch.Tensor) and (info.writes or id(part) not in self._node_of):
                    item = self.graph.call_function(operator.getitem, (node, i))
                    self._node_of[id(part)] = self.add(item, part)
        return node

    def _as_users(self, out: Any) -> Any:
        if isinstance(out, torch.Tensor):
            return self.twins.user(out)
        return type(out)(map(self.twins.user, out)) if type(out) in (list, tuple) else out

    # --- nodes -----------------------------------------------------------------------------------------------------

    def add(self, node: Node, value: Any) -> Node:
        """Note a new node with its value, place and storage."""
        return self._note(node, value, self._storage(value))

    def _note(self, node: Node, value: Any, storage: Any) -> Node:
        node.meta = {"val": value, **self.place(), "storage": storage}
        self.values.order[node] = len(self.nodes)
        self.nodes.append(node)
        return node

    def place(self) -> dict[str, Any]:
        """Where in the model the code is that runs now, as the meta of a node says it."""
        return {"module_path": self.stack[-1][0]}

    def _storage(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.twins.number(value)
        return tuple(map(self._storage, value)) if isinstance(value, (list, tuple)) else None

    def known(self, tensor: torch.Tensor) -> Node | None:
        """The node that made this tensor last, if it has been met."""
        return self._node_of.get(id(self.twins.of(tensor)))

    def node(self, tensor: torch.Tensor) -> Node:
        """The node that made this tensor last; a tensor met for the first time becomes an attribute of the graph."""
        found = self.known(tensor) or (self.repeats and self.repeats.unseal(tensor))
        return found or self._view_of_known(tensor) or self.attribute(tensor)

    def _view_of_known(self, tensor: torch.Tensor) -> Node | None:
        """A view of recorded memory that no operator made, as FSDP makes parameters of what it gathered."""
        number = self.twins.made(tensor)
        if number is None:
            return None
        newest = next((node for node in reversed(self.nodes) if node.meta["storage"] == number), None)
        if newest is None:
            return None
        view = torch.ops.aten.as_strided.default
        args = (newest, list(tensor.size()), list(tensor.stride()), tensor.storage_offset())
        self.twins.keep.append(tensor)
        return self.append(view, op_info(view), args, {}, tensor)

    def twin(self, tensor: torch.Tensor) -> torch.Tensor:
        """The meta twin of a tensor that has a node; itself if it was made while recording."""
        if id(tensor) in self._untwinned:
            self._untwinned.discard(id(tensor))
            twin = self.twins.make(tensor)
            self._node_of[id(twin)] = self._node_of.pop(id(tensor))
            return twin
        return self.twins.of(tensor)

    def storage_number(self, tensor: torch.Tensor) -> int:
        """The number of a tensor's storage, met before or not."""
        twin = self.twins.of(tensor)
        is_met = twin is not tensor or (id(tensor) in self._node_of and id(tensor) not in self._untwinned)
        if is_met or (self.repeats and self.repeats.unseal(tensor)):
            return self.twins.number(twin)
        return self.twins.number_of_user(tensor)

    def bind(self, tensor: torch.Tensor, node: Node) -> None:
        """Say that `node` made `tensor` last."""
        twin = self.twins.of(tensor)
        self._node_of[id(twin)] = node
        self.twins.keep.append(twin)

    def unbind(self, address: int) -> Node | None:
        """Forget which node made the meta tensor of this `id`."""
        return self._node_of.pop(address, None)

    def attribute(self, tensor: torch.Tensor, name: str | None = None, like: Node | None = None) -> Node:
        """A get_attr node for a parameter, a buffer or any other tensor from outside the recording.

        With `like`, a node of the same shape, its value is shared and a twin is made only when it is needed.
        """
        return self._get_attr(tensor, self.names.tensor(tensor) or name or self._attribute_name(tensor), like)

    def constant(self, tensor: torch.Tensor) -> Node:
        """A get_attr node of its own for a constant that the code makes anew each time."""
        target = self.names.unique("_tensor_constant")
        value = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")
        node = self.add(self.main.create_node("get_attr", target), value)
        self.twins.outside.add(node.meta["storage"])
        node.meta["role"] = "state"
        self.constants.add(node)
        self.tensor_of[node] = tensor
        self._note_real(node, tensor)
        self._attributes[target] = value if self.home.type == "meta" else tensor
        return node

    def _get_attr(self, tensor: torch.Tensor, target: str, like: Node | None) -> Node:
        node = self.main.create_node("get_attr", target)
        if like is None:
            with self.paused():
                value = key = self.twins.make(tensor)
            number = self.twins.number(value)
        else:
            value, key, number = like.meta["val"], tensor, self.twins.number_of_user(tensor)
            self._untwinned.add(id(tensor))
            self.twins.keep.append(tensor)
        self._note(node, value, number)
        node.meta["role"] = "weight" if self.names.is_parameter(tensor) else "state"
        self._note_real(node, tensor)
        self._attributes[target] = tensor
        self._node_of[id(key)] = node
        self.tensor_of[node] = tensor
        return node

    def _attribute_name(self, tensor: torch.Tensor) -> str:
        for path, module in reversed(self.stack):
            name = attribute_name(module, tensor) if module is not None else None
            if name is not None:
                return self.names.unique(f"{path}.{name}" if path else name)
        return self.names.unique("parameter" if isinstance(tensor, torch.nn.Parameter) else "tensor")

    def placeholder(self, tensor: torch.Tensor, twin: torch.Tensor, name: str, role: str) -> None:
        """An input of the graph."""
        node = self.add(self.graph.placeholder(name), twin)
        node.meta["role"] = "weight" if isinstance(tensor, torch.nn.Parameter) else role
        node.meta["input"] = name
        self._note_real(node, tensor)
        if tensor.is_meta and tensor.dim() == 2 and _MASK.search(name) and not tensor.is_floating_point():
            self.values.assumed[node] = torch.ones((), dtype=tensor.dtype)
        self._node_of[id(twin)] = node

    def _note_real(self, node: Node, tensor: torch.Tensor) -> None:
        if tensor.device.type != "meta":
            self.values.real[node] = tensor

    # --- modules ---------------------------------------------------------------------------------------------------

    def call_module(
        self, call: Callable[..., Any], module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a module's call within its path, or copy what an earlier one like it did."""
        path = self.names.module(module)
        if path is None:
            for new in self.names.add_stranger(module):
                self.saved.module(new)
            path = self.names.module(module) or ""
        self.stack.append((path, module))
        try:
            if self.repeats is not None:
                return self.repeats.call(call, module, args, kwargs)
            return call(module, *args, **kwargs)
        except Exception as error:
            if self._failed is None or self._failed[0] is not error:
                self._failed = (error, path, module)
            raise
        finally:
            self.stack.pop()

    def where(self, error: BaseException) -> str:
        """The innermost module that raised `error`, for a message."""
        if self._failed is not None and self._failed[0] is error:
            return readable(self._failed[1], self._failed[2], self.name)
        return self.name

    def here(self) -> str:
        """The module that is running, for a message."""
        return readable(*self.stack[-1], self.name)

    @contextmanager
    def at(self, path: str) -> Iterator[None]:
        """Within this, operators belong to the module of this path."""
        self.stack.append((path, None))
        try:
            yield
        finally:
            self.stack.pop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within this, operators run without being recorded."""
        with without_dispatch():
            yield

    # --- the end ---------------------------------------------------------------------------------------------------

    def finish(self, result: Any) -> GraphModule:
        """Close the graph with the tensors of the result, in order, and attach the tensors it refers to."""
        outputs = tuple(self.node(local(tensor)) for _, tensor in state.tensors(result))
        node = self.graph.output(outputs)
        node.meta = {
            "val": tuple(n.meta["val"] for n in outputs),
            "module_path": "",
            "storage": tuple(n.meta["storage"] for n in outputs),
        }
        made = lazy_graph_module(self._attributes, self.graph, self.name)
        assumed = (f"{name} has no values; taken as all ones (no padding)" for name in self.values.used_assumptions)
        made.meta["notes"] = tuple(dict.fromkeys((*self.notes, *assumed)))
        return made

    def note(self, text: str) -> None:
        """Remember something to be said about the profile, with the module that is running."""
        self.notes.append(f"{self.here()}: {text}")


_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_WAIT = torch.ops._c10d_functional.wait_tensor.default if torch.distributed.is_available() else None


def _as_queries(out: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """The result of attention in the memory layout of its queries, as the fused kernels write it.

    On meta it comes from plain products, contiguous; models transpose it back, and would seem to copy it each time.
    """
    if query.dim() < 3 or out.shape[:-1] != query.shape[:-1]:
        return out
    order = sorted(range(out.dim() - 1), key=query.stride, reverse=True)
    order.append(out.dim() - 1)
    made = torch.empty([out.shape[d] for d in order], dtype=out.dtype, device="meta")
    return made.permute([order.index(d) for d in range(out.dim())])
