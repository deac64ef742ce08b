"""From swept points to a verdict, and in words the range for which a claim holds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..rows import Row

Verdict = Literal["holds", "holds only if", "does not hold", "not checkable"]


@dataclass(frozen=True)
class Case:
    """One swept point: whether the claim holds there. `series` says what is fixed, `at` where on the swept axis."""

    holds: bool
    series: str
    axis: str = ""
    at: float = 0.0


@dataclass(frozen=True)
class Finding:
    """What the model gives for a claim, under which assumptions, and where it holds."""

    verdict: Verdict
    gives: str
    assumptions: str
    where: str = ""


def judge(cases: Sequence[Case], gives: str, assumptions: str) -> Finding:
    """Holds at all points, at none, or only at some, which are said. Without any point nothing can be said."""
    if not cases:
        return Finding("not checkable", "no point could be priced", assumptions)
    good = sum(case.holds for case in cases)
    if good == len(cases):
        return Finding("holds", gives, assumptions, f"all {good} points" if good > 1 else "the one point")
    if not good:
        return Finding("does not hold", gives, assumptions, f"none of {len(cases)} points")
    return Finding("holds only if", gives, assumptions, f"{ranges(cases)} ({good} of {len(cases)} points)")


def ranges(cases: Sequence[Case]) -> str:
    """Where the claim holds: of each series the swept values between which it does, series that are alike together."""
    by_series: dict[str, list[Case]] = {}
    for case in cases:
        by_series.setdefault(case.series, []).append(case)
    alike: dict[str, list[str]] = {}
    for series, some in by_series.items():
        text = _range(some)
        if text:
            alike.setdefault(text, []).append(series)
    return "; ".join(", ".join(names) + ("" if text == "always" else f": {text}") for text, names in alike.items())


def _range(cases: Sequence[Case]) -> str:
    """`batch 64 to 128` of the points in order; empty where it never holds."""
    if all(case.holds for case in cases):
        swept = sorted({case.at for case in cases})
        low, high = _number(swept[0]), _number(swept[-1])
        return f"{cases[0].axis} {low} to {high}" if cases[0].axis and low != high else "always"
    found: list[str] = []
    ordered, i = sorted(cases, key=lambda case: case.at), 0
    while i < len(ordered):
        if not ordered[i].holds:
            i += 1
            continue
        end = i
        while end + 1 < len(ordered) and ordered[end + 1].holds:
            end += 1
        low, high = _number(ordered[i].at), _number(ordered[end].at)
        found.append(low if low == high else f"{low} to {high}")
        i = end + 1
    return f"{ordered[0].axis} {' and '.join(found)}" if found else ""


def _number(value: float) -> str:
    return f"{value:g}"


def series_of(row: Row, *more: str) -> str:
    """What a row's point has in common with others along the batch axis."""
    return " ".join([*more, row["chip"], row["phase"], f"{row['context']} tokens"])


def by_batch(rows: Sequence[Row], holds: Callable[[Row], bool], *more: str) -> list[Case]:
    """A case a row, the batch being the swept axis."""
    return [Case(holds(row), series_of(row, *more), "batch", row["batch"]) for row in rows]


def span(values: Sequence[float], form: Callable[[float], str]) -> str:
    """`2.3 % to 9.9 %`, or one value where they are the same."""
    low, high = form(min(values)), form(max(values))
    return low if low == high else f"{low} to {high}"


def percent(value: float) -> str:
    """`4.5 %`."""
    return f"{100 * value:.2g} %" if value < 0.1 else f"{100 * value:.0f} %"


def ratio(value: float) -> str:
    """`1.5x`."""
    return f"{value:.2f}x" if value < 9.995 else f"{value:.0f}x"


def crossing(rows: Sequence[Row], figure: str, wanted: float) -> float | None:
    """The batch at which a figure that grows with it reaches a value, between swept batches along a power law; None
    where that lies outside what was swept."""
    ordered = sorted((row["batch"], row[figure]) for row in rows)
    for (a, x), (b, y) in itertools.pairwise(ordered):
        if x <= wanted <= y and x < y:
            share = math.log(wanted / x) / math.log(y / x)
            return float(a * (b / a) ** share)
    return None
