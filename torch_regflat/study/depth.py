"""The same die with one to four on-chip levels on the same area: what depth itself costs.

The area that a register-flat chip spends on its memory is shared out over levels. Levels of the cores are made of the
flat memory's cells, levels of the whole chip of smaller single-port ones. What an access costs follows from size and
distance by the estimates that the flat chip's file is made of:

    read  = 0.7 (0.107 + 3.85e-5 sqrt(bank bits)) pJ/bit + 0.07 pJ/bit/mm x distance
    cycles = clock (0.20 ns + 0.015 ns log2(bits of the memory) + 0.171 ns/mm x distance), from one on

Nothing but levels differs: arithmetic, its feed, clock, board and external memory are the flat chip's.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch

from ..cost.chip_tensors import chip_tensors
from ..cost.shapes import KernelShape
from ..errors import InputError
from ..hardware.chip import Chip
from ..hardware.software import load
from ..memory.quantities import ProblemTensors
from ..profiler import Captured
from ..schedule.managed import Search
from ..schedule.mapper import spaces
from ..schedule.residency import Residency
from ..schedule.shape import shape_of

DEPTHS = (1, 2, 3, 4)
_ROUNDS = 4
_BETTER = 0.999
_SHARES: dict[int, tuple[tuple[str, str, float], ...]] = {
    1: (("registers", "core", 1.0),),
    2: (("registers", "core", 0.25), ("shared", "chip", 0.75)),
    3: (("registers", "core", 0.125), ("scratch", "core", 0.375), ("shared", "chip", 0.5)),
    4: (("registers", "core", 0.125), ("scratch", "core", 0.25), ("near", "chip", 0.25), ("far", "chip", 0.375)),
}
"""Levels from the engines outwards: name, whose it is, share of the area (choices of ours, as GPUs have them)."""
_SINGLE_PORT = 0.5 / 0.7
"""Area of a bit of single-port 6T cells over that of 8T ones (0.50 and 0.70 mm2/MiB)."""
_BANK_BITS = {"core": 32 * 8 * 1024, "chip": 512 * 8 * 1024}
_WIDTH = {"registers": (512, 256), "scratch": (256, 128), "shared": (64, 64), "near": (64, 64), "far": (64, 64)}
"""Bytes a clock and core, read and written; the chip-wide ones are those of a mesh's links."""


def with_levels(flat: Chip, depth: int) -> Chip:
    """A register-flat chip with its memory's area shared out over `depth` levels, as a scratchpad chip.

    The name ends in the depth. Raises `InputError` for another memory system or depth.
    """
    if flat.memory_system != "register-flat":
        raise InputError(f"{flat.name} has {flat.memory_system} memories; a register-flat chip is given more levels")
    if depth not in DEPTHS:
        raise InputError(f"{depth} levels; it must be one of {', '.join(map(str, DEPTHS))}")
    data = flat.to_dict()
    base = flat.on_chip[0]
    whole, side = base.capacity_bytes, math.sqrt(flat.die.area.value) * 1e3 if flat.die else 28.0
    levels = [
        _level(flat, name, scope, share * whole / (_SINGLE_PORT if scope == "chip" else 1.0), side)
        for name, scope, share in _SHARES[depth]
    ]
    data["memory"] = [*levels, data["memory"][-1]]
    data["engines"] = [_systolic(engine) for engine in data["engines"]]
    data |= {"memory_system": "scratchpad", "name": f"{flat.name}-{depth}-levels", "aliases": []}
    return Chip.from_dict(data, f"{flat.name} with {depth} levels", replacing=True)


