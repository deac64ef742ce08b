"""Dataclasses to plain data (what JSON can hold) and back, without loss, naming the field that does not fit."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from .errors import ResultError


class _MisfitError(Exception):
    """Something that does not fit. Where it is gets known on the way up, so that what fits pays nothing for it."""

    def __init__(self, said: str, at: str = "") -> None:
        super().__init__(said, at)
        self.said, self.at = said, at

    def below(self, step: str) -> _MisfitError:
        return _MisfitError(self.said, step + self.at)


def plain(value: Any, where: str) -> Any:
    """Dataclasses to dicts and tuples to lists, all the way down; refuses what JSON has no finite number for."""
    try:
        return _plain(value)
    except _MisfitError as error:
        raise ResultError(f"{where}{error.at} {error.said}") from None


def build(kind: Any, value: Any, where: str) -> Any:
    """Rebuild dataclasses, tuples and dicts from plain data, naming the field that does not fit."""
    try:
        return _build(kind, value)
    except _MisfitError as error:
        raise ResultError(f"{where}{error.at} {error.said}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _MisfitError(f"is {value}; a profile holds finite numbers only")
        return value
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, dict):
        return _each(_plain, value.items(), ".{}")
    if isinstance(value, (list, tuple)):
        return list(_each(_plain, enumerate(value), "[{}]").values())
    if is_dataclass(value):
        kind: Any = type(value)
        return _each(_plain, ((name, getattr(value, name)) for name in _names(kind)), ".{}")
    raise _MisfitError(f"is a {type(value).__name__}; a profile holds only numbers, text, lists and objects")


def _each(change: Callable[[Any], Any], items: Iterable[tuple[Any, Any]], step: str) -> dict[Any, Any]:
    """Every item changed, by its key; `step` says how the place of one that does not fit is written."""
    changed = {}
    for key, item in items:
        try:
            changed[key] = change(item)
        except _MisfitError as error:
            raise error.below(step.format(key)) from None
    return changed


@functools.cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind))


def _build(kind: Any, value: Any) -> Any:
    make, inner = _maker(kind)
    return make(inner, value)


def _optional(item: Any, value: Any) -> Any:
    return None if value is None else _build(item, value)


def _tuple(item: Any, value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _MisfitError(f"should be a list, found {_found(value)}")
    make, inner = _maker(item)
    return tuple(_each(lambda found: make(inner, found), enumerate(value), "[{}]").values())


def _dict(item: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise _MisfitError(f"should be an object, found {_found(value)}")
    make, inner = _maker(item)
    return _each(lambda found: make(inner, found), ((str(k), v) for k, v in value.items()), ".{}")


def _dataclass(kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise _MisfitError(f"should be an object, found {_found(value)}")
    hints, required = _schema(kind)
    if not hints.keys() >= value.keys():
        unknown = sorted(set(map(str, value)) - set(hints))
        raise _MisfitError(f"has an unknown field {unknown[0]!r}; was it written by another version?")
    if not required <= value.keys():
        missing = next(name for name in hints if name in required and name not in value)
        raise _MisfitError(f"lacks the field {missing!r}; the file is cut short or not a profile")
    built = {}
    for name, found in value.items():
        try:
            make, inner = _maker(hints[name])
            built[name] = make(inner, found)
        except _MisfitError as error:
            raise error.below(f".{name}") from None
    return kind(**built)


@functools.cache
def _maker(kind: Any) -> tuple[Callable[[Any, Any], Any], Any]:
    """The function that builds values of a type, and what it is given beside the value."""
    if isinstance(kind, type) and is_dataclass(kind):
        return _dataclass, kind
    origin = get_origin(kind)
    if origin in (types.UnionType, Union):
        return _optional, get_args(kind)[0]
    if origin is tuple:
        return _tuple, get_args(kind)[0]
    if origin is dict:
        return _dict, get_args(kind)[1]
    return _scalar, kind


@functools.cache
def _schema(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Field types, and the names of the fields without a default."""
    required = frozenset(f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING)
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}, required


_SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    float: ((int, float), "a number"),
    int: ((int, float), "a whole number"),
    str: ((str,), "text"),
    bool: ((bool,), "true or false"),
}


def _scalar(kind: Any, value: Any) -> Any:
    if type(value) is kind and (kind is not float or math.isfinite(value)):
        return value
    accepted, words = _SCALARS[kind]
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise _MisfitError(f"should be {words}, found {_found(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise _MisfitError(f"should be a finite number, found {value}")
    if kind is int and isinstance(value, float):
        if not value.is_integer():
            raise _MisfitError(f"should be a whole number, found {value}")
        return int(value)
    return value


def _found(value: Any) -> str:
    """What was found, in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, (dict, list, tuple)):
        return "an object" if isinstance(value, dict) else "a list"
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."
