"""The on-chip port in time: loads for later tasks go through the port of the task that runs meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from .channel import Segment


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
        """Loads for a later task, a second of which takes so many seconds of the port: for how long they hold up the
        tasks that run meanwhile."""
        late = 0.0
        if not seconds:
            return late
        for piece in segments:
            for task in reversed(self._running):
                if task.end <= piece.start:
                    break
                begin = task.start if task.start > piece.start else piece.start
                end = task.end if task.end < piece.end else piece.end
                if end > begin:
                    late = late + self._take(task, (end - begin) * piece.rate * seconds)
        return late

    def _take(self, task: _Running, wanted: float) -> float:
        """Take the port from a task; what is more than it leaves free."""
        left = task.free if task.free > 0.0 else 0.0 * task.free
        task.free = task.free - wanted
        return wanted - left if wanted > left else 0.0 * wanted
