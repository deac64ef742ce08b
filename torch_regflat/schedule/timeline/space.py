"""On-chip memory in time: how many bytes are taken when."""

from __future__ import annotations

import math
from bisect import bisect_right


class Space:
    """Bytes taken from each time to the next, the last for ever. What is forgotten stays in `history`."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.slack = capacity * 1e-9
        """Sums of bytes that went in and out are exact to this."""
        self.times: list[float] = [0.0]
        self.taken: list[float] = [0.0]
        self.history: list[tuple[float, float]] = []

    def add(self, size: float, start: float, end: float = math.inf) -> None:
        """Take `size` bytes (or give them back, if negative) from `start` to `end`."""
        if size == 0.0 or start >= end:
            return
        first = self._at(start)
        last = len(self.times) if end == math.inf else self._at(end)
        for k in range(first, last):
            self.taken[k] += size

    def room(self, start: float) -> float:
        """Bytes that are free from `start` on, for ever."""
        k = max(bisect_right(self.times, start) - 1, 0)
        return self.capacity - max(self.taken[k:])

    def when(self, size: float, start: float) -> float | None:
        """The first time from `start` on after which `size` bytes are always free; None if there is none."""
        taken, most = self.taken, self.capacity - size + self.slack
        if taken[-1] > most:
            return None
        k = len(taken) - 1
        while k > 0 and self.times[k] > start and taken[k - 1] <= most:
            k -= 1
        return self.times[k] if self.times[k] > start else start

    def limits(self, start: float, end: float) -> list[tuple[float, float]]:
        """(time, bytes free from then on until `end`), from `start` to `end`, where it changes and anything is free."""
        first = max(bisect_right(self.times, start) - 1, 0)
        k = len(self.times) - 1
        while k > first and self.times[k] >= end:
            k -= 1
        found: list[tuple[float, float]] = []
        free = math.inf
        most = -math.inf
        while k >= first:
            if self.taken[k] > most:
                most = self.taken[k]
                if self.capacity - most <= self.slack:
                    # Nothing fits before the next time.
                    break
            free = self.capacity - most
            time = self.times[k] if self.times[k] > start else start
            if found and found[-1][1] == free:
                found[-1] = (time, free)
            else:
                found.append((time, free))
            k -= 1
        found.reverse()
        return found

    def forget(self, before: float) -> None:
        """Nothing will be asked of times before this any more."""
        k = bisect_right(self.times, before) - 1
        if k > 0:
            self.history.extend(zip(self.times[:k], self.taken[:k], strict=True))
            del self.times[:k], self.taken[:k]

    @property
    def start(self) -> float:
        """The earliest time that is still known."""
        return self.times[0]

    def curve(self) -> list[tuple[float, float]]:
        """(time, bytes taken from then on) over all time, where it changes."""
        found: list[tuple[float, float]] = []
        for time, size in (*self.history, *zip(self.times, self.taken, strict=True)):
            size = max(size, 0.0) if size > self.slack else 0.0
            if not found or found[-1][1] != size:
                found.append((time, size))
        return found

    def _at(self, time: float) -> int:
        k = bisect_right(self.times, time) - 1
        if k < 0:
            return 0
        if self.times[k] != time:
            k += 1
            self.times.insert(k, time)
            self.taken.insert(k, self.taken[k - 1])
        return k
