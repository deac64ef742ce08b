"""`module:factory`: a user's own Python object as the model to profile."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import nn

from ..errors import ModelError, near

Loaded = tuple[nn.Module, tuple[Any, ...] | None, dict[str, Any]]


def load(spec: str) -> Loaded:
    """Import `module:factory`, call it, and return `(model, args, kwargs)`; `args` is None where it gave none.

    The current directory is searched first, as `python -m` does. The factory is a module instance, or a callable
    that returns a module, `(module, args)` or `(module, args, kwargs)`.
    """
    module_name, _, attribute = spec.partition(":")
    made = _find(spec, module_name, attribute)
    if not isinstance(made, nn.Module):
        if not callable(made):
            raise ModelError(
                f"{spec!r} is of type {type(made).__name__}; it must be an nn.Module or a function that returns one"
            )
        try:
            made = made()
        except Exception as error:
            raise ModelError(f"calling {spec!r} failed: {_line(error)}") from error
    return _unpack(spec, made)


def _find(spec: str, module_name: str, attribute: str) -> Any:
    if not module_name or not attribute:
        raise ModelError(f"{spec!r} does not name a factory; write module:factory, as in my_package.models:small_net")
    with _current_directory_first():
        try:
            found: Any = importlib.import_module(module_name)
        except Exception as error:
            raise ModelError(f"cannot import the module {module_name!r} of {spec!r}: {_line(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [name for name in dir(found) if not name.startswith("_")]
            raise ModelError(f"the module {module_name!r} has no {attribute!r}{near(part, known)}")
        found = getattr(found, part)
    return found


def _unpack(spec: str, made: Any) -> Loaded:
    if isinstance(made, nn.Module):
        examples = getattr(made, "example_inputs", None)
        if not callable(examples):
            return made, None, {}
        args, kwargs = _inputs(spec, examples())
        return made, args, kwargs
    if isinstance(made, (tuple, list)) and len(made) in (2, 3) and isinstance(made[0], nn.Module):
        args, kwargs = _inputs(spec, made[1])
        extra = made[2] if len(made) == 3 else {}
        if not isinstance(extra, dict):
            raise ModelError(f"{spec!r} returned keyword arguments of type {type(extra).__name__}; they must be a dict")
        return made[0], args, {**kwargs, **extra}
    raise ModelError(
        f"{spec!r} returned {_kind(made)}; it must return an nn.Module, (model, args) or (model, args, kwargs)"
    )


def _inputs(spec: str, given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read inputs written as a tuple, a list, a dict of keyword arguments, or one value."""
    if isinstance(given, dict):
        return (), dict(given)
    return (tuple(given), {}) if isinstance(given, (tuple, list)) else ((given,), {})


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return "nothing" if value is None else f"a value of type {type(value).__name__}"


def _line(error: BaseException) -> str:
    first = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


@contextmanager
def _current_directory_first() -> Iterator[None]:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with suppress(ValueError):  # the imported module may have taken it out itself
            sys.path.remove(here)
