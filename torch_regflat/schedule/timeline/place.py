"""Tasks and their transfers in time, in the order of a plan: each as early as engines, channel, data and space allow.

A task's loads run ahead of it as far as there is room. What is not loaded when it starts streams through its tile
buffers while it computes, at most at its own pace, and so does what it stores where there is no room to stage it. Time
is only added and compared, so that it may be floats or scalars of torch; bytes are floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .channel import EPSILON, Channel, Segment
from .graph import Data, Machine
from .plan import Step
from .space import Space

BANDWIDTH, CAPACITY, WRITE_BACK, DEPENDENCY = "external bandwidth", "on-chip capacity", "write-back", "dependency"
LAUNCH, STORES, AHEAD, KERNEL = "launch", "stores at the end", "look-ahead", "kernel"


@dataclass(frozen=True, slots=True)
class Timing:
    """What a task takes: seconds on its engine, of launch, and of the channel alone for loads, stores and evictions."""

    core_s: float
    launch_s: float
    load_s: float
    store_s: float
    evict_s: float
    load_bytes: float
    store_bytes: float
    workspace: float
    engine: int = 0


@dataclass(slots=True)
class Transfer:
    """Bytes of some data that cross the border for a task: `load`, `store` or `write-back`.

    `waited_for` says why it did not start sooner; `KERNEL` where it moves as its task computes.
    """

    task: int
    what: str
    data: tuple[int, ...]
    size: float
    segments: list[Segment]
    waited_for: str = ""


@dataclass(slots=True)
class Placed:
    """A task in time. It takes its engine from `start_s`, computes from `go_s` and is done at `end_s`.

    `stalls` says for how many seconds its engine had nothing to do before or during it, by cause. `buffers` is what it
    takes on chip while it runs, besides data that stays.
    """

    task: int
    start_s: float
    go_s: float
    end_s: float
    stalls: dict[str, float]
    buffers: float
    staged: float


@dataclass(slots=True)
class Stay:
    """Data on chip, whole: from the start of the task that loads or makes it, until its space is free again."""

    data: int
    start_s: float
    end_s: float | None = None


@dataclass
class Schedule:
    """Everything that happens, in order of issue."""

    tasks: list[Placed] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    stays: list[Stay] = field(default_factory=list)
    end_s: float = 0.0
    occupancy: list[tuple[float, float]] = field(default_factory=list)
    """(time, bytes on chip from then on)."""


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

    def place(self, step: Step, timing: Timing) -> Placed:
        """Put one more task on the time line."""
        self._settle_for(step)
        self._evict(step, timing)
        start = self._ready(step, timing)
        kept_loads = sum(self.data[d].size for d in step.keeps if d in step.loads)
        kept = sum(self.data[d].size for d in step.keeps)
        placed = self._when(start, kept + timing.workspace)
        if placed > start:
            self._settle()
            placed = self._when(start, kept + timing.workspace)
        staged = self._staged(step, timing)
        room = self.space.room(placed) - kept - timing.workspace
        staged = staged if staged <= room + self.space.slack and self.machine.overlap else 0.0
        return _Task(self, step, timing, start, placed, kept_loads, staged, room - staged).run()

    def finish(self) -> Schedule:
        """The whole schedule, with the last stores done."""
        self._settle()
        done = self.result
        ends = [p.end_s for p in done.tasks] + [t.segments[-1].end for t in done.transfers if t.segments]
        done.end_s = _latest(ends) if ends else 0.0
        done.occupancy = self.space.curve()
        return done

    def _ready(self, step: Step, timing: Timing) -> float:
        waits = [self.ends[d] for d in self.after[step.task] if d in self.ends]
        waits += [self.present[d] for d in step.found]
        start = _latest([self.free.get(timing.engine, 0.0), *waits])
        if not self.machine.overlap:
            ends = [t.segments[-1].end for t in self.result.transfers[-4:] if t.segments]
            start = _latest([start, *ends, *self.free.values()])
        return start

    def _when(self, start: float, size: float) -> float:
        found = self.space.when(size, start)
        if found is None:
            self._settle()
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
        return _latest([time, *ends, *self.free.values()])

    def release(self, d: int, time: float) -> None:
        """Data gives up its space, once it has left where it is still on its way out."""
        stored = self.outside.get(d)
        stay = self.stays.pop(d)
        for end in (stay.start_s, self.space.start, *([stored[0]] if stored else [])):
            time = end if end > time else time
        stay.end_s = time
        self.space.add(-self.data[d].size, time)

    def _settle_for(self, step: Step) -> None:
        """Stores that this step depends on come first."""
        needed = step.loads.keys() | step.stores.keys() | {d for d, _ in step.evicted}
        if any(needed & set(store.transfer.data) for store in self.pending):
            self._settle()

    def _settle(self) -> None:
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
            self.touched[d] = _latest([end, self.touched.get(d, 0.0)])
        self.present.update({d: end for d in step.keeps})
        if any(set(step.freed) & set(store.transfer.data) for store in self.pending):
            self._settle()
        for d in step.freed:
            self.release(d, self.touched[d])
        self.result.tasks.append(placed)
        self.recent.append(placed.start_s)
        if len(self.recent) > self.machine.window:
            self.floor = _latest([self.floor, self.recent.pop(0)])
            self.channel.forget(self.floor)
            self.space.forget(self.floor)


class _Task:
    """One task on its way to its place."""

    def __init__(
        self,
        owner: Placer,
        step: Step,
        timing: Timing,
        ready: float,
        start: float,
        kept_loads: float,
        staged: float,
        room: float,
    ) -> None:
        self.owner, self.step, self.timing, self.ready, self.start = owner, step, timing, ready, start
        self.staged, self.kept_loads = staged, kept_loads
        total = timing.load_bytes
        self.streamed = 1.0 - min(kept_loads / total, 1.0) if total else 0.0
        """Share of the loads that does not stay."""
        most = (room + timing.workspace) / self.streamed if self.streamed else float("inf")
        self.most = min(most, timing.load_bytes)
        self.loaded_s = 0.0 * timing.load_s
        self.first: float | None = None
        """When the channel could have begun to load ahead."""
        self.segments: list[Segment] = []
        self.due, self.late = self._late()

    def _late(self) -> tuple[float, float]:
        """When the last of what is loaded has been written outside, and which share of the loads that is."""
        loads, outside = self.step.loads, self.owner.outside
        stored = {d: outside[d] for d in loads if d in outside and outside[d][0] > self.owner.floor}
        if not stored:
            return self.owner.floor, 0.0
        share = sum(min(loads[d], size) for d, (_, size) in stored.items()) / sum(loads.values())
        return _latest([end for end, _ in stored.values()]), min(share, 1.0)

    def run(self) -> Placed:
        owner, timing = self.owner, self.timing
        if self.late == 1.0 and self.due > self.start + timing.launch_s:
            self.start = self.due - timing.launch_s
        go = self.start + timing.launch_s
        if owner.machine.prefetch and owner.machine.overlap:
            self._prefetch(go)
        ahead = number(self.loaded_s / timing.load_s) * timing.load_bytes * self.streamed if timing.load_bytes else 0.0
        end, progress, stores, left = self._compute(go)
        placed = Placed(
            self.step.task, self.start, go, end, {}, max(timing.workspace, ahead), self.staged
        )
        self._take_space(placed)
        self._record(placed, progress, stores, left)
        self._explain(placed)
        owner.done(self.step, placed, timing.engine)
        return placed

    def _prefetch(self, go: float) -> None:
        """Load ahead: where space frees up step by step, so much more at each step."""
        owner, timing = self.owner, self.timing
        if not timing.load_s:
            return
        first = owner.floor if self.late < 1.0 or self.due < owner.floor else self.due
        first = self.first = owner.channel.first_free(first)
        steps = [*owner.space.limits(first, self.start), (self.start, self.most)] if first < self.start else []
        steps = steps or [(first if first > self.start else self.start, self.most)]
        for k, (begin, room) in enumerate(steps):
            until = steps[k + 1][0] if k + 1 < len(steps) else go
            room = min(room, self.most)
            if self.late and begin < self.due:
                if self.due < until:
                    self._load(begin, self.due, min(room, timing.load_bytes * (1.0 - self.late)))
                    self._load(self.due, until, room)
                else:
                    self._load(begin, until, min(room, timing.load_bytes * (1.0 - self.late)))
            else:
                self._load(begin, until, room)

    def _load(self, begin: float, until: float, room: float) -> None:
        """Load until so many bytes are on chip."""
        owner, timing = self.owner, self.timing
        share = min(room / timing.load_bytes, 1.0)
        wanted = timing.load_s * share - self.loaded_s
        small = timing.load_s * EPSILON
        if wanted > small:
            segments, left = owner.channel.take(begin, wanted, until=until, least=small)
            self.segments += segments
            self.loaded_s = self.loaded_s + (wanted - left)
            for piece in segments:
                size = number(piece.seconds / timing.load_s) * timing.load_bytes
                owner.space.add(size, piece.start, self.start)

    def _compute(self, go: float) -> tuple[float, list[Segment], list[Segment], float]:
        """End, progress (rates are shares of the task a second), segments of stores, and what is left of them."""
        owner, timing = self.owner, self.timing
        left, core = timing.load_s - self.loaded_s, timing.core_s
        left = left if left > timing.load_s * EPSILON else 0.0 * left
        if not owner.machine.overlap:
            return self._one_after_the_other(go, left)
        streamed = timing.store_s * (1.0 - self._staged_share())
        flow = left + streamed
        if not flow > 0.0:
            end = go + core
            progress = [Segment(go, end, 1.0 / core)] if core > 0.0 else []
        else:
            cap = flow / core if core > flow else 1.0
            late = timing.load_s * self.late if self.late and go < self.due else 0.0
            late = late if late < left else left
            taken, _ = owner.channel.take(go, flow - late, cap, least=flow * EPSILON)
            if late > 0.0:
                begin = taken[-1].end if taken else go
                more, _ = owner.channel.take(begin if begin > self.due else self.due, late, cap, least=flow * EPSILON)
                taken += more
            progress = [Segment(s.start, s.end, s.rate / flow) for s in taken]
            end = go + core
            end = taken[-1].end if taken and taken[-1].end > end else end
            self.segments += [Segment(s.start, s.end, s.rate * (left / flow)) for s in taken if left > 0.0]
        stores = [Segment(s.start, s.end, s.rate * streamed) for s in progress if streamed > 0.0]
        behind = timing.store_s - streamed
        rest = behind
        if behind > 0.0:
            for piece in progress:
                amount = behind * piece.seconds
                some, _ = owner.channel.take(piece.start, amount, behind * piece.rate, until=piece.end)
                stores += some
                rest = rest - sum((s.seconds for s in some), 0.0 * rest)
        return end, progress, stores, rest if rest > timing.store_s * EPSILON else 0.0 * rest

    def _one_after_the_other(self, go: float, left: float) -> tuple[float, list[Segment], list[Segment], float]:
        """Load, compute, store, with nothing beside it."""
        channel, timing = self.owner.channel, self.timing
        begin = self.due if self.late and self.due > go else go
        taken, _ = channel.take(begin, left)
        self.segments += taken
        loaded = taken[-1].end if taken else go
        computed = loaded + timing.core_s
        stores, _ = channel.take(computed, timing.store_s)
        end = stores[-1].end if stores else computed
        return end, [], stores, 0.0 * end

    def _staged_share(self) -> float:
        """Share of the stores that need not leave at once: staged, or from data that stays."""
        owner, step = self.owner, self.step
        total = sum(step.stores.values())
        if self.staged:
            return 1.0
        if not total:
            return 0.0
        return sum(size for d, size in step.stores.items() if d in owner.stays or d in step.keeps) / total

    def _take_space(self, placed: Placed) -> None:
        owner = self.owner
        for d in self.step.keeps:
            owner.space.add(owner.data[d].size, placed.start_s)
            owner.stays[d] = Stay(d, placed.start_s)
            owner.result.stays.append(owner.stays[d])
        owner.space.add(placed.buffers, placed.start_s, placed.end_s)
        owner.space.add(self.staged, placed.start_s)

    def _record(self, placed: Placed, progress: list[Segment], stores: list[Segment], left: float) -> None:
        owner, step, timing = self.owner, self.step, self.timing
        if timing.load_s > 0.0:
            moved = Transfer(step.task, "load", tuple(step.loads), timing.load_bytes, self.segments)
            moved.waited_for = self._waited_for(placed)
            owner.result.transfers.append(moved)
        if owner.pending:
            owner._settle()
        if timing.store_s > 0.0:
            moved = Transfer(step.task, "store", tuple(step.stores), timing.store_bytes, stores, KERNEL)
            owner.result.transfers.append(moved)
            owner.pending.append(_Store(moved, left, placed.end_s, self.staged))
            if not left > 0.0:
                owner._settle()
        elif step.stores:
            owner.outside.update({d: (placed.end_s, size) for d, size in step.stores.items()})

    def _waited_for(self, placed: Placed) -> str:
        """Why the load did not start sooner."""
        begin = self.segments[0].start if self.segments else placed.go_s
        if not begin > 0.0:
            return ""
        if self.late == 1.0 and begin <= self.due:
            return WRITE_BACK
        if self.first is None:
            return KERNEL
        if begin > self.first:
            return CAPACITY
        return BANDWIDTH if begin > self.owner.floor else AHEAD

    def _explain(self, placed: Placed) -> None:
        """Say what the engine waited for."""
        owner, timing = self.owner, self.timing
        free = owner.free.get(timing.engine, 0.0)
        waits = {
            DEPENDENCY: self.ready - free,
            LAUNCH: placed.go_s - placed.start_s,
        }
        before = placed.start_s - self.ready
        waits[CAPACITY] = waits[WRITE_BACK] = 0.0
        waits[WRITE_BACK if self.late == 1.0 and self.start == self.due - timing.launch_s else CAPACITY] = before
        during = placed.end_s - placed.go_s - timing.core_s
        if during > 0.0 and self.first is not None and self.first < placed.go_s:
            # Bandwidth that was left over before it started had no room to load into; each second is blamed once.
            first = self.first if self.first > owner.blamed else owner.blamed
            idle = owner.channel.idle(first, placed.go_s)
            owner.blamed = placed.go_s
            waits[CAPACITY] += idle if idle < during else during
            during = during - idle if idle < during else 0.0
        waits[BANDWIDTH] = during
        placed.stalls = {cause: number(s) for cause, s in waits.items() if s > 1e-15}


def number(value: Any) -> float:
    """A float of a float, or of a scalar of torch without its gradient."""
    return float(value.detach()) if hasattr(value, "detach") else value


def _latest(times: Sequence[float]) -> float:
    latest = times[0]
    for time in times:
        if time > latest:
            latest = time
    return latest
