"""Seconds and joules of a collective: the fastest of a library's algorithms and protocols over the chip's links."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..hardware.chip import Chip
from ..hardware.software import Collectives, Protocol, Software, collectives_of
from ..workload import Collective
from .algorithms import Leg, Way, ways
from .tiers import Tier, tiers
from .topology import traversals, usable

BITS = 8.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """A collective as it is run, as one of its chips sees it.

    `start_s` is until the first message leaves, launch apart, `hops_s` the messages that wait for one another, and
    `moving_s` the bytes on the busiest link; they follow one another. `level` is the interconnect that takes longest,
    `algorithm` how the library runs it. `sent_bytes` leave this chip, by level, and cost `energy_j` on the links.
    """

    start_s: float
    hops_s: float
    moving_s: float
    level: str
    algorithm: str
    sent_bytes: dict[str, float]
    energy_j: dict[str, float]

    @property
    def seconds(self) -> float:
        """From the start of its kernel to its end."""
        return self.start_s + self.hops_s + self.moving_s

    @property
    def joules(self) -> float:
        return math.fsum(self.energy_j.values())


NOTHING = Exchange(0.0, 0.0, 0.0, "", "none", {}, {})


def price(
    chip: Chip, collective: Collective, software: Software | None = None, others: Sequence[Chip] = ()
) -> Exchange:
    """What a collective takes on chips of this kind: the fastest algorithm that `software` (the chip's own) has.

    Raises `InputError` for sizes that make no sense, and where the chip does not reach so many (naming those of
    `others` that do). A group of one exchanges nothing.
    """
    return options(chip, collective, software, others)[0]


def options(
    chip: Chip, collective: Collective, software: Software | None = None, others: Sequence[Chip] = ()
) -> list[Exchange]:
    """Every way to run a collective, the fastest first; raises as `price` does."""
    _check(collective)
    found = tiers(chip, collective, others)
    if not found:
        return [NOTHING]
    own = collectives_of(chip, software)
    timed = [_exchange(*one) for way in ways(collective, found) for one in _timed(way, own)]
    return sorted(timed, key=lambda exchange: exchange.seconds)


def _check(collective: Collective) -> None:
    for name in ("ranks", "stride"):
        value = getattr(collective, name)
        if value < 1:
            raise InputError(f"{_a(collective.kind)} has {name} = {value}; it must be 1 or more")
    if not (collective.nbytes >= 0 and math.isfinite(collective.nbytes)):
        raise InputError(f"{_a(collective.kind)} has {collective.nbytes} bytes; it must be 0 or more")
    if collective.kind == "send" and collective.ranks != 2:
        raise InputError(f"a send has {collective.ranks} ranks; it has two")


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def bound_s(chip: Chip, collective: Collective, others: Sequence[Chip] = ()) -> float:
    """Seconds that the bytes of the best algorithm need at the datasheet bandwidth of the links, and nothing else."""
    _check(collective)
    found = tiers(chip, collective, others)
    return min(
        (max(leg.size / leg.tier.level.bandwidth.value for leg in way.legs) for way in ways(collective, found)),
        default=0.0,
    ) if found else 0.0


def _exchange(way: Way, name: str, parts: tuple[float, float, float]) -> Exchange:
    sent: dict[str, float] = {}
    energy: dict[str, float] = {}
    for leg in way.legs:
        level = leg.tier.level
        sent[level.name] = leg.size
        energy[level.name] = BITS * leg.size * traversals(leg.tier) * (level.energy.value if level.energy else 0.0)
    return Exchange(
        *parts,
        level=max(way.legs, key=lambda leg: leg.size / leg.tier.level.bandwidth.value).tier.level.name,
        algorithm=f"{way.name}, {name}" if name else way.name,
        sent_bytes=sent,
        energy_j=energy,
    )


def _timed(way: Way, own: Collectives) -> Iterator[tuple[Way, str, tuple[float, float, float]]]:
    """(algorithm, protocol, (start, hops, moving)) of each way to run an algorithm: hops take the latency of their
    link, bytes (and those in flight before the first arrive) pass all links at once.
    """
    start = max(_start(leg, own) for leg in way.legs)
    if way.family == "stream":
        for name, protocol in own.protocols.items():
            yield way, name, (start, _hops(way, protocol), _moving(way, own, protocol, way.own))
        return
    kernel = own.in_network if way.family == "in-network" else own.direct
    if kernel is not None:
        begin = kernel.start.value + (start if way.family == "in-network" else 0.0)
        yield way, "", (begin, _hops(way, kernel), _moving(way, own, kernel, 0.0))


def _hops(way: Way, protocol: Protocol) -> float:
    latencies = [leg.hops * leg.tier.level.latency.value for leg in way.legs if leg.tier.level.latency]
    return math.fsum(latencies) * protocol.hop.value


def _moving(way: Way, own: Collectives, protocol: Protocol, kept: float) -> float:
    """Seconds in which the bytes pass the busiest link, and those that a rank keeps are copied at the same pace."""

    def seconds(leg: Leg) -> float:
        rate = leg.tier.level.bandwidth.value * usable(leg.tier) * _share(leg.tier, own) * protocol.rate.value
        return (leg.size + own.own_copy.value * kept + protocol.fill.value) / rate

    return max(seconds(leg) for leg in way.legs)


def _share(tier: Tier, own: Collectives) -> float:
    """Share of a link's bandwidth that long messages get."""
    if tier.level.topology == "host":
        return own.host_pair_rate.value if tier.ranks == 2 else own.host_rate.value
    return own.fabric_rate.value if tier.level.topology == "fat-tree" else own.link_rate.value


def _start(leg: Leg, own: Collectives) -> float:
    return (leg.tier.level.start or own.start).value
