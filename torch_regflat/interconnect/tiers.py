"""Which of a chip's ways to other chips a group of ranks uses."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import InputError
from ..hardware import library
from ..hardware.chip import Chip, Interconnect
from ..layout import divisors
from ..workload import Collective


@dataclass(frozen=True, slots=True)
class Tier:
    """`ranks` that reach each other over one level; each stands for a whole group of the tiers below."""

    level: Interconnect
    ranks: int

    @property
    def reach(self) -> float:
        return self.level.reach.value if self.level.reach is not None else math.inf


def tiers(chip: Chip, collective: Collective) -> tuple[Tier, ...]:
    """The levels that a collective goes over, nearest first, with how many ranks each joins.

    As many ranks as are within the reach of the first level (`reach` chips in a row, of which the group has every
    `stride`-th) and divide the group are joined there; the next level joins such groups, and so on.

    Raises `InputError` where the chip has no way to others, or none that reaches so far, naming chips that have one.
    """
    left, span, found = collective.ranks, collective.stride, []
    for level in chip.ways:
        assert level.reach is not None
        near = max(d for d in divisors(left) if d == 1 or span * d <= level.reach.value)
        if near > 1:
            found.append(Tier(level, near))
            left, span = left // near, span * near
    if left > 1:
        raise InputError(_too_far(chip, collective.ranks * collective.stride))
    return tuple(found)


NAMED = 6


def _too_far(chip: Chip, chips: int) -> str:
    others = map(library.shipped, library.shipped_names())
    able = [other.name for other in others if other is not None and _reach(other) >= chips]
    more = f" and {len(able) - NAMED} more" if len(able) > NAMED else ""
    instead = f"; chips that reach so many: {', '.join(able[:NAMED])}{more}" if able else ""
    if not chip.ways:
        return (
            f"{chip.name} has no way to other chips, and {chips} were asked for; "
            f"add an [[interconnect]] with a reach to its file{instead}"
        )
    most = max(chip.ways, key=lambda way: way.reach.value if way.reach else 0.0)
    reach = int(_reach(chip))
    return (
        f"{chip.name} reaches {reach} chips (over {most.name}), and {chips} were asked for; "
        f"use at most {reach}, or add an [[interconnect]] that reaches further to its file{instead}"
    )


def _reach(chip: Chip) -> float:
    return max((way.reach.value for way in chip.ways if way.reach is not None), default=1.0)
