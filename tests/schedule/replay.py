"""Replays a schedule from its times alone, and says what of it could not happen. Shares no code with the scheduler."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from torch_regflat.schedule.timeline.graph import Graph, Machine
from torch_regflat.schedule.timeline.records import Placed, Schedule, Transfer

TOLERANCE = 1e-6


def moved(transfer: Transfer | None, until: float, machine: Machine) -> float:
    """Bytes of a transfer that have moved by a time."""
    if transfer is None:
        return 0.0
    return sum(max(min(s.end, until) - s.start, 0.0) * s.rate for s in transfer.segments) * machine.bandwidth


def replay(graph: Graph, machine: Machine, schedule: Schedule) -> list[str]:
    """Violations, in words; none for a schedule that can happen."""
    return [*_engines(graph, schedule), *_channel(machine, schedule), *_Data(graph, machine, schedule).run()]


def _engines(graph: Graph, schedule: Schedule) -> Iterator[str]:
    by_task = {p.task: p for p in schedule.tasks}
    if sorted(by_task) != list(range(len(graph.tasks))) or len(schedule.tasks) != len(graph.tasks):
        yield "not every task runs once"
        return
    for i, task in enumerate(graph.tasks):
        placed = by_task[i]
        if placed.go_s < placed.start_s + task.launch_s - TOLERANCE:
            yield f"task {i} skips its launch"
        if placed.end_s < placed.go_s + task.core_s - TOLERANCE:
            yield f"task {i} computes faster than it can"
        for j in range(i):
            other = graph.tasks[j]
            clash = other.writes.keys() & (task.reads.keys() | task.writes.keys())
            clash = clash or other.reads.keys() & task.writes.keys()
            if (clash or j in task.after) and placed.start_s < by_task[j].end_s - TOLERANCE:
                yield f"task {i} starts before task {j} has ended"
    for engine in {task.engine for task in graph.tasks}:
        own = sorted((p.start_s, p.end_s) for p in schedule.tasks if graph.tasks[p.task].engine == engine)
        if any(after[0] < before[1] - TOLERANCE for before, after in itertools.pairwise(own)):
            yield f"engine {engine} runs two tasks at once"


def end_with_port(graph: Graph, machine: Machine, schedule: Schedule) -> float:
    """When the last task of one engine is done if loads come as scheduled, and through the port of the task that runs.

    A task starts no sooner than scheduled, nor than the one before is done; it is done once it has run for as long as
    scheduled and has had the port for as long as it needs, which it has whenever loads for others do not take it.
    """
    loads = [(t.task, s) for t in schedule.transfers if t.what == "load" for s in t.segments]
    done = 0.0
    for placed in sorted(schedule.tasks, key=lambda p: p.start_s):
        task = graph.tasks[placed.task]
        go = max(placed.go_s, done + task.launch_s)
        mine = [s for t, s in loads if t == placed.task]
        own = sum(max(min(s.end, placed.end_s) - max(s.start, placed.go_s), 0.0) * s.rate for s in mine)
        left = task.port_s + machine.port * own
        others = [s for t, s in loads if t != placed.task and s.end > go]
        time = go
        for begin, end in itertools.pairwise(sorted({go, *(max(x, go) for s in others for x in (s.start, s.end))})):
            rate = sum(s.rate for s in others if s.start < end and s.end > begin)
            free = max(1.0 - machine.port * rate, 0.0) * (end - begin)
            if free >= left:
                break
            left, time = left - free, end
        rate = sum(s.rate for s in others if s.start <= time < s.end)
        served = time + left / (1.0 - machine.port * rate) if left else time
        done = max(go + (placed.end_s - placed.go_s), served)
    return done


def _channel(machine: Machine, schedule: Schedule) -> Iterator[str]:
    events = []
    for transfer in schedule.transfers:
        total = moved(transfer, float("inf"), machine)
        if abs(total - transfer.size) > TOLERANCE * max(transfer.size, 1.0):
            yield f"the {transfer.what} of task {transfer.task} moves {total}, not {transfer.size}"
        for s in transfer.segments:
            if s.start < 0 or s.end < s.start or s.rate < 0:
                yield f"the {transfer.what} of task {transfer.task} has a segment {s}"
            events += [(s.start, s.rate), (s.end, -s.rate)]
    rate = 0.0
    for _, group in itertools.groupby(sorted(events), key=lambda e: e[0]):
        rate += sum(change for _, change in group)
        if rate > 1.0 + TOLERANCE:
            yield "more is moved at once than the channel's bandwidth"
            return


class _Data:
    """Follows every value: where its latest version lies, and whether that is where it is read."""

    def __init__(self, graph: Graph, machine: Machine, schedule: Schedule) -> None:
        self.graph, self.machine, self.schedule = graph, machine, schedule
        self.by = {(t.task, t.what): t for t in schedule.transfers if t.what != "write-back"}
        self.stays = {d: [s for s in schedule.stays if s.data == d] for d in graph.data}
        self.placed = {p.task: p for p in schedule.tasks}

    def run(self) -> Iterator[str]:
        for d, data in self.graph.data.items():
            yield from self._value(d, data.outside)
        for placed in self.schedule.tasks:
            yield from self._pace(placed)
        yield from self._capacity()

    def _on_chip(self, d: int, start: float, end: float) -> bool:
        far = float("inf")
        return any(
            s.start_s <= start + TOLERANCE and (far if s.end_s is None else s.end_s) >= end - TOLERANCE
            for s in self.stays[d]
        )

    def _value(self, d: int, outside: bool) -> Iterator[str]:
        """Every read of `d` finds its latest version, on chip or outside."""
        written_end = None
        bytes_written = 0.0
        for i, task in enumerate(self.graph.tasks):
            here = self.placed[i]
            load = self.by.get((i, "load"))
            if d in task.reads and load is not None and d in load.data:
                if written_end is None and not outside:
                    yield f"task {i} loads {d}, which nobody has written"
                if written_end is not None:
                    left = self._left(d, written_end)
                    if left is None:
                        yield f"task {i} loads {d}, whose latest value is not outside"
                    else:
                        total = sum(self.graph.tasks[i].reads[x] for x in load.data)
                        early = moved(load, left, self.machine)
                        if early > total - min(bytes_written, task.reads[d]) + TOLERANCE * total:
                            yield f"task {i} loads {d} before it is outside"
            elif d in task.reads and not self._on_chip(d, here.start_s, here.end_s):
                yield f"task {i} reads {d}, which is not on chip"
            if d in task.writes:
                written_end = here.end_s
                bytes_written = task.writes[d]
        if self.graph.data[d].leaves and written_end is not None and self._left(d, written_end) is None:
            yield f"{d} does not leave"

    def _left(self, d: int, written_end: float) -> float | None:
        """When the version written by then was outside."""
        ends = [
            (t.segments[-1].end if t.segments else self.placed[t.task].end_s)
            for t in self.schedule.transfers
            if d in t.data and t.what != "load"
        ]
        later = [end for end in ends if end >= written_end - TOLERANCE]
        return min(later) if later else None

    def _pace(self, placed: Placed) -> Iterator[str]:
        """Nothing is used before it is loaded, nothing stored before it is made; stores end after their task."""
        task = self.graph.tasks[placed.task]
        load, store = self.by.get((placed.task, "load")), self.by.get((placed.task, "store"))
        times = {s for t in (load, store) if t for segment in t.segments for s in (segment.start, segment.end)}
        for time in sorted({*times, placed.go_s, placed.end_s}):
            done = float(time >= placed.go_s - TOLERANCE)
            if task.core_s:
                done = min((time - placed.go_s) / task.core_s, 1.0)
            if load and load.size:
                loaded = moved(load, time, self.machine) / load.size
                least = time + task.core_s * (1.0 - loaded)
                if time >= placed.go_s and loaded < 1.0 - TOLERANCE and placed.end_s + TOLERANCE < least:
                    yield f"task {placed.task} ends before what it loads can be computed"
                done = min(done, loaded)
            if store and moved(store, time, self.machine) > max(done, 0.0) * store.size + TOLERANCE * store.size:
                yield f"task {placed.task} stores what it has not made"
        if store and store.segments and store.segments[-1].end < placed.end_s - TOLERANCE * (1 + placed.end_s):
            yield f"the store of task {placed.task} ends before the task"

    def _capacity(self) -> Iterator[str]:
        """At no time is more on chip than fits: what stays, what was loaded ahead, tiles, and results on their way."""
        ramps: list[tuple[float, float, float]] = []
        steps: list[tuple[float, float]] = []
        for stay in self.schedule.stays:
            steps.append((stay.start_s, self.graph.data[stay.data].size))
            if stay.end_s is not None:
                steps.append((stay.end_s, -self.graph.data[stay.data].size))
        for placed in self.schedule.tasks:
            self._task_bytes(placed, ramps, steps)
        times = sorted({time for time, _ in steps} | {t for ramp in ramps for t in ramp[:2]})
        steps.sort()
        k, level = 0, 0.0
        for time in times:
            ramp = sum((min(end, time) - start) / (end - start) * size for start, end, size in ramps if start < time)
            if k and level + ramp > self.machine.capacity * (1 + TOLERANCE):
                yield f"{level + ramp} bytes are on chip before {time}, which has {self.machine.capacity}"
            while k < len(steps) and steps[k][0] <= time:
                level += steps[k][1]
                k += 1
            if level + ramp > self.machine.capacity * (1 + TOLERANCE):
                yield f"{level + ramp} bytes are on chip at {time}, which has {self.machine.capacity}"

    def _task_bytes(
        self, placed: Placed, ramps: list[tuple[float, float, float]], steps: list[tuple[float, float]]
    ) -> None:
        task = self.graph.tasks[placed.task]
        load, store = self.by.get((placed.task, "load")), self.by.get((placed.task, "store"))
        ahead = 0.0
        if load:
            staying = [
                d for d in load.data if any(abs(s.start_s - placed.start_s) < 1e-12 for s in self.stays[d])
            ]
            passing = 1.0 - sum(task.reads[d] for d in staying) / sum(task.reads[d] for d in load.data)
            for s in load.segments:
                if s.start < placed.start_s and s.end > s.start:
                    end = min(s.end, placed.start_s)
                    size = (end - s.start) * s.rate * self.machine.bandwidth
                    ramps.append((s.start, end, size))
                    steps.append((placed.start_s, -size))
            ahead = moved(load, placed.go_s, self.machine) * passing
        size = max(ahead, task.workspace)
        steps += [(placed.start_s, size), (placed.end_s, -size)]
        if store:
            left = store.segments[-1].end if store.segments else placed.end_s
            # What has no place of its own leaves at the pace of its making, or stays until it has left.
            passing = sum(
                task.writes[d] for d in store.data if d in task.writes and not self._on_chip(d, placed.start_s, left)
            )
            if moved(store, placed.end_s, self.machine) < passing * (1 - TOLERANCE):
                steps += [(placed.start_s, passing), (left, -passing)]
