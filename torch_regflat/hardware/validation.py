"""Turn pydantic's findings into one sentence in the words of the person who wrote the file."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ..errors import near

_NUMBER = '{ value = 1.0, unit = "...", source = "...", kind = "..." }'


def explain(error: ValidationError, data: Any, model: type[BaseModel], where: str) -> str:
    """`mine.toml: clock: unit 'GB' measures bytes; ...`, with a count of the problems that follow."""
    problems = error.errors(include_url=False)
    first = problems[0]
    path = _path(first["loc"], data)
    text = f"{where}: {path}: {_words(first, model)}" if path else f"{where}: {_words(first, model)}"
    more = len(problems) - 1
    return f"{text} (and {more} more problem{'s' if more > 1 else ''})" if more else text


def _path(loc: tuple[int | str, ...], data: Any) -> str:
    """Dotted path, with members of lists by name: ("memory", 3, "clock") is `memory.HBM3.clock`."""
    parts: list[str] = []
    place = data
    for step in loc:
        try:
            place = place[step]
        except (KeyError, IndexError, TypeError):
            place = None
        if isinstance(step, int):
            name = place.get("name") if isinstance(place, dict) else getattr(place, "name", None)
            parts.append(str(name) if name else f"number {step + 1}")
        else:
            parts.append(step)
    return ".".join(parts)


def _words(problem: Any, model: type[BaseModel]) -> str:
    kind, loc = problem["type"], problem["loc"]
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    if kind == "extra_forbidden":
        known = _fields(model, loc[:-1])
        return f"unknown key{near(str(loc[-1]), known) or ';'} known are {', '.join(known)}"
    if kind == "missing":
        return f"missing; add it, numbers as {_NUMBER}"
    if kind == "literal_error":
        return f"found {problem['input']!r}; it must be {problem['ctx']['expected']}"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"found {problem['input']!r}; this is a table"
    if kind in ("tuple_type", "list_type"):
        return "this is a list; write [[double brackets]] in TOML"
    return f"{problem['msg'][0].lower()}{problem['msg'][1:]}, found {problem['input']!r}"


def _fields(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys that the table at `loc` may have."""
    found: Any = model
    for step in loc:
        if isinstance(step, str) and isinstance(found, type) and issubclass(found, BaseModel):
            found = _model_in(next((f.annotation for n, f in found.model_fields.items() if step in (n, f.alias)), None))
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        return []
    return [field.alias or name for name, field in found.model_fields.items()]


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
