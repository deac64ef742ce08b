"""Fill a model's own key/value cache on meta tensors, without recording anything and without running every layer.

Decoding is recorded as one token against the cache that the model itself returns from a prefill. On meta tensors a
prefill of 61 layers still takes seconds of Python, though all layers of a kind do the same. So the first layer of each
kind runs and the state it leaves in the cache is copied to the others; no cache is ever built by hand.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from ._torch_distributed import local
from ._torch_private import parameters_replaced
from .hints import Hints
from .record import capture_with_result
from .replaced import replaced

_Key = tuple[Any, ...]
_MIN_LAYERS = 3  # below that there is nothing to save


def run_prefill(model: nn.Module, kwargs: dict[str, Any], hints: Hints | None = None) -> Any:
    """Run `model(**kwargs)` in inference mode on meta tensors and return its output, caches filled for all layers.

    A model in real memory is neither moved nor changed: its parameters and buffers are stood in for. `hints` answer
    for values that only real numbers would give (see `capture.hints`).
    """
    shared = _shared.get()
    if shared is None:
        return _run(model, kwargs, hints)
    key = _alike(model, kwargs)
    if key not in shared:
        shared[key] = _run(model, kwargs, hints)
    return shared[key]


@contextmanager
def sharing() -> Iterator[None]:
    """Within this, a prefill is run once for all layouts of a model that divide its attention alike.

    Experts, whose weights are stacked, put nothing into a cache.
    """
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


_shared: ContextVar[dict[_Key, Any] | None] = ContextVar("shared prefills", default=None)


def _alike(model: nn.Module, kwargs: dict[str, Any]) -> _Key:
    weights = tuple(local(p).shape for p in model.parameters() if p.dim() < 3)
    given = ((name, v.shape if isinstance(v, Tensor) else repr(v)) for name, v in kwargs.items())
    return id(model), weights, *given


def _run(model: nn.Module, kwargs: dict[str, Any], hints: Hints | None) -> Any:
    try:
        with torch.inference_mode(), replaced(), skip_repeated_layers(model), stood_in(model):
            return model(**kwargs)
    except Exception:
        # Perhaps it asks for the value of a tensor, which recording can answer where it is known.
        real = {name: torch.ones_like(v, device="cpu") if _is_ids(v) else v for name, v in kwargs.items()}
        return capture_with_result(model, (), real, restore=False, hints=hints).result


def _is_ids(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta and value.dtype is torch.int64


@contextmanager
def stood_in(model: nn.Module) -> Iterator[None]:
    """Within this context, meta tensors stand in for the parameters and buffers of a model in real memory."""
    state = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    stand_ins = {name: torch.empty_like(t, device="meta") for name, t in state.items() if not t.is_meta}
    with parameters_replaced(model, stand_ins) if stand_ins else nullcontext():
        yield


@contextmanager
def skip_repeated_layers(model: nn.Module) -> Iterator[None]:
    """Within this context, layers of a `ModuleList` that equal an earlier one return what that one returned."""
    with ExitStack() as stack:
        for layers in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
            if len(layers) >= _MIN_LAYERS:
                seen: dict[_Key, _Seen] = {}
                for layer in layers:
                    stack.enter_context(_patched(layer, seen))
        yield


class _Seen:
    """What the first layer of a kind returned, and its index in the caches."""

    def __init__(self, index: int | None, output: Any) -> None:
        self.index, self.output = index, output


@contextmanager
def _patched(layer: nn.Module, seen: dict[_Key, _Seen]) -> Iterator[None]:
    original: Callable[..., Any] = layer.forward
    had_own = "forward" in vars(layer)
    same = signature(layer)
    index = _layer_index(layer)

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        caches = [cache for value in (*args, *kwargs.values()) for cache in _caches(value)]
        if caches and index is None:
            return original(*args, **kwargs)
        key = (same, _shapes(args), tuple((name, _shapes(value)) for name, value in sorted(kwargs.items())))
        first = seen.get(key)
        if first is not None and all(_copy_state(cache, first.index, index) for cache in caches):
            _mark_updated((*args, *kwargs.values()), first.index, index)
            return first.output
        output = original(*args, **kwargs)
        seen.setdefault(key, _Seen(index, output))
        return output

    layer.forward = forward
    try:
        yield
    finally:
        if had_own:
            layer.forward = original
        else:
            del layer.forward


def signature(layer: nn.Module) -> _Key:
    """Everything that decides what a layer does to shapes: classes, parameters, plain attributes but its index."""
    return tuple(
        (
            name,
            type(module),
            tuple(
                (key, tuple(value.shape), value.dtype)
                for key, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
            ),
            tuple(
                (key, value)
                for key, value in sorted(vars(module).items())
                if isinstance(value, (bool, int, float, str)) and key != "layer_idx"
            ),
        )
        for name, module in layer.named_modules()
    )


def _layer_index(layer: nn.Module) -> int | None:
    """Return the one `layer_idx` that the modules of a layer carry, or None."""
    found = {index for module in layer.modules() if isinstance(index := getattr(module, "layer_idx", None), int)}
    return found.pop() if len(found) == 1 else None


def _shapes(value: Any) -> Any:
    """Return a hashable stand-in for an argument: shapes and dtypes of tensors, plain values, types of the rest."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.dtype)
    if isinstance(value, (tuple, list)):
        return tuple(_shapes(item) for item in value)
    if isinstance(value, dict):
        return tuple((key, _shapes(item)) for key, item in value.items())
    return value if isinstance(value, (bool, int, float, str)) or value is None else type(value)


def _caches(value: Any) -> list[Any]:
    """Return the caches with a list of `layers` inside an argument; an encoder-decoder cache holds two."""
    both = [getattr(value, name, None) for name in ("self_attention_cache", "cross_attention_cache")]
    if all(part is not None for part in both):
        return both
    is_cache = isinstance(getattr(value, "layers", None), list) and hasattr(value, "get_seq_length")
    return [value] if is_cache and not isinstance(value, nn.Module) else []


def _copy_state(cache: Any, source: int | None, target: int | None) -> bool:
    """Give layer `target` of a cache the state of layer `source`, in storage of its own; False if it cannot be."""
    layers = cache.layers
    if source is None or target is None or source >= len(layers) or target > len(layers):
        return False
    if target < len(layers) and type(layers[target]) is not type(layers[source]):
        return False
    state = copy.copy(layers[source])
    for name, value in vars(state).items():
        if isinstance(value, (Tensor, dict, list)):
            setattr(state, name, _of_its_own(value))
    layers[target:] = [state, *layers[target + 1 :]]
    return True


def _of_its_own(value: Any) -> Any:
    """The same in storage of its own; recurrent states are in dicts."""
    if isinstance(value, Tensor):
        return torch.empty_like(value) if value.is_meta else value.clone()
    if isinstance(value, dict):
        return {key: _of_its_own(item) for key, item in value.items()}
    return [_of_its_own(item) for item in value] if isinstance(value, list) else value


def _mark_updated(values: tuple[Any, ...], source: int | None, target: int | None) -> None:
    """Carry over the note of an encoder-decoder cache that a layer's cross-attention is filled."""
    for value in values:
        updated = getattr(value, "is_updated", None)
        if isinstance(updated, dict) and source in updated:
            updated[target] = updated[source]
