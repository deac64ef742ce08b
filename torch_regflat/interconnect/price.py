"""Seconds and joules of a collective: the fastest of a library's algorithms and protocols over the chip's links."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import InputError
from ..hardware.chip import Chip
from ..hardware.software import Collectives, Software, collectives_of
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


def price(chip: Chip, collective: Collective, software: Software | None = None) -> Exchange:
    """What a collective takes on chips of this kind: the fastest algorithm that `software` (the chip's own) has.

    Raises `InputError` for sizes that make no sense, and where the chip does not reach so many, naming some that
    do. A group of one exchanges nothing.
    """
    return options(chip, collective, software)[0]


def options(chip: Chip, collective: Collective, software: Software | None = None) -> list[Exchange]:
    """Every way to run a collective, the fastest first; raises as `price` does."""
    _check(collective)
    found = tiers(chip, collective)
    if not found:
        return [NOTHING]
    own = collectives_of(chip, software)
    known = [way for way in ways(collective, found) if _has(own, way, collective.ranks)]
    timed = [_exchange(*one) for way in known for one in _timed(way, own)]
    return sorted(timed, key=lambda exchange: exchange.seconds)


def _has(own: Collectives, way: Way, ranks: int) -> bool:
    return way.family in own.families and (way.family != "direct" or ranks <= own.direct_ranks)


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


def bound_s(chip: Chip, collective: Collective) -> float:
    """Seconds that the bytes of the best algorithm need at the datasheet bandwidth of the links, and nothing else."""
    _check(collective)
    found = tiers(chip, collective)
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
    link, bytes pass all links at once, and those that a rank keeps are copied at the same pace.
    """
    start = max((leg.tier.level.start or own.start).value for leg in way.legs)
    protocols = own.protocols
    if way.family != "stream":
        kernel = own.in_network if way.family == "in-network" else own.direct
        protocols = {"": kernel} if kernel is not None else {}
        start = start if way.family == "in-network" else 0.0
    for name, protocol in protocols.items():
        latencies = [leg.hops * leg.tier.level.latency.value for leg in way.legs if leg.tier.level.latency]
        kept = own.own_copy.value * way.own
        moving = max((leg.size + kept) / (_rate(leg, way, own) * protocol.rate.value) for leg in way.legs)
        yield way, name, (start + protocol.start.value, math.fsum(latencies) * protocol.hop.value, moving)


def _rate(leg: Leg, way: Way, own: Collectives) -> float:
    """Bytes a second of long messages."""
    level = leg.tier.level
    adding = level.in_network.value if way.by_switch and level.in_network is not None else 1.0
    return level.bandwidth.value * usable(leg.tier) * _share(leg.tier, own) * adding


def _share(tier: Tier, own: Collectives) -> float:
    """Share of a link's bandwidth that long messages get."""
    if tier.level.topology == "host":
        return own.host_pair_rate.value if tier.ranks == 2 else own.host_rate.value
    return own.fabric_rate.value if tier.level.topology == "fat-tree" else own.link_rate.value
