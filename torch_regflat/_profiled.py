"""`profiled`: what wraps a function or a module so that it profiles itself once per input signature."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from .errors import CaptureError, InputError

_NAMES = ("profile", "profiles")


def wrap(target: Any, options: dict[str, Any]) -> Any:
    """Wrap a module, or a function or method."""
    if isinstance(target, torch.jit.ScriptModule):
        raise InputError(
            f"profiled() takes an eager module, found the scripted {target.original_name}; "
            "pass the module that it was made of"
        )
    if isinstance(target, nn.Module):
        return _wrap_module(target, options)
    if isinstance(target, type):
        raise InputError(
            f"profiled() takes an instance, found the class {target.__name__}; profile its forward or an instance"
        )
    if not callable(target):
        hint = "; put profiled below it" if isinstance(target, (classmethod, property)) else ""
        raise InputError(f"profiled() takes a function or a module, found {type(target).__name__}{hint}")
    return _wrap_function(target, options)


class _Profiles:
    """The profiles of one target by signature, the latest last."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.by_signature: dict[tuple[Any, ...], Any] = {}
        self.latest: Any = None

    def call(
        self, target: Callable[..., Any], real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Profile `target` if it has not been called like this before, then compute with `real`."""
        key = _new_signature(self.by_signature, target, args, kwargs)
        failed = None if key is None else self._profile(key, target, args, kwargs)
        result = real()
        if failed is not None:  # after the call: what the user's own code raises goes first, as it is
            raise failed
        return result

    def _profile(self, key: tuple[Any, ...], target: Any, args: Any, kwargs: Any) -> CaptureError | None:
        from .profiler import profile

        try:
            self.latest = profile(target, args, kwargs, **self.options)
        except CaptureError as error:
            return error
        self.by_signature[key] = self.latest
        return None


def _wrap_function(function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    profiles = _Profiles(options)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        target, rest = _bound(function, wrapper, args)
        try:
            return profiles.call(target, lambda: function(*args, **kwargs), rest, kwargs)
        finally:
            vars(wrapper)["profile"] = profiles.latest

    vars(wrapper).update(profile=None, profiles=profiles.by_signature)
    return wrapper


def _bound(function: Any, wrapper: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """A method bound to the module it is called on, so that paths start there; else the function as it is."""
    owner = args[0] if args and isinstance(args[0], nn.Module) else None
    name = getattr(function, "__name__", "")
    if owner is None or all(vars(kind).get(name) is not wrapper for kind in type(owner).__mro__):
        return function, args
    return types.MethodType(function, owner), args[1:]


class _Profiled:
    """Mixed into the class of a profiled module, which shares all that the module it was made of has."""

    __slots__ = ()
    _profiled: tuple[nn.Module, _Profiles]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module, profiles = self._profiled
        return profiles.call(module, lambda: super(_Profiled, self).__call__(*args, **kwargs), args, kwargs)  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        module, profiles = self._profiled
        return _wrap_module, (module, profiles.options)

    @property
    def profile(self) -> Any:
        return self._profiled[1].latest

    @property
    def profiles(self) -> dict[tuple[Any, ...], Any]:
        return self._profiled[1].by_signature


def _wrap_module(module: nn.Module, options: dict[str, Any]) -> nn.Module:
    """A second object of the same module: one `__dict__` for both, so that nothing done to one is missed by the other.

    Its class is the module's with a call that profiles; copies and pickles are wrapped again, without profiles.
    """
    taken = [name for name in _NAMES if hasattr(module, name)]
    if taken:
        raise InputError(
            f"{type(module).__name__} already has an attribute {taken[0]!r}, where its profile would be; "
            "use profile(module, args) instead"
        )
    kind = type(module)
    names = {"__slots__": ("_profiled",), "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    profiled: Any = object.__new__(type(kind.__name__, (_Profiled, kind), {**names, "__doc__": kind.__doc__}))
    object.__setattr__(profiled, "__dict__", module.__dict__)
    object.__setattr__(profiled, "_profiled", (module, _Profiles(options)))
    return profiled  # type: ignore[no-any-return]


def _new_signature(
    known: dict[tuple[Any, ...], Any], target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...] | None:
    """The signature of a call that has not been profiled yet; None for a known one, or while a profile is made."""
    from .profiler import is_profiling

    if is_profiling():
        return None
    leaves, spec = pytree.tree_flatten((getattr(target, "__self__", target), args, kwargs))
    key = (spec, *map(_leaf, leaves))
    return None if key in known else key


def _leaf(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype, value.stride()
    if isinstance(value, (bool, int, float, str, type(None), torch.dtype, torch.device)):
        return type(value), value
    return _Same(value), getattr(value, "training", None)


class _Same:
    """Equal to another only while both mean one living object."""

    def __init__(self, value: Any) -> None:
        self._id = id(value)
        try:
            self._of: Callable[[], Any] = weakref.ref(value)
        except TypeError:
            self._of = lambda: value

    def __hash__(self) -> int:
        return self._id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._of() is not None and self._of() is other._of()
