"""While capturing, some functions of transformers run as what a GPU would run: scans, and loops over experts.

The replacements are in `scans`, `experts` and `latent`. They go into the loaded modules of transformers, and out again.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from . import experts, latent, scans

_lock = threading.RLock()
_users = 0
_replaced: list[tuple[Any, str, Any]] = []


@contextmanager
def replaced() -> Iterator[None]:
    """Within this context the functions of `scans`, `experts` and `latent` stand in for those of transformers."""
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _install()
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                while _replaced:
                    setattr(*_replaced.pop())


def _install() -> None:
    functions = {name: _without_gradients(made) for name, made in scans.SCANS.items()}
    methods = {key: _without_gradients(made) for key, made in scans.METHODS.items()}
    methods |= {key: _always(made) for key, made in experts.METHODS.items()}
    for module_name, module in list(sys.modules.items()):
        if not module_name.startswith("transformers.models.") or ".modeling_" not in module_name:
            continue
        for name, make in functions.items():
            _replace(module, name, make)
        for (class_name, name), make in methods.items():
            if class_name in vars(module):
                _replace(vars(module)[class_name], name, make)
        for owner in [found for found in vars(module).values() if latent.EXPAND in getattr(found, "__dict__", ())]:
            if owner.__module__ == module_name:
                _replace(owner, latent.EXPAND, latent.deferred)
    attention = sys.modules.get("transformers.modeling_utils")
    if attention is not None:
        _replace(attention.AttentionInterface, "get_interface", latent.interface)


def _replace(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    original = vars(owner).get(name)
    if callable(original):
        _replaced.append((owner, name, original))
        setattr(owner, name, functools.wraps(original)(make(original)))


def _always(made: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return lambda original: lambda *args, **kwargs: made(*args, **kwargs)


def _without_gradients(fused: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: (original if torch.is_grad_enabled() else fused)(*args, **kwargs)

    return make
