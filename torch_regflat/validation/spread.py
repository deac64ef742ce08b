"""From residuals to intervals: the spread of measured over modelled times, by cell, as `schedule/uncertainty.toml`.

A residual is log(measured / modelled) of one source's row (medians of several spread less), with the kernels of other
classes than the longest taken as right. In a cell the ends for a measured chip are its 10 % and 90 % quantiles over all
rows. Chips differ: with the spread of the medians of GPUs s (their standard deviation, GPUs weighing alike), the ends
for a chip that was not measured lie sqrt(w^2 + (1.28 s)^2) from the median instead of w. A cell needs enough rows (and,
where GPUs are compared, enough GPUs); one that has fewer is left to the broader cell that contains it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..schedule.uncertainty import ANY, Key, broader
from .predict import Prediction
from .score import quantile
from .split import fit_only

COVERAGE = 0.8
LEAST = 0.05
"""Least measured / modelled that is left to a class when the others are taken as right."""
LEAST_ROWS = 40
LEAST_GPUS = 3
NORMAL_80 = 1.2816
"""Standard deviations of a normal distribution on either side of its central 80 %."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell of the file says, with the rows and GPUs behind it."""

    key: Key
    rows: int
    gpus: int
    low: float
    high: float
    wide_low: float
    wide_high: float


def cells(predictions: Iterable[Prediction]) -> list[Cell]:
    """All cells with enough rows. Raises `InputError` for a row that nothing may be fitted to."""
    groups: dict[Key, list[tuple[str, float]]] = {}
    for p in fit_only(predictions, lambda p: p.row):
        if p.cell is None or p.value is None or p.row.quantity != "latency" or p.row.is_consensus:
            continue
        residual = math.log(max(1.0 + (p.row.measured / p.value - 1.0) / p.share, LEAST))
        for key in broader(p.cell):
            groups.setdefault(key, []).append((p.row.gpu, residual))
    found = [_cell(key, members) for key, members in sorted(groups.items())]
    return [cell for cell in found if cell.rows >= LEAST_ROWS or set(cell.key) == {ANY}]


def _cell(key: Key, members: Sequence[tuple[str, float]]) -> Cell:
    ordered = sorted(residual for _, residual in members)
    tail = (1.0 - COVERAGE) / 2.0
    low, high = quantile(ordered, tail), quantile(ordered, 1.0 - tail)
    gpus = by_gpu(members)
    middle = statistics.median(ordered)
    between = NORMAL_80 * _spread_of_medians(gpus)
    wide_low, wide_high = middle - math.hypot(middle - low, between), middle + math.hypot(high - middle, between)
    ends = (math.exp(end) for end in (low, high, wide_low, wide_high))
    return Cell(key, len(ordered), len(gpus), *ends)


def by_gpu(members: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    """Residuals by GPU."""
    found: dict[str, list[float]] = {}
    for gpu, residual in members:
        found.setdefault(gpu, []).append(residual)
    return found


def _spread_of_medians(gpus: dict[str, list[float]]) -> float:
    """Standard deviation of the medians of GPUs with some rows; 0 where there are too few to tell."""
    medians = [statistics.median(residuals) for residuals in gpus.values() if len(residuals) >= 5]
    return statistics.stdev(medians) if len(medians) >= LEAST_GPUS else 0.0


def correlations(predictions: Iterable[Prediction]) -> tuple[float, float]:
    """Of the errors of kernels of different classes, and of one class (kind, formats, size, bound), that run on one
    GPU with one software: the shares of the residuals' variance that lie between GPUs, and between such classes.
    """
    gpus: dict[object, list[float]] = {}
    classes: dict[object, list[float]] = {}
    for p in fit_only(predictions, lambda p: p.row):
        if p.cell is not None and p.value is not None and p.row.quantity == "latency":
            residual = math.log(p.row.measured / p.value)
            gpus.setdefault(p.row.gpu, []).append(residual)
            classes.setdefault((p.row.gpu, p.row.source, p.row.dtype, *p.cell), []).append(residual)
    among, within = _between(gpus.values()), _between(classes.values())
    return min(among, within), within


def _between(groups: Iterable[Sequence[float]]) -> float:
    """Share of the variance that lies between groups of five and more, by one-way analysis of variance."""
    usable = [group for group in groups if len(group) >= 5]
    everything = [residual for group in usable for residual in group]
    inside = math.fsum(statistics.variance(group) * (len(group) - 1) for group in usable)
    return max(1.0 - inside / (len(everything) - len(usable)) / statistics.pvariance(everything), 0.0)


def inside(predictions: Sequence[Prediction], table: Iterable[Cell], wide: bool = False) -> float | None:
    """Share of latencies whose measured / modelled lies between the ends of their cell; None without any."""
    known = {cell.key: cell for cell in table}
    hits = []
    for p in predictions:
        if p.cell is not None and p.value is not None and p.row.quantity == "latency":
            cell = next(known[key] for key in broader(p.cell) if key in known)
            low, high = (cell.wide_low, cell.wide_high) if wide else (cell.low, cell.high)
            hits.append(min(low, 1.0) <= p.row.measured / p.value <= max(high, 1.0))
    return sum(hits) / len(hits) if hits else None


def left_out(predictions: Sequence[Prediction]) -> list[tuple[str, int, float | None]]:
    """For each GPU its held-out rows, and the share inside intervals made without any of its rows."""
    fit = [p for p in predictions if not p.row.held_out]
    found = []
    for gpu in sorted({p.row.gpu for p in fit}):
        others = cells(p for p in fit if p.row.gpu != gpu)
        own = [p for p in predictions if p.row.held_out and p.row.gpu == gpu]
        found.append((gpu, len(own), inside(own, others, wide=True)))
    return found


def render(found: Sequence[Cell], correlated: tuple[float, float], model_version: str) -> str:
    """The text of the file."""
    lines = [
        "# Written by benchmarks/fit_intervals.py: ends of the central 80 % of measured / modelled latency.",
        "schema = 1",
        f'model_version = "{model_version}"',
        f"coverage = {COVERAGE}",
        f"correlation = {correlated[0]:.3f}",
        f"class_correlation = {correlated[1]:.3f}",
    ]
    for cell in found:
        kind, formats, size, bound = cell.key
        lines += [
            "",
            "[[cell]]",
            f'class = "{kind}"',
            f'formats = "{formats}"',
            f'size = "{size}"',
            f'bound = "{bound}"',
            f"rows = {cell.rows}",
            f"gpus = {cell.gpus}",
            f"low = {cell.low:.4f}",
            f"high = {cell.high:.4f}",
            f"wide_low = {cell.wide_low:.4f}",
            f"wide_high = {cell.wide_high:.4f}",
        ]
    return "\n".join(lines) + "\n"
