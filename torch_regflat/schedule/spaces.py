"""Which tiles and loop orders the mapper tries: product spaces of the problems of one structure.

The whole space of a kernel: for every dimension, every chain of tile sizes of which none is dominated (the smallest that
needs as many trips, `mapping.tile_sizes`); for every block, every order of the kinds of dimensions, where those that
index all operands lie outermost and those that index the same operands lie together. What indexes all operands is taken
one by one: larger tiles of it hold more and move no less. Coarser spaces take fewer sizes.
Kernels of different sizes have lists of different lengths: the shorter are filled up with their last entry.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..cost.problem import Structure
from ..mapping import orders, tile_sizes
from ..memory.quantities import DOUBLE_BUFFER, ProblemTensors, Stages
from ..memory.tiling import Product
from ..memory.traffic import Nesting

MOST = 2**13
"""Candidates of one kernel that a coarse space should not pass."""
DIAGONAL_TRIPS = 16
"""Most tiles along each side of a causal triangle in a coarse space: its visits are counted one by one."""

Chain = tuple[int, ...]


def whole(problems: ProblemTensors, stages: Stages, cores: int, buffers: float = DOUBLE_BUFFER) -> Product:
    """Every tile size that is not dominated."""
    return _space(problems, stages, cores, buffers, None, None)


def coarse(problems: ProblemTensors, stages: Stages, cores: int, buffers: float = DOUBLE_BUFFER) -> Product:
    """Tile sizes in steps, as fine as keeps the number of candidates within `MOST`."""
    for bits in (3, 2, 1):
        space = _space(problems, stages, cores, buffers, bits, _trips(problems))
        if space.count * len(space.nestings) <= MOST:
            return space
    return _space(problems, stages, cores, buffers, 0, _trips(problems))


def _trips(problems: ProblemTensors) -> int | None:
    return None if problems.structure.diagonal is None else DIAGONAL_TRIPS


def _space(
    problems: ProblemTensors, stages: Stages, cores: int, buffers: float, bits: int | None, trips: int | None
) -> Product:
    choices = []
    for d, size in enumerate(problems.sizes):
        most = trips if problems.structure.diagonal and d in problems.structure.diagonal else None
        single = all(d in pattern.dims for pattern in problems.structure.patterns)
        lists = [_chains(int(s), stages, cores, bits, most, single) for s in size.flatten().tolist()]
        choices.append(_padded(lists, size))
    return Product(problems, stages, nestings(problems.structure, stages), tuple(choices), buffers)


def around(problems: ProblemTensors, stages: Stages, best: Tensor, buffers: float = DOUBLE_BUFFER) -> Product:
    """The neighbourhood of the best tiles `[kernel, stage, dimension]`: for each, sizes with a few trips more or less."""
    per_dim = max(3, int(MOST ** (1.0 / len(problems.sizes)) / 2))
    choices = []
    for d, size in enumerate(problems.sizes):
        rows = zip(size.flatten().tolist(), best[:, :, d].tolist(), strict=True)
        lists = [_near(int(s), tuple(int(t) for t in tiles), stages, per_dim) for s, tiles in rows]
        choices.append(_padded(lists, size))
    return Product(problems, stages, nestings(problems.structure, stages), tuple(choices), buffers)


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

    `single` leaves tiles of one, but for what all cores hold together.
    """
    found: list[Chain] = [()]
    for stage in range(len(stages.levels)):
        longer: dict[Chain, None] = {}
        for chain in found:
            for more in _next(chain[-1] if chain else size, stage, stages, cores, bits):
                if trips is None or math.ceil(size / more[0]) <= trips:
                    longer[(*chain, *more)] = None
        found = list(longer)
    if single:
        last = [stage for stage in stages.stored if stage == 0 or stages.spatial is not None and stage >= stages.spatial]
        found = [chain for chain in found if all(chain[stage] == 1 for stage in last)]
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


def _near(size: int, tiles: Chain, stages: Stages, count: int) -> tuple[Chain, ...]:
    """Chains whose tiles need about as many trips as these; how cores share a tile stays as it is."""
    found: list[Chain] = [()]
    for stage, tile in enumerate(tiles):
        longer: dict[Chain, None] = {}
        for chain in found:
            around = chain[-1] if chain else size
            if stage == stages.spatial:
                share = math.ceil(tiles[stage - 1] / tile)
                longer[(*chain, math.ceil(around / share))] = None
                continue
            for near in _trips_near(around, min(tile, around), count if len(tiles) == 1 else 3):
                longer[(*chain, near)] = None
        found = list(longer)
    return tuple(found)


@functools.cache
def _trips_near(around: int, tile: int, count: int) -> tuple[int, ...]:
    """About `count` sizes that are not dominated, from half to twice a tile."""
    sizes = [t for t in tile_sizes(around) if tile / 2 <= t <= tile * 2]
    at = min(range(len(sizes)), key=lambda i: abs(sizes[i] - tile))
    low = max(0, min(at - count // 2, len(sizes) - count))
    return tuple(sizes[low : low + count])
