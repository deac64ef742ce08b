"""Two results, layer by layer: what is new, gone, moved to another path, faster or slower."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import InputError
from ..report.rows import external_level
from ..result import ChipResult, GroupBy, KernelCost, Result, Row, collapse, different_members, group, layer_of
from .compare import status_of
from .metrics import METRICS, Metric, figure, named
from .moved import moved, sentence
from .snapshot import provenance

Status = Literal["slower", "faster", "new", "gone", "moved", "same"]
_NOISE = 1e-9
"""Relative differences below this are rounding of sums."""


@dataclass(frozen=True, slots=True)
class LayerDiff:
    """One row before and now (None: not there). `was` is the path before, of what moved."""

    status: Status
    path: str
    before: Row | None
    now: Row | None
    value_before: float
    value_now: float
    was: str = ""

    @property
    def change(self) -> float:
        return self.value_now - self.value_before


@dataclass(frozen=True, slots=True)
class ChipDiff:
    """One chip: totals (before, now) of every metric, and all rows in order of execution, those gone last."""

    chip: str
    totals: dict[str, tuple[float, float]]
    layers: tuple[LayerDiff, ...]


@dataclass(frozen=True, slots=True)
class Diff:
    """What `diff` finds. `metric` is the one that rows are about; `notes` say what is compared with what."""

    before: str
    now: str
    metric: Metric
    chips: tuple[ChipDiff, ...]
    why: str
    notes: tuple[str, ...] = ()

    def worst(self) -> float:
        """The largest relative increase of the metric on any chip; 0 where there is none."""
        ratios = [0.0]
        for chip in self.chips:
            before, now = chip.totals[self.metric.name]
            ratios.append(now / before - 1.0 if before else float("inf") if now else 0.0)
        return max(ratios)


def diff(
    before: Result,
    now: Result,
    names: tuple[str, str] = ("before", "now"),
    *,
    metric: str = "latency_s",
    by: GroupBy = "layer",
    expand: bool = False,
) -> Diff:
    """Compare two results chip by chip. Raises `InputError` where no chip is in both, or for an unknown metric."""
    chosen = METRICS[named(metric)[0]]
    if chosen.of_layer is None:
        raise InputError(f"{chosen.words} is not a sum over layers; compare it with a check, or choose another metric")
    old = {chip.chip: chip for chip in before.chips}
    both = [(old[chip.chip], chip) for chip in now.chips if chip.chip in old]
    if not both:
        new = ", ".join(chip.chip for chip in now.chips)
        raise InputError(f"no chip is in both: {names[0]} has {', '.join(old)}, {names[1]} has {new}")
    return Diff(
        before=names[0],
        now=names[1],
        metric=chosen,
        chips=tuple(_chip(*pair, chosen, by, expand) for pair in both),
        why=_why(before, now, both),
        notes=tuple(_notes(before, now, names)),
    )


def _why(before: Result, now: Result, both: Sequence[tuple[ChipResult, ChipResult]]) -> str:
    hashes = {f"the chip file of {b.chip}": (a.chip_hash, b.chip_hash) for a, b in both}
    hashes |= {f"the software file of {b.chip}": (a.software_hash, b.software_hash) for a, b in both}
    old, new = provenance(before), provenance(now)
    return sentence(moved(old, new, hashes), old, new)


def _notes(before: Result, now: Result, names: tuple[str, str]) -> list[str]:
    notes = []
    if before.model != now.model:
        notes.append(f"another model: {before.model} in {names[0]}, {now.model} in {names[1]}")
    for one, other, name in ((before, now, names[0]), (now, before, names[1])):
        only = [chip.chip for chip in one.chips if chip.chip not in {c.chip for c in other.chips}]
        if only:
            notes.append(f"only in {name}: {', '.join(only)}")
    return notes


def _chip(before: ChipResult, now: ChipResult, metric: Metric, by: GroupBy, expand: bool) -> ChipDiff:
    old = {row.path: row for row in group(before, by, expand)}
    new = {row.path: row for row in group(now, by, expand)}
    far = external_level(before), external_level(now)
    moves = {} if old.keys() == new.keys() else _moves(before, now, old, new, by, expand)
    layers = [_layer(path, old.get(moves.get(path, path)), row, metric, far) for path, row in new.items()]
    layers = [replace(item, was=moves[item.path], status="moved") if item.path in moves else item for item in layers]
    kept = set(moves.values()) | new.keys()
    layers += [_layer(path, row, None, metric, far) for path, row in old.items() if path not in kept]
    totals = {name: (figure(name, before), figure(name, now)) for name in METRICS}
    return ChipDiff(now.chip, totals, tuple(layers))


def _layer(path: str, before: Row | None, now: Row | None, metric: Metric, far: tuple[str, str]) -> LayerDiff:
    assert metric.of_layer is not None
    a = metric.of_layer(before, far[0]) if before else 0.0
    b = metric.of_layer(now, far[1]) if now else 0.0
    status: Status = "new" if before is None else "gone"
    if before and now:
        found = status_of(a, b, _NOISE)
        status = "slower" if found == "regression" else "faster" if found == "improvement" else "same"
    return LayerDiff(status, path, before, now, a, b)


def _moves(
    before: ChipResult, now: ChipResult, old: dict[str, Row], new: dict[str, Row], by: GroupBy, expand: bool
) -> dict[str, str]:
    """New path to old path, of rows that do the same work under another name, each used once."""
    gone, come = old.keys() - new.keys(), new.keys() - old.keys()
    if not gone or not come:
        return {}
    left: dict[str, list[str]] = {}
    for path, work in _works(before, by, expand).items():
        if path in gone:
            left.setdefault(work, []).append(path)
    moves = {}
    for path, work in _works(now, by, expand).items():
        if path in come and left.get(work):
            moves[path] = left[work].pop(0)
    return moves


def _works(chip: ChipResult, by: GroupBy, expand: bool) -> dict[str, str]:
    """For each row the work it does: its operators with their shapes, however they are called."""
    counts: dict[str, Counter[tuple[str, str]]] = {}
    lists = different_members(chip.kernels)
    for kernel in chip.kernels:
        for path, target, shapes in _parts(kernel, by):
            label = collapse(path, lists)
            depth = layer_of(label).count(".") + 1 if by == "layer" else None
            shown = ".".join((path if expand else label).split(".")[:depth])
            if by in ("op", "kernel"):
                shown = f"{shown}  {target}".lstrip()
            counts.setdefault(shown, Counter())[target, shapes] += 1
    return {path: hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest() for path, found in counts.items()}


def _parts(kernel: KernelCost, by: GroupBy) -> list[tuple[str, str, str]]:
    if by == "kernel" or not kernel.parts:
        return [(kernel.path, kernel.name, ";".join(part.shapes for part in kernel.parts))]
    return [(part.path, part.target, part.shapes) for part in kernel.parts]
