"""Tasks and their transfers in time, in the order of a plan: each as early as engines, channel, data and space allow.

A task's loads run ahead of it as far as there is room. What is not loaded when it starts streams through its tile
buffers while it computes, at most at its own pace, and so does what it stores where there is no room to stage it. Time
is only added and compared, so that it may be floats or scalars of torch; bytes are floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .channel import Channel
from .graph import Data, Machine
from .one import Placement
from .plan import Step
from .records import KERNEL, Placed, Schedule, Stay, Timing, Transfer, latest
from .space import Space


@dataclass(slots=True)
class _Store:
    """A store that has begun with its task and goes on when the channel has nothing more urgent."""

    transfer: Transfer
    left_s: float
    ready_s: float
    staged: float


class Placer:
    """Places steps one by one. `after` are, for each task, the tasks it has to wait for."""

    def __init__(self, data: Mapping[int, Data], after: Sequence[tuple[int, ...]], machine: Machine) -> None:
        self.data, self.after, self.machine = data, after, machine
        self.space, self.channel = Space(machine.capacity), Channel()
        self.result = Schedule()
        self.ends: dict[int, float] = {}
        self.free: dict[int, float] = {}
        self.recent: list[float] = []
        self.outside: dict[int, tuple[float, float]] = {}
        """Of data that was stored: when its last store ends, and of how many bytes that was."""
        self.touched: dict[int, float] = {}
        self.present: dict[int, float] = {}
        """When data that stays was first there whole."""
        self.stays: dict[int, Stay] = {}
        self.pending: list[_Store] = []
        self.floor = self.blamed = 0.0
        self.unused = 0.0
        """Seconds of bandwidth up to `blamed` that no load had room to use, and that no wait was blamed on yet."""

    def place(self, step: Step, timing: Timing) -> Placed:
        """Put one more task on the time line."""
        self.settle_for(step)
        self._evict(step, timing)
        start = self._ready(step, timing)
        kept_loads = sum(self.data[d].size for d in step.keeps if d in step.loads)
        kept = sum(self.data[d].size for d in step.keeps)
        placed = self._when(start, kept + timing.workspace)
        if placed > start:
            self.settle()
            placed = self._when(start, kept + timing.workspace)
        staged = self._staged(step, timing)
        room = self.space.room(placed) - kept - timing.workspace
        staged = staged if staged <= room + self.space.slack and self.machine.overlap else 0.0
        return Placement(self, step, timing, start, placed, kept_loads, staged, room - staged).run()

    def finish(self) -> Schedule:
        """The whole schedule, with the last stores done."""
        self.settle()
        done = self.result
        ends = [p.end_s for p in done.tasks] + [t.segments[-1].end for t in done.transfers if t.segments]
        done.end_s = latest(ends) if ends else 0.0
        done.occupancy = self.space.curve()
        return done

    def _ready(self, step: Step, timing: Timing) -> float:
        waits = [self.ends[d] for d in self.after[step.task] if d in self.ends]
        waits += [self.present[d] for d in step.found]
        start = latest([self.free.get(timing.engine, 0.0), self.floor, *waits])
        if not self.machine.overlap:
            ends = [t.segments[-1].end for t in self.result.transfers[-4:] if t.segments]
            start = latest([start, *ends, *self.free.values()])
        return start

    def _when(self, start: float, size: float) -> float:
        found = self.space.when(size, start)
        if found is None:
            self.settle()
            found = self.space.when(size, start)
        assert found is not None, "the plan holds more than fits"
        return found

    def _staged(self, step: Step, timing: Timing) -> float:
        """Bytes of results that have no place on chip of their own while they leave."""
        total = sum(step.stores.values())
        passing = sum(size for d, size in step.stores.items() if d not in self.stays and d not in step.keeps)
        return timing.store_bytes * (passing / total if total else 1.0)

    def _evict(self, step: Step, timing: Timing) -> None:
        """Give up data as soon as it was last used; what is dirty leaves first."""
        total = sum(size for _, size in step.evicted) or 1.0
        for d, size in step.evicted:
            since = self.touched.get(d, 0.0)
            if size:
                since = since if since > self.space.start else self.space.start
                since = since if self.machine.overlap else self._idle_from(since)
                segments, _ = self.channel.take(since, timing.evict_s * (size / total))
                self.result.transfers.append(Transfer(step.task, "write-back", (d,), size, segments, KERNEL))
                since = segments[-1].end if segments else since
                self.outside[d] = (since, size)
            self.release(d, since)

    def _idle_from(self, time: float) -> float:
        ends = [t.segments[-1].end for t in self.result.transfers[-4:] if t.segments]
        return latest([time, *ends, *self.free.values()])

    def release(self, d: int, time: float) -> None:
        """Data gives up its space, once it has left where it is still on its way out."""
        stored = self.outside.get(d)
        stay = self.stays.pop(d)
        for end in (stay.start_s, self.space.start, *([stored[0]] if stored else [])):
            time = end if end > time else time
        stay.end_s = time
        self.space.add(-self.data[d].size, time)

    def settle_for(self, step: Step) -> None:
        """Stores that this step depends on come first."""
        needed = step.loads.keys() | step.stores.keys() | {d for d, _ in step.evicted}
        if any(needed & set(store.transfer.data) for store in self.pending):
            self.settle()

    def later(self, transfer: Transfer, left_s: float, ready_s: float, staged: float) -> None:
        """A store that is not done when its task ends: the rest of it goes on once more urgent loads are placed."""
        self.pending.append(_Store(transfer, left_s, ready_s, staged))
        if not left_s > 0.0:
            self.settle()

    def settle(self) -> None:
        """Place what is left of the stores that have waited for more urgent loads."""
        for store in self.pending:
            segments, _ = self.channel.take(store.ready_s, store.left_s)
            store.transfer.segments.extend(segments)
            end = store.transfer.segments[-1].end if store.transfer.segments else store.ready_s
            end = end if end > store.ready_s else store.ready_s
            self.space.add(-store.staged, end)
            self._stored(store.transfer, end)
        self.pending.clear()

    def _stored(self, transfer: Transfer, end: float) -> None:
        self.outside.update({d: (end, transfer.size) for d in transfer.data})

    def done(self, step: Step, placed: Placed, engine: int) -> None:
        """Note what this task leaves behind, and forget what is too long ago."""
        end = placed.end_s
        self.ends[step.task] = self.free[engine] = end
        for d in (*step.found, *step.keeps, *step.updates, *step.stores):
            self.touched[d] = latest([end, self.touched.get(d, 0.0)])
        self.present.update({d: end for d in step.keeps})
        if any(set(step.freed) & set(store.transfer.data) for store in self.pending):
            self.settle()
        for d in step.freed:
            self.release(d, self.touched[d])
        self.result.tasks.append(placed)
        self.recent.append(placed.start_s)
        if len(self.recent) > self.machine.window:
            self.floor = latest([self.floor, self.recent.pop(0)])
            self.channel.forget(self.floor)
            self.space.forget(self.floor)
