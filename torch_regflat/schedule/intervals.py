"""The interval of each kernel's latency: from measured rows where the chip or a relative has some, else from ranges."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..cost.shapes import KernelShape
from ..hardware.chip import Chip
from ..hardware.ends import end
from ..hardware.evidence import Kind
from ..result import Interval
from .residency import Residency
from .select import Choice
from .timeline.chip import Slot, slots_of
from .uncertainty import Uncertainty, kind_of, uncertainty

Ends = tuple[float | None, float | None]
Prices = dict[KernelShape, Choice]


class Intervals:
    """Says how far the latencies of one chip's kernels may be off. `price` prices distinct shapes on a chip."""

    def __init__(self, chip: Chip, evidence: Kind, price: Callable[[Chip], Prices]) -> None:
        known = uncertainty()
        self.chip, self.known = chip, known
        self.wide = evidence == "family"
        self.by_rows = evidence in ("measured", "family") and bool(known.cells)
        self.ends = () if self.by_rows else (price(end(chip, "best")), price(end(chip, "worst")))
        self.interval = _described(known, self.by_rows, self.wide)

    def of(
        self, shapes: Sequence[KernelShape], places: Sequence[Residency], slots: Sequence[Slot], bounds: Sequence[str]
    ) -> list[Ends]:
        """The ends of each kernel instance of one workload; `bounds` says what bounds it."""
        if self.by_rows:
            return [self._spread(*one) for one in zip(shapes, slots, bounds, strict=True)]
        best, worst = (slots_of(self.chip, [prices[shape] for shape in shapes], places) for prices in self.ends)
        found: list[Ends] = [
            (min(low.share_s, slot.share_s), max(high.share_s, slot.share_s))
            for low, slot, high in zip(best, slots, worst, strict=True)
        ]
        for i, shape in enumerate(shapes):
            if shape.exchange is not None:
                found[i] = _wider(found[i], self._spread(shape, slots[i], bounds[i]))
        return found

    def _spread(self, shape: KernelShape, slot: Slot, bound_by: str) -> Ends:
        seconds = slot.share_s
        found = self.known.spread(kind_of(shape), shape.dtype, seconds, bound_by)
        if found is None:
            return None, None
        low, high = (found.wide_low, found.wide_high) if self.wide or not self.by_rows else (found.low, found.high)
        return seconds * min(low, 1.0), seconds * max(high, 1.0)


def _wider(one: Ends, other: Ends) -> Ends:
    """Both together: exchanges run in one library on all chips, so the spread on measured ones counts for others."""
    if None in (*one, *other):
        return one
    return min(one[0], other[0]), max(one[1], other[1])  # type: ignore[type-var]


def _described(known: Uncertainty, by_rows: bool, wide: bool) -> Interval:
    if not by_rows:
        return Interval("parameter range")
    basis = "rows of its relatives" if wide else "rows of this chip"
    return Interval(basis, known.coverage, known.correlation, known.class_correlation)
