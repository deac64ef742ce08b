"""Pick the best legal mapping of every distinct kernel, all kernels and candidates in one tensor evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from .. import mapping as mappings
from ..conditions import SCHEDULED, Conditions
from ..cost.chip_tensors import ChipTensors, RateTensors, chip_tensors, rate_tensors
from ..cost.kernel import Cost, Movement, evaluate
from ..cost.shapes import KernelShape, KernelTensors, pack
from ..errors import CapacityError, ChipError
from ..hardware.chip import Chip, dtype_bits
from ..hardware.software import AttentionKernels, Software
from ..interconnect import Exchange
from ..memory import attention, cache
from .algorithms import algorithms
from .mapper.found import Mapping, Objective

Shuffle: TypeAlias = "Callable[[mappings.MappingBatch], mappings.MappingBatch]"
Adjust: TypeAlias = "Callable[[ChipTensors, RateTensors, list[str]], tuple[ChipTensors, RateTensors]]"
MEMORY_BUDGET_BYTES = 512 * 2**20
_TENSORS_ALIVE = 120
"""About so many temporaries of one evaluation are alive at once (measured); it sizes the chunks."""
_VECTOR_FALLBACK = "fp32"
_FREE_SIDES = (16, 32, 64, 96, 128, 192, 256, 512)
FREE_TILES = tuple((m, n) for m in _FREE_SIDES for n in _FREE_SIDES)
FREE_DEPTHS = (16, 32, 64, 128)
"""What blocks may be cut into where the software leaves the choice free; what does not fit is dropped."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen mapping of one kernel shape, as plain floats (seconds, joules, bytes)."""

    latency_s: float
    core_s: float
    external_s: float
    overhead_s: float
    resources_s: dict[str, float]
    stretch: float
    read_bytes: tuple[float, ...]
    write_bytes: tuple[float, ...]
    level_energy_j: tuple[float, ...]
    compute_energy_j: float
    unattributed_energy_j: float
    static_energy_j: float
    operand_far_bytes: tuple[float, ...]
    tile: tuple[float, float, float, float]
    """m, n, k of the tile, and split, of a library's kernel."""
    shape: KernelShape
    """The shape that was priced: that of the algorithm chosen."""
    mapping: str
    candidates: int
    legal: int
    reason: str
    chosen: Mapping | None = None
    """The whole mapping, where memories are managed explicitly."""
    held_bytes: float = 0.0
    """What its tiles take of the last memory on chip, where that is managed explicitly."""
    exchange: Exchange | None = None
    """What goes over the links, of a kernel that exchanges with other chips; `core_s` is then theirs."""
    beside_s: float = 0.0
    """What such a kernel needs in the chip's own memories meanwhile."""

    def measure(self, objective: Objective) -> float:
        """Seconds, joules or their product."""
        parts = (self.compute_energy_j, self.unattributed_energy_j, self.static_energy_j)
        joules = math.fsum((*self.level_energy_j, *parts, self.exchange.joules if self.exchange else 0.0))
        return {"latency": self.latency_s, "energy": joules, "edp": joules * self.latency_s}[objective]


def choose(
    shapes: list[KernelShape],
    chip: Chip,
    software: Software,
    objective: Objective = "latency",
    shuffle: Shuffle | None = None,
    adjust: Adjust | None = None,
    conditions: Conditions = SCHEDULED,
) -> list[Choice]:
    """The best mapping of each shape. `shuffle` reorders the candidates, which must not change anything; `adjust`
    changes the chip's numbers before they are used.
    """
    check(chip)
    if not shapes:
        return []
    tensors = chip_tensors([chip], [software], conditions)
    search = Search(chip, software, tensors, objective, shuffle, adjust, conditions)
    ways = [(index, way) for index, shape in enumerate(shapes) for way in algorithms(shape, chip, software)]
    result: list[Choice | None] = [None] * len(shapes)
    for members in _alike([way for _, way in ways]):
        for some in _chunks(members, search.count([ways[i][1] for i in members])):
            for at, choice in zip(some, search.best([ways[i][1] for i in some]), strict=True):
                index = ways[at][0]
                result[index] = _better(choice, result[index], objective)
    for shape, choice in zip(shapes, result, strict=True):
        if choice is None:
            raise CapacityError(_nothing_fits(shape, chip))
    return [choice for choice in result if choice is not None]


def _better(one: Choice | None, other: Choice | None, objective: Objective) -> Choice | None:
    """The choice with the smaller measure; the earlier one (the loop nest as it stands) where they are equal."""
    if one is None or other is None:
        return other if one is None else one
    return one if one.measure(objective) < other.measure(objective) else other


