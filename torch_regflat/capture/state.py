"""Objects that carry state from layer to layer (a key-value cache): looked into, compared, put back.

A path is a tuple of steps: `("attr", name)`, `("item", i)` or `("key", key)`. In a relative path the first step into a
list or an int-keyed dict that goes to a layer's own index reads `OWN` in place of that index.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from typing import Any, TypeAlias

import torch

Step: TypeAlias = tuple[str, Any]
Path: TypeAlias = tuple[Step, ...]

PLAIN = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)
MAX_DEPTH = 8
MAX_ENTRIES = 200_000


class _Own:
    def __repr__(self) -> str:
        return "OWN"


OWN = _Own()


def is_plain(value: Any) -> bool:
    """Whether two such values are the same when they are equal."""
    return isinstance(value, PLAIN) or (type(value) in (tuple, torch.Size) and all(map(is_plain, value)))


def is_stateful(value: Any) -> bool:
    """Whether `value` is an object of the user's that may hold tensors in its attributes."""
    kind = type(value)
    if isinstance(value, (torch.Tensor, torch.nn.Module, type)) or is_plain(value) or callable(value):
        return False
    if kind.__module__.partition(".")[0] in ("builtins", "torch", "numpy") or kind.__name__.endswith("Config"):
        return False
    return hasattr(value, "__dict__") or hasattr(kind, "__slots__")


def children(value: Any) -> Iterator[tuple[Step, Any]]:
    """The parts of a container or object, with the step that leads to each."""
    if isinstance(value, (list, tuple)):
        yield from ((("item", i), item) for i, item in enumerate(value))
    elif isinstance(value, dict):
        yield from ((("key", key), item) for key, item in value.items())
    elif is_stateful(value):
        yield from ((("attr", name), item) for name, item in attributes(value).items())


def attributes(value: Any) -> dict[str, Any]:
    """What the object holds, from `__dict__` and `__slots__`."""
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = getattr(kind, "__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in found and hasattr(value, name) and not name.startswith("__"):
                found[name] = getattr(value, name)
    return found


def is_container(value: Any) -> bool:
    """Whether `children` looks into it."""
    return (isinstance(value, (list, tuple, dict)) and not is_plain(value)) or is_stateful(value)


def walk(value: Any, path: Path = (), seen: set[int] | None = None) -> Iterator[tuple[Path, Any]]:
    """Everything reachable in `value`, itself included, each container once. [(path, value)]"""
    seen = set() if seen is None else seen
    yield path, value
    if not is_container(value) or id(value) in seen or len(path) > MAX_DEPTH or len(seen) > MAX_ENTRIES:
        return
    seen.add(id(value))
    for step, part in children(value):
        yield from walk(part, (*path, step), seen)


def tensors(value: Any) -> list[tuple[Path, torch.Tensor]]:
    """The tensors reachable in `value`, each once."""
    found: dict[int, tuple[Path, torch.Tensor]] = {}
    for path, part in walk(value):
        if isinstance(part, torch.Tensor):
            found.setdefault(id(part), (path, part))
    return list(found.values())


def step_into(value: Any, step: Step, own: int) -> Any:
    """Follow one step of a relative path."""
    kind, key = step
    if key is OWN:
        key = own
    return getattr(value, key) if kind == "attr" else value[key]


def put(value: Any, step: Step, own: int, new: Any) -> None:
    """Set what one step of a relative path leads to; one past the end of a list appends."""
    kind, key = step
    if key is OWN:
        key = own
    if kind == "attr":
        setattr(value, key, new)
    elif isinstance(value, list) and key == len(value):
        value.append(new)
    else:
        value[key] = new


def is_indexed(value: Any) -> bool:
    """Whether `value` may hold one element for each layer: a list, a tuple, or a dict with only integer keys."""
    if isinstance(value, dict):
        return all(isinstance(key, int) for key in value)
    return isinstance(value, (list, tuple))


class Saved:
    """Shallow copies of mutable containers, to put back what a run changes in them."""

    def __init__(self) -> None:
        self._dicts: list[tuple[Any, dict[Any, Any]]] = []
        self._lists: list[tuple[list[Any], list[Any]]] = []
        self._sets: list[tuple[set[Any], set[Any]]] = []
        self._empty: list[Any] = []
        self._seen: set[int] = set()

    def module(self, module: torch.nn.Module) -> None:
        """Remember the attributes of a module, its hooks, and the containers it holds directly."""
        self.instance(module)

    def instance(self, value: Any) -> None:
        """Remember the attributes of any object, and the containers it holds directly."""
        if id(value) not in self._seen:
            self._seen.add(id(value))
            state = value.__dict__
            self._dicts.append((state, state.copy()))
            for part in state.values():
                if isinstance(part, (dict, list, set)):
                    self._container(part)

    def state(self, value: Any) -> None:
        """Remember everything reachable in an object."""
        for _, part in walk(value):
            if isinstance(part, (dict, list)):
                self._container(part)
            elif is_stateful(part) and hasattr(part, "__dict__"):
                self._container(part.__dict__)

    def _container(self, value: Any) -> None:
        if not value:  # most are: the tables of hooks
            self._empty.append(value)
        elif isinstance(value, dict):
            self._dicts.append((value, dict(value)))
        elif isinstance(value, list):
            self._lists.append((value, value.copy()))
        else:
            self._sets.append((value, value.copy()))

    def restore(self) -> None:
        """Put everything back as it was."""
        for value in self._empty:
            if value:
                value.clear()
        for now, before in self._dicts:
            if not _same(now.values(), before.values()) or now.keys() != before.keys():
                now.clear()
                now.update(before)
        for items, old in self._lists:
            if not _same(items, old):
                items[:] = old
        for members, were in self._sets:
            if members != were:
                members.clear()
                members.update(were)


def _same(now: Collection[Any], before: Collection[Any]) -> bool:
    return len(now) == len(before) and all(map(operator.is_, now, before))
