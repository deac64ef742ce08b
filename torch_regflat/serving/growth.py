"""Costs as a function of a length, priced at few lengths and straight lines between them."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence

from ..served import StepCost, between, total

TOLERANCE = 0.002
"""How far the middle of a segment may lie from its line, as a share of the time there. That of the sum is less: what a
concave or convex stretch loses is two thirds of what its middle is off, and steps (waves, blocks of keys) even out."""
MOST = 65
"""Lengths priced at most."""


class Growth:
    """Costs over the whole lengths from `low` to `high`: segments are halved until their middle lies on their line.

    `price` is given many lengths at a time, for what is priced together is cheaper.
    """

    def __init__(
        self,
        price: Callable[[Sequence[int]], Sequence[StepCost]],
        low: int,
        high: int,
        tolerance: float = TOLERANCE,
    ) -> None:
        self._price, self.tolerance = price, tolerance
        self._known: dict[int, StepCost] = {}
        self._learn([low, high])
        self._refine([(low, high)])
        self.lengths = sorted(self._known)

    def at(self, length: float) -> StepCost:
        """The cost at a length between the ends, whole or not."""
        if not self.lengths[0] <= length <= self.lengths[-1]:
            raise ValueError(f"{length} is outside of {self.lengths[0]} to {self.lengths[-1]}")
        right = bisect.bisect_left(self.lengths, length)
        if self.lengths[right] == length:
            return self._known[self.lengths[right]]
        low, high = self.lengths[right - 1], self.lengths[right]
        return between(self._known[low], self._known[high], (length - low) / (high - low))

    def over(self, start: int, stop: int) -> StepCost:
        """The sum over the whole lengths from `start` up to, not with, `stop`."""
        # The last one is there for its memory.
        parts: list[tuple[StepCost, float]] = [(self.at(stop - 1), 0.0)] if stop > start else []
        inner = [length for length in self.lengths if start < length < stop]
        edges = [start, *inner, stop]
        for low, high in itertools.pairwise(edges):
            count = high - low
            # Of a straight line, the mean over low, low + 1, ..., high - 1 is its value at their middle.
            if count > 0:
                parts.append((self.at(low + (count - 1) / 2), float(count)))
        return total(parts)

    def mean(self, start: int, stop: int) -> StepCost:
        """The mean over the whole lengths from `start` up to, not with, `stop`; memory is the most of them."""
        found = self.over(start, stop)
        return total([(found, 1.0 / (stop - start))])

    def _learn(self, lengths: Sequence[int]) -> None:
        new = [length for length in dict.fromkeys(lengths) if length not in self._known]
        if new:
            self._known.update(zip(new, self._price(new), strict=True))

    def _refine(self, segments: list[tuple[int, int]]) -> None:
        while segments and len(self._known) < MOST:
            split = [(low, (low + high) // 2, high) for low, high in segments if high - low > 1]
            self._learn([middle for _, middle, _ in split])
            segments = [
                half for low, middle, high in split if self._bends(low, middle, high)
                for half in ((low, middle), (middle, high))
            ]  # fmt: skip

    def _bends(self, low: int, middle: int, high: int) -> bool:
        line = between(self._known[low], self._known[high], (middle - low) / (high - low)).seconds
        found = self._known[middle].seconds
        return abs(found - line) > self.tolerance * found
