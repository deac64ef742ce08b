"""One task on its way to its place: what it loads ahead, how it runs beside the rest of its transfers, why it waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .channel import EPSILON, Segment
from .plan import Step
from .records import (
    AHEAD,
    BANDWIDTH,
    CAPACITY,
    DEPENDENCY,
    KERNEL,
    LAUNCH,
    WRITE_BACK,
    Placed,
    Stay,
    Timing,
    Transfer,
    latest,
    number,
)

if TYPE_CHECKING:
    from .place import Placer


class Placement:
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
        return latest([end for end, _ in stored.values()]), min(share, 1.0)

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
            self.step.task, self.start, go, end, {}, max(timing.workspace, ahead), self.staged, timing.engine
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
        owner.settle()
        if timing.store_s > 0.0:
            moved = Transfer(step.task, "store", tuple(step.stores), timing.store_bytes, stores, KERNEL)
            owner.result.transfers.append(moved)
            owner.later(moved, left, placed.end_s, self.staged)
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
            owner.unused += number(owner.channel.idle(first, placed.go_s))
            owner.blamed = placed.go_s
            short = min(number(during), owner.unused)
            owner.unused -= short
            waits[CAPACITY] += short
            during = during - short
        waits[BANDWIDTH] = during
        placed.stalls = {cause: number(s) for cause, s in waits.items() if s > 1e-15}
