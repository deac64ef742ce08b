"""Prompts and answers on chips of their own: instances that only read, instances that only decode, as many of each as
the other needs.

Prompts arrive at random at an instance that reads one after the other in each lane: with the load u and the time S of
one, a first token takes S + u S / (2 (1 - u)) on average (Pollaczek and Khinchine, constant service), and handing the
cache over. The load is the highest that meets the target, at most `BUSIEST`. Decoding passes read no prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..served import Disaggregated, Pool, ServingPoint, StepCost
from ..units import format_duration
from .curve import Curve
from .replica import Replica
from .search import Targets

BUSIEST = 0.9
"""Load of chips that read prompts where no target asks for less (estimate)."""
_EXACT = 2
"""Layouts whose decoding is priced in full."""


@dataclass(frozen=True, slots=True)
class _Reading:
    replica: Replica
    cost: StepCost
    """All passes that read a prompt in each data-parallel group."""
    handover_s: float
    busy: float
    ttft_s: float

    @property
    def rate(self) -> float:
        """Requests a second of the instance."""
        return self.busy * self.replica.lanes / self.cost.seconds

    @property
    def a_chip(self) -> float:
        return self.rate / self.replica.layout.chips


@dataclass(frozen=True, slots=True)
class _Decoding:
    replica: Replica
    slots: int
    cost: StepCost

    @property
    def passes(self) -> float:
        return self.replica.load(1).passes

    @property
    def rate(self) -> float:
        """Requests a second of the instance."""
        return self.replica.lanes * self.slots / (self.passes * self.cost.seconds)

    @property
    def a_chip(self) -> float:
        return self.rate / self.replica.layout.chips


def apart(replicas: Sequence[Replica], targets: Targets, chunk: int) -> Disaggregated:
    """The best layouts for reading and for decoding, and what they give together.

    Raises `InputError` where no layout meets the target of either.
    """
    reading = [found for found in (_reading(replica, targets, chunk) for replica in replicas) if found]
    likely = sorted(replicas, key=lambda replica: -_coarse_rate(replica, targets, chunk))[:_EXACT]
    decoding = [found for found in (_decode(replica, targets, chunk) for replica in likely) if found]
    if not reading or not decoding:
        what, target = ("ttft", targets.ttft_s) if not reading else ("tpot", targets.tpot_s)
        raise InputError(f"no layout meets {what} {format_duration(target)} with prompts and answers on separate chips")
    read = max(reading, key=lambda one: one.a_chip)
    decode = max(decoding, key=lambda one: one.a_chip)
    share = decode.a_chip / (read.a_chip + decode.a_chip)
    rate = read.a_chip * share
    points = _read_point(read, chunk), _decode_point(decode, chunk)
    return Disaggregated(
        prefill=Pool("prompts", points[0], share, read.busy),
        decode=Pool("answers", points[1], 1.0 - share, 1.0),
        handover_s=read.handover_s,
        ttft_s=read.ttft_s,
        requests_per_s_chip=rate,
        tokens_per_s_chip=rate * decode.replica.traffic.output,
        j_per_request=math.fsum(point.j_per_request for point in points),
    )


def _reading(replica: Replica, targets: Targets, chunk: int) -> _Reading | None:
    cost = replica.reading(chunk)
    handover = _handover(replica)
    left = targets.ttft_s - cost.seconds - handover
    if left < 0.0:
        return None
    wait = 2.0 * left / cost.seconds if math.isfinite(left) else math.inf  # u / (1 - u)
    busy = BUSIEST if math.isinf(wait) else min(wait / (1.0 + wait), BUSIEST)
    if busy <= 0.0:
        return None
    return _Reading(replica, cost, handover, busy, cost.seconds * (1.0 + busy / (2.0 * (1.0 - busy))) + handover)


def _handover(replica: Replica) -> float:
    """Seconds in which a chip sends its part of a prompt's cache on, over the link that reaches farthest."""
    links = [link for link in replica.steps.chip.interconnect if link.reach is not None]
    if not links:
        raise InputError(
            f"{replica.steps.chip.name} has no links to other instances, so prompts and answers cannot be on separate "
            "chips; add an [[interconnect]] with a reach to its file"
        )
    widest = max(links, key=lambda link: link.reach.value if link.reach else 0.0)
    kept = replica.decoding.costs(replica.layout.dp, [replica.traffic.prompt])[0].kv_cache_bytes
    return kept * replica.layout.pp / widest.bandwidth.value


