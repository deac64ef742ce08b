"""Every private name of torch that capture needs, so that a new torch breaks one file."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.nn.modules import module as _nn_module
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

BASE_ATTRIBUTES = frozenset(torch.nn.Module().__dict__) | {"_forward_hooks_with_kwargs", "_is_hf_initialized"}
"""What every `nn.Module` has in its `__dict__`: its tables of tensors, children and hooks."""


def has_hooks(module: torch.nn.Module) -> bool:
    """Whether calling `module` runs more than its `forward`."""
    state = module.__dict__
    return any(state.get(name) for name in _HOOKS)


def has_global_hooks() -> bool:
    """Whether hooks are installed for all modules of the process."""
    return any(getattr(_nn_module, f"_global{name}", None) for name in _HOOKS)


def without_dispatch() -> AbstractContextManager[Any]:
    """Within this, operators pass dispatch modes by."""
    guard: AbstractContextManager[Any] = torch._C._DisableTorchDispatch()
    return guard


def storage_key(tensor: torch.Tensor) -> int:
    """The address of the tensor's storage object, or of the tensor where it has none (sparse)."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except NotImplementedError:
        return id(tensor)


def lazy_graph_module(root: dict[str, Any], graph: torch.fx.Graph, name: str) -> torch.fx.GraphModule:
    """A `GraphModule` that writes its Python code only when it is asked for (tens of ms for a large model)."""
    from torch.fx._lazy_graph_module import _make_graph_module

    with _use_lazy_graph_module(True):
        made: torch.fx.GraphModule = _make_graph_module(root, graph, class_name=name)
    return made


def call_function(
    graph: torch.fx.Graph, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str
) -> torch.fx.Node:
    """`graph.call_function` with a `name` to start from.

    Without its search of all arguments for symbolic sizes, which recorded arguments never have: half of its time.
    """
    unique = graph._graph_namespace.create_name(name, None)
    node = torch.fx.Node(graph, unique, "call_function", target, args, kwargs, None)
    graph._graph_namespace.associate_name_with_obj(unique, node)
    graph._insert(node)
    graph._find_nodes_lookup_table.insert(node)
    graph._len += 1
    return node


@dataclass(frozen=True, slots=True)
class OpInfo:
    """What the schema of an ATen overload says that recording needs."""

    device_at: int | None
    """Position of the `device` argument in the schema, if there is one."""
    devices: tuple[str, ...]
    """Names of arguments that say where, and so are replaced while recording: device, pin_memory, generator."""
    writes: tuple[tuple[int, str], ...]
    """(position, name) of the arguments that are written to."""
    metadata: bool
    """In place, and only on sizes and strides (`unsqueeze_`, `t_`)."""
    random: bool
    uninitialised: bool
    data_dependent: bool
    """Its result, or the shape of its result, depends on values."""
    returns_value: bool
    """It returns a Python number, made from the values of its tensors."""


_VALUE_OPS = frozenset({"item", "_local_scalar_dense", "is_nonzero", "equal", "allclose", "__contains__"})
_UNINITIALISED = frozenset({"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "empty_permuted"})


@functools.cache
def op_info(func: Any) -> OpInfo:
    """Read the schema and tags of an overload, once."""
    arguments = func._schema.arguments
    name = func._schema.name.partition("::")[2]
    tags = func.tags
    names = [argument.name for argument in arguments]
    return OpInfo(
        device_at=names.index("device") if "device" in names else None,
        devices=tuple(n for n in names if n in ("device", "pin_memory", "generator")),
        writes=tuple(
            (i, a.name) for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write
        ),
        metadata=torch.Tag.inplace_view in tags,
        random=torch.Tag.nondeterministic_seeded in tags,
        uninitialised=name in _UNINITIALISED,
        data_dependent=torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags,
        returns_value=name in _VALUE_OPS,
    )


DYNAMIC_SHAPE: tuple[type[Exception], ...] = (DynamicOutputShapeException, DataDependentOutputException)
"""What meta kernels raise when the shape of a result depends on values."""


class Handler(Protocol):
    """What a recorder offers to the calls that are intercepted for it."""

    def call_module(
        self, call: Callable[..., Any], module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any: ...

    def values_of(self, tensor: torch.Tensor, asked: str) -> torch.Tensor: ...


class _Handlers(threading.local):
    """The recorders of this thread, innermost last."""

    def __init__(self) -> None:
        self.stack: list[Handler] = []


_handlers = _Handlers()
_lock = threading.Lock()
_users = 0
_originals: dict[tuple[Any, str], Any] = {}


@contextmanager
def intercepted(handler: Handler) -> Iterator[None]:
    """Route this thread's module calls and requests for tensor values through `handler`; undone on the way out."""
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _install()
    _handlers.stack.append(handler)
    try:
        yield
    finally:
        _handlers.stack.pop()
        with _lock:
            _users -= 1
            if _users == 0:
                _uninstall()


def _install() -> None:
    _replace(torch.nn.Module, "__call__", _module_call)
    for name in ("tolist", "numpy", "__array__"):
        _replace(torch.Tensor, name, _value_method)
    for owner, name in ((torch, "tensor"), (torch, "as_tensor"), (torch.Tensor, "new_tensor")):
        _replace(owner, name, _keeps_data)


def _replace(owner: Any, name: str, make: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> None:
    original = getattr(owner, name)
    # An attribute that was only inherited is deleted again afterwards, not written into the subclass.
    _originals[(owner, name)] = owner.__dict__.get(name, _INHERITED)
    setattr(owner, name, functools.wraps(original)(make(name, original)))


_INHERITED = object()


def _uninstall() -> None:
    for (owner, name), original in _originals.items():
        if original is _INHERITED:
            delattr(owner, name)
        else:
            setattr(owner, name, original)
    _originals.clear()


def _module_call(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        stack = _handlers.stack
        if not stack:
            return original(self, *args, **kwargs)
        return stack[-1].call_module(original, self, args, kwargs)

    return call


def _value_method(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    # `tolist` and `numpy` read memory without an operator that a dispatch mode could see.
    def ask(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        stack = _handlers.stack
        if not stack:
            return original(self, *args, **kwargs)
        if self.device.type == "meta":
            self = stack[-1].values_of(self, name)
        with without_dispatch():
            return original(self, *args, **kwargs)

    return ask


def _keeps_data(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    # `torch.tensor([1, 2], device="meta")` drops the numbers; made on the CPU they arrive as a constant.
    def make(*args: Any, **kwargs: Any) -> Any:
        if not _handlers.stack:
            return original(*args, **kwargs)
        data = args[-1] if name == "new_tensor" else args[0] if args else kwargs.get("data")
        device = args[0].device if name == "new_tensor" else None
        device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else device
        if isinstance(data, (bool, int, float, complex, list, tuple)) and not _holds_tensor(data):
            if name == "new_tensor":
                kwargs.setdefault("dtype", args[0].dtype)
            if device is not None and device.type == "meta":
                kwargs["device"] = "cpu"
        return original(*args, **kwargs)

    return make


class KeepsConstants(TorchFunctionMode):
    """Within `torch.device("meta")`, keep tensors made of Python data real: a buffer of sizes keeps its numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and args and "device" not in kwargs:
            data = args[0]
            if isinstance(data, (bool, int, float, list, tuple)) and not _holds_tensor(data):
                kwargs["device"] = "cpu"
        return func(*args, **kwargs)


def _holds_tensor(data: Any) -> bool:
    if isinstance(data, (list, tuple)):
        return any(_holds_tensor(item) for item in data)
    return isinstance(data, torch.Tensor)
