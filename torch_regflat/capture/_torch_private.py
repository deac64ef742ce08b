"""Every private name of torch that capture needs, so that a new torch breaks one file."""

from __future__ import annotations

import functools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules import module as _nn_module
from torch.nn.utils.stateless import _reparametrize_module
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode

from ..errors import CaptureError
from ..operators.recurrent import CELLS, rnn_shapes
from ._torch_distributed import NAMESPACES, fsdp_check, tracing_collectives

_lock = threading.Lock()
_implemented: dict[str, tuple[torch.library.Library, int]] = {}
"""Operators that are implemented otherwise for now, and how many captures ask for it."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

BASE_ATTRIBUTES = frozenset(torch.nn.Module().__dict__) | {"_forward_hooks_with_kwargs", "_is_hf_initialized"}
"""What every `nn.Module` has in its `__dict__`: its tables of tensors, children and hooks."""


def hooks_of(module: torch.nn.Module) -> list[Any]:
    """What calling `module` runs beside its `forward`."""
    state = module.__dict__
    return [hook for name in _HOOKS if state.get(name) for hook in state[name].values()]


def has_global_hooks() -> bool:
    """Whether hooks are installed for all modules of the process."""
    return any(getattr(_nn_module, f"_global{name}", None) for name in _HOOKS)


def without_dispatch() -> AbstractContextManager[Any]:
    """Within this, operators pass dispatch modes by."""
    guard: AbstractContextManager[Any] = torch._C._DisableTorchDispatch()
    return guard


def below_autograd() -> AbstractContextManager[Any]:
    """Within this, operators reach a dispatch mode whole, without gradients."""
    guard: AbstractContextManager[Any] = torch._C._AutoDispatchBelowAutograd()
    return guard


@contextmanager
def implemented_for_meta_gradients(name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Within this, the composite operator `aten::name` on meta tensors with autograd is `function`."""
    with _lock:
        found = _implemented.get(name)
        if found is None:
            library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
            library.impl(name, function, "AutogradMeta")  # type: ignore[no-untyped-call]
            found = (library, 0)
        _implemented[name] = (found[0], found[1] + 1)
    try:
        yield
    finally:
        with _lock:
            library, users = _implemented.pop(name)
            if users > 1:
                _implemented[name] = (library, users - 1)
            else:
                library._destroy()  # type: ignore[no-untyped-call]


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
    exchanges: bool = False
    """It is an exchange between ranks, or waits for one."""


