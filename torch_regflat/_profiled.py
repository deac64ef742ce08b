"""`profiled`: what wraps a function or a module so that it profiles itself once per input signature."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from .errors import InputError

_NAMES = ("profile", "profiles")


def wrap(target: Any, options: dict[str, Any]) -> Any:
    """Wrap a module, or a function or method."""
    if isinstance(target, nn.Module):
        return _wrap_module(target, options)
    if isinstance(target, type):
        raise InputError(
            f"profiled() takes an instance, found the class {target.__name__}; profile its forward or an instance"
        )
    if not callable(target):
        raise InputError(f"profiled() takes a function or a module, found {type(target).__name__}")
    return _wrap_function(target, options)


def _wrap_function(function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        key = _new_signature(wrapper, args, kwargs)
        if key is not None:
            _remember(wrapper, key, _profile(function, args, kwargs, options))
        return function(*args, **kwargs)

    vars(wrapper).update(profile=None, profiles={})
    return wrapper


def _wrap_module(module: nn.Module, options: dict[str, Any]) -> nn.Module:
    """A shallow copy of the module (same parameters, buffers and children) with a hook that profiles."""
    taken = [name for name in _NAMES if hasattr(module, name)]
    if taken:
        raise InputError(
            f"{type(module).__name__} already has an attribute {taken[0]!r}, where its profile would be; "
            "use profile(module, args) instead"
        )
    profiled = copy.copy(module)
    vars(profiled)["_forward_pre_hooks"] = copy.copy(module._forward_pre_hooks)
    vars(profiled)["_forward_pre_hooks_with_kwargs"] = copy.copy(module._forward_pre_hooks_with_kwargs)
    vars(profiled).update(profile=None, profiles={})
    profiled.register_forward_pre_hook(_ProfileOnce(options), with_kwargs=True)
    return profiled


class _ProfileOnce:
    """A forward hook that can be pickled and copied with its module."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        key = _new_signature(module, args, kwargs)
        if key is not None:
            _remember(module, key, _profile(module, args, kwargs, self.options))


def _profile(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]) -> Any:
    from .profiler import profile

    return profile(target, args, kwargs, **options)


def _new_signature(holder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """The signature of a call that has not been profiled yet; None for a known one, or while a profile is made."""
    from .profiler import is_profiling

    if is_profiling():
        return None
    leaves, spec = pytree.tree_flatten((args, kwargs))
    key = (spec, *map(_leaf, leaves))
    return None if key in vars(holder)["profiles"] else key


def _leaf(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype, value.stride()
    if isinstance(value, (bool, int, float, str, type(None), torch.dtype, torch.device)):
        return type(value), value
    return id(value)


def _remember(holder: Any, key: tuple[Any, ...], profile: Any) -> None:
    vars(holder)["profiles"][key] = profile
    vars(holder)["profile"] = profile
