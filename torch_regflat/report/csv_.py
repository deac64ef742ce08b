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
    levels = list(dict.fromkeys(level.name for chip in result.chips for level in chip.levels))
    header = ["model", "phase", "chip", "hypothetical", *_BEFORE]
    header += [f"{level}_traffic_bytes" for level in levels] + [f"{level}_memory_energy_j" for level in levels]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*header, *_AFTER])
    for chip in result.chips:
        for row in select(chip, by, expand, sort_by, row_limit):
            writer.writerow([result.model, result.phase, *_cells(chip, row, levels)])
    return out.getvalue()


def _cells(chip: ChipResult, row: Row, levels: list[str]) -> list[Any]:
    values = plain(row, f"{chip.chip}.{row.path}")
    cells = [chip.chip, str(not chip.fit.fits).lower(), *(values[name] for name in _BEFORE)]
    known = {level.name for level in chip.levels}
    for field in ("traffic_bytes", "memory_energy_j"):
        # A level that this chip does not have stays empty; one that a row does not touch is 0.
        cells += [values[field].get(level, 0.0) if level in known else "" for level in levels]
    return cells + [values[name] for name in _AFTER]
