"""How well predictions fit: error statistics of groups of rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..errors import InputError, near
from ..units import significant
from .predict import Prediction
from .rows import Row

AGREE = 2.0
"""Sources agree on a consensus row when the slowest takes at most so many times as long as the fastest."""


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of the rows of one group, as fractions. A row without a prediction counts as an error of 1.

    `bias` is the median of the signed errors, `inside` the share of rows in their stated interval (None where no row
    has one), `within` the share of consensus rows predicted between the least and the greatest of the sources.
    """

    labels: tuple[str, ...]
    rows: int
    predicted: int
    mape: float
    median: float
    p90: float
    bias: float
    inside: float | None
    within: float | None
    roofline_mape: float


def score(predictions: Sequence[Prediction], labels: tuple[str, ...] = ()) -> Score:
    """Statistics of a group that is not empty."""
    signed = [p.error for p in predictions]
    errors = sorted(map(abs, signed))
    stated = [p for p in predictions if p.value is not None and p.low is not None and p.high is not None]
    spreads = [p for p in predictions if p.row.low is not None and p.row.high is not None]
    return Score(
        labels=labels,
        rows=len(errors),
        predicted=sum(p.value is not None for p in predictions),
        mape=math.fsum(errors) / len(errors),
        median=statistics.median(errors),
        p90=quantile(errors, 0.9),
        bias=statistics.median(signed),
        inside=_share(is_inside(p) for p in stated),
        within=_share(_is_within(p) for p in spreads),
        roofline_mape=math.fsum(_roofline_error(p) for p in predictions) / len(errors),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The quantile of ascending values, interpolated between neighbours."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def is_inside(p: Prediction) -> bool:
    """Whether the measurement lies in the stated interval."""
    return p.low is not None and p.high is not None and p.low <= p.row.measured <= p.high


def _is_within(p: Prediction) -> bool:
    low, high = p.row.low, p.row.high
    return p.value is not None and low is not None and high is not None and low <= p.value <= high


def _share(found: Iterable[bool]) -> float | None:
    listed = list(found)
    return sum(listed) / len(listed) if listed else None


def _roofline_error(p: Prediction) -> float:
    return 1.0 if p.roofline is None else abs(p.roofline / p.row.measured - 1.0)


def decade(row: Row) -> str:
    """The decade of what was measured: `10 to 100 us`."""
    if row.quantity != "latency":
        return row.unit
    power = math.floor(math.log10(row.measured * 1e6) + 1e-9)
    return f"{_micro(power)} to {_micro(power + 1)}"


def _micro(power: int) -> str:
    """10^power microseconds, in the unit that reads best."""
    unit, shift = ("us", 0) if power < 2 else ("ms", 3) if power < 5 else ("s", 6)
    return f"{10.0 ** (power - shift):g} {unit}"


def class_of(row: Row) -> str:
    """The class of a row; of a consensus row also whether its sources agree."""
    if row.low is None or row.high is None:
        return row.group
    return f"{row.group}, median, {'agree' if row.high <= AGREE * row.low else 'differ'}"


KEYS: dict[str, Callable[[Row], str]] = {
    "class": class_of,
    "gpu": lambda row: row.gpu,
    "dtype": lambda row: row.dtype,
    "decade": decade,
    "source": lambda row: row.source or "-",
    "file": lambda row: row.file,
    "split": lambda row: "held out" if row.held_out else "fit",
}
"""What rows can be grouped by."""


def keys(by: str) -> tuple[str, ...]:
    """The keys of `--by`: names with commas between them."""
    names = tuple(name.strip() for name in by.split(",") if name.strip())
    for name in names:
        if name not in KEYS:
            raise InputError(f"cannot group by {name!r}{near(name, KEYS)}; rows group by {', '.join(KEYS)}")
    if not names:
        raise InputError(f"--by is empty; rows group by {', '.join(KEYS)}")
    return names


def scores(predictions: Iterable[Prediction], by: tuple[str, ...]) -> list[Score]:
    """A score for each combination of the keys that occurs, in the order of the labels."""
    groups: dict[tuple[str, ...], list[Prediction]] = {}
    order: dict[tuple[str, ...], tuple[float | str, ...]] = {}
    for p in predictions:
        labels = tuple(KEYS[name](p.row) for name in by)
        groups.setdefault(labels, []).append(p)
        order.setdefault(labels, tuple(_place(name, p.row) for name in by))
    return [score(groups[labels], labels) for labels in sorted(groups, key=lambda found: order[found])]


def _place(name: str, row: Row) -> str:
    if name == "decade":
        return f"{row.quantity} {math.floor(math.log10(row.measured) + 20 + 1e-9):03d}"
    return KEYS[name](row)


def percent(share: float | None, signed: bool = False) -> str:
    if share is None:
        return "-"
    text = significant(100.0 * share) if abs(share) < 10 else f"{100 * share:.0f}"
    return f"+{text}" if signed and share > 0 else text
