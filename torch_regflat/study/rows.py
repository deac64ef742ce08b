"""One priced point as a flat row of SI numbers, and tables of such rows as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..report.files import write
from ..result import ChipResult

Row = dict[str, Any]

KEYS = (
    "model", "phase", "batch", "context", "dtype", "kv_dtype", "weights", "activations", "mode",
    "chip", "chip_hash", "software", "software_hash", "model_version",
)  # fmt: skip
"""What says which point a row is of. `context` is the length that the phase has: cached tokens of a decode step, else
tokens of a sequence."""
FIGURES = (
    "tokens", "latency_s", "latency_low_s", "latency_high_s", "latency_per_token_s", "power_w", "energy_j",
    "energy_without_unattributed_j", "energy_per_token_j", "on_chip_energy_j", "external_energy_j", "compute_energy_j",
    "static_energy_j", "unattributed_energy_j", "on_chip_bytes", "external_bytes", "flops", "executed_flops",
    "utilization", "bandwidth_utilization", "bound_by", "external_bound_share", "peak_flops_per_s", "needs_bytes",
    "has_bytes", "fits", "chips_needed", "kernels", "error",
)  # fmt: skip
_TEXTS = {*KEYS, "bound_by", "error"} - {"batch", "context"}
_WHOLE = {"batch", "context", "tokens", "flops", "needs_bytes", "has_bytes", "chips_needed", "kernels"}


def figures(result: ChipResult, tokens: int) -> Row:
    """The figures of one chip's result; `tokens` is how many tokens come out of one run."""
    total, external = result.total, result.levels[-1]
    bound = math.fsum(k.latency_s for k in result.kernels if k.bound_by == f"{external.name} bandwidth")
    row: Row = {
        "tokens": tokens,
        "latency_s": total.latency_s,
        "latency_low_s": total.latency_low_s,
        "latency_high_s": total.latency_high_s,
        "latency_per_token_s": total.latency_s / tokens,
        "power_w": total.energy_j / total.latency_s if total.latency_s else 0.0,
        "energy_j": total.energy_j,
        "energy_without_unattributed_j": total.energy_j - total.unattributed_energy_j,
        "energy_per_token_j": total.energy_j / tokens,
        "on_chip_energy_j": math.fsum(level.energy_j for level in result.levels[:-1]),
        "external_energy_j": external.energy_j,
        "compute_energy_j": total.compute_energy_j,
        "static_energy_j": total.static_energy_j,
        "unattributed_energy_j": total.unattributed_energy_j,
        "on_chip_bytes": math.fsum(level.traffic_bytes for level in result.levels[:-1]),
        "external_bytes": external.traffic_bytes,
        "flops": total.flops,
        "executed_flops": total.executed_flops,
        "utilization": total.utilization,
        "bandwidth_utilization": total.bandwidth_utilization,
        "bound_by": total.bound_by,
        "external_bound_share": bound / total.latency_s if total.latency_s else 0.0,
        "peak_flops_per_s": result.peak_flops_per_s,
        "needs_bytes": result.fit.needs_bytes,
        "has_bytes": result.fit.has_bytes,
        "fits": result.fit.fits,
        "chips_needed": result.fit.chips,
        "kernels": total.kernels,
        "error": "",
    }
    for level in result.everywhere:
        row[f"energy_{level.name}_j"], row[f"bytes_{level.name}"] = level.energy_j, level.traffic_bytes
    return row


def key(row: Row) -> tuple[Any, ...]:
    """Which point a row is of."""
    return tuple(row.get(name) for name in KEYS)


def to_csv(rows: Iterable[Row]) -> str:
    """All rows under one header; what a row does not have stays empty. `from_csv` reads it back without loss."""
    listed = list(rows)
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(dict.fromkeys(n for row in listed for n in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return out.getvalue()


def from_csv(text: str, where: str = "rows") -> list[Row]:
    """Rows that `to_csv` wrote. Raises `InputError` naming the line and column of what is not a row of a sweep."""
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in KEYS if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{where} has no rows of a sweep: there is no column {missing[0]!r}; name another file")
    return [_read(row, where, line) for line, row in enumerate(reader, start=2)]


def _read(row: dict[str, str], where: str, line: int) -> Row:
    found: Row = {}
    for name, text in row.items():
        if None in (name, text):
            raise InputError(f"{where}, line {line}: it has another number of cells than the header; delete the line")
        if text or name in _TEXTS:
            found[name] = _value(name, text, f"{where}, line {line}")
        elif name in KEYS + FIGURES:
            found[name] = None  # other columns are of levels and parameters that other rows have
    return found


def _value(name: str, text: str, where: str) -> Any:
    if name in _TEXTS or name.startswith("set "):
        return text
    if name == "fits":
        return text == "True"
    try:
        return int(text) if name in _WHOLE else float(text)
    except ValueError:
        raise InputError(f"{where}: {name} is {text!r}, which is not a number") from None


def save(path: str | Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV, in one step."""
    write(path, to_csv(rows))


def load(path: str | Path) -> list[Row]:
    """Read rows that `save` wrote; none where there is no such file, or nothing in it."""
    file = Path(path)
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return from_csv(text, file.name) if text.strip() else []
