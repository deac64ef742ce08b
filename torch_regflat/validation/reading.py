"""Files of measured rows: which format a file has, its rows, and the lines that are none."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from .cells import RowError
from .formats import FORMATS, Format
from .rows import Row


@dataclass(frozen=True)
class Table:
    """A file as read: its rows, and for each line that is no row what is wrong with it."""

    path: str
    format: Format
    header: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)


def read(path: str | Path) -> Table:
    """Read a CSV file of measured rows. Raises `InputError` where the file cannot be read or has no known format."""
    name = str(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return _read(name, csv.reader(file))
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{name} is not a text file; give a CSV file in UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{name} is not a CSV file: {error}") from None


def _read(name: str, lines: Iterable[list[str]]) -> Table:
    reader = iter(lines)
    header = tuple(cell.strip() for cell in next(reader, []))
    if not any(header):
        raise InputError(f"{name} is empty; it needs a header line with the columns of one of {_formats()}")
    table = Table(name, _format_of(name, header), header)
    for line, cells in enumerate(reader, 2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            table.malformed.append(f"{name}:{line}: {len(cells)} cells where the header has {len(header)} columns")
            continue
        try:
            table.rows.append(table.format.parse(name, line, dict(zip(header, cells, strict=True))))
        except RowError as error:
            table.malformed.append(str(error))
    return table


def _format_of(name: str, header: tuple[str, ...]) -> Format:
    found = [known for known in FORMATS if known.matches(header)]
    if found:
        return max(found, key=lambda known: len(known.columns))
    closest = max(FORMATS, key=lambda known: len(set(known.columns) & set(header)) / len(known.columns))
    missing = [column for column in closest.columns if column not in header]
    raise InputError(
        f"{name}: the columns {', '.join(header)} are of no known format; the nearest is {closest.name}, "
        f"which also needs {', '.join(missing)}; known are {_formats()}"
    )


def _formats() -> str:
    return "; ".join(f"{known.name} ({', '.join(known.columns)})" for known in FORMATS)
