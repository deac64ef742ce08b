"""How much of a chip's time is lost to its on-chip hierarchy, to external bandwidth, and to its software.

Each cause is taken away on a copy of the chip: an ideal hierarchy (every on-chip access free and immediate, and room
for all that was touched, so that external traffic is compulsory), external bandwidth without limit whose bits cost no
power, an ideal mapper without launches. Causes hide each other, so that the order matters: of each, what is gained
where it alone goes and where it goes last is told, and its share is the mean over all orders (Shapley value), with
which shares add up to all that is lost.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..hardware.software import load
from .rows import Row
from .variants import Variant

_PLENTY, _FAST = "1 PiB", 1e4
HIERARCHY, BANDWIDTH, SOFTWARE = "on-chip hierarchy", "external bandwidth", "software"


@dataclass(frozen=True)
class Cause:
    """Seconds lost to one cause: its share of the loss, what goes where it alone is taken away, and where it goes
    last. The bounds of what an ideal remedy of this cause could gain."""

    name: str
    share_s: float
    alone_s: float
    last_s: float


@dataclass(frozen=True)
class Loss:
    """Where a chip's time goes: what is left without any of the causes, and each cause."""

    latency_s: float
    left_s: float
    causes: tuple[Cause, ...]


def ideal_hierarchy(variant: Variant) -> Variant:
    """The chip with on-chip memories of unlimited capacity and bandwidth, without latency or energy."""
    changes: dict[str, Any] = {}
    for level in variant.chip.on_chip:
        at = f"memory.{level.name}."
        changes |= {at + "capacity": _PLENTY, at + "usable": None, at + "latency": "0 cycles", at + "leakage": None}
        for field in ("read_bandwidth", "write_bandwidth", "remote_bandwidth"):
            changes[at + field] = _faster(level, field, _FAST)
        for field in ("read_energy", "write_energy", "interface_energy", "wire_energy", "router_energy"):
            changes[at + field] = None
    return Variant(variant.chip.replace(**changes), variant.software, variant.changed)


def endless_bandwidth(variant: Variant) -> Variant:
    """The chip with ten thousand times the external bandwidth, whose bits take none of its power."""
    external = variant.chip.external
    at = f"memory.{external.name}."
    fields = ("read_bandwidth", "write_bandwidth", "sustained_bandwidth")
    changes: dict[str, Any] = {at + field: _faster(external, field, _FAST) for field in fields}
    for field in ("read_energy", "write_energy", "interface_energy", "wire_energy", "router_energy"):
        changes[at + field] = None
    changes["power.unattributed_bit"] = None
    return Variant(variant.chip.replace(**changes), variant.software, variant.changed)


def ideal_software(variant: Variant) -> Variant:
    """The chip under an ideal mapper that costs no launches either. The energy that its board is measured to spend on
    products stays, for it decides how fast power lets the clock be."""
    ideal = load("ideal-mapper")
    switching = variant.software.switching
    if switching is not None:
        changes: dict[str, Any] = {"switching": switching.model_dump(exclude_none=True, by_alias=True)}
        used = {q.source for _, q in variant.software.quantities()}
        changes |= {f"sources.{k}": v for k, v in variant.software.sources.items() if k in used}
        ideal = ideal.replace(changes)
    chip = variant.chip.replace(
        **{"execution.launch_gap_stream": "0 us", "execution.launch_gap_graph": "0 us", "execution.kernel_floor": None}
    )
    return Variant(chip, ideal, variant.changed)


REMEDIES: dict[str, Callable[[Variant], Variant]] = {
    HIERARCHY: ideal_hierarchy,
    BANDWIDTH: endless_bandwidth,
    SOFTWARE: ideal_software,
}


def remedied(variant: Variant) -> dict[frozenset[str], Variant]:
    """The chip without each set of causes."""
    found = {}
    for count in range(len(REMEDIES) + 1):
        for names in itertools.combinations(REMEDIES, count):
            here = variant
            for name in names:
                here = REMEDIES[name](here)
            found[frozenset(names)] = here
    return found


def loss(rows: Sequence[Row], without: dict[frozenset[str], Variant]) -> Loss:
    """The loss of one point from its rows on all the chips of `remedied`."""
    by_key = {(row["chip_hash"], row["software_hash"]): row["latency_s"] for row in rows}
    seconds = {names: by_key[v.key["chip_hash"], v.key["software_hash"]] for names, v in without.items()}
    every = frozenset(REMEDIES)
    causes = []
    for name in REMEDIES:
        others = sorted(every - {name})
        gains = []
        for count in range(len(others) + 1):
            for some in itertools.combinations(others, count):
                before = frozenset(some)
                weight = 1.0 / (len(every) * math.comb(len(others), count))
                gains.append(weight * (seconds[before] - seconds[before | {name}]))
        alone, last = seconds[frozenset()] - seconds[frozenset({name})], seconds[frozenset(others)] - seconds[every]
        causes.append(Cause(name, math.fsum(gains), alone, last))
    return Loss(seconds[frozenset()], seconds[every], tuple(causes))


def _faster(level: Any, field: str, times: float) -> Any:
    given = getattr(level, field)
    return None if given is None else f"{given.given * times!r} {given.unit}"

