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
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...cost.problem import Structure
from ...mapping import orders, tile_sizes
from ...memory.quantities import DOUBLE_BUFFER, ProblemTensors, Stages
from ...memory.tiling import Product
from ...memory.traffic import Nesting

FEW = 2**21
"""Candidates of all kernels that a product space should not pass: as many as it is cheap to look at."""
FEW_DIAGONAL = 2**10
"""The same where the tiles of a triangle are visited one by one."""
COARSEST = -1
"""Trips in steps of eight, and dimensions of up to four whole."""
FEW_TRIPS = 64
"""A causal triangle of so many elements is tiled in any way."""
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
    few = FEW // len(problems.sizes[0]) if problems.structure.diagonal is None else FEW_DIAGONAL
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
        single = indexes_all(problems.structure, d)
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
    """The neighbourhood of tiles `[kernel, stage, dimension]` at all stages at once: sizes next to each, as many as
    keep the candidates within bounds."""
    for count, most_cores in ((3, cores), (3, 1), (2, 1), (1, 1)):
        space = _around(problems, stages, tiles, tried, buffers, count, most_cores)
        if space.count * len(tried) * len(tiles) <= FEW // 4:
            break
    return space


def _around(
    problems: ProblemTensors,
    stages: Stages,
    tiles: Tensor,
    tried: tuple[Nesting, ...],
    buffers: float,
    count: int,
    cores: int,
) -> Product:
    choices = []
    for d, size in enumerate(problems.sizes):
        chains = [tuple(map(int, chain)) for chain in tiles[:, :, d].tolist()]
        single, rows = indexes_all(problems.structure, d), zip(sizes_along(problems, d), chains, strict=True)
        lists = [[chain] if single else _near(n, chain, stages, cores, count) for n, chain in rows]
        choices.append(_padded(lists, size))
    return Product(problems, stages, tried, tuple(choices), buffers)


def dims_of(problems: ProblemTensors) -> range:
    return range(len(problems.sizes))


def sizes_along(problems: ProblemTensors, d: int) -> list[int]:
    return [int(n) for n in problems.sizes[d].flatten().tolist()]


def indexes_all(structure: Structure, d: int) -> bool:
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


def _near(size: int, tiles: Chain, stages: Stages, cores: int, count: int) -> list[Chain]:
    """Chains whose tiles are `count` of those next to these; with several `cores`, shared by as many, half or twice."""
    found: list[Chain] = [()]
    for stage, tile in enumerate(tiles):
        longer: dict[Chain, None] = {}
        for chain in found:
            around = chain[-1] if chain else size
            if stage == stages.spatial:
                longer[chain] = None
            elif stages.levels[stage] is None:
                share = math.ceil(tile / tiles[stage + 1])
                for cut in {share, max(1, share // 2), min(2 * share, cores, around)} if cores > 1 else {share}:
                    most = math.ceil(around / cut)
                    for near in sizes_next_to(most, min(tiles[stage + 1], most), count):
                        longer[(*chain, min(cut * near, around), near)] = None
            else:
                for near in sizes_next_to(around, min(tile, around), count):
                    longer[(*chain, near)] = None
        found = list(longer)
    return found


@functools.cache
def sizes_next_to(around: int, tile: int, count: int) -> tuple[int, ...]:
    """About `count` sizes that are not dominated, from an eighth to eight times a tile, the nearest."""
    sizes = [t for t in tile_sizes(around) if tile / 8 <= t <= tile * 8]
    at = min(range(len(sizes)), key=lambda i: abs(sizes[i] - tile))
    low = max(0, min(at - count // 2, len(sizes) - count))
    return tuple(sizes[low : low + count])