@dataclass(frozen=True)
class Search:
    """One search of the mapping space of a chip."""

    chip: Chip
    software: Software
    tensors: ChipTensors
    objective: Objective
    shuffle: Shuffle | None = None
    adjust: Adjust | None = None
    conditions: Conditions = SCHEDULED

    def best(self, shapes: list[KernelShape]) -> list[Choice | None]:
        """The best mapping of each shape in one evaluation; None where no candidate is legal."""
        batch, move, cost = self.price(shapes)
        measure = _measure(cost, self.objective)
        best, runner_up, legal = pick(measure, cost.energy_j, move.legal, batch.key)
        return _read(shapes, batch, move, cost, measure, best, runner_up, legal)

    def price(self, shapes: list[KernelShape]) -> tuple[mappings.MappingBatch, Movement, Cost]:
        """Every candidate of every shape."""
        chip = self.chip
        kernels = pack(shapes)
        dtypes = [engine_dtype(shape, chip, self.software) for shape in shapes]
        tensors, rates = self.tensors, rate_tensors([chip], [self.software], dtypes, self.conditions)
        if self.adjust is not None:
            tensors, rates = self.adjust(tensors, rates, dtypes)
        batch = candidates(kernels, chip, self.software)
        if self.shuffle is not None:
            batch = self.shuffle(batch)
        move = cache.move(kernels, batch, tensors, rates)
        return batch, move, evaluate(move, kernels, tensors, rates, self.software.overlap)

    def count(self, shapes: list[KernelShape]) -> int:
        """Candidates of one of these kernels, which share a menu."""
        return candidates(pack(shapes[:1]), self.chip, self.software).candidates


def check(chip: Chip) -> None:
    """Raise `ChipError` for a cache hierarchy that has no cost model."""
    if chip.memory_system == "cache" and len(chip.on_chip) != 3:
        found = ", ".join(level.name for level in chip.on_chip)
        raise ChipError(
            f"{chip.name}: a cache hierarchy is priced with three levels on chip (registers, a memory of each "
            f"core, a cache they share), found {found}"
        )


def candidates(kernels: KernelTensors, chip: Chip, software: Software) -> mappings.MappingBatch:
    """The menu of the library: of kernels that are all fused attention, or all experts, their own."""
    if bool((kernels.attention > 0).all()):
        own = software.attention
        rows, splits = (own.rows, own.splits) if own else (attention.ROWS, software.split_k)
        return mappings.library_menu([(m, 1) for m in rows], (int(attention.KEYS),), splits)
    engine = next((e for e in chip.engines if e.kind == "matrix"), None)
    if not (software.tiles and software.tile_k):
        return mappings.library_menu(software.tiles or FREE_TILES, software.tile_k or FREE_DEPTHS, software.split_k)
    if bool((kernels.grouped > 0).all()):
        menu = software.experts or software.menu
        wide = menu.wide_tiles if engine is not None and engine.feed == "memory" else ()
        return mappings.library_menu(menu.tiles + wide, menu.k, menu.split_k if software.experts else (1,))
    return mappings.library_menu(software.tiles_for(engine), software.tile_k, software.split_k)


