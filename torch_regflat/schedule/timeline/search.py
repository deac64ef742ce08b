"""Orders and residencies tried for a graph, the best schedule kept.

Small graphs are searched from several orders by moving one task, or by letting one value go early, as long as that
helps; a large one gets the program's order. The effort is bounded by steps placed, so cost stays linear in tasks.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .bounds import lower_bound
from .graph import Graph, Machine, Task
from .place import Placer
from .plan import Step, plan
from .records import Schedule, Timing

EFFORT = 3000
"""Steps that may be placed in search of a better schedule."""
SMALL = 40
"""Up to so many tasks are worth a search."""
KICKS = 2
PATIENCE = 20
"""So many changes in a row that lead to nothing new end the search."""
_BETTER = 1.0 - 1e-9

Order = tuple[int, ...]
Dropped = frozenset[tuple[int, int]]


@dataclass
class Found:
    """The best schedule, and the plan it follows."""

    schedule: Schedule
    steps: list[Step]
    order: Order


def schedule(graph: Graph, machine: Machine, effort: int = EFFORT) -> Found:
    """A schedule of `graph`. Raises `CapacityError` where a task's own buffers do not fit."""
    return _Search(graph, machine, effort).run()


def placed(graph: Graph, machine: Machine, steps: Sequence[Step], after: Sequence[tuple[int, ...]]) -> Schedule:
    """The steps of a plan in time."""
    placer = Placer(graph.data, after, machine)
    for step in steps:
        placer.place(step, timing(graph.tasks[step.task], step, machine))
    return placer.finish()


def timing(task: Task, step: Step, machine: Machine) -> Timing:
    """Seconds of one step at the machine's bandwidth."""
    loads, stores = sum(step.loads.values()), sum(step.stores.values())
    evicted = sum(size for _, size in step.evicted)
    port = task.port_s + machine.port * loads / machine.bandwidth
    core = max(task.core_s, port)
    return Timing(
        core,
        task.launch_s,
        loads / machine.bandwidth,
        stores / machine.bandwidth,
        evicted / machine.bandwidth,
        loads,
        stores,
        task.workspace,
        task.engine,
        rest=task.core_s / core if core else 1.0,
        port=task.port_s / core if core else 0.0,
        loads=(port - task.port_s) / core if core else 0.0,
    )


class _Search:
    def __init__(self, graph: Graph, machine: Machine, effort: int) -> None:
        self.graph, self.machine = graph, machine
        self.left = effort if len(graph.tasks) <= SMALL else 1
        self.after = graph.waits_for()
        self.goal = lower_bound(graph, machine) / _BETTER
        self.best: Found | None = None
        self.value = float("inf")
        self.best_plan: tuple[Order, Dropped] = ((), frozenset())
        self.seen: set[tuple[Order, Dropped]] = set()
        self.random = random.Random(0)
        self.stuck = 0

    def run(self) -> Found:
        starts: list[tuple[float, Order]] = []
        for order in self._orders():
            starts.append((self._try(order, frozenset()), order))
            if self._enough():
                break
        for value, order in sorted(starts):
            if self._enough():
                break
            self._climb(value, order, frozenset())
        while not self._enough() and self._kick():
            pass
        assert self.best is not None
        return self.best

    def _enough(self) -> bool:
        return self.value <= self.goal or self.left < len(self.graph.tasks)

    def _try(self, order: Order, dropped: Dropped) -> float:
        """Seconds of one order and residency."""
        if (order, dropped) in self.seen:
            return float("inf")
        self.seen.add((order, dropped))
        self.left -= len(order)
        steps = plan(self.graph, self.machine.capacity, order, dropped=dropped)
        found = placed(self.graph, self.machine, steps, self.after)
        if found.end_s < self.value * _BETTER:
            self.best, self.value, self.best_plan = Found(found, steps, order), found.end_s, (order, dropped)
        return found.end_s

    def _climb(self, value: float, order: Order, dropped: Dropped) -> None:
        """Take any change that helps, until none does."""
        improved = True
        while improved and not self._enough():
            improved = False
            for other, fewer in self._neighbours(order, dropped):
                found = self._try(other, fewer)
                if found < value * _BETTER:
                    value, order, dropped, improved = found, other, fewer, True
                    break
                if self._enough():
                    break

    def _kick(self) -> bool:
        """Change the best in two places at random, and climb from there; False where nothing can be changed."""
        order, dropped = self.best_plan
        for _ in range(KICKS):
            choices = list(self._neighbours(order, dropped))
            if not choices:
                return False
            order, dropped = self.random.choice(choices)
        before = self.left
        self._climb(self._try(order, dropped), order, dropped)
        self.stuck = self.stuck + 1 if self.left == before else 0
        return self.stuck < PATIENCE

    def _neighbours(self, order: Order, dropped: Dropped) -> Iterator[tuple[Order, Dropped]]:
        """One task moved, or one value that does not stay after one task (or does again)."""
        for source in range(len(order)):
            for target in range(len(order)):
                moved = _moved(order, source, target)
                if target not in (source, source - 1) and self._legal(moved):
                    yield moved, dropped
        for index in order:
            for d in sorted({*self.graph.tasks[index].reads, *self.graph.tasks[index].writes}):
                yield order, dropped ^ {(index, d)}

    def _legal(self, order: Order) -> bool:
        position = {index: p for p, index in enumerate(order)}
        return all(position[b] < position[i] for i in order for b in self.after[i])

    def _orders(self) -> Iterator[Order]:
        """The program's order, the longest chain first, the shortest load first, the most space freed first."""
        count = len(self.graph.tasks)
        yield tuple(range(count))
        if count > SMALL:
            return
        tail = self._tails()
        yield self._listed(lambda i: (-tail[i], i))
        yield self._listed(lambda i: (self._outside_bytes(i), i))
        yield self._listed(lambda i: (self._growth(i), i))

    def _listed(self, key: Callable[[int], tuple[float, int]]) -> Order:
        """Of the tasks that wait for nothing more, always the one with the least key."""
        followers: dict[int, list[int]] = {}
        waits = [len(before) for before in self.after]
        for i, before in enumerate(self.after):
            for b in before:
                followers.setdefault(b, []).append(i)
        ready = [key(i) for i, count in enumerate(waits) if not count]
        heapq.heapify(ready)
        order = []
        while ready:
            index = heapq.heappop(ready)[1]
            order.append(index)
            for f in followers.get(index, ()):
                waits[f] -= 1
                if not waits[f]:
                    heapq.heappush(ready, key(f))
        return tuple(order)

    def _tails(self) -> list[float]:
        tasks = self.graph.tasks
        tail = [task.core_s + task.launch_s for task in tasks]
        for i in range(len(tasks) - 1, -1, -1):
            for b in self.after[i]:
                tail[b] = max(tail[b], tasks[b].core_s + tasks[b].launch_s + tail[i])
        return tail

    def _outside_bytes(self, index: int) -> float:
        return sum(size for d, size in self.graph.tasks[index].reads.items() if self.graph.data[d].outside)

    def _growth(self, index: int) -> float:
        task = self.graph.tasks[index]
        return sum(task.writes.values()) - sum(task.reads.values())


def _moved(order: Order, source: int, target: int) -> Order:
    rest = order[:source] + order[source + 1 :]
    return rest[:target] + order[source : source + 1] + rest[target:]


