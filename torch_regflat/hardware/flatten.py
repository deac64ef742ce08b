"""The register-flat twin of a chip: its caches' and shared memories' area spent on one memory of registers.

What stays: engines, process, die area, external memory, links, clock, power limit, launches, and the network between
cores. What goes: every level of memory on the chip. Register files stay as the matrix engines' operand and accumulator
buffers (their energy is then part of the engines'), or are spent too (`registers=True`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from .. import units
from ..errors import ChipError, InputError
from .area import MIB, kind_of, level_mm2, mm2_per_mib
from .chip import Chip, Engine, MemoryLevel, dtype_bits

Iso = Literal["area", "power"]

BANK_BYTES = 32 * 1024
BANK_WIDTH = 16
PORT_SHARE = 0.5
"""Of what all banks together could read a clock, what the read port takes; the write port takes half of that."""
LEAK_FLAT, LEAK_6T = 1.4e-3 / 2**20, 1.0e-3 / 2**20
"""Watts a bit of 8T and of 6T cells at 0.75 V and 85 C (estimates; bounds a fifth and five times)."""
ACCESS_S, ACCESS_A_DOUBLING_S, WIRE_S_A_M = 0.20e-9, 0.015e-9, 120e-9
USABLE_CYCLE = 0.7
WARP_TILE = (64, 64)
WIDE_TILE = (64, 256)
"""Rows and columns of a result that register files hold beside an engine that they feed, that reads memory itself."""
ACCUMULATOR_BITS = 32
ENERGY_AT_7NM = {5: 0.7, 6: 1.0, 7: 1.0, 8: 1.35, 12: 1.8, 14: 2.2, 16: 2.5}
"""Energy of an SRAM access by process, 7 nm = 1, as all chip files have it; 14 nm is between its neighbours."""
_SOURCE = "Derived by torch_regflat.hardware.flatten from the chip's own file and areas.toml"


@dataclass(frozen=True)
class Freed:
    """What one level gives up."""

    name: str
    capacity_bytes: float
    mm2: float
    leakage_w: float


def flatten(
    chip: Chip, iso: Iso = "area", *, registers: bool = False, capacity: str | float | None = None
) -> Chip:
    """The register-flat twin of a chip.

    `iso="area"` spends the freed area; `iso="power"` only so much of it that the registers leak no more than the
    memories they replace (the power limit is the chip's in both). `registers=True` counts register files among the
    memories. `capacity` asks for a size instead, as `"64 MiB"` or bytes. Raises `ChipError` where that does not fit the
    freed area, where one tile of an engine does not fit a core's share, and for chips that are flat already.
    """
    if iso not in ("area", "power"):
        raise InputError(f'iso is {iso!r}; it must be "area" or "power"')
    if chip.memory_system == "register-flat":
        raise ChipError(f"{chip.name} is register-flat already; flatten a chip with caches or scratchpads")
    gone = _freed(chip, registers)
    if not gone:
        raise ChipError(f"{chip.name}: no memory beside its register files; give registers=True to spend those")
    total = _capacity(chip, gone, iso, capacity)
    cores = chip.cores.count.value
    banks = math.floor(total / cores / BANK_BYTES)
    _check_tiles(chip, banks, total, registers)
    level = _level(chip, banks, gone)
    leaks = float(level["leakage"]["value"])
    return Chip.from_dict(_twin(chip, iso, registers, gone, level, leaks, capacity), f"{chip.name}:flat")


def parse(text: str) -> dict[str, Any]:
    """Options of `flatten` as written behind a chip's name: `flat`, `flat-power`, `flat+registers`, `flat+64MiB`."""
    word, *more = text.split("+")
    if word not in ("flat", "flat-power"):
        raise ChipError(f"unknown variant {text!r} of a chip; write :flat or :flat-power, with +registers or +64MiB")
    options: dict[str, Any] = {"iso": "power" if word == "flat-power" else "area"}
    for part in more:
        if part == "registers":
            options["registers"] = True
        elif part[:1].isdigit():
            options["capacity"] = part
        else:
            raise ChipError(f"unknown option {part!r} of {word}; write +registers, or a capacity as in +64MiB")
    return options


def _freed(chip: Chip, registers: bool) -> list[Freed]:
    found = []
    for level in chip.on_chip:
        if kind_of(chip, level) == "register_file" and not registers:
            continue
        leaks = level.leakage_w if level.leakage is not None else level.capacity_bytes * 8 * LEAK_6T
        found.append(Freed(level.name, level.capacity_bytes, level_mm2(chip, level), leaks))
    return found


def _capacity(chip: Chip, gone: list[Freed], iso: Iso, asked: str | float | None) -> float:
    """Bytes of the registers. Raises `ChipError` with the numbers where those asked for do not fit."""
    density, area = mm2_per_mib(chip, "flat"), math.fsum(f.mm2 for f in gone)
    most = area / density * MIB
    if asked is not None:
        wanted = units.parse(_spaced(asked), "bytes") if isinstance(asked, str) else float(asked)
        if wanted > most:
            raise ChipError(
                f"{chip.name}: {units.format_bytes(wanted, binary=True)} of registers take "
                f"{wanted / MIB * density:.0f} mm2 at {density:.2f} mm2/MiB, and {_names(gone)} free {area:.0f} mm2, "
                f"enough for {units.format_bytes(most, binary=True)}"
            )
        return wanted
    if iso == "power":
        return min(most, math.fsum(f.leakage_w for f in gone) / LEAK_FLAT / 8)
    return most


def _spaced(text: str) -> str:
    """`64MiB` as `64 MiB`."""
    digits = next((i for i, c in enumerate(text) if not (c.isdigit() or c == ".")), len(text))
    return f"{text[:digits]} {text[digits:].strip()}"


def _names(gone: list[Freed]) -> str:
    return " and ".join(f.name for f in gone)


def _check_tiles(chip: Chip, banks: int, total: float, registers: bool) -> None:
    """One tile of each matrix engine, both factors held twice, fits a core's share."""
    for engine in chip.engines:
        if engine.kind != "matrix":
            continue
        rows, columns, depth = _tile(engine, registers)
        widest = max(dtype_bits(dtype) for dtype in engine.rate) / 8
        needed = 2 * (rows + columns) * depth * widest
        if needed > banks * BANK_BYTES:
            raise ChipError(
                f"{chip.name}: {units.format_bytes(total, binary=True)} of registers are "
                f"{units.format_bytes(banks * BANK_BYTES, binary=True)} a {chip.cores.name} in banks of 32 KiB, and "
                f"one tile of {engine.name} ({rows} x {columns} x {depth}), twice buffered, needs "
                f"{units.format_bytes(needed, binary=True)}"
            )


def _tile(engine: Engine, registers: bool) -> tuple[int, int, int]:
    """Rows, columns and depth that an engine works on without fetching operands again."""
    rows, columns, depth = engine.native_tile()
    if registers or engine.dataflow is not None:
        return rows, columns, depth
    held = WIDE_TILE if engine.feed == "memory" else WARP_TILE
    return max(rows, held[0]), max(columns, held[1]), depth


def _number(value: float, unit: str, note: str = "") -> dict[str, Any]:
    return {"value": value, "unit": unit, "source": _SOURCE, "kind": "estimate", "note": note}


def _side_mm(chip: Chip) -> float:
    if chip.die is None:
        raise ChipError(f"{chip.name}: its file gives no die.area, so distances on it are not known; add [die] area")
    return math.sqrt(chip.die.area.value) * 1e3


def _node(chip: Chip) -> int:
    assert chip.die is not None and chip.die.node is not None  # `mm2_per_mib` has refused chips without
    return round(chip.die.node.value * 1e9)


def _level(chip: Chip, banks: int, gone: list[Freed]) -> dict[str, Any]:
    """The one level of registers."""
    cores, clock, side = chip.cores.count.value, chip.clock.value, _side_mm(chip)
    own_mm2 = banks * BANK_BYTES / MIB * mm2_per_mib(chip, "flat")
    bits, half = BANK_BYTES * 8, math.sqrt(own_mm2) / 2
    read = ENERGY_AT_7NM[_node(chip)] * (0.107 + 3.85e-5 * math.sqrt(bits))
    wires = [x.wire_energy.value * 1e9 for x in chip.on_chip if x.wire_energy is not None]
    wire = max(wires, default=0.07)
    access = ACCESS_S + ACCESS_A_DOUBLING_S * math.log2(bits) + 2 * half * 1e-3 * WIRE_S_A_M
    shared = [level for level in chip.on_chip if level.scope == "chip"]
    between = shared[-1].read_bytes_per_s / cores / clock if shared else float(4 * BANK_WIDTH)
    sent = f"what {shared[-1].name} sent" if shared else "64 B"
    port = banks * BANK_WIDTH * PORT_SHARE
    return {
        "name": "registers",
        "scope": "core",
        "capacity": _number(banks * BANK_BYTES / 1024, "KiB", f"{banks} banks of 32 KiB a {chip.cores.name}"),
        "read_bandwidth": _number(port, "B/clk/core", "half of what all banks could read"),
        "write_bandwidth": _number(port / 2, "B/clk/core", "a port of its own, for results and loads"),
        "remote_bandwidth": _number(min(between, port), "B/clk/core", f"the network stays: {sent} a core"),
        "latency": _number(max(1, math.ceil(access * clock / USABLE_CYCLE)), "cycles", "array and wires of a core"),
        "wire_delay": _number(WIRE_S_A_M / USABLE_CYCLE * 1e9, "ps/mm", "120 ps/mm, usable in 70 % of a cycle"),
        "placement": "local",
        "conflicts": "random",
        "bank_bits": _number(BANK_BYTES / 1024, "KiB"),
        "bank_width": _number(BANK_WIDTH, "B"),
        "banks": _number(banks, "1"),
        "read_energy": _number(read, "pJ/bit", "the fit of all chip files, for banks of 32 KiB"),
        "write_energy": _number(1.1 * read, "pJ/bit", "1.1 x read"),
        "wire_energy": _number(wire, "pJ/bit/mm", "as in the memories it replaces"),
        "router_energy": _number(0.05, "pJ/bit", "a mesh router, a hop"),
        "distance": _number(half, "mm", "half the side of a core's registers"),
        "remote_distance": _number(2 / 3 * side, "mm", "mean Manhattan distance, 2/3 of the die's side"),
        "worst_distance": _number(1.5 * side, "mm", "mean distance to the farthest corner, 3/2 of the die's side"),
        "remote_hops": _number(max(1.0, 2 / 3 * math.sqrt(cores)), "1", "mean hops on a square mesh of the cores"),
        "leakage": _number(cores * bits * banks * LEAK_FLAT, "W", "1.4 mW/Mibit"),
        "area": _number(cores * own_mm2, "mm2", f"of {math.fsum(f.mm2 for f in gone):.0f} mm2 freed"),
    }


def _twin(
    chip: Chip, iso: Iso, registers: bool, gone: list[Freed], level: dict[str, Any], leaks: float, capacity: Any
) -> dict[str, Any]:
    data = chip.to_dict()
    name = f"{chip.name}:flat{'-power' if iso == 'power' else ''}{'+registers' if registers else ''}"
    name += "" if capacity is None else f"+{str(capacity).replace(' ', '')}"
    data.update(name=name, title=f"{chip.title}, its memories flattened", aliases=[], memory_system="register-flat")
    data.update(software="ideal-mapper", description=_derivation(chip, iso, registers, gone, level), architecture="")
    data.pop("price", None)
    external = dict(data["memory"][-1])
    external["distance"] = _number(7 / 12 * _side_mm(chip), "mm", "from the nearer edge to any core, 7/12 of the side")
    data["memory"] = [level, external]
    engines = zip(chip.engines, data["engines"], strict=True)
    data["engines"] = [_engine(chip, engine, entry, registers) for engine, entry in engines]
    power = dict(data["power"])
    for measured in ("product_energy", "vector_product_energy"):
        power.pop(measured, None)
    static = chip.power.static.value - math.fsum(f.leakage_w for f in gone) + leaks
    power["static"] = _number(static, "W", "that of the chip, less what its memories leak, and what the registers leak")
    data["power"] = power
    return _with_cited_sources(data)


def _with_cited_sources(data: dict[str, Any]) -> dict[str, Any]:
    """Only the sources that are still cited."""
    used: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("source"), str):
                used.add(value["source"])
            for item in value.values():
                walk(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                walk(item)

    walk({k: v for k, v in data.items() if k != "sources"})
    return {**data, "sources": {k: v for k, v in data.get("sources", {}).items() if k in used}}


def _engine(chip: Chip, engine: Engine, entry: dict[str, Any], registers: bool) -> dict[str, Any]:
    """An engine beside the registers: what its operand buffers hold and spend."""
    entry = dict(entry)
    if engine.kind == "vector" and engine.rows is None and "fp32" in engine.rate:
        entry["rows"] = _number(1, "1", "one operand is broadcast over the lanes")
        entry["columns"] = _number(engine.rate["fp32"].value / 2, "1", "the lanes")
    if engine.kind != "matrix" or engine.dataflow is not None:
        return entry
    rows, columns, _ = _tile(engine, registers)
    kept = not registers and kind_of(chip, chip.on_chip[0]) == "register_file"
    if kept:
        entry["rows"] = _number(rows, "1", "what the register files hold")
        entry["columns"] = _number(columns, "1", "what the register files hold")
        extra = _buffered(engine, chip.on_chip[0])
        entry["energy"] = {
            dtype: _number((energy.value + extra[dtype]) * 1e12, "pJ/FLOP", "with its accesses to the register files")
            for dtype, energy in engine.energy.items()
        }
    return entry


def _buffered(engine: Engine, level: MemoryLevel) -> dict[str, float]:
    """J/FLOP that an engine spends in register files: its sums, and the fragments that pass through them."""
    m, n, k = engine.native_tile()
    found = {}
    for dtype in engine.rate:
        read = write = ACCUMULATOR_BITS / k
        if engine.feed == "registers":
            bits = dtype_bits(dtype)
            read += bits * (1.0 / n + 1.0 / m)
            write += bits * (1.0 / WARP_TILE[0] + 1.0 / WARP_TILE[1])
        found[dtype] = (read * level.read_j_per_bit + write * level.write_j_per_bit) / 2.0
    return found


def _derivation(chip: Chip, iso: Iso, registers: bool, gone: list[Freed], level: dict[str, Any]) -> str:
    """How the twin came about, for people."""
    area = math.fsum(f.mm2 for f in gone)
    parts = ", ".join(f"{f.name} {units.format_bytes(f.capacity_bytes, binary=True)} = {f.mm2:.0f} mm2" for f in gone)
    total = units.format_bytes(level["capacity"]["value"] * 1024 * chip.cores.count.value, binary=True)
    spent = level["area"]["value"]
    files = "spent too" if registers else "kept as buffers of the matrix engines, whose energy has their accesses"
    limit = "" if iso == "area" else ", as much as leaks no more than they did"
    return (
        f"The register-flat twin of {chip.name}: engines, process, die area, external memory, clock and power limit "
        "are its own. "
        f"Freed: {parts}, {area:.0f} mm2 in all; register files are {files}. "
        f"At {mm2_per_mib(chip, 'flat'):.2f} mm2/MiB they give {total} of registers{limit} ({spent:.0f} mm2)."
    )
