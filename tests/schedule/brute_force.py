"""Every order of issue and every residency of a small graph, each placed in time; the best of all."""

from __future__ import annotations

from collections.abc import Iterator

from torch_regflat.schedule.timeline.graph import WHOLE, Graph, Machine
from torch_regflat.schedule.timeline.plan import Step
from torch_regflat.schedule.timeline.search import placed


def orders(waits: list[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    """Every order in which tasks follow those that they wait for."""

    def extend(done: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(done) == len(waits):
            yield done
        for i, before in enumerate(waits):
            if i not in done and set(before) <= set(done):
                yield from extend((*done, i))

    return extend(())


class _Residencies:
    """Every choice, after each touch of data that is read again, between keeping it until then and not."""

    def __init__(self, graph: Graph, machine: Machine, order: tuple[int, ...], best: list[float]) -> None:
        self.graph, self.machine, self.order, self.best = graph, machine, order, best

    def all(self) -> Iterator[list[Step]]:
        return self._from(0, {}, frozenset(), 0.0, [])

    def _later(self, d: int, position: int, writes: bool = False) -> bool:
        tasks = [self.graph.tasks[i] for i in self.order[position + 1 :]]
        return any(d in (task.writes if writes else task.reads) for task in tasks)

    def _from(
        self, position: int, held: dict[int, float], dirty: frozenset[int], moved: float, steps: list[Step]
    ) -> Iterator[list[Step]]:
        if moved / self.machine.bandwidth >= self.best[0]:
            return
        if position == len(self.order):
            yield list(steps)
            return
        task = self.graph.tasks[self.order[position]]
        touched = sorted({*task.reads, *task.writes})
        may = [d for d in touched if self._may_stay(d, position, held)]
        for choice in range(2 ** len(may)):
            stay = {d for k, d in enumerate(may) if choice >> k & 1}
            made = self._step(position, held, dirty, stay)
            if made is not None:
                step, now, unsaved = made
                bytes_moved = sum(step.loads.values()) + sum(step.stores.values())
                yield from self._from(position + 1, now, unsaved, moved + bytes_moved, [*steps, step])

    def _may_stay(self, d: int, position: int, held: dict[int, float]) -> bool:
        task = self.graph.tasks[self.order[position]]
        size = max(task.reads.get(d, 0.0), task.writes.get(d, 0.0))
        return self._later(d, position) and (d in held or size >= self.graph.data[d].size * WHOLE)

    def _step(
        self, position: int, held: dict[int, float], dirty: frozenset[int], stay: set[int]
    ) -> tuple[Step, dict[int, float], frozenset[int]] | None:
        index = self.order[position]
        task, data = self.graph.tasks[index], self.graph.data
        step = Step(index, found={d for d in task.reads if d in held})
        step.loads = {d: size for d, size in task.reads.items() if d not in held}
        here = held.keys() | stay
        step.keeps = [d for d in stay if d not in held]
        now = {d: data[d].size for d in here}
        unsaved = set(dirty)
        for d, size in task.writes.items():
            final = data[d].leaves and not self._later(d, position, writes=True)
            if d in here:
                step.updates.add(d)
                unsaved.add(d)
            if d not in here or final:
                if final or data[d].leaves or self._later(d, position):
                    step.stores[d] = max(size, data[d].size) if d in dirty else size
                unsaved.discard(d)
        step.freed = [d for d in now if d in (*task.reads, *task.writes) and d not in stay]
        for d in step.freed:
            if d in unsaved and (data[d].leaves or self._later(d, position)):
                step.stores[d] = data[d].size
            unsaved.discard(d)
        step.held = sum(now.values())
        if step.held + task.workspace > self.machine.capacity:
            return None
        return step, {d: size for d, size in now.items() if d not in step.freed}, frozenset(unsaved)


def best(graph: Graph, machine: Machine, known: float, goal: float) -> float:
    """The least time of any order and residency, or `known` where none is better; stops at the bound `goal`."""
    least = [known]
    after = graph.waits_for()
    for order in orders(after):
        for steps in _Residencies(graph, machine, order, least).all():
            least[0] = min(least[0], placed(graph, machine, steps, after).end_s)
            if least[0] <= goal * (1 + 1e-9):
                return least[0]
    return least[0]
