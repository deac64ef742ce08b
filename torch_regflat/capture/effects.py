"""What goes into a layer's call and what it changes: arguments, and state in objects among them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from . import state
from .inputs import is_cache
from .state import OWN, Path


class NotRepeatable(Exception):
    """The layer did something that copying its nodes would not repeat."""


class CallInputs:
    """The arguments of one call, taken apart: tensors (those in state included) and everything else.

    Of objects that hold one element for each layer only the element at the layer's own `index` is looked at.
    """

    def __init__(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.index = index
        self.cut: list[tuple[int, torch.Tensor]] = []
        """Where gradients are recorded: the leaf of autograd that stands for a tensor, by position in `tensors`."""
        self.leaves, self.spec = pytree.tree_flatten((args, kwargs), is_leaf=is_cache)
        self.tensors: list[torch.Tensor] = []
        self.objects: list[Any] = []
        self.facts: list[Hashable] = []
        self._seen: dict[int, int] = {}
        for leaf in self.leaves:
            if not isinstance(leaf, torch.Tensor) and state.is_container(leaf):
                self.objects.append(leaf)
            self._look(leaf, False)

    def _look(self, value: Any, below_own: bool) -> None:
        if isinstance(value, torch.Tensor):
            self.facts.append("tensor")
            self.tensors.append(value)
        elif state.is_plain(value):
            self.facts.append((type(value), value))
        elif not state.is_container(value):
            self.facts.append(id(value))
        elif id(value) in self._seen:
            self.facts.append(self._seen[id(value)])
        else:
            self._seen[id(value)] = len(self._seen)
            self.facts.append((type(value),))
            for part, below in self._parts(value, below_own):
                self._look(part, below)

    def _parts(self, value: Any, below_own: bool) -> Iterator[tuple[Any, bool]]:
        if below_own or not state.is_indexed(value):
            parts = list(state.children(value))
            self.facts.append(tuple(step for step, _ in parts))
            yield from ((part, below_own) for _, part in parts)
        else:
            present = self.index in value if isinstance(value, dict) else self.index < len(value)
            self.facts.append((present, not isinstance(value, dict) and self.index == len(value)))
            if present:
                yield value[self.index], True

    def unchanged(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether lists and dicts among the arguments still hold the same things."""
        leaves, spec = pytree.tree_flatten((args, kwargs), is_leaf=is_cache)
        return spec == self.spec and all(a is b for a, b in zip(leaves, self.leaves, strict=True))


class Snapshot:
    """Everything reachable in some objects, to find out later what has changed."""

    def __init__(self, objects: list[Any]) -> None:
        self.parts: list[dict[Path, Any]] = [dict(state.walk(value)) for value in objects]
        # Kept apart: lists and dicts are looked at again later, when they may have grown.
        self.known = {id(value) for part in self.parts for value in part.values() if not state.is_plain(value)}


@dataclass(frozen=True, slots=True)
class Change:
    """One thing a layer changed in the state: in which object, where, and what is there now."""

    object_at: int
    path: Path
    value: Any


def changes(before: Snapshot, objects: list[Any], own: int) -> list[Change]:
    """What the layer at index `own` changed; `NotRepeatable` if that was not only its own part of the state."""
    found: list[Change] = []
    for at, (old, value) in enumerate(zip(before.parts, objects, strict=True)):
        new = dict(state.walk(value))
        changed = {path for path, now in new.items() if path not in old or not _equal(old[path], now)}
        top = [path for path in changed if not _has_prefix(path, changed)]
        if any(path not in new and not _has_prefix(path, changed) for path in old):
            raise NotRepeatable("state was removed")
        found += [Change(at, _relative(path, own), new[path]) for path in new if path in set(top)]
    return found


def _equal(old: Any, new: Any) -> bool:
    return old is new or (state.is_plain(new) and type(old) is type(new) and bool(old == new))


def _has_prefix(path: Path, changed: set[Path]) -> bool:
    return any(path[:i] in changed for i in range(len(path)))


def _relative(path: Path, own: int) -> Path:
    for i, (kind, key) in enumerate(path):
        if kind == "item" or (kind == "key" and isinstance(key, int)):
            if key != own:
                raise NotRepeatable("it changed the state of another layer")
            return (*path[:i], (kind, OWN), *path[i + 1 :])
    raise NotRepeatable("it changed state that all layers share")


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor that the layer made: for a copy, a new one like it is made."""

    node: Node
    like: torch.Tensor
    number: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A tensor that went in: an input, or the layer's own, by position."""

    kind: Literal["input", "own"]
    at: int


@dataclass(frozen=True, slots=True)
class NewObject:
    """An object that the layer put into the state, with descriptions of its parts."""

    kind: type
    parts: tuple[tuple[Any, Any], ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """An argument that came out again."""

    at: int


@dataclass(frozen=True, slots=True)
class Same:
    """Any other value: it is the same for all layers."""

    value: Any
