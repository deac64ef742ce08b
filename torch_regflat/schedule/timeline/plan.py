"""What stays on chip between tasks: for an order of issue, what each task finds, loads, keeps, stores and evicts.

Data whose next use comes soonest stays (Belady). Data that is evicted while it is still needed is loaded again, and
written back first where it is dirty, that is, where its latest value is on chip only.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from ...errors import CapacityError
from .graph import WHOLE, Graph


@dataclass(slots=True)
class Step:
    """One task as planned. `found` lies on chip; `loads` and `stores` are bytes that cross the border by data.

    `updates` is what is written where it lies on chip. `keeps` takes space from this task on, whole. `evicted` gives up
    its space before it, with the bytes to be written back; `freed` gives it up after it. `held` bytes are taken while
    it runs, its workspace apart.
    """

    task: int
    found: set[int] = field(default_factory=set)
    loads: dict[int, float] = field(default_factory=dict)
    stores: dict[int, float] = field(default_factory=dict)
    updates: set[int] = field(default_factory=set)
    keeps: list[int] = field(default_factory=list)
    evicted: list[tuple[int, float]] = field(default_factory=list)
    freed: list[int] = field(default_factory=list)
    held: float = 0.0


def plan(
    graph: Graph,
    capacity: float,
    order: Sequence[int] | None = None,
    reserve: float = 0.0,
    dropped: Set[tuple[int, int]] = frozenset(),
) -> list[Step]:
    """Steps of the tasks in `order` (program order where it is not given), in `capacity` bytes.

    `reserve` bytes are never taken by data that stays. `dropped` are pairs (task, data): data that does not stay after
    that task, whatever room there is. Raises `CapacityError` where a task's own buffers do not fit.
    """
    return _Planner(graph, capacity, range(len(graph.tasks)) if order is None else order, reserve, dropped).run()


class _Planner:
    def __init__(
        self, graph: Graph, capacity: float, order: Sequence[int], reserve: float, dropped: Set[tuple[int, int]]
    ) -> None:
        self.graph, self.capacity, self.order, self.dropped = graph, capacity, order, dropped
        self.reserve = reserve
        self.reads: dict[int, list[int]] = {}
        self.last_write: dict[int, int] = {}
        self.overwrites: dict[int, list[int]] = {}
        """Positions at which data is written whole, the next one last."""
        for position, index in enumerate(order):
            for d in graph.tasks[index].reads:
                self.reads.setdefault(d, []).append(position)
            for d, size in graph.tasks[index].writes.items():
                self.last_write[d] = position
                if size >= graph.data[d].size * WHOLE:
                    self.overwrites.setdefault(d, []).append(position)
        for uses in (*self.reads.values(), *self.overwrites.values()):
            uses.reverse()
        self.held: dict[int, float] = {}
        self.dirty: dict[int, float] = {}
        self.total = 0.0
        self.farthest: list[tuple[float, int]] = []
        """Heap of (-next use, data); entries that a later use has overtaken are skipped."""

    def run(self) -> list[Step]:
        return [self._step(position, index) for position, index in enumerate(self.order)]

    def _step(self, position: int, index: int) -> Step:
        task = self.graph.tasks[index]
        step = Step(index)
        if task.workspace > self.capacity:
            raise CapacityError(
                f"task {index} needs {task.workspace:.0f} bytes of buffers on chip, which has {self.capacity:.0f}"
            )
        for d in (*task.reads, *task.writes):
            for uses in (self.reads.get(d), self.overwrites.get(d)):
                while uses and uses[-1] <= position:
                    uses.pop()
        busy = {*task.reads, *task.writes}
        self._evict(self.total + task.workspace - self.capacity, math.inf, busy, step, force=True)
        step.found = {d for d in task.reads if d in self.held}
        for d, size in task.reads.items():
            if d not in self.held:
                step.loads[d] = size
                if self._stays(d, size, index) and self._place(d, task.workspace, busy, step):
                    step.keeps.append(d)
            self._touch(d)
        for d, size in task.writes.items():
            self._write(d, size, position, index, task.workspace, busy, step)
        step.held = self.total
        for d in busy:
            if d in self.held and (self._next(d) == math.inf or (index, d) in self.dropped):
                self._free(d, step)
        return step

    def _write(
        self, d: int, size: float, position: int, index: int, workspace: float, busy: Set[int], step: Step
    ) -> None:
        """Keep what is read again, store what leaves and what cannot be kept."""
        data = self.graph.data[d]
        if d not in self.held and self._stays(d, size, index) and self._place(d, workspace, busy, step):
            step.keeps.append(d)
        final = data.leaves and self.last_write[d] == position
        if d in self.held:
            step.updates.add(d)
        if d in self.held and not final:
            self.dirty[d] = min(self.dirty.get(d, 0.0) + size, data.size)
        elif d in self.held:
            step.stores[d] = min(self.dirty.pop(d, 0.0) + size, max(data.size, size))
        elif final or ((data.leaves or self._next(d) < math.inf) and not self._is_dead(d)):
            step.stores[d] = size
        self._touch(d)

    def _is_dead(self, d: int) -> bool:
        """Whether it is written whole before anything reads it again."""
        overwrites = self.overwrites.get(d)
        return overwrites[-1] < self._next(d) if overwrites else False

    def _stays(self, d: int, size: float, index: int) -> bool:
        whole = size >= self.graph.data[d].size * WHOLE
        return whole and self._next(d) < math.inf and (index, d) not in self.dropped

    def _place(self, d: int, workspace: float, busy: Set[int], step: Step) -> bool:
        """Make room by evicting what is needed later than this; False if that is not enough."""
        size = self.graph.data[d].size
        limit = self.capacity - max(self.reserve, workspace)
        if size > limit or not self._evict(self.total + size - limit, self._next(d), busy, step):
            return False
        self.held[d] = size
        self.total += size
        return True

    def _evict(self, short: float, due: float, busy: Set[int], step: Step, force: bool = False) -> bool:
        """Free `short` bytes from data that is used after `due`, the farthest first; all or nothing, unless forced."""
        victims: list[int] = []
        aside: list[tuple[float, int]] = []
        while short > 0 and self.farthest:
            entry = heapq.heappop(self.farthest)
            use, d = -entry[0], entry[1]
            if d not in self.held or use != self._next(d) or d in victims:
                continue
            aside.append(entry)
            if use <= due and not force:
                break
            if d not in busy:
                victims.append(d)
                short -= self.held[d]
        if short > 0 and force:
            # Only what this very task uses is left: it streams, too.
            for d in sorted(busy & self.held.keys()):
                if short > 0:
                    victims.append(d)
                    short -= self.held[d]
        if short > 0:
            victims = victims if force else []
        for d in victims:
            step.evicted.append((d, self.dirty.get(d, 0.0)))
            self._drop(d)
        for entry in aside:
            heapq.heappush(self.farthest, entry)
        return short <= 0

    def _free(self, d: int, step: Step) -> None:
        """Give up the space of data after this task: it is dead, or was told not to stay."""
        needed = self.graph.data[d].leaves or self._next(d) < math.inf
        if d in self.dirty and needed and not self._is_dead(d):
            step.stores[d] = step.stores.get(d, 0.0) + self.dirty[d]
        self._drop(d)
        step.freed.append(d)

    def _drop(self, d: int) -> None:
        self.total -= self.held.pop(d)
        self.dirty.pop(d, None)

    def _next(self, d: int) -> float:
        uses = self.reads.get(d)
        return uses[-1] if uses else math.inf

    def _touch(self, d: int) -> None:
        if d in self.held:
            heapq.heappush(self.farthest, (-self._next(d), d))
