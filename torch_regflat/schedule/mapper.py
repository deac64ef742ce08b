"""The mapper of explicitly managed memories: the best tiles, loop orders and spatial split of every kernel.

A kernel's space (`spaces`) is priced as tensors `[kernel, chip, candidate, split]`, a chunk at a time, and ranked without
the power limit; the best few are priced again with it. By default tile sizes are taken in coarse steps and refined
around the best; `whole=True` prices every tile size that is not dominated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..cost.chip_tensors import ChipTensors, RateTensors, at_chip
from ..cost.kernel import Cost, Movement, combine, evaluate
from ..cost.shapes import KernelShape, KernelTensors, pack
from ..memory.explicit import engines, move
from ..memory.quantities import DOUBLE_BUFFER, ProblemTensors, Stages
from ..memory.tiling import Part, Product, listed
from ..memory.traffic import Nesting
from . import spaces
from .ranking import Ranking

Objective = Literal["latency", "energy", "edp"]
CHUNK = 2**16
"""Candidates priced at a time: the temporaries of so many lie in a processor's caches."""
KEEP = 16
"""Candidates of each kernel that are priced again with the power limit."""
ROUNDS = 2
"""How often the neighbourhood of the best is searched again."""
_TIE = 1e-9
"""Weight of the other measure in the ranking: it decides between mappings that are equal in the first, and no others."""


@dataclass(frozen=True)
class Mapping:
    """Tile sizes `[stage][dimension]`, outermost first, loop orders, and over how many cores of a flat memory k is
    split."""

    tiles: tuple[tuple[int, ...], ...]
    nesting: Nesting
    split: int = 1


@dataclass
class Found:
    """Legal mappings of one kernel on one chip, the best first, and how many were looked at. `rejected` counts those
    that a level could not hold, or that want more cores than there are.
    """

    mappings: tuple[Mapping, ...]
    measures: tuple[float, ...]
    candidates: int
    legal: int
    rejected: dict[str, int]


@dataclass(frozen=True)
class Mapper:
    """Searches the mappings of kernels on one chip, or on several with the same levels, side by side."""

    stages: Stages
    chip: ChipTensors
    overlap: str
    splits: tuple[int, ...] = (1,)
    objective: Objective = "latency"
    buffers: float = DOUBLE_BUFFER
    whole: bool = False
    keep: int = KEEP

    def search(self, shapes: Sequence[KernelShape], rates: RateTensors) -> list[list[Found]]:
        """Mappings of kernels whose problems share a structure, by kernel and by chip."""
        task = _Task(self, shapes, rates)
        cores = int(self.chip.cores.min())
        first = spaces.whole if self.whole else spaces.coarse
        task.look(first(task.problems, self.stages, cores, self.buffers))
        for _ in range(0 if self.whole else ROUNDS):
            for chip in range(task.chips):
                task.look(spaces.around(task.problems, self.stages, task.tiles(chip), self.buffers))
        return task.found()


