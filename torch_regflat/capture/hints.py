"""Values that the user supplies for questions whose answer cannot be worked out (`hints=`).

A hint is looked up when a value is asked for that depends on unknown numbers:

    hints={"model.layers.*.mlp": 4}          # by module path; `*` stands for any part of it
    hints={"modeling_mine.py:88": [3, 5]}    # by file:line; the end of the path suffices

The value is what the line gets: a number for `.item()`, `bool()` or `int()`, a list or tensor for `.tolist()` and
`.numpy()`, and for an operator whose shape depends on values (`nonzero`, `unique`, `masked_select`, a boolean index)
the number of rows it finds. For `torch.while_loop` it is the number of steps, for `torch.cond` whether the predicate
holds. An iterator gives the next of its values each time it is asked.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch

from ..errors import InputError

Hints: TypeAlias = Mapping[str, Any]

NOTHING = object()
"""No hint fits."""


class Supplied:
    """The hints of one capture."""

    def __init__(self, hints: Hints | None) -> None:
        self._hints = dict(hints or {})
        for key in self._hints:
            if not isinstance(key, str) or not key:
                raise InputError(f"a hint is named by a module path or file:line, found {key!r}")

    def find(self, path: str, line: str) -> Any:
        """The value for the module at `path` or for the `file:line` that asks, or NOTHING; `file:line` goes first."""
        by_line = (k for k in self._hints if line == k or line.endswith(os.sep + k))
        by_path = (k for k in self._hints if k == path or fnmatch.fnmatchcase(path, k))
        key = next(by_line, None) or next(by_path, None)
        if key is None:
            return NOTHING
        value = self._hints[key]
        if not isinstance(value, Iterator):
            return value
        try:
            return next(value)
        except StopIteration:
            raise InputError(f"the hint {key!r} has no more values; {line} asks for one more") from None


def as_number(value: Any, where: str) -> Any:
    """A hint for a single value."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, (bool, int, float, complex)):
        return value
    raise InputError(f"the hint for {where} has to be a number, found {type(value).__name__}")


def as_tensor(value: Any, like: torch.Tensor, where: str) -> torch.Tensor:
    """A hint for all values of a tensor, in its dtype and shape (a number fills it)."""
    made = torch.as_tensor(value, dtype=like.dtype, device="cpu")
    if made.numel() == 1:
        return made.reshape(()).expand(like.shape).clone()
    if made.shape != like.shape:
        raise InputError(f"the hint for {where} has shape {tuple(made.shape)}; the tensor has {tuple(like.shape)}")
    return made


def as_count(value: Any, where: str, what: str = "the number of rows that are found") -> int:
    """A hint for how many there are of something: rows that an operator finds, steps of a loop."""
    if type(value) is int and value >= 0:
        return value
    raise InputError(f"the hint for {where} has to be {what}, got {value!r}")