def _most(replica: Replica, targets: Targets, chunk: int, curve: Curve) -> int:
    """The most sequences of a lane whose tokens come in time."""
    tokens, low, high = replica.load(chunk).tokens, 0, min(targets.most, replica.capacity(chunk))
    if high and curve.at(float(high)).seconds / tokens <= targets.tpot_s:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        met = curve.at(float(middle)).seconds / tokens <= targets.tpot_s
        low, high = (middle, high) if met else (low, middle)
    return low


def _coarse_rate(replica: Replica, targets: Targets, chunk: int) -> float:
    """About how much decodes on a chip, from passes priced at powers of eight sequences."""
    curve = Curve(replica.decoded.price, base=8)
    slots = _most(replica, targets, chunk, curve)
    return replica.lanes * slots / curve.at(float(slots)).seconds / replica.layout.chips if slots else 0.0


def _decode(replica: Replica, targets: Targets, chunk: int) -> _Decoding | None:
    slots = _most(replica, targets, chunk, replica.decoded)
    if not slots:
        return None
    replica.decoded.learn(slots)
    return _Decoding(replica, slots, replica.decoded.at(float(slots)))


def _read_point(read: _Reading, chunk: int) -> ServingPoint:
    replica, chips = read.replica, read.replica.layout.chips
    power = replica.steps.chip.power
    idle = (power.idle or power.static).value * (1.0 - read.busy) * chips / read.rate
    energy = {part: joules / replica.layout.dp for part, joules in read.cost.energy_j.items()}
    waiting = max(round(read.rate * (read.ttft_s - read.handover_s)), 1)
    return _point(replica, waiting, 0.0, chunk, read.rate, read.ttft_s, 0.0, {**energy, "idle": idle}, read.cost, 1.0)


def _decode_point(decode: _Decoding, chunk: int) -> ServingPoint:
    replica, passes = decode.replica, decode.passes
    share = decode.slots * replica.layout.dp / passes  # requests a pass
    energy = {part: joules / share for part, joules in decode.cost.energy_j.items()}
    slots, tokens = decode.slots * replica.lanes, replica.load(chunk).tokens
    later, each = decode.cost.seconds / tokens, passes / decode.slots
    return _point(replica, slots, float(slots), chunk, decode.rate, 0.0, later, energy, decode.cost, each)


def _point(
    replica: Replica,
    slots: int,
    decoding: float,
    chunk: int,
    rate: float,
    ttft_s: float,
    tpot_s: float,
    energy: dict[str, float],
    cost: StepCost,
    passes: float,
) -> ServingPoint:
    """`passes` of what `cost` is of make a request in each data-parallel group."""
    chips, traffic = replica.layout.chips, replica.traffic
    peak = replica.steps.peak_flops * chips
    memory = replica.memory(max(math.ceil(slots / replica.lanes), 1), chunk)
    flops = cost.executed_flops * passes / replica.layout.dp
    return ServingPoint(
        layout=replica.layout,
        slots=slots,
        decoding=decoding,
        chunk=chunk,
        requests_per_s=rate,
        tokens_per_s=rate * traffic.output if decoding else 0.0,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        mixed=0.0 if decoding else 1.0,
        energy_j=energy,
        power_w=rate * math.fsum(energy.values()) / chips,
        utilization=flops * rate / peak if peak else 0.0,
        weights_bytes=memory.weights_bytes,
        kv_cache_bytes=memory.kv_cache_bytes,
        activations_bytes=memory.activations_bytes,
        has_bytes=memory.has_bytes,
    )