_VALUE_OPS = frozenset({"item", "_local_scalar_dense", "is_nonzero", "equal", "allclose", "__contains__"})
_UNINITIALISED = frozenset({"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "empty_permuted"})


@functools.cache
def op_info(func: Any) -> OpInfo:
    """Read the schema and tags of an overload, once."""
    arguments = func._schema.arguments
    space, _, name = func._schema.name.partition("::")
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
        exchanges=space in NAMESPACES,
    )


DYNAMIC_SHAPE: tuple[type[Exception], ...] = (DynamicOutputShapeException, DataDependentOutputException)
"""What meta kernels raise when the shape of a result depends on values."""


def as_written(fn: Callable[..., Any]) -> Callable[..., Any]:
    """What was given to `torch.compile`, if `fn` came out of it."""
    if isinstance(fn, torch.nn.Module):
        inner: Any = fn.__dict__["_modules"].get("_orig_mod", fn) if "_modules" in fn.__dict__ else fn
    else:
        inner = getattr(fn, "_torchdynamo_orig_callable", fn)
    return inner if callable(inner) else fn


def parameters_replaced(
    module: torch.nn.Module, tensors: dict[str, torch.Tensor]
) -> AbstractContextManager[Any]:
    """Within this, `module` has these parameters and buffers, by name, in place of its own."""
    swapped: AbstractContextManager[Any] = _reparametrize_module(module, tensors, tie_weights=False)
    return swapped


def run_on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operator on meta tensors; where torch's own shapes-only version refuses what its kernels do, ours."""
    if func is torch.ops.aten._grouped_mm.default and args[0].dtype != torch.bfloat16:
        return _grouped_mm_on_meta(*args, **kwargs)
    if func is torch.ops.aten.narrow.Tensor:  # where it starts is a tensor; its shape does not hang on that
        return torch.ops.aten.narrow.default(args[0], args[1], 0, args[3])
    if "out" in kwargs and func.namespace in NAMESPACES:  # not all of them have a version for meta tensors
        return kwargs["out"]
    if func.overloadpacket in _RECURRENT:
        return _recurrent_on_meta(func, *args, **kwargs)
    return func(*args, **kwargs)


_RECURRENT = {getattr(torch.ops.aten, name): name for name in CELLS}


def _recurrent_on_meta(func: Any, *args: Any, **kwargs: Any) -> Any:
    """The results of a recurrent layer; torch's own meta version runs every step."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    packed, hx = "batch_sizes" in given, given["hx"]
    states = list(hx) if isinstance(hx, (list, tuple)) else [hx]
    out, h, c, _ = rnn_shapes(
        given["data" if packed else "input"], None, states, given["params"], _RECURRENT[func.overloadpacket],
        given["num_layers"], given["bidirectional"], False,
    )  # fmt: skip
    return (out, h, c) if len(states) == 2 else (out, h)


def _grouped_mm_on_meta(
    a: torch.Tensor, b: torch.Tensor, offs: torch.Tensor | None = None, bias: Any = None, out_dtype: Any = None
) -> torch.Tensor:
    """The result of a grouped product; torch 2.13's own meta version takes bfloat16 only, the CPU kernel any."""
    groups = (a.shape[0],) if a.dim() == b.dim() == 3 else (offs.numel(),) if offs is not None and a.dim() == 2 else ()
    groups = groups if a.dim() == b.dim() else ()
    return torch.empty(*groups, a.shape[-2], b.shape[-1], dtype=out_dtype or a.dtype, device="meta")


def is_higher_order(func: Any) -> bool:
    """Whether an operator takes functions."""
    return isinstance(func, torch._ops.HigherOrderOperator)


def eager_kernel(op: Any) -> Callable[..., Any] | None:
    """What torch runs for a higher-order operator when nothing traces it."""
    keys = (torch._C.DispatchKey.CompositeExplicitAutograd, torch._C.DispatchKey.CPU)
    return next((op.py_kernels[key] for key in keys if key in op.py_kernels), None)


def is_nested_scan(combine_fn: Any) -> bool:
    """Whether this is a user's `combine_fn` as `scan` wraps it, which returns a pair of trees."""
    return getattr(getattr(combine_fn, "func", None), "__name__", "") == "wrap_combine_fn_flat"


class Handler(Protocol):
    """What a recorder offers to the calls that are intercepted for it."""

    def call_module(
        self, call: Callable[..., Any], module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any: ...

    def values_of(self, tensor: torch.Tensor, asked: str) -> torch.Tensor: ...

    def casting(self, dtype: torch.dtype | None) -> AbstractContextManager[None]:
        """A context in which functions run as under autocast to `dtype`, or as under a disabled one."""
        ...

    def casts_to(self) -> torch.dtype | None:
        """What autocast lowers to where the code is now."""
        ...

    @property
    def computes(self) -> bool:
        """Whether the code it records runs for real, so that only module calls are of interest."""
        ...


class _Handlers(threading.local):
    """The recorders of this thread, innermost last."""

    def __init__(self) -> None:
        self.stack: list[Handler] = []


_handlers = _Handlers()
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


_weak_storage: Any = StorageWeakRef


def active_handler() -> Handler | None:
    """The innermost recorder of this thread."""
    return _handlers.stack[-1] if _handlers.stack else None


class StorageReference:
    """A weak reference to a tensor's storage; while it is held the storage's address means no other storage."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._reference: Any = _weak_storage(tensor.untyped_storage())

    def expired(self) -> bool:
        """Whether nothing holds the memory any more."""
        return bool(self._reference.expired())


def autograd_node() -> Any:
    """The backward node whose operators are running in this thread, None outside of a backward pass."""
    return torch._C._current_autograd_node()


def next_sequence_number() -> int:
    """The number that autograd will give to the next node it makes in this thread."""
    number: int = torch._C._autograd._get_sequence_nr()
    return number


class _WholeOperators(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_grad_enabled() or func not in _composites():
            return func(*args, **(kwargs or {}))
        with torch._C._AutoDispatchBelowAutograd():
            return func(*args, **(kwargs or {}))


def whole_operators() -> AbstractContextManager[Any]:
    """Within this, where gradients are off, composite operators (linear, attention, norms) reach dispatch modes whole.

    In inference mode they do by themselves; under `no_grad` autograd's kernels would take them apart.
    """
    return _WholeOperators()


@functools.cache
def _composites() -> frozenset[Any]:
    """The public functions of `torch.nn.functional`, and those beside them that are made of several operators."""
    functional = torch.nn.functional
    found = {value for name, value in vars(functional).items() if callable(value) and not name.startswith("_")}
    found |= {value for name, value in vars(torch._C._nn).items() if callable(value) and not name.startswith("_")}
    for name in _COMPOSITE_NAMES.split():
        found |= {getattr(owner, name) for owner in (torch, torch.Tensor) if hasattr(owner, name)}
    return frozenset(found)


_COMPOSITE_NAMES = """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d layer_norm rms_norm group_norm instance_norm
    batch_norm lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell matmul __matmul__ __rmatmul__
    einsum tensordot inner bilinear softmax log_softmax embedding embedding_bag max_pool1d max_pool2d max_pool3d
    adaptive_avg_pool1d pixel_shuffle pixel_unshuffle dropout
"""


def aot_compiled(
    graph: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    forward: Callable[..., Callable[..., Any]],
    backward: Callable[..., Callable[..., Any]],
) -> Callable[..., Any]:
    """A differentiable callable of a Dynamo graph; `forward` and `backward` make those of AOTAutograd's two graphs.

    The partition is the plain one: backward reads what forward saved, as in eager mode, and recomputes nothing.
    """
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch._aot_autograd.utils import make_boxed_func
    from torch._functorch.partitioners import default_partition

    compiler = aot_autograd(
        fw_compiler=lambda inner, inputs: make_boxed_func(forward(inner, inputs)),
        bw_compiler=lambda inner, inputs: make_boxed_func(backward(inner, inputs)),
        inference_compiler=lambda inner, inputs: make_boxed_func(forward(inner, inputs)),
        partition_fn=default_partition,
    )
    made: Callable[..., Any] = compiler(graph, example_inputs)
    return made


def register_compile_backend(function: Callable[..., Any], name: str) -> None:
    """Make `torch.compile(backend=name)` find `function`, unless an installed entry point does that already."""
    from torch._dynamo.backends import registry

    # torch registers what an entry point loads itself, and refuses a name that is there before.
    if not entry_points(group="torch_dynamo_backends", name=name) and name not in registry._COMPILER_FNS:
        registry.register_backend(function, name=name)


def eager(model: Any) -> Any:
    """What `torch.compile` was given, where `model` is what it made of it."""
    if isinstance(model, torch.nn.Module):
        return vars(model)["_modules"].get("_orig_mod", model) if type(model).__name__ == "OptimizedModule" else model
    return getattr(model, "_torchdynamo_orig_callable", model)


def break_reason(graph: torch.fx.GraphModule) -> tuple[str, str] | None:
    """Why Dynamo ended this graph and where (`file:line`), None where it simply ended."""
    reason = getattr(graph, "compile_subgraph_reason", None)
    if reason is None or not reason.graph_break:
        return None
    frames = list(reason.user_stack or ())
    return str(reason.reason), f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def skipped_frames() -> Counter[str]:
    """Why Dynamo ran frames as they are, and how often, since the process began or its counters were cleared."""
    from torch._dynamo.utils import counters

    # Newer torch counts calls that it leaves alone (an LSTM) as graph breaks, and no longer as unimplemented.
    left = {why: times for why, times in counters["graph_break"].items() if why.startswith("Unsupported function call")}
    return Counter(counters["unimplemented"]) + Counter(left)


def parameter_names(graph: torch.fx.GraphModule) -> list[str | None]:
    """For each placeholder of a Dynamo graph the state-dict name of the parameter or buffer it is, None for inputs."""
    known = graph.meta.get("dynamo_flat_name_to_original_fqn", {})
    found: list[str | None] = []
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            source = getattr(node, "_dynamo_source", None)
            guard = source.guard_source if source is not None else None
            is_state = guard is not None and (guard.is_unspecialized_nn_module() or guard.is_specialized_nn_module())
            name = known.get(str(node.target)) or (source.name if source is not None else "")
            found.append(str(name() if callable(name) else name) if is_state else None)
    return found


def is_pytree_graph(graph: torch.fx.Graph) -> bool:
    """Whether the placeholders of a graph are the leaves of its arguments, as torch.export makes it."""
    return isinstance(graph._codegen, torch.fx.graph._PyTreeCodeGen)


def _install() -> None:
    _replace(torch.nn.Module, "__call__", _module_call)
    for name in ("tolist", "numpy", "__array__"):
        _replace(torch.Tensor, name, _value_method)
    for owner, name in ((torch, "tensor"), (torch, "as_tensor"), (torch.Tensor, "new_tensor")):
        _replace(owner, name, _keeps_data)
    for name in ("__getitem__", "__setitem__"):
        _replace(torch.Tensor, name, _keeps_positions)
    _replace(torch, "compile", _uncompiled)
    for name in ("__init__", "__enter__", "__exit__"):
        _replace(torch.autocast, name, _AUTOCAST[name])
    _replace(torch, "is_autocast_enabled", _is_autocast_enabled)
    _replace(torch, "get_autocast_dtype", _get_autocast_dtype)
    _install_flex_attention()
    collectives = tracing_collectives()
    if collectives is not None:
        _replace(*collectives, _waits_at_once)
    check = fsdp_check()
    if check is not None:
        _replace(*check, _unless_recording)


def active_autocast() -> torch.dtype | None:
    """What an autocast around this code lowers to, None where there is none."""
    for device in ("cuda", "cpu"):
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
    return None


def _records() -> bool:
    return bool(_handlers.stack) and not _handlers.stack[-1].computes


def _autocast_init(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    # Torch knows no autocast of meta tensors, and switches that of CUDA off where there is none. Its own state stays
    # disabled, so that values of small tensors are worked out as they are.
    def init(
        self: Any, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        if not _records():
            original(self, device_type, dtype, enabled, cache_enabled)
            return
        default = torch.bfloat16 if device_type == "cpu" else torch.float16
        self._regflat_lowers_to = (dtype or default) if enabled else None
        original(self, "cpu", torch.bfloat16, False, cache_enabled)

    return init


def _autocast_enter(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def enter(self: Any) -> Any:
        if _records():  # one that was made before recording began says by itself what it does
            own = self.fast_dtype if self._enabled else None
            context = _handlers.stack[-1].casting(self.__dict__.get("_regflat_lowers_to", own))
            context.__enter__()
            self.__dict__.setdefault("_regflat_contexts", []).append(context)
        return original(self)

    return enter


def _autocast_exit(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def leave(self: Any, *error: Any) -> Any:
        result = original(self, *error)
        contexts = self.__dict__.get("_regflat_contexts")
        if contexts:
            contexts.pop().__exit__(*error)
        return result

    return leave


_AUTOCAST = {"__init__": _autocast_init, "__enter__": _autocast_enter, "__exit__": _autocast_exit}


def _is_autocast_enabled(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: _handlers.stack[-1].casts_to() is not None if _records() else original(*args)


def _get_autocast_dtype(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def lowers_to(*args: Any) -> Any:
        found = _handlers.stack[-1].casts_to() if _records() else None
        return original(*args) if found is None else found

    return lowers_to


def _waits_at_once(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    # Else what an exchange gives is a tensor of a class of its own, that waits when it is first used.
    return lambda: _records() or original()


def _uncompiled(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    # Eager `cond`, `scan` and `flex_attention` compile themselves, and the compiler would trace the recorder.
    def compile_(model: Any = None, **options: Any) -> Any:
        if not _handlers.stack:
            return original(model, **options)
        return model if model is not None else lambda inner: inner

    return compile_


def _install_flex_attention() -> None:
    """Let `flex_attention` take meta tensors, with a BlockMask on the CPU beside them."""
    module: Any = sys.modules.get("torch.nn.attention.flex_attention")
    if module is None:
        return
    flag = "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"  # else it warns that it is not compiled
    if hasattr(module, flag):
        _originals[(module, flag)] = getattr(module, flag)
        setattr(module, flag, True)
    if hasattr(module, "_validate_device"):
        _replace(module, "_validate_device", _unless_recording)
    _originals[(module.BlockMask, "kv_num_blocks")] = module.BlockMask.__dict__.get("kv_num_blocks", _INHERITED)
    module.BlockMask.kv_num_blocks = property(_block_counts, _set_block_counts)


def _unless_recording(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: None if _handlers.stack else original(*args, **kwargs)


def _block_counts(mask: Any) -> torch.Tensor:
    counts: torch.Tensor = mask.__dict__["kv_num_blocks"]
    if _handlers.stack and sys._getframe(1).f_code.co_name == "flex_attention":
        return torch.empty(0, device="meta")  # it only compares the device with that of the query
    return counts


def _set_block_counts(mask: Any, counts: torch.Tensor) -> None:
    mask.__dict__["kv_num_blocks"] = counts


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
        # A module that was compiled is recorded as it was written: the compiler would trace the recorder.
        self = self.__dict__["_modules"].get("_orig_mod", self)
        run = original if self._compiled_call_impl is None else type(self)._call_impl
        return stack[-1].call_module(run, self, args, kwargs)

    return call


def _value_method(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    # `tolist` and `numpy` read memory without an operator that a dispatch mode could see.
    def ask(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        stack = _handlers.stack
        if not stack:
            return original(self, *args, **kwargs)
        if not stack[-1].computes and self.device.type == "meta":
            self = stack[-1].values_of(self, name)
        with without_dispatch():
            return original(self, *args, **kwargs)

    return ask


def _keeps_data(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    # `torch.tensor([1, 2], device="meta")` drops the numbers; made on the CPU they arrive as a constant.
    def make(*args: Any, **kwargs: Any) -> Any:
        if not _handlers.stack or _handlers.stack[-1].computes:
            return original(*args, **kwargs)
        data = args[-1] if name == "new_tensor" else args[0] if args else kwargs.get("data")
        device = args[0].device if name == "new_tensor" else None
        device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else device
        if isinstance(data, (list, tuple)) and _holds_tensor(data):
            with suppress(CaptureError):  # not known: it stays a tensor without numbers
                data = _numbers_of(data)
                args = (args[0], data, *args[2:]) if name == "new_tensor" else (data, *args[1:])
                kwargs.pop("data", None)
        if isinstance(data, (bool, int, float, complex, list, tuple)) and not _holds_tensor(data):
            if name == "new_tensor":
                kwargs.setdefault("dtype", args[0].dtype)
            if device is not None and device.type == "meta":
                kwargs["device"] = "cpu"
        return original(*args, **kwargs)

    return make


def _numbers_of(data: Any) -> Any:
    """Lists of numbers for lists of numbers and of tensors that hold one each."""
    if isinstance(data, (list, tuple)):
        return [_numbers_of(item) for item in data]
    return data.item() if isinstance(data, torch.Tensor) and data.dim() == 0 else data


def _keeps_positions(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    # The list in `x[:, [0, 2]]` becomes a tensor where x is, without numbers; made on the CPU it is a constant.
    def at(self: torch.Tensor, index: Any, *value: Any) -> Any:
        if _handlers.stack and self.device.type == "meta" and not _handlers.stack[-1].computes:
            if isinstance(index, list):
                index = _positions(index)
            elif isinstance(index, tuple) and any(isinstance(part, (list, tuple)) for part in index):
                index = tuple(_positions(part) for part in index)
        return original(self, index, *value)

    return at


def _positions(part: Any) -> Any:
    if isinstance(part, (list, tuple)) and part:
        if all(type(item) in (bool, int) for item in part):
            return torch.tensor(part)
        if all(isinstance(item, torch.Tensor) and item.dim() == 0 for item in part):
            return torch.stack(list(part))
    return part


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
