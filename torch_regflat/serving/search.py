"""The number of slots, and the chunk, of the largest throughput that meets the targets, for one layout."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..served import Limit, ServingPoint
from .lane import Lane
from .limits import resources
from .replica import CHUNKS, Replica


@dataclass(frozen=True, slots=True)
class Targets:
    """At most so many seconds to the first token and for each later one, and so many requests of a lane at once."""

    ttft_s: float = math.inf
    tpot_s: float = math.inf
    most: int = 1024

    def met(self, lane: Lane) -> bool:
        return lane.ttft_s <= self.ttft_s and lane.tpot_s <= self.tpot_s


_ALL = 0.99


@dataclass(frozen=True, slots=True)
class Found:
    """What a search gave: the best point, or None where no number of slots meets the targets; `alone` is one request at
    a time, the fastest there is."""

    point: ServingPoint | None
    alone: ServingPoint
    curve: tuple[ServingPoint, ...]


class Search:
    """States of one replica by slots and chunk, each solved once."""

    def __init__(self, replica: Replica, targets: Targets) -> None:
        self.replica, self.targets = replica, targets
        self._states: dict[tuple[int, int], Lane] = {}

    def state(self, slots: int, chunk: int) -> Lane:
        """The steady state of a lane."""
        if (slots, chunk) not in self._states:
            self._states[slots, chunk] = self.replica.state(slots, chunk)
        return self._states[slots, chunk]

    def best(self, chunks: tuple[int, ...] = CHUNKS) -> Found:
        """The best chunk and number of slots."""
        found = []
        for chunk in self._distinct(chunks):
            slots = self._enough(self.most_slots(chunk, self.targets), chunk)
            if slots:
                found.append((self.state(slots, chunk).requests_per_s, -chunk, slots))
        alone = min((self.point(1, chunk) for chunk in self._distinct(chunks)), key=lambda p: (p.ttft_s, p.tpot_s))
        if not found:
            return Found(None, alone, ())
        _, chunk, slots = max(found)
        return Found(self.limited(slots, -chunk), alone, self._curve(-chunk, slots))

    def most_slots(self, chunk: int, targets: Targets, capacity: int | None = None) -> int:
        """The most slots that meet targets and fit; times grow with slots, so the first that do not end the search."""
        capacity = self.replica.capacity(chunk) if capacity is None else capacity
        most = min(targets.most, capacity)
        good, slots = 0, 1
        while slots <= most and targets.met(self.state(slots, chunk)):
            good, slots = slots, slots * 2
        low, high = good, min(slots, most + 1)
        while high - low > max(1, low // 64):
            middle = (low + high) // 2
            low, high = (middle, high) if targets.met(self.state(middle, chunk)) else (low, middle)
        return low

    def _enough(self, most: int, chunk: int) -> int:
        """The fewest slots that give all but a hundredth of what the most give: further ones only wait."""
        slots, wanted = most, _ALL * self.state(most, chunk).requests_per_s if most else 0.0
        while slots > 1 and self.state(slots // 2, chunk).requests_per_s > wanted:
            slots //= 2
        return slots

    def _distinct(self, chunks: tuple[int, ...]) -> list[int]:
        """Without chunks that read prompts as a smaller one does."""
        loads = {self.replica.load(chunk): chunk for chunk in sorted(chunks, reverse=True)}
        return sorted(loads.values())

    def _curve(self, chunk: int, best: int) -> tuple[ServingPoint, ...]:
        shown = [slots for slots, known in sorted(self._states) if known == chunk and slots & (slots - 1) == 0]
        return tuple(self.point(slots, chunk) for slots in sorted({*shown, best}))

    def limited(self, slots: int, chunk: int) -> ServingPoint:
        """The point with what limits it, and what would next."""
        lane = self.state(slots, chunk)
        external = self.replica.steps.chip.external.name
        links = tuple(link.name for link in self.replica.steps.chip.interconnect)
        shares = resources(lane.cost, external, links)
        gates = self._gates(slots, chunk)
        limits = [*gates[:1], *shares, *gates[1:]] if gates and gates[0].name == "capacity" else [*shares, *gates]
        return replace(self.point(slots, chunk), limits=tuple(limits))

    def _gates(self, slots: int, chunk: int) -> list[Limit]:
        """What keeps more requests out, by what its absence would give, the most first; first of all what binds."""
        targets, free = self.targets, self.replica.capacity(chunk)
        rate = self.state(slots, chunk).requests_per_s
        lifted = {
            ("targets", "time to first token"): (replace(targets, ttft_s=math.inf), free),
            ("targets", "time per output token"): (replace(targets, tpot_s=math.inf), free),
            ("capacity", "memory for caches"): (targets, targets.most),
            ("slots", f"at most {targets.most} at once"): (replace(targets, most=4 * targets.most), free),
        }
        gates = []
        for (name, what), (wider, capacity) in lifted.items():
            if wider == targets and capacity <= free:
                continue
            if name == "slots" and slots < targets.most:
                continue
            more = self.most_slots(chunk, wider, capacity)
            better = self.state(more, chunk).requests_per_s if more > slots else rate
            if better > rate * 1.01:
                gates.append(Limit(name, what, tokens_per_s=self._tokens(better)))
        gates.sort(key=lambda limit: -(limit.tokens_per_s or 0.0))
        if self.state(slots, chunk).mixed > 0.99:
            gates.insert(0, Limit("prompts", "every pass reads prompts already"))
        return gates

    def _tokens(self, requests_per_s: float) -> float:
        return requests_per_s * self.replica.lanes * self.replica.traffic.output

    def point(self, slots: int, chunk: int) -> ServingPoint:
        """The instance in this state."""
        lane, replica = self.state(slots, chunk), self.replica
        rate = lane.requests_per_s * replica.lanes
        starting = lane.requests_per_s * lane.cost.seconds * replica.layout.dp  # requests a pass
        energy = {part: joules / starting for part, joules in lane.cost.energy_j.items()}
        memory = replica.memory(slots, chunk)
        tokens, cost, chips = rate * replica.traffic.output, lane.cost, replica.layout.chips
        peak = replica.steps.peak_flops * chips
        return ServingPoint(
            layout=replica.layout,
            slots=slots * replica.lanes,
            decoding=lane.decoding * replica.lanes,
            chunk=chunk,
            requests_per_s=rate,
            tokens_per_s=tokens,
            ttft_s=lane.ttft_s,
            tpot_s=lane.tpot_s,
            mixed=lane.mixed,
            energy_j=energy,
            power_w=rate * math.fsum(energy.values()) / chips,
            utilization=cost.executed_flops / starting * rate / peak if peak else 0.0,
            weights_bytes=memory.weights_bytes,
            kv_cache_bytes=memory.kv_cache_bytes,
            activations_bytes=memory.activations_bytes,
            has_bytes=memory.has_bytes,
            tokens_per_s_low=None if cost.high_s is None else tokens * cost.seconds / cost.high_s,
            tokens_per_s_high=None if not cost.low_s else tokens * cost.seconds / cost.low_s,
        )
