"""The arguments of a captured call: a placeholder for each tensor, a meta twin in its place."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from . import state
from ._torch_distributed import is_dtensor, local, with_local

if TYPE_CHECKING:
    from .recorder import Recorder


def home_device(root: torch.nn.Module | None, arguments: Any) -> torch.device:
    """The device on which the user's model and inputs live, which is what the graph is recorded for."""
    if root is not None:
        for tensors in (root.parameters(), root.buffers()):
            for tensor in tensors:
                return tensor.device
    for _, tensor in state.tensors(arguments):
        return tensor.device
    return torch.device("cpu")


def is_cache(value: Any) -> bool:
    """Whether an object is a key-value cache by the name of its class or of a base class."""
    return any("Cache" in kind.__name__ for kind in type(value).__mro__)


class Inputs:
    """Adds the placeholders of a call to a recorder."""

    def __init__(self, recorder: Recorder, fn: Callable[..., Any], kv_cache: Any) -> None:
        self._recorder, self._kv_cache = recorder, kv_cache
        self._cached = {id(tensor) for _, tensor in state.tensors(kv_cache)}
        self._twins: dict[int, torch.Tensor] = {}
        self._names = _parameter_names(fn)

    def add(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with twins for tensors; tensors inside objects stay there and are replaced when used."""
        twinned_args = tuple(self._argument(self._name(i), value) for i, value in enumerate(args))
        twinned_kwargs = {name: self._argument(name, value) for name, value in kwargs.items()}
        self._inside("kv_cache", self._kv_cache, "kv_cache")
        return twinned_args, twinned_kwargs

    def _name(self, position: int) -> str:
        return self._names[position] if position < len(self._names) else f"args_{position}"

    def _argument(self, name: str, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(name, value)
        if state.is_plain(value):
            return value
        leaves, spec = pytree.tree_flatten_with_path(value, is_leaf=is_cache)
        replaced = []
        for key, leaf in leaves:
            below = name + "".join(f"_{_readable(step)}" for step in key)
            replaced.append(self._tensor(below, leaf) if isinstance(leaf, torch.Tensor) else leaf)
            if not isinstance(leaf, torch.Tensor) and state.is_container(leaf):
                self._inside(below, leaf, "kv_cache" if is_cache(leaf) else "activation")
        return pytree.tree_unflatten(replaced, spec)

    def _tensor(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if is_dtensor(tensor):
            return with_local(tensor, self._tensor(name, local(tensor)))
        twin = self._twins.get(id(tensor))
        if twin is None:
            self._twins[id(tensor)] = twin = self._recorder.twins.make(tensor)
            role = "kv_cache" if id(tensor) in self._cached else "activation"
            self._recorder.placeholder(tensor, twin, name, role)
            self._recorder.twins.release(twin)
        return twin

    def _inside(self, name: str, value: Any, role: str) -> None:
        for path, tensor in state.tensors(value):
            if id(tensor) not in self._twins:
                below = name + "".join(f"_{key}" for _, key in path)
                self._twins[id(tensor)] = twin = self._recorder.twins.make(tensor)
                self._recorder.placeholder(tensor, twin, below, "kv_cache" if id(tensor) in self._cached else role)


def _readable(step: Any) -> str:
    for name in ("key", "idx", "name"):
        if hasattr(step, name):
            return str(getattr(step, name))
    return str(step)


def _parameter_names(fn: Callable[..., Any]) -> list[str]:
    target = fn.forward if isinstance(fn, torch.nn.Module) else fn
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
