"""The on-chip port in time: loads for later tasks go through the port of the task that runs meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from .channel import EPSILON, Segment

_STEPS = 32
"""In so many steps at most the end of a task that is held up moves on: each is shorter than the one before."""


@dataclass(slots=True)
class _Running:
    """A task from `start` to `end`, and for how many seconds meanwhile its port is free."""

    start: float
    end: float
    free: float


class Ports:
    """Who uses the port through which loads come.

    A task that runs for T seconds and uses the port for P of them leaves T - P to loads for others. What these take
    beyond that, it is slower: it needs max(T, P + loads) in all.
    """

    def __init__(self, window: int) -> None:
        self._running: deque[_Running] = deque(maxlen=window + 1)

    def run(self, start: float, end: float, busy: float) -> None:
        """A task runs, and uses the port for so many seconds of it."""
        self._running.append(_Running(start, end, end - start - busy))

    def load(self, segments: Sequence[Segment], seconds: float) -> float:
        """Loads for a later task, a second of which takes so many seconds of the port: when the last task is done that
        they hold up; 0 if they hold up none."""
        late = 0.0
        if not seconds:
            return late
        for task in reversed(self._running):
            if not segments or task.end <= segments[0].start:
                break
            late = late + self._take(task, _beside(segments, task.start, task.end) * seconds)
        more = late
        for _ in range(_STEPS if late > 0.0 else 0):
            # So much longer the last task runs, and finds the port taken by what is loaded meanwhile.
            last = self._running[-1]
            begin, last.end = last.end, last.end + more
            more = _beside(segments, begin, last.end) * seconds
            if not more > late * EPSILON:
                break
        return self._running[-1].end if late > 0.0 else 0.0

    def _take(self, task: _Running, wanted: float) -> float:
        """Take the port from a task; what is more than it leaves free."""
        left = task.free if task.free > 0.0 else 0.0 * task.free
        task.free = task.free - wanted
        return wanted - left if wanted > left else 0.0 * wanted


def _beside(segments: Sequence[Segment], start: float, end: float) -> float:
    """Seconds of the channel that transfers take between two times."""
    total = 0.0
    for piece in segments:
        begin = start if start > piece.start else piece.start
        finish = end if end < piece.end else piece.end
        if finish > begin:
            total = total + (finish - begin) * piece.rate
    return total
