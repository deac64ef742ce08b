"""Pick the best legal mapping of every distinct kernel, all kernels and candidates in one tensor evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from .. import mapping as mappings
from ..cost.chip_tensors import ChipTensors, RateTensors, chip_tensors, rate_tensors
from ..cost.kernel import Cost, Movement, evaluate
from ..cost.shapes import KernelShape, pack
from ..errors import CapacityError, ChipError
from ..hardware.chip import Chip
from ..hardware.software import Software
from ..memory import cache
from .mapper import Mapping, Objective

Shuffle: TypeAlias = "Callable[[mappings.MappingBatch], mappings.MappingBatch]"
Adjust: TypeAlias = "Callable[[ChipTensors, RateTensors, list[str]], tuple[ChipTensors, RateTensors]]"
MEMORY_BUDGET_BYTES = 512 * 2**20
_TENSORS_ALIVE = 120
"""About so many temporaries of one evaluation are alive at once (measured); it sizes the chunks."""
_VECTOR_FALLBACK = "fp32"


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
    operand_far_bytes: tuple[float, ...]
    tile: tuple[float, float, float, float]
    """m, n, k of the tile, and split, of a library's kernel."""
    mapping: str
    candidates: int
    legal: int
    reason: str
    chosen: Mapping | None = None
    """The whole mapping, where memories are managed explicitly."""


def choose(
    shapes: list[KernelShape],
    chip: Chip,
    software: Software,
    objective: Objective = "latency",
    shuffle: Shuffle | None = None,
    adjust: Adjust | None = None,
) -> list[Choice]:
    """The best mapping of each shape. `shuffle` reorders the candidates, which must not change anything; `adjust`
    changes the chip's numbers before they are used.
    """
    check(chip)
    if not shapes:
        return []
    search = Search(chip, software, chip_tensors([chip], [software]), objective, shuffle, adjust)
    result = [choice for some in _chunks(shapes, search.count()) for choice in search.best(some)]
    for shape, choice in zip(shapes, result, strict=True):
        if choice is None:
            raise CapacityError(_nothing_fits(shape, chip))
    return [choice for choice in result if choice is not None]


@dataclass(frozen=True)
class Search:
    """One search of the mapping space of a chip."""

    chip: Chip
    software: Software
    tensors: ChipTensors
    objective: Objective
    shuffle: Shuffle | None = None
    adjust: Adjust | None = None

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
        dtypes = [engine_dtype(shape, chip) for shape in shapes]
        tensors, rates = self.tensors, rate_tensors([chip], dtypes)
        if self.adjust is not None:
            tensors, rates = self.adjust(tensors, rates, dtypes)
        batch = candidates(chip, self.software)
        if self.shuffle is not None:
            batch = self.shuffle(batch)
        move = cache.move(kernels, batch, tensors, rates)
        return batch, move, evaluate(move, kernels, tensors, rates, self.software.overlap)

    def count(self) -> int:
        """Candidates of one kernel."""
        return candidates(self.chip, self.software).candidates


def check(chip: Chip) -> None:
    """Raise `ChipError` for a cache hierarchy that has no cost model."""
    if chip.memory_system == "cache" and len(chip.on_chip) != 3:
        found = ", ".join(level.name for level in chip.on_chip)
        raise ChipError(
            f"{chip.name}: a cache hierarchy is priced with three levels on chip (registers, a memory of each "
            f"core, a cache they share), found {found}"
        )


def candidates(chip: Chip, software: Software) -> mappings.MappingBatch:
    """The menu of the library."""
    engine = next((e for e in chip.engines if e.kind == "matrix"), None)
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
                  cost.unattributed_energy_j, measure)
    ]  # fmt: skip
    counts, seconds = legal.reshape(-1).tolist(), runner_up.reshape(-1).tolist()
    result: list[Choice | None] = []
    for i, kernel in enumerate(shapes):
        if not counts[i]:
            result.append(None)
            continue
        latency, core_s, external_s, overhead_s, stretch, compute_j, extra_j, value = (s[i] for s in scalars)
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
                operand_far_bytes=tuple(o[i] for o in operands[: len(kernel.operands)]),
                tile=(tiles[0][i], tiles[1][i], tiles[2][i], tiles[3][i]),
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


def engine_dtype(kernel: KernelShape, chip: Chip) -> str:
    """The dtype whose engine does the kernel; without matrix work it is the vector engine's, whatever it holds."""
    return kernel.dtype if kernel.work and chip.supports(kernel.dtype) else _VECTOR_FALLBACK


def _chunks(shapes: list[KernelShape], count: int) -> list[list[KernelShape]]:
    size = max(1, MEMORY_BUDGET_BYTES // (count * 8 * _TENSORS_ALIVE))
    return [shapes[i : i + size] for i in range(0, len(shapes), size)]
