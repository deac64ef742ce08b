"""Finds out whether a layer computes with its own index.

Using `layer_idx` to find its place in a cache is the same for all layers; `self.layer_idx % 2` is not. While a layer is
recorded that others may copy, its index is an int that notes when code of a module calculates with it or compares it.
"""

from __future__ import annotations

import opcode
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx import Node

from .fingerprint import index_attributes

_ARITHMETIC = (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "divmod",
    "pow",
    "lshift",
    "rshift",
    "and",
    "or",
    "xor",
)
_OTHER = (
    "neg",
    "abs",
    "invert",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "bool",
    "int",
    "float",
    "str",
    "repr",
    "format",
    "round",
)
_NOTED = (*_ARITHMETIC, *(f"r{name}" for name in _ARITHMETIC), *_OTHER)
_CONTAINS = opcode.opmap["CONTAINS_OP"]

aten = torch.ops.aten


class Watch:
    """Whether the index was used, and whether the layer has one at all."""

    def __init__(self) -> None:
        self.used = False
        self.has_index = False


class _LayerIndex(int):
    watch: Watch
    looked_up: tuple[int, int] | None = None

    def __hash__(self) -> int:
        frame = sys._getframe(1)
        if frame.f_code.co_code[frame.f_lasti] == _CONTAINS and _is_module_code(frame):
            self.watch.used = True
        self.looked_up = (id(frame), frame.f_lasti)
        return int.__hash__(self)

    def __eq__(self, other: object) -> bool:
        frame = sys._getframe(1)
        # A dict hashes the key first, then compares it, from one and the same place: that only finds its place.
        if self.looked_up != (id(frame), frame.f_lasti) and _is_module_code(frame):
            self.watch.used = True
        return int.__eq__(self, other)


def _noting(name: str) -> Callable[..., Any]:
    plain = getattr(int, name)

    def method(self: _LayerIndex, *args: Any) -> Any:
        if _is_module_code(sys._getframe(1)):
            self.watch.used = True
        return plain(self, *args)

    return method


for _name in _NOTED:
    setattr(_LayerIndex, f"__{_name}__", _noting(f"__{_name}__"))


def _is_module_code(frame: Any) -> bool:
    """Whether the function's first argument is a module: a method of one, or a function that works for one."""
    names = frame.f_code.co_varnames
    return bool(names) and isinstance(frame.f_locals.get(names[0]), torch.nn.Module)


@contextmanager
def watched(module: torch.nn.Module, index: int) -> Iterator[Watch]:
    """Within this, uses of the layer's index are noted; its attributes are plain ints again afterwards."""
    watch = Watch()
    found = index_attributes(module, index)
    for part, name in found:
        part.__dict__[name] = noted = _LayerIndex(index)
        noted.watch = watch
    watch.has_index = bool(found)
    try:
        yield watch
    finally:
        for part, name in found:
            if type(part.__dict__.get(name)) is _LayerIndex:
                part.__dict__[name] = index


def picks_by_index(node: Node, index: int) -> bool:
    """Whether a node takes the part of a tensor that has the layer's index: one tensor for the state of all layers."""
    args = node.args
    if node.target is aten.select.int:
        return len(args) > 2 and bool(args[2] == index)
    if node.target is aten.slice.Tensor:
        return len(args) > 3 and bool(args[2] == index) and bool(args[3] == index + 1)
    return False