def _level(flat: Chip, name: str, scope: str, capacity: float, side_mm: float) -> dict[str, Any]:
    cores = flat.cores.count.value
    own = capacity / cores if scope == "core" else capacity
    bank = min(_BANK_BITS[scope], own * 8.0)
    distance = _distance_mm(name, own, side_mm)
    read = 0.7 * (0.107 + 3.85e-5 * math.sqrt(bank))
    seconds = 0.20e-9 + 0.015e-9 * math.log2(own * 8.0) + 0.171e-9 * distance
    cycles = max(1, math.ceil(seconds * flat.clock.value - 0.5))
    reads, writes = _WIDTH[name]
    return {
        "name": name,
        "scope": scope,
        "capacity": f"{math.floor(own)} B",
        "read_bandwidth": f"{reads} B/clk/core",
        "write_bandwidth": f"{writes} B/clk/core",
        "shared_port": scope == "chip",
        "latency": f"{cycles} cycles",
        "read_energy": f"{read!r} pJ/bit",
        "write_energy": f"{1.1 * read!r} pJ/bit",
        "wire_energy": "0.07 pJ/bit/mm",
        "distance": f"{distance!r} mm",
    }


def _distance_mm(name: str, own: float, side_mm: float) -> float:
    """Half the side of a core's memory (0.70 mm2/MiB); of the chip's, half or two thirds of the die's side."""
    if name == "near":
        return side_mm / 3.0
    if name in ("shared", "far"):
        return side_mm * 2.0 / 3.0
    return 0.5 * math.sqrt(0.7 * own / 2**20) + (0.0 if name == "registers" else 0.6)


def _systolic(engine: dict[str, Any]) -> dict[str, Any]:
    """The arithmetic of scratchpad chips is systolic arrays; the flat chip's array holds its results."""
    return {**engine, "dataflow": "output-stationary"} if engine["kind"] == "matrix" else engine


def largest_product(captured: Captured) -> KernelShape:
    """The product that does most of a model's arithmetic, all its instances together, from cold memories."""
    shapes = [shape_of(kernel, Residency(), captured.workload) for kernel in captured.kernels]
    count = Counter(shape for shape in shapes if shape.problem is not None and shape.kind != "attention")
    if not count:
        raise InputError("the model has no matrix product; name another")
    return max(count, key=lambda shape: shape.work * count[shape])


@dataclass(frozen=True)
class Spent:
    """What one kernel takes: seconds, joules, and the part of them that is unattributed."""

    latency_s: float
    energy_j: float
    unattributed_energy_j: float


_SPENT: dict[tuple[str, KernelShape], Spent] = {}
"""What was searched before, by the contents of the chip."""


def spent(shape: KernelShape, chip: Chip) -> Spent:
    """What one kernel takes under an ideal mapper, by a search that takes as long at any depth: a coarse
    space in all loop orders, then the neighbourhood of the best as long as that is better. Within a few percent of the
    full search, which takes minutes for four levels.
    """
    found = _SPENT.get((chip.hash, shape))
    if found is None:
        found = _SPENT[chip.hash, shape] = _searched(shape, chip)
    return found


def _searched(shape: KernelShape, chip: Chip) -> Spent:
    software = load("ideal-mapper")
    search = Search(chip, software, chip_tensors([chip], [software]))
    tensors, rates = search.numbers([shape])
    mapper, problems = search.mapper(tensors), ProblemTensors.of([shape])
    cores = int(chip.cores.count.value)
    every = spaces.nestings(problems.structure, mapper.stages)
    found = mapper.rank([shape], rates, spaces.coarse(problems, mapper.stages, cores))[0][0]
    for _ in range(_ROUNDS):
        tiles = torch.tensor([found.mappings[0].tiles], dtype=torch.float64)
        near = spaces.around(problems, mapper.stages, tiles, every, cores)
        again = mapper.rank([shape], rates, near)[0][0]
        if not again.mappings or again.measures[0] > found.measures[0] * _BETTER:
            break
        found = again
    cost = search.price([shape], [found.mappings[0]])[0].cost
    return Spent(*(float(v.max()) for v in (cost.latency_s, cost.energy_j, cost.unattributed_energy_j)))
