"""A result against an earlier one: which metrics changed by more than allowed, and which layers did it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from .metrics import METRICS
from .snapshot import ChipSnapshot, Layer, Snapshot

Status = Literal["same", "regression", "improvement"]


@dataclass(frozen=True, slots=True)
class LayerChange:
    """What one layer has of a metric, before and now (None: there is no such layer), what bounds it, and its class."""

    path: str
    before: float | None
    now: float | None
    bound_before: str = ""
    bound_now: str = ""
    kernels: str = ""

    @property
    def change(self) -> float:
        return (self.now or 0.0) - (self.before or 0.0)


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of one chip. `layers` are those that moved, most first."""

    chip: str
    metric: str
    before: float
    now: float
    status: Status
    layers: tuple[LayerChange, ...]
    overflows: bool = False
    """It fitted the chip's memory before, and does not now."""

    @property
    def ratio(self) -> str:
        """The change in %, with its sign."""
        return relative(self.before, self.now)


def relative(before: float, now: float) -> str:
    """`+7.3 %`; of what was nothing before, that it is new."""
    if not before:
        return "new" if now else "+0 %"
    share = 100.0 * (now / before - 1.0)
    if now != before and abs(share) < 0.1:
        return f"{share:+.1e} %"
    return f"{share:+.1f} %" if abs(share) < 1000.0 else f"x{now / before:.3g}"


def check_tolerance(rtol: float, where: str = "rtol") -> float:
    """A tolerance that makes sense: 0 or more, and finite."""
    if isinstance(rtol, bool) or not isinstance(rtol, (int, float)) or not math.isfinite(rtol) or rtol < 0:
        raise InputError(f"{where} is {rtol!r}; it must be a number of 0 or more, 0.01 for 1 %")
    return float(rtol)


def compare(before: Snapshot, now: Snapshot, metrics: Iterable[str], rtol: float) -> list[Change]:
    """A change for each metric on each chip of `now`. Chips that `before` lacks are left out.

    Both hold all of `metrics`.
    """
    wanted = tuple(metrics)
    return [
        _change(chip, before.chips[chip], found, metric, rtol)
        for chip, found in now.chips.items()
        if chip in before.chips
        for metric in wanted
    ]


def status_of(before: float, now: float, rtol: float) -> Status:
    """Less is better; a change of just the tolerance is none."""
    allowed = rtol * abs(before)
    if now - before > allowed:
        return "regression"
    return "improvement" if before - now > allowed else "same"


def _change(chip: str, before: ChipSnapshot, now: ChipSnapshot, metric: str, rtol: float) -> Change:
    old, new = before.metrics[metric], now.metrics[metric]
    overflows = metric == "peak_memory_bytes" and before.fits and not now.fits
    status = "regression" if overflows else status_of(old, new, rtol)
    return Change(
        chip=chip,
        metric=metric,
        before=old,
        now=new,
        status=status,
        layers=() if status == "same" else layer_changes(before, now, metric),
        overflows=overflows,
    )


def layer_changes(before: ChipSnapshot, now: ChipSnapshot, metric: str) -> tuple[LayerChange, ...]:
    """The layers (of peak memory: its parts) whose share changed, by how much."""
    old, new = _shares(before, metric), _shares(now, metric)
    found = [_layer_change(path, old.get(path), new.get(path), metric) for path in dict.fromkeys((*old, *new))]
    return tuple(sorted((item for item in found if item.change), key=lambda item: -abs(item.change)))


def _shares(chip: ChipSnapshot, metric: str) -> dict[str, Layer]:
    if METRICS[metric].of_layer is None:
        return {name: Layer(name, "", "", {metric: value}) for name, value in chip.memory_bytes.items()}
    return {layer.path: layer for layer in chip.layers}


def _layer_change(path: str, before: Layer | None, now: Layer | None, metric: str) -> LayerChange:
    return LayerChange(
        path=path,
        before=None if before is None else before.figures.get(metric, 0.0),
        now=None if now is None else now.figures.get(metric, 0.0),
        bound_before="" if before is None else before.bound_by,
        bound_now="" if now is None else now.bound_by,
        kernels=(now or before or Layer("", "", "", {})).kernels,
    )