class _Task:
    """One search under way."""

    def __init__(self, mapper: Mapper, shapes: Sequence[KernelShape], rates: RateTensors) -> None:
        self.mapper, self.rates = mapper, rates
        device = mapper.chip.clock.device
        self.kernels = pack(list(shapes), device)
        self.problems = ProblemTensors.of(shapes, device)
        self.nestings = spaces.nestings(self.problems.structure, mapper.stages)
        self.splits = torch.tensor(mapper.splits, dtype=torch.float64, device=device).reshape(1, 1, 1, -1)
        self.near = engines(self.kernels, self.splits, mapper.chip, rates)
        self.chips = mapper.chip.clock.shape[0]
        self.shape = (len(mapper.stages.levels), len(self.problems.sizes))
        numbers = self.shape[0] * self.shape[1] + 2
        self.ranking = Ranking.empty(len(shapes) * self.chips, mapper.keep, numbers, device)
        self.candidates = 0
        self.legal = torch.zeros(len(shapes), self.chips, dtype=torch.int64, device=device)
        self.rejected: dict[str, Tensor] = {}

    def look(self, space: Product) -> None:
        """Rank all candidates of a space."""
        rows, split_count = self.ranking.value.shape[0], self.splits.shape[-1]
        for part, tiling in space.chunks(CHUNK // split_count, self.splits):
            movement = move(self.kernels, tiling, self.near, self.mapper.chip, self.rates)
            legal = movement.legal
            wide = (rows // self.chips, self.chips, tiling.holds[0].shape[-2], split_count)
            value = torch.where(legal, self._measure(movement), torch.inf).expand(wide)
            self._count(movement, legal, wide)

            def describe(at: Tensor, part: Part = part) -> Tensor:
                return self._numbers(space, part, at)

            self.ranking.offer(value.reshape(rows, -1), describe)

    def _count(self, movement: Movement, legal: Tensor, wide: tuple[int, ...]) -> None:
        candidates = wide[-1] * wide[-2]
        repeats = candidates // (legal.shape[-1] * legal.shape[-2])
        self.candidates += candidates
        self.legal = self.legal + legal.sum((-1, -2)) * repeats
        for name, fits in movement.fits.items():
            lost = (~fits).sum((-1, -2)) * (candidates // (fits.shape[-1] * fits.shape[-2]))
            self.rejected[name] = self.rejected.get(name, torch.zeros_like(self.legal)) + lost

    def _numbers(self, space: Product, part: Part, at: Tensor) -> Tensor:
        """What describes candidates by their positions in a chunk: tiles, nesting, split; `[row, n, number]`."""
        count = self.splits.shape[-1]
        split = self.splits.flatten()[at % count]
        at = torch.div(at, count, rounding_mode="floor")
        nesting = torch.div(at, len(part.numbers), rounding_mode="floor") + part.nestings.start
        # Rows are (kernel, chip); tiles are chosen from the kernel's lists.
        flat = (at % len(part.numbers) + part.numbers.start).reshape(-1, self.chips * at.shape[-1])
        tiles = [t.reshape(at.shape) for stage in space.at(flat) for t in stage]
        return torch.stack([*tiles, nesting.to(split.dtype), split], -1)

    def _measure(self, movement: Movement) -> Tensor:
        """What candidates are ranked by: without the power limit, the other measure deciding between equals."""
        chip, mapper = self.mapper.chip, self.mapper
        seconds = combine([*movement.core_s.values(), movement.external_s], mapper.overlap) + movement.overhead_s
        joules = chip.static_power * seconds
        for read, write, level in zip(movement.read_bytes, movement.write_bytes, chip.levels, strict=True):
            joules = joules + (read * level.read_energy + write * level.write_energy) * 8.0
        far = movement.read_bytes[-1] + movement.write_bytes[-1]
        joules = joules + far * (8.0 * chip.unattributed_bit)
        if mapper.objective == "latency":
            return seconds + joules * (_TIE / chip.dynamic_power)
        vector = self.kernels.vector_ops + self.kernels.special_ops
        joules = joules + self.kernels.work * (self.rates.energy + self.rates.unattributed)
        joules = joules + vector * (chip.vector_energy + chip.unattributed_vector_flop)
        if mapper.objective == "energy":
            return joules + seconds * (_TIE * chip.dynamic_power)
        return joules * seconds

    def tiles(self, chip: int) -> Tensor:
        """The best tiles of every kernel on a chip so far, `[kernel, stage, dimension]`."""
        rows = self.ranking.what[chip :: self.chips, 0, :-2]
        tiles = torch.where(rows > 0, rows, torch.ones_like(rows))
        return tiles.reshape(-1, *self.shape)

    def found(self) -> list[list[Found]]:
        """Everything that was kept, priced again with the power limit."""
        count = self.kernels.work.shape[0]
        by_chip = [self._priced(chip) for chip in range(self.chips)]
        return [[by_chip[chip][kernel] for chip in range(self.chips)] for kernel in range(count)]

    def _priced(self, chip: int) -> list[Found]:
        """What was kept for one chip."""
        mapper, what = self.mapper, self.ranking.what[chip :: self.chips]
        kept = torch.isfinite(self.ranking.value[chip :: self.chips])
        numbers, rates = at_chip(mapper.chip, chip), at_chip(self.rates, chip)
        stages, dims = self.shape
        tiles = [[what[..., s * dims + d].clamp(min=1.0) for d in range(dims)] for s in range(stages)]
        split, chosen = what[..., -1].clamp(min=1.0), what[..., -2]
        measure, energy = torch.full_like(split, torch.inf), torch.full_like(split, torch.inf)
        for nesting in torch.unique(chosen[kept]).to(torch.int64).tolist():
            _, cost = price(
                self.kernels, self.problems, mapper, self.nestings[nesting], tiles, split, numbers, rates
            )
            here = kept & (chosen == nesting)
            of = _objective(cost, mapper.objective)
            measure = torch.where(here, of.reshape(split.shape), measure)
            energy = torch.where(here, cost.energy_j.reshape(split.shape), energy)
        order = torch.argsort(energy, dim=1, stable=True)
        order = order.gather(1, torch.argsort(measure.gather(1, order), dim=1, stable=True))
        legal, rejected = self.legal[:, chip].tolist(), {n: r[:, chip].tolist() for n, r in self.rejected.items()}
        found = []
        for row, places in enumerate(order.tolist()):
            known: dict[Mapping, float] = {}
            for place in places:
                if kept[row, place]:
                    known.setdefault(self._mapping(what[row, place].tolist()), float(measure[row, place]))
            lost = {name: count[row] for name, count in rejected.items() if count[row]}
            found.append(Found(tuple(known), tuple(known.values()), self.candidates, legal[row], lost))
        return found

    def _mapping(self, numbers: list[float]) -> Mapping:
        stages, dims = self.shape
        *tiles, nesting, split = (int(number) for number in numbers)
        rows = tuple(tuple(tiles[s * dims : (s + 1) * dims]) for s in range(stages))
        return Mapping(rows, self.nestings[nesting], split)


def price(
    kernels: KernelTensors,
    problems: ProblemTensors,
    mapper: Mapper,
    nesting: Nesting,
    tiles: Sequence[Sequence[Tensor]],
    split: Tensor,
    chip: ChipTensors,
    rates: RateTensors,
) -> tuple[Movement, Cost]:
    """Candidates listed side by side, with everything: `tiles[stage][dimension]` and `split` are `[kernel, candidate]`."""
    wide = split.unsqueeze(1).unsqueeze(-1)
    tiling = listed(problems, mapper.stages, nesting, tiles, wide, mapper.buffers)
    movement = move(kernels, tiling, engines(kernels, wide, chip, rates), chip, rates)
    return movement, evaluate(movement, kernels, chip, rates, mapper.overlap)


def _objective(cost: Cost, objective: Objective) -> Tensor:
    if objective == "latency":
        return cost.latency_s
    return cost.energy_j if objective == "energy" else cost.energy_j * cost.latency_s
