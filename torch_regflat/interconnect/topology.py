"""How much of a chip's links a group can use, and how far its blocks travel."""

from __future__ import annotations

import math

from .tiers import Tier


def usable(tier: Tier) -> float:
    """Share of a chip's bandwidth that rings over the ranks of a group can use.

    All of it over a switch. Where links lead to fixed neighbours, those to chips outside the group are idle: with a
    link to each other chip, (n - 1) of (reach - 1); in a torus those along the axes that the group spans, an axis for
    every 4 chips; in a mesh (a hypercube with doubled links, DGX-1) a third of the links for each doubling.
    """
    level, n = tier.level, tier.ranks
    if level.topology == "all-to-all":
        return min(1.0, (n - 1) / max(tier.reach - 1.0, 1.0)) if math.isfinite(tier.reach) else 1.0
    if level.topology == "torus" and level.links is not None:
        return min(1.0, axes(tier) / max(level.links.value / 2.0, 1.0))
    if level.topology == "mesh":
        return min(1.0, math.ceil(math.log2(n)) / 3.0)
    return 1.0


def axes(tier: Tier) -> int:
    """Axes of a torus that a group spans: one up to 4 chips, two up to 16, and so on."""
    links = tier.level.links.value if tier.level.links is not None else 2.0
    return int(min(max(math.ceil(math.log(tier.ranks, 4) - 1e-9), 1), links / 2.0))


def distance(tier: Tier) -> float:
    """Links that a block crosses on its way, and takes bandwidth of, where chips pass on what is not for them.

    On a ring of k chips with links both ways a quarter of k in the mean, along each axis; 1 over switches and direct
    links.
    """
    if tier.level.topology not in ("ring", "torus") or tier.ranks < 2:
        return 1.0
    count = axes(tier) if tier.level.topology == "torus" else 1
    side = float(tier.ranks) ** (1.0 / count)
    return max(1.0, float(count * side / 4.0))


def traversals(tier: Tier) -> float:
    """Links that a bit crosses: up to a switch or host and down again, or one to a neighbour."""
    return 2.0 if tier.level.topology in ("switch", "host", None) else distance(tier)
