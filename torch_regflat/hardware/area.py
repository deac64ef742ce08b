"""How much silicon the parts of a chip take, in mm2: memories, cores, network and interfaces.

    memory  = MiB x mm2 a MiB (by what kind of memory it is, a product's overheads included) x scale of the process
    cores   = control + lanes x mm2 a lane + multiply-accumulates x mm2 each, times the logic's scale of the process
    network = mm2 a core;  interfaces = mm2 a stack of HBM and a link (PHYs do not shrink with the process)

The numbers and their sources are in `areas.toml`. Of published dies the model reproduces those of A100, MI210 and H100,
and of published memories the L2 of both, AMD's stacked caches and a Cerebras core, within 15 % (tests).
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..errors import ChipError
from .chip import Area, Chip, MemoryLevel, Number
from .library import read_toml
from .quantity import Frozen

AREAS_FILE = Path(__file__).parent / "areas.toml"
MIB = 2.0**20
MM2 = 1e-6

MemoryKind = Literal["shared_cache", "core_cache", "register_file", "array", "tile", "flat"]


class Memories(Frozen):
    """Area of a MiB at 7 nm, by kind of memory."""

    shared_cache: Area
    core_cache: Area
    register_file: Area
    array: Area
    tile: Area
    flat: Area


class Logic(Frozen):
    """Area at 7 nm of a core's control, of one lane and multiply-accumulate of it, and of the network, a core."""

    control: Area
    lane: Area
    mac: Area
    network: Area


class Interfaces(Frozen):
    """Area of what connects a chip, whatever its process."""

    hbm_stack: Area
    link: Area
    other: Area


class Scale(Frozen):
    """Area at a process over that at 7 nm."""

    memory: Number
    logic: Number


class Areas(Frozen):
    """The contents of `areas.toml`."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    name: str
    memory: Memories
    logic: Logic
    interfaces: Interfaces
    scale: dict[str, Scale]
    sources: dict[str, str]


@functools.cache
def areas() -> Areas:
    """The numbers of the area model."""
    return Areas.model_validate(read_toml(AREAS_FILE))


def scale(chip: Chip) -> Scale:
    """How areas change from 7 nm to the chip's process. Raises `ChipError` where that is not known."""
    node = chip.die.node if chip.die is not None else None
    if node is None:
        raise ChipError(f"{chip.name}: its file gives no die.node, so areas of its parts are not known; add [die] node")
    name = f"{node.value / 1e-9:g}"
    if name not in areas().scale:
        known = ", ".join(f"{n} nm" for n in areas().scale)
        raise ChipError(f"{chip.name}: no areas are known for a process of {name} nm; known are {known}")
    return areas().scale[name]


def kind_of(chip: Chip, level: MemoryLevel) -> MemoryKind:
    """What kind of memory a level on the chip is."""
    if chip.memory_system == "register-flat":
        return "flat" if not level.shared_port else "tile"
    if chip.memory_system == "scratchpad":
        return "array"
    if level.scope == "chip":
        return "shared_cache"
    return "register_file" if level is chip.on_chip[0] else "core_cache"


def mm2_per_mib(chip: Chip, kind: MemoryKind) -> float:
    """mm2 of a MiB of this kind of memory in the chip's process."""
    return float(getattr(areas().memory, kind).value) / MM2 * scale(chip).memory.value


def level_mm2(chip: Chip, level: MemoryLevel) -> float:
    """mm2 of all copies of a level on the chip: as its file says, or by the model."""
    if level.area is not None:
        return level.area.value / MM2
    return level.capacity_bytes / MIB * mm2_per_mib(chip, kind_of(chip, level))


def blocks(chip: Chip, *, stacks: int = 0, links: int | None = None) -> dict[str, float]:
    """mm2 of every block of a die with so many stacks of HBM, and links (by default those of the chip's file).

    A chip as sold has some of its cores, memory and stacks switched off; give `chip.replace(...)` with those on the
    die for the area of the die.
    """
    own, logic = areas(), scale(chip).logic.value
    cores = chip.cores.count.value
    found = {level.name: level_mm2(chip, level) for level in chip.on_chip}
    found["control"] = cores * own.logic.control.value / MM2 * logic
    found["vector"] = cores * _lanes(chip) * own.logic.lane.value / MM2 * logic
    found["matrix"] = cores * _macs(chip) * own.logic.mac.value / MM2 * logic
    found["network"] = cores * own.logic.network.value / MM2 * logic
    found["memory interface"] = stacks * own.interfaces.hbm_stack.value / MM2
    found["links"] = (_links(chip) if links is None else links) * own.interfaces.link.value / MM2
    found["other"] = own.interfaces.other.value / MM2
    return found


def die_mm2(chip: Chip, *, stacks: int = 0, links: int | None = None) -> float:
    """mm2 of all blocks together."""
    return math.fsum(blocks(chip, stacks=stacks, links=links).values())


def _lanes(chip: Chip) -> float:
    """Vector lanes of a core: an fp32 multiply-accumulate a clock each."""
    return sum(e.rate["fp32"].value / 2.0 for e in chip.engines if e.kind == "vector" and "fp32" in e.rate)


def _macs(chip: Chip) -> float:
    """16-bit multiply-accumulates of a core's matrix engines."""
    engines = [engine for engine in chip.engines if engine.kind == "matrix"]
    return max((e.rate[d].value / 2.0 for e in engines for d in ("fp16", "bf16") if d in e.rate), default=0.0)


def _links(chip: Chip) -> float:
    return sum(link.links.value for link in chip.interconnect if link.links is not None and link.topology != "host")
