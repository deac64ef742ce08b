"""A channel in time: how much of its bandwidth is still free when, and transfers that take what is free."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import NamedTuple

EPSILON = 1e-9
"""Shares of a bandwidth, and of a transfer, below this count as none: they are rounding."""


class Segment(NamedTuple):
    """A part of a transfer with a constant rate, as a share of the channel's bandwidth."""

    start: float
    end: float
    rate: float

    @property
    def seconds(self) -> float:
        """Time it would take alone."""
        return (self.end - self.start) * self.rate


class Channel:
    """Amounts are seconds that a transfer needs alone. Transfers that run at the same time share the bandwidth."""

    def __init__(self) -> None:
        self.times: list[float] = [0.0]
        self.free: list[float] = [1.0]
        """Free share from each time to the next; the last one for ever."""

    def take(
        self, start: float, amount: float, cap: float = 1.0, until: float = math.inf, least: float | None = None
    ) -> tuple[list[Segment], float]:
        """Take free bandwidth, up to the share `cap`, from `start` on: what was taken, and what is left at `until`.

        Less than `least` (a billionth of the amount) is not worth a segment of its own.
        """
        done: list[Segment] = []
        small = amount * EPSILON if least is None else least
        if amount <= small or start >= until:
            return done, amount
        k = self._at(start)
        while k < len(self.times) and amount > small:
            begin = self.times[k]
            if begin >= until:
                break
            rate = self.free[k]
            if cap < rate:
                rate = cap
            if rate > EPSILON:
                end = begin + amount / rate
                if not end > begin:
                    # Shorter than the resolution of time.
                    return done, 0.0 * amount
                following = self.times[k + 1] if k + 1 < len(self.times) else math.inf
                whole = end < following and end < until
                if not whole:
                    end = following if following < until else until
                    self._at(end)
                self._at(end)
                self.free[k] = self.free[k] - rate
                done.append(Segment(begin, end, rate))
                amount = 0.0 * amount if whole else amount - (end - begin) * rate
            k += 1
        return done, amount

    def first_free(self, start: float) -> float:
        """The first time from `start` on at which anything is free."""
        k = max(bisect_right(self.times, start) - 1, 0)
        while k < len(self.free) - 1 and self.free[k] <= EPSILON:
            k += 1
        return self.times[k] if self.times[k] > start else start

    def idle(self, start: float, end: float) -> float:
        """Seconds of bandwidth that are free between two times."""
        total = 0.0
        for k in range(max(bisect_right(self.times, start) - 1, 0), len(self.times)):
            begin = max(self.times[k], start)
            finish = min(self.times[k + 1], end) if k + 1 < len(self.times) else end
            if finish > begin:
                total += (finish - begin) * self.free[k]
        return total

    def forget(self, before: float) -> None:
        """Nothing will be asked of times before this any more."""
        k = bisect_right(self.times, before) - 1
        if k > 0:
            del self.times[:k], self.free[:k]

    def _at(self, time: float) -> int:
        """Index of the interval that starts at `time`, made where there is none."""
        k = bisect_right(self.times, time) - 1
        if self.times[k] != time:
            k += 1
            self.times.insert(k, time)
            self.free.insert(k, self.free[k - 1])
        return k
