"""CSV: the rows of all chips in one table, SI numbers, with the unit at the end of each column's name."""

from __future__ import annotations

import csv
import io
from typing import Any

from ..plain import plain
from ..result import ChipResult, GroupBy, Result, Row
from .rows import select

_BEFORE = (
    "path", "calls", "kernels", "shapes", "flops", "executed_flops", "latency_s", "latency_low_s", "latency_high_s",
    "share",
)  # fmt: skip
_AFTER = (
    "compute_energy_j",
    "static_energy_j",
    "unattributed_energy_j",
    "energy_j",
    "utilization",
    "bandwidth_utilization",
    "bound_by",
)


def render(
    result: Result,
    *,
    by: GroupBy = "layer",
    expand: bool = False,
    sort_by: str | None = None,
    row_limit: int | None = None,
) -> str:
    """The rows as CSV text; `hypothetical` is true where the model does not fit the chip."""
    header, rows = table(result, by, expand, sort_by, row_limit)
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if cell is None else _written(cell) for cell in row] for row in rows)
    return out.getvalue()


def table(
    result: Result, by: GroupBy, expand: bool, sort_by: str | None = None, row_limit: int | None = None
) -> tuple[list[str], list[list[Any]]]:
    """The names of the columns and the rows; None where a chip has no such figure."""
    levels = list(dict.fromkeys(level.name for chip in result.chips for level in chip.everywhere))
    header = ["model", "phase", "chip", "hypothetical", *_BEFORE]
    header += [f"{level}_traffic_bytes" for level in levels] + [f"{level}_memory_energy_j" for level in levels]
    rows = [
        [result.model, result.phase, *_cells(chip, row, levels)]
        for chip in result.chips
        for row in select(chip, by, expand, sort_by, row_limit)
    ]
    return [*header, *_AFTER], rows


def _written(cell: Any) -> Any:
    return str(cell).lower() if isinstance(cell, bool) else cell


def _cells(chip: ChipResult, row: Row, levels: list[str]) -> list[Any]:
    values = plain(row, f"{chip.chip}.{row.path}")
    cells = [chip.chip, not chip.fit.fits, *(values[name] for name in _BEFORE)]
    known = {level.name for level in chip.everywhere}
    for field in ("traffic_bytes", "memory_energy_j"):
        # A level that this chip does not have stays empty; one that a row does not touch is 0.
        cells += [values[field].get(level, 0.0) if level in known else None for level in levels]
    return cells + [values[name] for name in _AFTER]
