"""What each algorithm of a collective moves, and in how many hops: R. Thakur, R. Rabenseifner and W. Gropp,
"Optimization of Collective Communication Operations in MPICH", IJHPCA 19(1), 2005, and what NCCL makes of them: Z. Hu
et al., "Demystifying NCCL", 2025.

Everything is as one rank sees it, of a message of `size` bytes: what an all-reduce starts with, what an all-gather ends
with, what a reduce-scatter, an all-to-all or a broadcast starts with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..hardware.software import Family
from ..workload import Collective
from .tiers import Tier
from .topology import distance


@dataclass(frozen=True, slots=True)
class Leg:
    """What goes over one tier: messages that follow one another, and bytes that leave the rank."""

    tier: Tier
    hops: float
    size: float


@dataclass(frozen=True, slots=True)
class Way:
    """One algorithm: run in a protocol of NCCL, by the switch, or as one kernel that reads its peers' memory.

    `own` are the bytes that a rank also moves through its own memory.
    """

    name: str
    family: Family
    legs: tuple[Leg, ...]
    own: float = 0.0
    by_switch: bool = False
    """Whether the nearest switch adds up."""


def message(collective: Collective) -> float:
    """Bytes of the message as the formulas and NCCL's tests count it: of an all-gather, all shards together."""
    return collective.nbytes * (collective.ranks if collective.kind == "all_gather" else 1)


def ways(collective: Collective, tiers: Sequence[Tier]) -> list[Way]:
    """Every algorithm that a library has for this collective over these tiers."""
    size = message(collective)
    return [way for make in _MAKERS[collective.kind] if (way := make(size, tuple(tiers))) is not None]


def _ranks(tiers: Sequence[Tier]) -> int:
    return math.prod(tier.ranks for tier in tiers)


def _ring(rounds: int) -> Callable[[float, tuple[Tier, ...]], Way | None]:
    """`rounds` times around all ranks, n - 1 hops each, (n - 1) / n of the message over each link.

    A ring that leaves a group enters it again elsewhere: of the bytes that go around, one rank in each group sends its
    own to the next group; libraries build as many rings as a group has ranks, so that all of them share that.
    """

    def make(size: float, tiers: tuple[Tier, ...]) -> Way:
        n = _ranks(tiers)
        moved = rounds * (n - 1) / n * size
        legs, below = [], 1
        for index, tier in enumerate(tiers):
            # Of the n steps around, those that cross this tier and no farther one.
            crossed = n / below if index + 1 == len(tiers) else n / below * (1.0 - 1.0 / tier.ranks)
            legs.append(Leg(tier, rounds * crossed * (n - 1) / n, moved * crossed / n))
            below *= tier.ranks
        return Way("ring", "stream", tuple(legs), size / n)

    return make


def _tree(size: float, tiers: tuple[Tier, ...]) -> Way | None:
    """Two binary trees over groups, each for half of the message, and chains inside a group (NCCL's trees)."""
    if len(tiers) < 2:
        return None
    legs, below = [], 1
    for index, tier in enumerate(tiers):
        depth = tier.ranks - 1 if index == 0 else math.ceil(math.log2(tier.ranks))
        legs.append(Leg(tier, 2.0 * depth, 2.0 * size / below))
        below *= tier.ranks
    return Way("tree", "stream", tuple(legs), size / _ranks(tiers))


def _in_network(size: float, tiers: tuple[Tier, ...]) -> Way | None:
    """The switch adds up what ranks send and hands the sum to all of them (NVLink SHARP).

    A rank sends all of its message to be added, and its share of the sum to be handed out: size (1 + 1/n). Groups
    exchange their shares in trees.
    """
    first = tiers[0]
    if first.level.in_network is None or first.ranks < 2:
        return None
    legs, below = [Leg(first, 2.0, size * (1.0 + 1.0 / first.ranks))], first.ranks
    for tier in tiers[1:]:
        legs.append(Leg(tier, 2.0 * math.ceil(math.log2(tier.ranks)), 2.0 * size / below))
        below *= tier.ranks
    name = "in-network" if len(tiers) == 1 else "in-network and tree"
    return Way(name, "in-network", tuple(legs), by_switch=True)


def _one_shot(size: float, tiers: tuple[Tier, ...]) -> Way | None:
    """Every rank reads the whole message of every other and adds up for itself."""
    return _direct("one-shot", tiers, 1, lambda n: (n - 1) * size)


def _two_shot(size: float, tiers: tuple[Tier, ...]) -> Way | None:
    """Every rank reads its share of every message and adds it up; then all read the sums."""
    return _direct("two-shot", tiers, 2, lambda n: 2.0 * (n - 1) / n * size)


def _multicast(size: float, tiers: tuple[Tier, ...]) -> Way | None:
    """One kernel that lets the switch add up and hand out (`multimem` instructions)."""
    if tiers[0].level.in_network is None:
        return None
    found = _direct("multicast", tiers, 1, lambda n: size * (1.0 + 1.0 / n))
    return None if found is None else replace(found, by_switch=True)


def _direct(name: str, tiers: tuple[Tier, ...], rounds: int, moved: Callable[[int], float]) -> Way | None:
    """Ranks tell each other that a message is there (a hop), read it (there and back), and that they are done."""
    n = tiers[0].ranks
    if len(tiers) > 1 or tiers[0].level.topology == "host":
        return None
    return Way(name, "direct", (Leg(tiers[0], 3.0 * rounds + 1.0, moved(n)),))


def _pairs(size: float, tiers: tuple[Tier, ...]) -> Way:
    """Every rank sends every other its block: n - 1 of n blocks, each as far as it has to go.

    A block waits until its receiver is ready, which is a hop more.
    """
    n, legs, below = _ranks(tiers), [], 1
    for tier in tiers:
        blocks = below * (tier.ranks - 1)
        legs.append(Leg(tier, 2.0, size * blocks / n * distance(tier)))
        below *= tier.ranks
    return Way("pairwise", "stream", tuple(legs), size / n)


def _chain(size: float, tiers: tuple[Tier, ...]) -> Way:
    """From rank to rank in parts, all links at work at once."""
    way = _ring(1)(size, tiers)
    assert way is not None
    whole = _ranks(tiers) / (_ranks(tiers) - 1)
    return Way("chain", "stream", tuple(Leg(leg.tier, leg.hops, leg.size * whole) for leg in way.legs))


def _send(size: float, tiers: tuple[Tier, ...]) -> Way:
    tier = tiers[-1]
    return Way("send", "stream", (Leg(tier, 2.0, size * distance(tier)),))


_MAKERS: dict[str, tuple[Callable[[float, tuple[Tier, ...]], Way | None], ...]] = {
    "all_reduce": (_ring(2), _tree, _in_network, _one_shot, _two_shot, _multicast),
    "all_gather": (_ring(1),),
    "reduce_scatter": (_ring(1),),
    "all_to_all": (_pairs,),
    "broadcast": (_chain,),
    "send": (_send,),
}
