"""Two chips on one model, like for like, and where the first one loses its time (`regflat compare`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..hardware.chip import Chip, MemoryLevel
from .alike import Pair, pairs
from .causes import Loss, loss, remedied
from .rows import Row
from .sweep import ModelLike, sweep
from .variants import ChipLike, SoftwareLike, Variant

EQUAL = 0.01
"""Ratios closer to 1 than this count as equal."""


@dataclass(frozen=True)
class Comparison:
    """One point: the rows of each pair, and where the time of the first chip goes."""

    point: dict[str, Any]
    pairs: tuple[tuple[Pair, Row, Row], ...]
    loss: Loss | None

    @property
    def rows(self) -> list[Row]:
        """The rows of all pairs, with which pair each is of."""
        named = [({"pair": p.name, "unattributed": p.unattributed}, row) for p, a, b in self.pairs for row in (a, b)]
        return [{**name, **row} for name, row in named]

    def gain(self, figure: str, unattributed: bool = True) -> tuple[float, float] | None:
        """Least and largest ratio of a figure, first chip over second, of the pairs in which only the on-chip memory
        differs: what is credited to it. None where they could not be priced."""
        some = [
            a[figure] / b[figure]
            for pair, a, b in self.pairs
            if pair.fair and pair.unattributed == unattributed and priced(a, b)
        ]
        return (min(some), max(some)) if some else None


def compare(
    model: ModelLike,
    one: ChipLike | Variant,
    other: ChipLike | Variant,
    *,
    phases: str | Sequence[str | None] | None = None,
    batches: int | Iterable[int] = 1,
    contexts: int | Iterable[int | None] | None = None,
    dtypes: str | Sequence[str | None] | None = None,
    software: SoftwareLike | None = None,
    csv: str | Path | None = None,
    progress: bool | None = None,
    **options: Any,
) -> list[Comparison]:
    """Compare two chips at every point; the axes and `options` are those of `sweep`.

    `software` runs on the first chip in place of its own. Raises `InputError` where both chips are the same.
    """
    first, second = Variant.of(one, software), Variant.of(other)
    if first.key == second.key:
        raise InputError(f"{first.chip.name} is compared with itself; name two chips")
    every, without = pairs(first, second), remedied(first)
    hardware = [variant for pair in every for variant in pair.both] + list(without.values())
    axes: dict[str, Any] = {"phases": phases, "batches": batches, "contexts": contexts, "dtypes": dtypes}
    rows = sweep(model, hardware, **axes, csv=csv, progress=progress, **options)
    size = len(hardware)
    return [_comparison(rows[i : i + size], every, without) for i in range(0, len(rows), size)]


def _comparison(rows: list[Row], every: list[Pair], without: dict[frozenset[str], Variant]) -> Comparison:
    point = {name: rows[0][name] for name in ("model", "phase", "batch", "context", "dtype")}
    own = rows[2 * len(every) :]
    found = tuple((pair, rows[2 * i], rows[2 * i + 1]) for i, pair in enumerate(every))
    return Comparison(point, found, loss(own, without) if priced(*own) else None)


def priced(*rows: Row) -> bool:
    """Whether all these rows have figures."""
    return not any(row["error"] for row in rows)


def verdict(one: Row, other: Row, unattributed: bool = True) -> str:
    """What the second chip is beside the first: faster, less energy, both, or neither."""
    energy = "energy_j" if unattributed else "energy_without_unattributed_j"
    faster, saves = (one[name] / other[name] for name in ("latency_s", energy))
    words = [_word(faster, "faster", "slower"), _word(saves, "less energy", "more energy")]
    return ", ".join(word for word in words if word) or "equal"


def _word(ratio: float, better: str, worse: str) -> str:
    if abs(ratio - 1.0) <= EQUAL:
        return ""
    return better if ratio > 1.0 else worse


def distances(chip: Chip) -> list[tuple[str, str, float, float | None]]:
    """What a bit costs by where it comes from: (level, how far, J/bit to read, J/bit to write)."""
    found: list[tuple[str, str, float, float | None]] = []
    for level in chip.memory:
        found += [(level.name, where, _placed(level, where, chip), level.write_j_per_bit) for where in _places(level)]
    found.append(("all levels", "external memory to engines, once", chip.stream_j_per_bit, None))
    extra = chip.power.unattributed_bit
    found.append(("unattributed", "a bit of external traffic", 0.0 if extra is None else extra.value, None))
    return found


def _places(level: MemoryLevel) -> list[str]:
    known = {"interleaved": level.remote_distance, "worst": level.worst_distance}
    return ["local", *(name for name, distance in known.items() if distance is not None)]


def _placed(level: MemoryLevel, where: str, chip: Chip) -> float:
    if where == level.placement:
        return level.read_j_per_bit
    moved = chip.replace(**{f"memory.{level.name}.placement": where})
    return next(m for m in moved.memory if m.name == level.name).read_j_per_bit
