"""A chip file to start from: a template of its own, or an existing chip with every number marked as not yet checked."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ChipError
from . import library
from .chip import Chip

SOURCE = "todo"
"""The key of `[sources]` that every number of a template cites."""

_BLANK = Path(__file__).parent / "template.toml"
_OF_THAT_CHIP = ("aliases", "description", "price", "speculative", "architecture")
"""What would be untrue of another chip: other names, prose, a price, and whose measurements count for it."""
_COMMENTS = {
    "clock": "of everything that names no clock of its own",
    "cores": "what the chip repeats, and how often",
    "engines": "a core's; rates are dense, 1 MAC is 2 FLOP; energy is the datapath alone",
    "memory": "from the engines outwards; the last level, and only that one, is external",
    "power": "limit of the board; static is the floor while it runs",
    "execution": "from the end of one kernel to the start of the next",
    "die": "area and node are needed for a register-flat twin (NAME:flat)",
    "interconnect": "bandwidth of one direction, all links together",
}


def template(name: str, like: str | None = None) -> str:
    """The text of a valid chip file called `name`: of a cache hierarchy in round numbers, or with those of `like`.

    Every number is of kind `estimate` and cites `todo`, whoever vouched for it in the chip it was copied from. With
    `like` an unchanged file is priced as that chip is. Raises `ChipError` for a name that is no name or is taken, and
    for an unknown `like`.
    """
    _check_name(name)
    text = _copy(name, library.load(like)) if like else _BLANK.read_text(encoding="utf-8").replace("NAME", name)
    Chip.from_dict(tomllib.loads(text), f"template of {name}")
    return text


def _check_name(name: str) -> None:
    right = re.sub(r"-+", "-", re.sub(r"[^a-z0-9]+", "-", name.removesuffix(".toml").lower())).strip("-")
    if name != right or name == "new":
        hint = f", as {right}" if right and right != "new" else ", as my-chip"
        raise ChipError(f"{name!r} is no name for a chip; write small letters, digits and hyphens{hint}")
    try:
        taken = library.load(name).name
    except ChipError as error:
        if not str(error).startswith("unknown chip "):
            raise
        return
    same = "" if taken == name else f" (another name of {taken})"
    raise ChipError(
        f"{name!r} is the name of a chip already{same}; give yours another one, as in "
        f"regflat chips new my-{name} --like {taken}"
    )


def _copy(name: str, chip: Chip) -> str:
    data = {key: value for key, value in chip.to_dict().items() if key not in _OF_THAT_CHIP}
    data |= {"name": name, "title": f"TODO: the full name of {name}", "vendor": "TODO: its maker"}
    data["sources"] = {SOURCE: f"TODO: copied from {chip.name}, not checked for {name}; cite where the number is from"}
    for engine in data["engines"]:
        engine.pop("datasheet_peak", None)  # a check of that chip's numbers, not one of them
    head = [
        f"# {name}: every number was copied from {chip.name} and is an estimate until you checked it. Change what",
        "# differs, and give each number its source and its kind: datasheet, measured, paper, fit or estimate",
        "# (docs/chip-files.md).",
    ]
    if chip.architecture:
        relative = f"architecture = {_scalar(chip.architecture)}"
        head.append(f"# Add {relative} if it is one of these too: measurements of its relatives count for it then.")
    return "\n".join([*head, *_table(data, ""), ""])


def _table(data: dict[str, Any], path: str) -> Iterator[str]:
    """The lines of a table: its own values first, then tables and lists of tables in it, as TOML wants it."""
    inner = {key: value for key, value in data.items() if _is_table(value)}
    for key, value in data.items():
        if key not in inner:
            comment = f"  # {_COMMENTS[key]}" if not path and key in _COMMENTS else ""
            yield f"{key} = {_value(value)}{comment}"
    for key, value in inner.items():
        whole = f"{path}.{key}" if path else key
        tables = value if isinstance(value, (list, tuple)) else [value]
        opening = f"[[{whole}]]" if isinstance(value, (list, tuple)) else f"[{whole}]"
        for at, item in enumerate(tables):
            comment = f"  # {_COMMENTS[key]}" if not path and not at and key in _COMMENTS else ""
            yield from (*([] if path else [""]), f"{opening}{comment}", *_table(item, whole))


def _is_table(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and isinstance(value[0], dict)
    return isinstance(value, dict) and not _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, dict) and "unit" in value and "value" in value


def _value(value: Any) -> str:
    if not _is_number(value):
        return _scalar(value)
    given = {key: value[key] for key in ("value", "unit") if key in value} | {"source": SOURCE, "kind": "estimate"}
    given |= {key: value[key] for key in ("low", "high") if value.get(key) is not None}
    return "{ " + ", ".join(f"{key} = {_scalar(item)}" for key, item in given.items()) + " }"


def _scalar(value: Any) -> str:
    """A text, number, truth value or list of them; JSON writes these as TOML does."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return json.dumps(value, ensure_ascii=False)
