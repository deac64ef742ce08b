"""JSON: complete and lossless, with every key ending in its unit.

`load(dump(result)) == result`. Beside the figures of a `Result`, each chip carries `fits`, `hypothetical` and `layers`
(the rows of the table, grouped as asked) for readers that want no more than that; `load` leaves them out again.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from ..errors import ResultError
from ..plain import plain
from ..result import GroupBy, Result
from .rows import select

_DERIVED = ("fits", "hypothetical", "layers")


def render(
    result: Result,
    *,
    by: GroupBy = "layer",
    expand: bool = False,
    sort_by: str | None = None,
    row_limit: int | None = None,
) -> str:
    """The result as JSON text. With a row limit the last of `layers` sums the rows left out."""
    document = result.to_dict()
    chips = document.pop("chips")
    head = {"schema": document.pop("schema"), "model_version": document.pop("model_version"), **document}
    results = []
    for chip, data in zip(result.chips, chips, strict=True):
        rows = select(chip, by, expand, sort_by, row_limit)
        kernels = data.pop("kernels")
        first = _chip(data, plain(rows, f"{chip.chip}.layers"))
        results.append(_with_list(first, "kernels", [json.dumps(kernel, allow_nan=False) for kernel in kernels]))
    return _with_list({**head, "by": by, "expand": expand}, "results", results) + "\n"


def _with_list(fields: dict[str, Any], name: str, items: list[str]) -> str:
    """An indented object whose last field lists ready texts: a line a kernel, for indented ones take seconds."""
    body = json.dumps(fields, indent=2, allow_nan=False).removesuffix("\n}")
    lines = ",".join(f"\n{item}" for item in items).replace("\n", "\n    ")
    listed = f"[{lines}\n  ]" if items else "[]"
    return f'{body},\n  "{name}": {listed}\n}}'


def _chip(data: dict[str, Any], layers: list[dict[str, Any]]) -> dict[str, Any]:
    """One chip's figures without its kernels, the summary first."""
    data = dict(data)
    fits = data["fit"]["fits"]
    first = {"chip": data.pop("chip"), "title": data.pop("title"), "fits": fits, "hypothetical": not fits}
    summary = {name: data.pop(name) for name in ("total", "coverage", "levels")}
    return {**first, **summary, **data, "layers": layers}


def dump(result: Result) -> str:
    """What `Profile.save` writes."""
    return render(result)


def load(text: str | bytes, where: str = "the file") -> Result:
    """Read what `render` wrote, with whatever options. Raises `ResultError` that names `where` and what is wrong."""
    try:
        document = json.loads(text, parse_constant=_not_finite)
    except RecursionError:
        raise ResultError(f"{where} is not a saved profile: it is nested too deeply") from None
    except (ValueError, UnicodeDecodeError) as error:
        if isinstance(error, ResultError):
            raise ResultError(f"{where}: {error}") from None
        raise ResultError(f"{where} is not JSON ({error}); it is damaged, or not a profile saved as JSON") from None
    if not isinstance(document, dict) or "schema" not in document:
        raise ResultError(f"{where} is not a saved profile: it has no 'schema' field; save one with Profile.save()")
    data = {name: value for name, value in document.items() if name not in ("by", "expand", "results")}
    chips = document.get("results")
    if isinstance(chips, list):
        data["chips"] = [_undo(chip) for chip in chips]
    elif "results" in document:
        data["chips"] = chips
    try:
        return Result.from_dict(data)
    except ResultError as error:
        raise ResultError(f"{where}: {error}") from None


def _undo(chip: Any) -> Any:
    if not isinstance(chip, dict):
        return chip
    return {name: value for name, value in chip.items() if name not in _DERIVED}


def _not_finite(word: str) -> NoReturn:
    raise ResultError(f"found {word}; a profile holds finite numbers only")
