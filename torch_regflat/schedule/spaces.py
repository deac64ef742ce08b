"""Which tiles and loop orders the mapper tries: product spaces of the problems of one structure.

The whole space of a kernel: for every dimension, every chain of tile sizes of which none is dominated (the smallest
that needs as many trips, `mapping.tile_sizes`); for every block, every order of the kinds of dimensions, where those
that index all operands lie outermost and those that index the same operands lie together. What indexes all operands is
taken one by one: larger tiles of it hold more and move no less. Coarser spaces take fewer sizes.
Kernels of different sizes have lists of different lengths: the shorter are filled up with their last entry.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cost.problem import Structure
from ..mapping import orders, tile_sizes
from ..memory.quantities import DOUBLE_BUFFER, ProblemTensors, Stages, quantities
from ..memory.sums import Listed
from ..memory.tiling import Product, extents_of
from ..memory.traffic import Nesting

FEW = 2**20
"""Candidates of one kernel that a product space should not pass: as many as it is cheap to look at."""
FEW_DIAGONAL = 2**10
"""The same where the tiles of a triangle are visited one by one."""
MOST = 2**18
"""Candidates of one kernel that a frontier should not pass."""
COARSEST = -1
"""Trips in steps of eight, and dimensions of up to four whole."""
DIAGONAL_TRIPS = 16
"""Most tiles along each side of a causal triangle in a coarse space: its visits are counted one by one."""

Chain = tuple[int, ...]


def whole(problems: ProblemTensors, stages: Stages, cores: int, buffers: float = DOUBLE_BUFFER) -> Product:
    """Every tile size that is not dominated."""
    return _space(problems, stages, cores, buffers, None, None)


def coarse(
    problems: ProblemTensors, stages: Stages, cores: int, buffers: float = DOUBLE_BUFFER, trips: int = DIAGONAL_TRIPS
) -> Product:
    """Tile sizes in steps, as fine as keeps the number of candidates within bounds; all of them where they are few.

    `trips` is the most tiles along each side of a causal triangle.
    """
    few = FEW if problems.structure.diagonal is None else FEW_DIAGONAL
    for bits in (None, 3, 2, 1, 0):
        space = _space(problems, stages, cores, buffers, bits, trips)
        if space.count * len(space.nestings) <= few:
            return space
    # Many stages or dimensions: at first the same order at each stage; `around` tries all.
    alike = tuple(n for n in space.nestings if len({order for order in n.orders if order}) == 1)
    if space.count * len(alike) > few:
        space = _space(problems, stages, cores, buffers, COARSEST, trips)
    return replace(space, nestings=alike)


def _space(
    problems: ProblemTensors, stages: Stages, cores: int, buffers: float, bits: int | None, trips: int | None
) -> Product:
    choices = []
    for d, size in enumerate(problems.sizes):
        most = trips if problems.structure.diagonal and d in problems.structure.diagonal else None
        single = _single(problems.structure, d)
        # Below a diagonal, cores share only what indexes all operands: they do not share a triangle.
        shares = 1 if problems.structure.diagonal and not single else cores
        lists = [_chains(int(s), stages, shares, bits, most, single) for s in size.flatten().tolist()]
        choices.append(_padded(lists, size))
    return Product(problems, stages, nestings(problems.structure, stages), tuple(choices), buffers)


def around(
    problems: ProblemTensors,
    stages: Stages,
    tiles: Tensor,
    tried: tuple[Nesting, ...],
    cores: int,
    buffers: float = DOUBLE_BUFFER,
) -> Product:
    """The neighbourhood of tiles `[kernel, stage, dimension]` at all stages at once: sizes next to each."""
    choices = []
    for d, size in enumerate(problems.sizes):
        rows = zip(_whole(problems, d), tiles[:, :, d].tolist(), strict=True)
        single = _single(problems.structure, d)
        lists = [
            [chain] if single else _near(n, chain, stages, cores) for n, chain in ((n, tuple(map(int, c))) for n, c in rows)
        ]
        choices.append(_padded(lists, size))
    return Product(problems, stages, tried, tuple(choices), buffers)


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
    sizes = [torch.ones_like(s) if _single(problems.structure, d) else s for d, s in enumerate(problems.sizes)]
    return torch.stack(sizes, 1).unsqueeze(1)


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
    for d in _dims(problems):
        most = trips if problems.structure.diagonal and d in problems.structure.diagonal else None
        lists = [[t for t in tile_sizes(n, bits) if most is None or n <= t * most] for n in _whole(problems, d)]
        found.append(_sizes(problems, d, lists))
    return Lists(0, tuple(found))


def _between(problems: ProblemTensors, tiles: Tensor, stage: int, stages: Stages, bits: int | None) -> Lists:
    found = []
    for d in _dims(problems):
        lists = []
        for n, chain in zip(_whole(problems, d), tiles[:, :, d].tolist(), strict=True):
            outer = int(chain[stage - 1]) if stage else n
            inner = int(chain[stage + 1]) if stage + 1 < len(chain) else 1
            share = math.ceil(chain[stage - 1] / chain[stage]) if stage == stages.spatial else 1
            room = math.ceil(outer / share) if stage == stages.spatial else outer
            lists.append([size for size in tile_sizes(room, bits) if size >= inner] or [int(chain[stage])])
        found.append(_sizes(problems, d, lists))
    return Lists(stage, tuple(found))


def sizes_near(problems: ProblemTensors, tiles: Tensor, stage: int) -> Lists:
    """Some sizes around those of a stage in each dimension."""
    moving = sum(not _single(problems.structure, d) and float(s.max()) > 1 for d, s in enumerate(problems.sizes))
    count = max(3, int((MOST / 256) ** (1.0 / max(moving - 1, 1))))
    found = []
    for d in _dims(problems):
        lists = []
        for n, chain in zip(_whole(problems, d), tiles[:, :, d].tolist(), strict=True):
            outer = int(chain[stage - 1]) if stage else n
            inner = int(chain[stage + 1]) if stage + 1 < len(chain) else 1
            near = _trips_near(outer, min(int(chain[stage]), outer), count)
            lists.append([size for size in near if size >= inner] or [int(chain[stage])])
        found.append(_sizes(problems, d, lists))
    return Lists(stage, tuple(found))


def _dims(problems: ProblemTensors) -> range:
    return range(len(problems.sizes))


def _whole(problems: ProblemTensors, d: int) -> list[int]:
    return [int(n) for n in problems.sizes[d].flatten().tolist()]


def _sizes(problems: ProblemTensors, d: int, lists: list[list[int]]) -> Tensor:
    """`[kernel, choice]`; what indexes all operands is taken one by one."""
    if _single(problems.structure, d):
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


def _single(structure: Structure, d: int) -> bool:
    """Whether a dimension indexes all operands."""
    return all(d in pattern.dims for pattern in structure.patterns)


def by_outer_order(tried: tuple[Nesting, ...]) -> dict[tuple[int, ...], tuple[Nesting, ...]]:
    """Loop orders by that of their outermost block, which decides what crosses the external boundary."""
    found: dict[tuple[int, ...], tuple[Nesting, ...]] = {}
    for nesting in tried:
        found[nesting.orders[0]] = (*found.get(nesting.orders[0], ()), nesting)
    return found


@functools.cache
def nestings(structure: Structure, stages: Stages) -> tuple[Nesting, ...]:
    """All loop orders that are tried."""
    kinds: dict[frozenset[int], int] = {}
    everything = frozenset(range(len(structure.patterns)))
    kind = []
    for d in range(len(structure.names)):
        indexed = frozenset(o for o, pattern in enumerate(structure.patterns) if d in pattern.dims)
        kind.append(0 if indexed == everything else kinds.setdefault(indexed, len(kinds) + 1))
    found = []
    for order in orders(kind, len(stages.levels) - (stages.spatial is not None)):
        blocks = list(order)
        if stages.spatial is not None:
            blocks.insert(stages.spatial, ())
        found.append(Nesting(tuple(blocks), stages.spatial))
    return tuple(found)


def _padded(lists: Sequence[Sequence[Chain]], like: Tensor) -> Tensor:
    """`[kernel, stage, choice]`; lists that are shorter repeat their last entry."""
    longest = max(map(len, lists))
    filled = [[*chains, *[chains[-1]] * (longest - len(chains))] for chains in lists]
    return torch.tensor(filled, dtype=torch.float64, device=like.device).transpose(1, 2)


@functools.cache
def _chains(
    size: int, stages: Stages, cores: int, bits: int | None, trips: int | None, single: bool
) -> tuple[Chain, ...]:
    """Tile sizes of one dimension at every stage, outermost first, none larger than the one around it.

    `single` takes one at a time, or one a core.
    """
    if single:
        shares = [1] if stages.spatial is None else [2**i for i in range(min(cores, size).bit_length())]
        return tuple(
            tuple(
                1 if stages.spatial is None or stage >= stages.spatial else share for stage in range(len(stages.levels))
            )
            for share in shares
        )
    found: list[Chain] = [()]
    for stage in range(len(stages.levels)):
        longer: dict[Chain, None] = {}
        for chain in found:
            for more in _next(chain[-1] if chain else size, stage, stages, cores, bits):
                if trips is None or not more or math.ceil(size / more[-1]) <= trips:
                    longer[(*chain, *more)] = None
        found = list(longer)
    return tuple(found)


def _next(around: int, stage: int, stages: Stages, cores: int, bits: int | None) -> Iterator[Chain]:
    """Tiles of a stage within one of the size `around`; what cores hold together is chosen with what each holds."""
    if stage == stages.spatial:
        return iter([()])
    if stages.levels[stage] is not None:
        return ((tile,) for tile in tile_sizes(around, bits))
    shares = (2**i for i in range(min(cores, around).bit_length()))
    return (
        (min(share * tile, around), tile) for share in shares for tile in tile_sizes(math.ceil(around / share), bits)
    )


def _near(size: int, tiles: Chain, stages: Stages, cores: int) -> list[Chain]:
    """Chains whose tiles are next to these, shared by as many cores, half or twice as many."""
    found: list[Chain] = [()]
    for stage, tile in enumerate(tiles):
        longer: dict[Chain, None] = {}
        for chain in found:
            around = chain[-1] if chain else size
            if stage == stages.spatial:
                longer[chain] = None
            elif stages.levels[stage] is None:
                share = math.ceil(tile / tiles[stage + 1])
                for cut in {share, max(1, share // 2), min(2 * share, cores, around)}:
                    most = math.ceil(around / cut)
                    for near in _trips_near(most, min(tiles[stage + 1], most), 3):
                        longer[(*chain, min(cut * near, around), near)] = None
            else:
                for near in _trips_near(around, min(tile, around), 3):
                    longer[(*chain, near)] = None
        found = list(longer)
    return found


@functools.cache
def _trips_near(around: int, tile: int, count: int) -> tuple[int, ...]:
    """About `count` sizes that are not dominated, from half to twice a tile."""
    sizes = [t for t in tile_sizes(around) if tile / 2 <= t <= tile * 2]
    at = min(range(len(sizes)), key=lambda i: abs(sizes[i] - tile))
    low = max(0, min(at - count // 2, len(sizes) - count))
    return tuple(sizes[low : low + count])
