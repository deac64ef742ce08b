"""`regflat validate` without the command line: files in, a `Validation` out."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from ..errors import InputError
from .predict import predict
from .reading import Table, read
from .report import DEFAULT_TABLES, Validation
from .rows import Row
from .score import KEYS, keys

Split = Literal["all", "fit", "held-out"]


def validate(
    files: Sequence[str | Path | Table],
    *,
    split: Split = "all",
    min_us: float = 0.0,
    where: Sequence[str] = (),
    by: str | None = None,
    worst: int = 0,
    pairs: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Validation:
    """Predict the rows of `files` (or of tables read before) that pass the filters.

    `split` chooses the side of the split (`held-out` also has the GPUs that nothing is fitted to), `min_us` leaves out
    shorter latencies, `where` holds `key=pattern` with the keys of `--by`, `pairs` asks for relative accuracy too.
    `progress(done, total)` tells how far it is.
    """
    tables = [item if isinstance(item, Table) else read(item) for item in files]
    wanted = [_condition(text) for text in where]
    rows = [row for table in tables for row in table.rows if _takes(row, split, min_us, wanted)]
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, len(rows))

    groups = DEFAULT_TABLES if by is None else (keys(by),)
    return Validation(tables, predict(rows, step), groups, headlines=by is None, worst=worst, pairs=pairs)


def _condition(text: str) -> tuple[str, str]:
    name, equals, pattern = text.partition("=")
    if not equals:
        raise InputError(f"--where {text!r} is no condition; write a key, = and a pattern, as in gpu=H100*")
    return keys(name)[0], pattern


def _takes(row: Row, split: Split, min_us: float, wanted: Sequence[tuple[str, str]]) -> bool:
    if split != "all" and row.held_out != (split == "held-out"):
        return False
    if row.quantity == "latency" and row.measured * 1e6 < min_us:
        return False
    return all(fnmatch.fnmatch(KEYS[name](row), pattern) for name, pattern in wanted)
