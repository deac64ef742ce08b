"""The frontier of what fits: with all else fixed, only the largest tile that fits a level can be the best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...mapping import tile_sizes
from ...memory.quantities import DOUBLE_BUFFER, ProblemTensors, Stages, quantities
from ...memory.sums import Listed
from ...memory.tiling import extents_of
from .spaces import COARSEST, DIAGONAL_TRIPS, dims_of, indexes_all, nestings, sizes_along, sizes_next_to

MOST = 2**16
"""Candidates of one kernel that a frontier should not pass."""


@dataclass(frozen=True)
class Lists:
    """Sizes to try along each dimension at one stage, `[kernel, choice]`, the largest first."""

    stage: int
    sizes: tuple[Tensor, ...]

    @property
    def free(self) -> int:
        """The dimension with most sizes: of it only the largest that fits is priced."""
        return max(range(len(self.sizes)), key=lambda d: self.sizes[d].shape[-1])


def largest(problems: ProblemTensors) -> Tensor:
    """Tiles that hold everything, `[kernel, 1, dimension, 1]`."""
    sizes = [torch.ones_like(s) if indexes_all(problems.structure, d) else s for d, s in enumerate(problems.sizes)]
    return torch.stack(sizes, 1).unsqueeze(1)


def one_moves(problems: ProblemTensors) -> Tensor | None:
    """Tiles that cut nothing but the one operand that is not on chip as a whole, along its longest dimension: it is
    fetched, or given up, once. `[kernel, 1, dimension, candidate]`; None where kernels have several such operands.
    """
    moving = [o for o, share in enumerate(problems.outer) if bool((share > 0).any())]
    if len(moving) != 1 or problems.structure.diagonal is not None:
        return None
    pattern = problems.structure.patterns[moving[0]]
    dims = [d for d in pattern.dims if not indexes_all(problems.structure, d)]
    if not dims or pattern.windows:
        return None
    whole = largest(problems)
    longest = max(dims, key=lambda d: float(problems.sizes[d].max()))
    sizes = _sizes(problems, longest, [list(tile_sizes(n, 0)) for n in sizes_along(problems, longest)])
    tiles = whole.expand(*whole.shape[:3], sizes.shape[-1]).clone()
    tiles[:, 0, longest] = sizes
    return tiles


def every_size(problems: ProblemTensors, orders_tried: int, whole: bool = False, trips: int = DIAGONAL_TRIPS) -> Lists:
    """Sizes of the only stage there is: all of them, or in steps that keep the candidates within bounds.

    `trips` is the most tiles along each side of a causal triangle.
    """
    return _within(lambda bits: _every_size(problems, bits, trips), orders_tried, math.inf if whole else MOST)


def sizes_between(problems: ProblemTensors, tiles: Tensor, stage: int, stages: Stages) -> Lists:
    """Sizes of one stage between the tiles `[kernel, stage, dimension]` of the stages around it and within it."""
    tried = math.factorial(3) ** (len(stages.stored) - 1)
    return _within(lambda bits: _between(problems, tiles, stage, stages, bits), tried, MOST / 32)


def _within(lists: Callable[[int | None], Lists], orders_tried: int, most: float) -> Lists:
    """The finest lists whose frontier has no more than `most` candidates, two for each combination."""
    for bits in (None, 4, 3, 2, 1, 0, COARSEST):
        found = lists(bits)
        combinations = math.prod(sizes.shape[-1] for d, sizes in enumerate(found.sizes) if d != found.free)
        if 2 * combinations * orders_tried <= most:
            return found
    return found


def _every_size(problems: ProblemTensors, bits: int | None, trips: int) -> Lists:
    found = []
    for d in dims_of(problems):
        most = trips if problems.structure.diagonal and d in problems.structure.diagonal else None
        lists = [[t for t in tile_sizes(n, bits) if most is None or n <= t * most] for n in sizes_along(problems, d)]
        found.append(_sizes(problems, d, lists))
    return Lists(0, tuple(found))


def _between(problems: ProblemTensors, tiles: Tensor, stage: int, stages: Stages, bits: int | None) -> Lists:
    found = []
    for d in dims_of(problems):
        lists = []
        for n, chain in zip(sizes_along(problems, d), tiles[:, :, d].tolist(), strict=True):
            outer = int(chain[stage - 1]) if stage else n
            inner = int(chain[stage + 1]) if stage + 1 < len(chain) else 1
            share = math.ceil(chain[stage - 1] / chain[stage]) if stage == stages.spatial else 1
            room = math.ceil(outer / share) if stage == stages.spatial else outer
            lists.append([size for size in tile_sizes(room, bits) if size >= inner] or [int(chain[stage])])
        found.append(_sizes(problems, d, lists))
    return Lists(stage, tuple(found))


def sizes_near(problems: ProblemTensors, tiles: Tensor, stage: int) -> Lists:
    """Some sizes around those of a stage in each dimension."""
    moving = sum(not indexes_all(problems.structure, d) and float(s.max()) > 1 for d, s in enumerate(problems.sizes))
    count = max(3, int((MOST / 16) ** (1.0 / max(moving - 1, 1))))
    found = []
    for d in dims_of(problems):
        lists = []
        for n, chain in zip(sizes_along(problems, d), tiles[:, :, d].tolist(), strict=True):
            outer = int(chain[stage - 1]) if stage else n
            inner = int(chain[stage + 1]) if stage + 1 < len(chain) else 1
            near = sizes_next_to(outer, min(int(chain[stage]), outer), count)
            lists.append([size for size in near if size >= inner] or [int(chain[stage])])
        found.append(_sizes(problems, d, lists))
    return Lists(stage, tuple(found))


def _sizes(problems: ProblemTensors, d: int, lists: list[list[int]]) -> Tensor:
    """`[kernel, choice]`; what indexes all operands is taken one by one."""
    if indexes_all(problems.structure, d):
        lists = [[1] for _ in lists]
    longest = max(map(len, lists))
    filled = [[*some, *[some[-1]] * (longest - len(some))] for some in lists]
    return torch.tensor(filled, dtype=torch.float64, device=problems.sizes[d].device)


def frontier(
    problems: ProblemTensors,
    stages: Stages,
    lists: Lists,
    around: Tensor | None,
    free_bytes: Tensor,
    buffers: float = DOUBLE_BUFFER,
) -> Tensor:
    """The tiles of a stage that are worth pricing, `[kernel, stage, dimension, candidate]`.

    With everything else fixed, larger tiles of a stage move no more across its outer boundary and need more room. So
    for each combination of sizes of the other dimensions, only the largest size of the free one that fits
    `free_bytes` `[kernel, 1]` counts, beside the largest of all, which may need less room (it is not replaced while in
    use). For one level on chip this loses nothing (docs/model.md); with several it is a step of a descent.
    `around` `[kernel, stage, dimension]` has the tiles of the other stages.
    """
    free, kernels = lists.free, problems.sizes[0].shape[0]
    grid = torch.cartesian_prod(
        *(torch.arange(sizes.shape[-1] if d != free else 1) for d, sizes in enumerate(lists.sizes))
    ).reshape(-1, len(lists.sizes))
    columns = [sizes[:, grid[:, d].to(sizes.device)] for d, sizes in enumerate(lists.sizes)]
    own = lists.sizes[free]
    fits = _largest_that_fits(problems, stages, lists, columns, around, free_bytes, buffers)
    candidates = []
    for size in (columns[free], own.gather(1, fits)):
        tile = torch.stack([size if d == free else column for d, column in enumerate(columns)], 1)
        candidates.append(_with_others(tile, lists.stage, stages, around))
    return torch.cat(candidates, -1).reshape(kernels, len(stages.levels), len(columns), -1)


def _with_others(tile: Tensor, stage: int, stages: Stages, around: Tensor | None) -> Tensor:
    """`[kernel, stage, dimension, candidate]` with this stage's tiles `[kernel, dimension, candidate]`, the others as
    they were."""
    if around is None:
        return tile.unsqueeze(1)
    rows = [around[:, s].unsqueeze(-1).expand_as(tile) for s in range(around.shape[1])]
    if stage == stages.spatial:
        shares = torch.ceil(rows[stage - 1] / rows[stage])
        rows[stage - 1] = torch.minimum(shares * tile, rows[stage - 2]) if stage > 1 else shares * tile
    rows[stage] = tile
    return torch.stack(rows, 1)


def _largest_that_fits(
    problems: ProblemTensors,
    stages: Stages,
    lists: Lists,
    columns: list[Tensor],
    around: Tensor | None,
    free_bytes: Tensor,
    buffers: float,
) -> Tensor:
    """Position, from 1 on, of the largest size of the free dimension that fits, by bisection; the last if none does."""
    own, free = lists.sizes[lists.free], lists.free
    held = quantities(problems, stages, buffers).holds[stages.stored.index(lists.stage)]
    low = torch.full(columns[0].shape, min(1, own.shape[1] - 1), dtype=torch.int64, device=own.device)
    high = torch.full_like(low, own.shape[1] - 1)
    while bool((low < high).any()):
        middle = torch.div(low + high, 2, rounding_mode="floor")
        tile = torch.stack([own.gather(1, middle) if d == free else c for d, c in enumerate(columns)], 1)
        tiles = _with_others(tile, lists.stage, stages, around)
        along = extents_of(problems, stages, [list(tiles[:, :, d].unbind(1)) for d in range(len(columns))])
        needed = Listed(problems.structure, nestings(problems.structure, stages)[0], along).value(held)
        fits = needed <= free_bytes
        high = torch.where(fits, middle, high)
        low = torch.where(fits, low, middle + 1)
        low = torch.minimum(low, high)
    return low
