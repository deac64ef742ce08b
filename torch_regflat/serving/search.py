"""The number of slots, and the chunk, of the largest throughput that meets the targets, for one layout."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..served import Limit, ServingPoint
from .curve import Curve
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
_AGAIN = 3


@dataclass(frozen=True, slots=True)
class Found:
    """What a search gave: the best slots and chunk, with their rate; no slots where none meet the targets."""

    slots: int
    chunk: int
    requests_per_s: float = 0.0


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
            slots = self._found(chunk)
            if slots:
                found.append(Found(slots, chunk, self.state(slots, chunk).requests_per_s * self.replica.lanes))
        return max(found, key=lambda one: (one.requests_per_s, -one.chunk), default=Found(0, min(chunks)))

    def _found(self, chunk: int) -> int:
        """The best number of slots, its costs priced where they are used and not between powers of two."""
        for _ in range(_AGAIN):
            slots = self._enough(self.most_slots(chunk, self.targets), chunk)
            if not slots or not self.replica.decoded.learn(max(round(self.state(slots, chunk).decoding), 1)):
                break
            self._states.clear()
        return slots

    def estimate(self, chunk: int) -> float:
        """About how many requests a second and chip there can be, with passes priced at powers of eight sequences and
        one chunk, whose time adds to that of a pass. Nothing where not even one request fits or meets the targets."""
        replica, load = self.replica, self.replica.load(chunk)
        capacity = min(self.targets.most, replica.capacity(chunk))
        if not capacity:
            return 0.0
        reading = replica.passes(0.0, 1.0, chunk)[1].seconds * load.chunks / load.passes  # a sequence and pass
        coarse = Curve(replica.decoded.price, base=8)

        def mean(decoding: float) -> float:
            return coarse.at(decoding).seconds + decoding * reading

        low, high = 0.0, min(float(capacity), load.most)
        if mean(high) / load.tokens <= self.targets.tpot_s:
            low = high
        while high - low > 0.01 * high:
            middle = (low + high) / 2.0
            low, high = (middle, high) if mean(middle) / load.tokens <= self.targets.tpot_s else (low, middle)
        return replica.lanes * low / (load.passes * mean(low)) / replica.layout.chips if low else 0.0

    def alone(self, chunks: tuple[int, ...] = CHUNKS) -> ServingPoint:
        """One request at a time, the fastest there is."""
        return min((self.point(1, chunk) for chunk in self._distinct(chunks)), key=lambda p: (p.ttft_s, p.tpot_s))

    def curve(self, found: Found) -> tuple[ServingPoint, ...]:
        """From one slot to twice the best, as far as they fit and are allowed."""
        most = min(2 * found.slots, self.targets.most, self.replica.capacity(found.chunk))
        shown = {found.slots, *(1 << power for power in range(most.bit_length()))}
        return tuple(self.point(slots, found.chunk) for slots in sorted(shown))

    def most_slots(self, chunk: int, targets: Targets, capacity: int | None = None) -> int:
        """The most slots that meet targets and fit; times grow with slots."""
        capacity = self.replica.capacity(chunk) if capacity is None else capacity
        most = min(targets.most, capacity)
        if most < 1 or targets.met(self.state(most, chunk)):
            return max(most, 0)
        # Powers of two are priced anyway: first between them, then between two of them.
        low, high = -1, (most - 1).bit_length()
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if targets.met(self.state(1 << middle, chunk)) else (low, middle)
        if low < 0:
            return 0
        least, above = 1 << low, min(1 << high, most)
        while above - least > max(1, least // 64):
            middle = (least + above) // 2
            least, above = (middle, above) if targets.met(self.state(middle, chunk)) else (least, middle)
        return least

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
