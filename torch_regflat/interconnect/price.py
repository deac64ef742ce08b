"""Seconds and joules of a collective: the fastest of a library's algorithms and protocols over the chip's links."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..hardware.chip import Chip, Interconnect
from ..hardware.software import Collectives, Software, collectives_of
from ..workload import Collective
from .algorithms import Leg, Way, message, ways
from .tiers import Tier, tiers
from .topology import traversals, usable

BITS = 8.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """A collective as it is run, as one of its chips sees it.

    `seconds` from the start of its kernel, launch apart; `joules` of the links, for what this chip sends; `level` is
    the interconnect that takes longest, `algorithm` how the library runs it; `sent_bytes` leave the chip, by level.
    """

    seconds: float
    joules: float
    level: str
    algorithm: str
    sent_bytes: dict[str, float]

    @property
    def bytes_per_s(self) -> float:
        """What leaves the chip a second, over all levels."""
        return math.fsum(self.sent_bytes.values()) / self.seconds if self.seconds else 0.0


NOTHING = Exchange(0.0, 0.0, "", "none", {})


def price(chip: Chip, collective: Collective, software: Software | None = None, others: Sequence[Chip] = ()) -> Exchange:
    """What a collective takes on chips of this kind: the fastest algorithm that `software` (the chip's own) has.

    Raises `InputError` for sizes that make no sense, and where the chip does not reach so many (naming those of
    `others` that do). A group of one exchanges nothing.
    """
    _check(collective)
    found = tiers(chip, collective, others)
    if not found:
        return NOTHING
    return _fastest(collective, collectives_of(chip, software), found)


def _check(collective: Collective) -> None:
    for name in ("ranks", "stride"):
        value = getattr(collective, name)
        if value < 1:
            raise InputError(f"a {collective.kind} has {name} = {value}; it must be 1 or more")
    if not (collective.nbytes >= 0 and math.isfinite(collective.nbytes)):
        raise InputError(f"a {collective.kind} has {collective.nbytes} bytes; it must be 0 or more")
    if collective.kind == "send" and collective.ranks != 2:
        raise InputError(f"a send has {collective.ranks} ranks; it has two")


def _fastest(collective: Collective, own: Collectives, found: tuple[Tier, ...]) -> Exchange:
    timed = [
        (seconds, index, way, name)
        for index, way in enumerate(ways(collective, found))
        for name, seconds in _timed(way, own, message(collective))
    ]
    seconds, _, way, name = min(timed, key=lambda one: one[:2])
    return Exchange(
        seconds=seconds,
        joules=math.fsum(BITS * leg.size * traversals(leg.tier) * _energy(leg.tier.level) for leg in way.legs),
        level=max(way.legs, key=lambda leg: leg.size / leg.tier.level.bandwidth.value).tier.level.name,
        algorithm=f"{way.name}, {name}" if name else way.name,
        sent_bytes=_sent(way),
    )


def _timed(way: Way, own: Collectives, size: float) -> Iterator[tuple[str, float]]:
    """(protocol, seconds) of each way to run an algorithm.

    In a protocol: seconds = start + hops x latency + max over links of (bytes + what is in flight first) / bandwidth.
    """
    start = max((_start(leg, own) for leg in way.legs), default=0.0)
    if way.family == "stream":
        for name, protocol in own.protocols.items():
            hops = math.fsum(leg.hops * _latency(leg) * protocol.hop.value for leg in way.legs)
            share, fill = protocol.rate.value, protocol.fill.value
            yield name, start + hops + max(_moving(leg, own, share, fill, way.own) for leg in way.legs)
        return
    mode = own.in_network if way.family == "in-network" else own.direct
    if mode is None:
        return
    hops = math.fsum(leg.hops * _latency(leg) * mode.hop.value for leg in way.legs)
    begin = start if way.family == "in-network" else 0.0
    moving = max(_moving(leg, own, mode.rate.value, mode.fill.value, 0.0) for leg in way.legs)
    yield "", begin + mode.start.value + hops + moving


def _moving(leg: Leg, own: Collectives, share: float, fill: float, kept: float) -> float:
    """Seconds in which the bytes of a leg pass, and those that a rank keeps are copied at the same pace."""
    rate = leg.tier.level.bandwidth.value * usable(leg.tier) * _medium(leg.tier, own) * share
    return (leg.size + own.own_copy.value * kept + fill) / rate


def _medium(tier: Tier, own: Collectives) -> float:
    """Share of a link's bandwidth that long messages get."""
    if tier.level.topology == "host":
        return own.host_pair_rate.value if tier.ranks == 2 else own.host_rate.value
    return own.fabric_rate.value if tier.level.topology == "fat-tree" else own.link_rate.value


def _start(leg: Leg, own: Collectives) -> float:
    return (leg.tier.level.start or own.start).value


def _latency(leg: Leg) -> float:
    return leg.tier.level.latency.value if leg.tier.level.latency is not None else 0.0


def _energy(level: Interconnect) -> float:
    return level.energy.value if level.energy is not None else 0.0


def _sent(way: Way) -> dict[str, float]:
    sent: dict[str, float] = {}
    for leg in way.legs:
        sent[leg.tier.level.name] = sent.get(leg.tier.level.name, 0.0) + leg.size
    return sent
