"""Relative accuracy: pairs of rows on one GPU, of one source, that differ in exactly one factor.

People compare more often than they read off: is it faster with twice the batch, in fp8, with fewer heads? A pair is
two neighbours along one factor (a dimension, the number format, the distribution), all others equal. Two operations are
no pair. Pairs of number formats are scored apart: there two kernels are compared, not two sizes.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .predict import Prediction
from .rows import Attention, Convolution, Row
from .score import class_of

WORDS = ("dtype", "distribution")
"""Words that are a factor; others name the operation or what was measured of it."""
CHANGE = 0.10
"""Changes whose direction is asked for."""
SURE = 0.95
"""Share of right directions that makes a change worth believing."""
LEAST_PAIRS = 10
"""So few pairs of one size say something."""
STEPS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows that differ in `factor`, and the ratios of their times, measured and modelled."""

    first: Prediction
    second: Prediction
    factor: str
    measured: float
    modelled: float

    @property
    def right(self) -> bool:
        """Whether the model says which of the two is larger; one that sees no difference does not."""
        return (self.measured > 1) == (self.modelled > 1) and self.modelled != 1

    @property
    def label(self) -> str:
        """The class of the first, and whether number formats are compared."""
        return class_of(self.first.row) + (", number formats" if self.factor == "dtype" else "")


@dataclass(frozen=True, slots=True)
class PairScore:
    """How well comparisons go in one class. `changed` pairs are those that measure at least 10 % apart.

    `believable` is the smallest modelled change at which 95 % of the pairs go the way the model says: of at least ten
    pairs that change by as much and up to twice that, and of all that change by more; None where there is none.
    `error` is the median error of the modelled ratio.
    """

    label: str
    pairs: int
    changed: int
    right: float | None
    error: float
    believable: float | None


def pairs(predictions: Iterable[Prediction]) -> list[Pair]:
    """All pairs of neighbours: for each factor the rows that share everything else, in its order."""
    groups: dict[tuple[object, ...], list[tuple[object, Prediction]]] = {}
    for p in predictions:
        if p.value is None:
            continue
        factors = factors_of(p.row)
        for name, value in factors.items():
            if isinstance(value, str) and name not in WORDS:
                continue
            others = tuple(item for item in factors.items() if item[0] != name)
            key = (name, p.row.gpu, p.row.source, p.row.kind, p.row.is_consensus, *others)
            groups.setdefault(key, []).append((value, p))
    return [pair for key, members in groups.items() for pair in _neighbours(str(key[0]), members)]


def factors_of(row: Row) -> dict[str, object]:
    """The sizes and words of the shape, the number format, and the file's further words.

    What always changes together is one factor: queries and keys of a prompt, both sides of an image or of a filter.
    """
    sizes: dict[str, object] = {f"{i}": value for i, value in enumerate(row.shape)}
    if isinstance(row, Attention) and row.q_len == row.kv_len:
        del sizes["2"]
    if isinstance(row, Convolution):
        sizes = {"n": row.n, "c": row.c, "k": row.k, "image": (row.h, row.w), "stride": row.stride}
        sizes["filter"] = (row.r, row.s, row.pad_h, row.pad_w)
    extra: dict[str, object] = {name: row.cells[name] for name in ("distribution", "metric") if name in row.cells}
    return {"dtype": row.dtype, **sizes, **extra}


def _neighbours(factor: str, members: list[tuple[object, Prediction]]) -> list[Pair]:
    ordered = sorted(members, key=lambda member: (isinstance(member[0], str), member[0], member[1].row.place))
    found = []
    for (a, first), (b, second) in itertools.pairwise(ordered):
        if a != b and first.value and second.value:
            measured = second.row.measured / first.row.measured
            found.append(Pair(first, second, factor, measured, second.value / first.value))
    return found


def pair_scores(found: Sequence[Pair]) -> list[PairScore]:
    """A score for each class, and one for all."""
    classes: dict[str, list[Pair]] = {}
    for pair in found:
        classes.setdefault(pair.label, []).append(pair)
    scores = [_score(label, members) for label, members in sorted(classes.items())]
    return [*scores, _score("all", found)] if found else []


def _score(label: str, found: Sequence[Pair]) -> PairScore:
    changed = [pair for pair in found if abs(math.log(pair.measured)) > math.log1p(CHANGE)]
    return PairScore(
        label=label,
        pairs=len(found),
        changed=len(changed),
        right=sum(pair.right for pair in changed) / len(changed) if changed else None,
        error=statistics.median(abs(pair.modelled / pair.measured - 1.0) for pair in found),
        believable=_believable(found),
    )


def _believable(found: Sequence[Pair]) -> float | None:
    for step in STEPS:
        large = [pair for pair in found if abs(math.log(pair.modelled)) >= math.log1p(step)]
        # Without the second condition large changes would vouch for small ones that few pairs have.
        near = [pair for pair in large if abs(math.log(pair.modelled)) < math.log1p(2 * step)]
        if len(near) >= LEAST_PAIRS and _sure(near) and _sure(large):
            return step
    return None


def _sure(found: Sequence[Pair]) -> bool:
    return sum(pair.right for pair in found) >= SURE * len(found)
