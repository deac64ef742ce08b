"""Two chips like for like: the same software on both, and the same everything but the on-chip memory.

A GPU is priced with the losses of real libraries, an unbuilt chip with an ideal mapper, and their arithmetic, boards
and external memories differ too. What is left of a difference where all that is equal comes from the on-chip memory;
only that is credited to it. What boards are measured to spend beyond the sum of their parts (`unattributed`) is charged
to both alike, and each pair is made with and without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..hardware.chip import Chip
from ..hardware.quantity import Quantity
from ..hardware.software import Software
from .variants import Variant

UNATTRIBUTED = ("unattributed_flop", "unattributed_vector_flop", "unattributed_bit")
"""Fields of a chip's power that hold what boards spend beyond the sum of their parts."""
_BOARD = ("limit", "static", "idle", *UNATTRIBUTED)
_EXTERNAL = (
    "capacity", "usable", "read_bandwidth", "write_bandwidth", "sustained_bandwidth", "latency", "shared_port",
    "read_energy", "write_energy", "interface_energy", "router_energy",
)  # fmt: skip
"""What makes an external memory; how far its bits go on the chip is the chip's own (`wire_energy`, `distance`)."""


@dataclass(frozen=True)
class Pair:
    """Two chips under conditions named `name`. In a `fair` pair only the on-chip memory differs."""

    name: str
    one: Variant
    other: Variant
    same_software: bool
    fair: bool
    unattributed: bool

    @property
    def both(self) -> tuple[Variant, Variant]:
        return self.one, self.other


def pairs(one: Variant, other: Variant) -> list[Pair]:
    """The pairs that a comparison shows: as shipped; with the software of either on both; then also with the first
    chip's arithmetic, board and external memory on both. Each with and without what is unattributed.
    """
    return [pair for unattributed in (True, False) for pair in _pairs(one, other, unattributed)]


def fair_pairs(one: Variant, other: Variant, unattributed: bool = True) -> list[Pair]:
    """Only those in which nothing but the on-chip memory differs."""
    return [pair for pair in _pairs(one, other, unattributed) if pair.fair]


def _pairs(one: Variant, other: Variant, unattributed: bool) -> Iterator[Pair]:
    def pair(name: str, a: Variant, b: Variant, same: bool, fair: bool) -> Pair:
        kept = (a, b) if unattributed else (without_unattributed(a), without_unattributed(b))
        return Pair(name, *kept, same, fair, unattributed)

    yield pair("as shipped", one, other, one.software == other.software, False)
    equal = Variant(equal_but_on_chip(other.chip, one.chip), other.software, other.changed)
    for second, fair in ((other, False), (equal, True)):
        for owner in _owners(one, other):
            what = "only the on-chip memory differs" if fair else "same software"
            a, b = (under(v, owner.software, owner.chip, one.chip) for v in (one, second))
            yield pair(f"{what}: {owner.software.name}", a, b, True, fair)


def _owners(one: Variant, other: Variant) -> list[Variant]:
    """Whose software and launches are put on both."""
    return [one] if one.software == other.software else [one, other]


def under(variant: Variant, software: Software, launches: Chip, charged: Chip) -> Variant:
    """A chip with other software, with the launch costs of the chip that this software runs on, and with the
    unattributed energies of a third.

    Software whose energies are measured on boards as a whole (`switching`) leaves them out: the sum of the chip's parts
    and what is unattributed take their place on both sides, or a chip that moves fewer bits would spend as much.
    """
    changes = {f"power.{field}": getattr(charged.power, field) for field in UNATTRIBUTED}
    for field in ("launch_gap_stream", "launch_gap_graph", "kernel_floor"):
        changes[f"execution.{field}"] = _in_seconds(getattr(launches.execution, field), launches)
    changes["power.product_energy"] = changes["power.vector_product_energy"] = None
    return Variant(_replace(variant.chip, changes), _plain(software, launches), variant.changed)


def _plain(software: Software, chip: Chip) -> Software:
    """Without board energies, and with its cycles as seconds of the chip that they were stated for."""
    changes: dict[str, Any] = {"switching": None} if software.switching is not None else {}
    changes |= {field: _in_seconds(getattr(software, field), chip) for field in ("prologue", "split_cost")}
    if software.attention is not None:
        changes["attention.block_latency"] = _in_seconds(software.attention.block_latency, chip)
    return software.replace(changes)


def _in_seconds(quantity: Quantity | None, chip: Chip) -> str | None:
    return None if quantity is None else f"{chip.seconds(quantity) * 1e9!r} ns"


def without_unattributed(variant: Variant) -> Variant:
    """The same with nothing charged beyond the sum of the parts."""
    none: dict[str, Any] = {f"power.{f}": None for f in (*UNATTRIBUTED, "product_energy", "vector_product_energy")}
    software = variant.software
    plain = software.replace({"switching": None}) if software.switching is not None else software
    return Variant(_replace(variant.chip, none), plain, variant.changed)


def equal_but_on_chip(chip: Chip, like: Chip) -> Chip:
    """A chip with the dense peaks, board and external memory of another; its on-chip memory with what that leaks,
    clock and number of cores stay.

    Peaks of number formats that both have are made equal, engine kind by engine kind. Energies of arithmetic stay, for
    those of a twin hold its operand buffers, which are memory.
    """
    changes: dict[str, Any] = {f"power.{field}": getattr(like.power, field) for field in _BOARD}
    floor = like.power.static.value - _leakage(like) + _leakage(chip)
    changes["power.static"] = f"{max(floor, 0.0)!r} W"
    far = chip.external.name
    changes.update({f"memory.{far}.{field}": getattr(like.external, field) for field in _EXTERNAL})
    changes[f"memory.{far}.latency"] = _in_seconds(like.external.latency, like)
    for engine in chip.engines:
        for dtype in engine.rate:
            ours, theirs = chip.engine_for(dtype, engine.kind), like.engine_for(dtype, engine.kind)
            if theirs is None or ours is not engine:
                continue
            peak = like.engine_rate(theirs, dtype) / chip.engine_rate(engine, dtype)
            changes[f"engines.{engine.name}.rate.{dtype}"] = f"{engine.rate[dtype].value * peak!r} FLOP/clk/core"
        changes[f"engines.{engine.name}.datasheet_peak"] = None
    return _replace(chip, changes)


def _leakage(chip: Chip) -> float:
    """Watts of the on-chip memories, a part of the static floor."""
    return math.fsum(level.leakage_w for level in chip.on_chip)


def _replace(chip: Chip, changes: dict[str, Any]) -> Chip:
    """`Chip.replace` with numbers of other files, whose sources go along."""
    return chip.replace(**{path: _cited(value) for path, value in changes.items()})


def _cited(value: Any) -> Any:
    """A number of another chip, citing that rather than a key of the other file's sources."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(by_alias=True, exclude_none=True)
    if isinstance(value, dict):
        cited = {key: _cited(item) for key, item in value.items()}
        return {**cited, "source": "of the chip compared with"} if "source" in value else cited
    return value