def pick(measure: Tensor, energy: Tensor, legal: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Index of the least measure over (tile, split), ties broken by energy and then by the canonical key.

    Returns (flat index `[kernel, chip]`, the second-best measure, the number of legal candidates).
    """
    wide = legal & (measure >= 0.0) & (energy >= 0.0) & (key >= 0.0)
    legal, measure, energy, key = (t.expand(wide.shape).flatten(-2) for t in (legal, measure, energy, key))
    infinity = torch.full((), float("inf"), dtype=torch.float64)
    remaining = legal
    for value in (measure, energy, key):
        masked = torch.where(remaining, value, infinity)
        remaining = remaining & (masked == masked.amin(-1, keepdim=True))
    best = remaining.to(torch.int64).argmax(-1)
    others = torch.where(legal & ~remaining, measure, infinity)
    return best, others.amin(-1), legal.sum(-1)


def _measure(cost: Cost, objective: Objective) -> Tensor:
    if objective == "latency":
        return cost.latency_s
    return cost.energy_j if objective == "energy" else cost.energy_j * cost.latency_s


def _read(
    shapes: list[KernelShape],
    batch: mappings.MappingBatch,
    move: Movement,
    cost: Cost,
    measure: Tensor,
    best: Tensor,
    runner_up: Tensor,
    legal: Tensor,
) -> list[Choice | None]:
    """Gather everything about the chosen candidates into plain floats, one gather a tensor."""
    count = batch.candidates
    splits = batch.split.shape[-1]
    chosen = best.reshape(-1)
    rows, tiles_at, splits_at = torch.arange(len(shapes)), chosen // splits, chosen % splits

    def at(tensor: Tensor) -> list[float]:
        wide = tensor.expand(len(shapes), 1, batch.m.shape[-2], splits)
        return [float(v) for v in wide[rows, 0, tiles_at, splits_at].tolist()]

    columns = {name: at(tensor) for name, tensor in move.core_s.items()}
    reads, writes = [at(t) for t in move.read_bytes], [at(t) for t in move.write_bytes]
    energies = [at(t) for t in cost.level_energy_j]
    operands = [at(t) for t in move.operand_far_bytes]
    tiles = [at(t) for t in (batch.m, batch.n, batch.k, batch.split)]
    scalars = [
        at(t)
        for t in (cost.latency_s, cost.core_s, cost.external_s, cost.overhead_s, cost.stretch, cost.compute_energy_j,
                  cost.unattributed_energy_j, cost.static_energy_j, measure)
    ]  # fmt: skip
    counts, seconds = legal.reshape(-1).tolist(), runner_up.reshape(-1).tolist()
    result: list[Choice | None] = []
    for i, kernel in enumerate(shapes):
        if not counts[i]:
            result.append(None)
            continue
        latency, core_s, external_s, overhead_s, stretch, compute_j, extra_j, static_j, value = (s[i] for s in scalars)
        result.append(
            Choice(
                latency_s=latency,
                core_s=core_s,
                external_s=external_s,
                overhead_s=overhead_s,
                resources_s={name: column[i] * stretch for name, column in columns.items()},
                stretch=stretch,
                read_bytes=tuple(level[i] for level in reads),
                write_bytes=tuple(level[i] for level in writes),
                level_energy_j=tuple(level[i] for level in energies),
                compute_energy_j=compute_j,
                unattributed_energy_j=extra_j,
                static_energy_j=static_j,
                operand_far_bytes=tuple(o[i] for o in operands[: len(kernel.operands)]),
                tile=(tiles[0][i], tiles[1][i], tiles[2][i], tiles[3][i]),
                shape=kernel,
                mapping=describe(kernel, [t[i] for t in tiles]) if kernel.is_tiled else "streamed",
                candidates=count if kernel.is_tiled else 1,
                legal=int(counts[i]) if kernel.is_tiled else 1,
                reason=_reason(value, seconds[i], int(counts[i]), count) if kernel.is_tiled else "only one way",
            )
        )
    return result


def bound_by(busy_s: dict[str, float], stretch: float, external: str) -> str:
    """What needs the most seconds: a resource on chip (`power (...)` where power slowed its clock), the external
    memory's bandwidth, or the launch.
    """
    largest = max(busy_s, key=lambda name: busy_s[name])
    if largest == external:
        return f"{external} bandwidth"
    return f"power ({largest})" if stretch > 1.01 and largest != "launch" else largest


def describe(kernel: KernelShape, tile: list[float]) -> str:
    """A library's kernel in words: `tile` is (m, n, k, split)."""
    m, n, k, split = (int(t) for t in tile)
    text = f"tile m{m} k{k}" if kernel.kind == "attention" else f"tile m{m} n{n} k{k}"
    text = f"{kernel.algorithm}, {text}" if kernel.algorithm else text
    return f"{text}, k split over {split}" if split > 1 else text


def _reason(best: float, second: float, legal: int, count: int) -> str:
    tied = second == float("inf") or best <= 0
    margin = "" if tied else f", next best +{(second / best - 1) * 100:.2g} %"
    return f"best of {legal} legal of {count}{margin}"


def _nothing_fits(kernel: KernelShape, chip: Chip) -> str:
    level = chip.on_chip[-1]
    least = sum(o.point_bytes for o in kernel.operands) * 2
    return (
        f"no tiling of a {kernel.kind} with b, m, n, k = {kernel.sizes} fits {level.name} of {chip.name}: "
        f"even tiles of one element need {least:.0f} bytes, {level.usable_bytes * kernel.available:.0f} are free"
    )


def engine_dtype(kernel: KernelShape, chip: Chip, software: Software) -> str:
    """The dtype whose engine does the kernel; without matrix work it is the vector engine's, whatever it holds."""
    if not (kernel.work and chip.supports(kernel.dtype)):
        return _VECTOR_FALLBACK
    if kernel.kind == "attention" and software.attention is not None:
        return _attention_dtype(kernel, chip, software.attention)
    return kernel.dtype


def _attention_dtype(kernel: KernelShape, chip: Chip, own: AttentionKernels) -> str:
    """The format in which fused attention multiplies: that of queries or of a narrower cache, or 16 bits."""
    narrow = chip.engine_for("fp8", "matrix")
    if narrow is None or dtype_bits(kernel.dtype) > 16:
        return kernel.dtype
    able = narrow.feed in own.narrow_feeds
    if dtype_bits(kernel.dtype) == 8:
        return kernel.dtype if able else next(d for d in ("bf16", "fp16", "fp32") if chip.supports(d))
    stored = min(o.point_bytes for o in kernel.operands if o.axes[3]) * 8 / kernel.width
    return "fp8" if able and stored <= 8 and kernel.width <= own.narrow_cache_head else kernel.dtype


def _alike(shapes: list[KernelShape]) -> list[list[int]]:
    """Positions of the shapes that share a menu: fused attention and grouped products have their own."""
    menus: dict[tuple[bool, bool], list[int]] = {}
    for i, shape in enumerate(shapes):
        menus.setdefault((shape.kind == "attention", shape.grouped), []).append(i)
    return list(menus.values())


def _chunks(members: Sequence[int], count: int) -> list[Sequence[int]]:
    size = max(1, MEMORY_BUDGET_BYTES // (count * 8 * _TENSORS_ALIVE))
    return [members[i : i + size] for i in range(0, len(members), size)]
