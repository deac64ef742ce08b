"""Dataclasses to plain data (what JSON can hold) and back, without loss, naming the field that does not fit."""

from __future__ import annotations

import functools
import math
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from .errors import ResultError


def plain(value: Any, where: str) -> Any:
    """Dataclasses to dicts and tuples to lists, all the way down; refuses what JSON has no finite number for."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ResultError(f"{where} is {value}; a profile holds finite numbers only")
        return value
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, dict):
        return {key: plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name), f"{where}.{f.name}") for f in fields(value)}
    raise ResultError(f"{where} is a {type(value).__name__}; a profile holds only numbers, text, lists and objects")


def build(kind: Any, value: Any, where: str) -> Any:
    """Rebuild dataclasses, tuples and dicts from plain data, naming the field that does not fit."""
    if isinstance(kind, type) and is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    origin = get_origin(kind)
    if origin in (types.UnionType, Union):
        return None if value is None else build(get_args(kind)[0], value, where)
    if origin is tuple:
        item = get_args(kind)[0]
        if not isinstance(value, (list, tuple)):
            raise ResultError(f"{where} should be a list, found {_found(value)}")
        return tuple(build(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        item = get_args(kind)[1]
        if not isinstance(value, dict):
            raise ResultError(f"{where} should be an object, found {_found(value)}")
        return {str(k): build(item, v, f"{where}.{k}") for k, v in value.items()}
    return _build_scalar(kind, value, where)


def _build_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ResultError(f"{where} should be an object, found {_found(value)}")
    hints, required = _schema(kind)
    unknown = sorted(set(map(str, value)) - set(hints))
    if unknown:
        raise ResultError(f"{where} has an unknown field {unknown[0]!r}; was it written by another version?")
    missing = [name for name in required if name not in value]
    if missing:
        raise ResultError(f"{where} lacks the field {missing[0]!r}; the file is cut short or not a profile")
    return kind(**{name: build(hints[name], v, f"{where}.{name}") for name, v in value.items()})


@functools.cache
def _schema(kind: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Field types, and the names of the fields without a default."""
    required = tuple(f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING)
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}, required


_SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    float: ((int, float), "a number"),
    int: ((int, float), "a whole number"),
    str: ((str,), "text"),
    bool: ((bool,), "true or false"),
}


def _build_scalar(kind: Any, value: Any, where: str) -> Any:
    accepted, words = _SCALARS[kind]
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ResultError(f"{where} should be {words}, found {_found(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ResultError(f"{where} should be a finite number, found {value}")
    if kind is int and isinstance(value, float):
        if not value.is_integer():
            raise ResultError(f"{where} should be a whole number, found {value}")
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
