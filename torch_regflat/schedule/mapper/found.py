"""Mappings of explicitly managed memories, what a search finds, and what one costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...cost.chip_tensors import ChipTensors, RateTensors
from ...cost.kernel import Cost, Movement, evaluate
from ...cost.shapes import KernelTensors
from ...memory.explicit import fixed, move
from ...memory.quantities import ProblemTensors, Stages
from ...memory.tiling import listed
from ...memory.traffic import Nesting

Objective = Literal["latency", "energy", "edp"]


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
class Pricing:
    """What a candidate is priced with: the chip's levels and numbers, how parts overlap, how often tiles are held."""

    stages: Stages
    chip: ChipTensors
    overlap: str
    buffers: float


def price(
    kernels: KernelTensors,
    problems: ProblemTensors,
    own: Pricing,
    nesting: Nesting,
    tiles: Sequence[Sequence[Tensor]],
    split: Tensor,
    rates: RateTensors,
) -> tuple[Movement, Cost, Tensor]:
    """Candidates listed side by side, with everything: `tiles[stage][dimension]`, `split` are `[kernel, candidate]`.

    What they move, what they cost, and the bytes that the outermost level holds for them.
    """
    wide = split.unsqueeze(1).unsqueeze(-1)
    tiling = listed(problems, own.stages, nesting, tiles, wide, own.buffers)
    movement = move(kernels, tiling, fixed(kernels, wide, own.stages, own.chip, rates), own.chip)
    return movement, evaluate(movement, kernels, own.chip, rates, own.overlap), tiling.holds[0]


def objective_of(cost: Cost, objective: Objective) -> Tensor:
    """Seconds, joules, or their product."""
    if objective == "latency":
        return cost.latency_s
    return cost.energy_j if objective == "energy" else cost.energy_j * cost.latency_s
