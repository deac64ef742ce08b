"""Which rows a report shows, and in which order: the same for every format."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..errors import InputError, near
from ..result import ChipResult, GroupBy, Row, heaviest, weighted

_SORT_KEYS: dict[str, Callable[[Row, str], Any]] = {
    "latency": lambda row, external: -row.latency_s,
    "energy": lambda row, external: -row.energy_j,
    "memory_energy": lambda row, external: -math.fsum(row.memory_energy_j.values()),
    "compute_energy": lambda row, external: -row.compute_energy_j,
    "flops": lambda row, external: -row.flops,
    "traffic": lambda row, external: -row.traffic_bytes.get(external, 0.0),
    "utilization": lambda row, external: -row.utilization,
    "bandwidth_utilization": lambda row, external: -row.bandwidth_utilization,
    "calls": lambda row, external: -row.calls,
    "path": lambda row, external: row.path,
}
SORT_KEYS = tuple(_SORT_KEYS)
"""What rows can be sorted by: largest first, paths by name; `traffic` is that of the external memory."""


def external_level(result: ChipResult) -> str:
    """The name of the memory level farthest from the engines."""
    return result.levels[-1].name if result.levels else ""


def select(
    result: ChipResult, by: GroupBy, expand: bool, sort_by: str | None = None, row_limit: int | None = None
) -> list[Row]:
    """The rows of a report: grouped, sorted, and cut to `row_limit` with one more row that sums those left out."""
    if row_limit is not None and row_limit < 1:
        raise InputError(f"the row limit is {row_limit}; give 1 or more, or leave it out to see all rows")
    rows = result.rows(by, expand)
    if sort_by is not None:
        key = _sort_key(sort_by)
        external = external_level(result)
        rows.sort(key=lambda row: key(row, external))
    if row_limit is None or len(rows) <= row_limit:
        return rows
    return [*rows[:row_limit], merge(rows[row_limit:])]


def check_sort_key(sort_by: str) -> None:
    """Raise `InputError` for what rows cannot be sorted by."""
    _sort_key(sort_by)


def _sort_key(sort_by: str) -> Callable[[Row, str], Any]:
    name = sort_by.removesuffix("_s").removesuffix("_j").removesuffix("_bytes")
    if name not in _SORT_KEYS:
        raise InputError(f"cannot sort by {sort_by!r}{near(sort_by, SORT_KEYS)}; rows sort by {', '.join(SORT_KEYS)}")
    return _SORT_KEYS[name]


def merge(rows: Sequence[Row]) -> Row:
    """Sum rows into one, named by how many they are, so that a shortened table still adds up."""
    times = [row.latency_s for row in rows]
    return Row(
        path=f"({len(rows)} more)",
        calls=sum(row.calls for row in rows),
        latency_s=math.fsum(times),
        energy_j=math.fsum(row.energy_j for row in rows),
        memory_energy_j=_sum([row.memory_energy_j for row in rows]),
        compute_energy_j=math.fsum(row.compute_energy_j for row in rows),
        static_energy_j=math.fsum(row.static_energy_j for row in rows),
        unattributed_energy_j=math.fsum(row.unattributed_energy_j for row in rows),
        flops=sum(row.flops for row in rows),
        executed_flops=math.fsum(row.executed_flops for row in rows),
        traffic_bytes=_sum([row.traffic_bytes for row in rows]),
        utilization=weighted(zip((row.utilization for row in rows), times, strict=True)),
        bandwidth_utilization=weighted(zip((row.bandwidth_utilization for row in rows), times, strict=True)),
        bound_by=heaviest((row.bound_by, row.latency_s) for row in rows),
        share=math.fsum(row.share for row in rows),
        kernels=sum(row.kernels for row in rows),
        latency_low_s=_all(row.latency_low_s for row in rows),
        latency_high_s=_all(row.latency_high_s for row in rows),
    )


def _all(values: Iterable[float | None]) -> float | None:
    """The sum, None where one is missing. Ends of intervals add up as if rows erred alike: wide enough either way."""
    listed = list(values)
    known = [value for value in listed if value is not None]
    return math.fsum(known) if len(known) == len(listed) else None


def _sum(dicts: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for values in dicts for name in values)
    return {name: math.fsum(values.get(name, 0.0) for values in dicts) for name in names}
