"""Exact traffic where only a triangle of the loops runs: causal attention.

The tiles along queries and keys then depend on each other, and no product over dimensions counts them. So the tiles
are visited one by one, for all candidates at once: a flat index is taken apart into the loops' positions, tiles with
nothing below the diagonal are left out, and an operand is fetched where its tile differs from that of the visit before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..cost.problem import Structure
from .traffic import Extents, Nesting


def fetched_below(structure: Structure, nesting: Nesting, into: int, extents: Sequence[Extents]) -> list[Tensor]:
    """Elements of each operand fetched into a stage, as `traffic.fetched`, where only column <= row is computed.

    Memory grows with the visits of the candidate that has most of them. Cores may share only
    dimensions that index every operand.
    """
    assert structure.diagonal is not None
    dims = range(len(structure.names))
    shape = max((e.tiles[into].shape for e in extents), key=lambda s: s.numel())
    sizes = [e.size.expand(shape).flatten() for e in extents]
    tiles = [[e.tiles[stage].expand(shape).flatten() for e in extents] for stage in range(into + 1)]
    # What is taken one by one (or one a core) and indexes every operand changes all of them each time: once is enough
    # to look at.
    repeats = torch.ones_like(sizes[0])
    own = nesting.spatial if nesting.spatial is not None else 0
    for d in nesting.orders[0]:
        if not all(d in pattern.dims for pattern in structure.patterns):
            break
        if all(bool((tiles[s][d] == (tiles[0][d] if s < own else 1)).all()) for s in range(into + 1)):
            repeats, sizes[d] = repeats * sizes[d], torch.ones_like(sizes[d])
            for stage in tiles:
                stage[d] = torch.ones_like(sizes[d])
    most = int(_visits(nesting, into, sizes, tiles).max())
    rest = torch.arange(most, device=sizes[0].device, dtype=torch.float64).expand(sizes[0].shape[0], -1)
    start = [torch.zeros_like(rest) for _ in dims]
    end = [sizes[d].unsqueeze(-1).expand_as(rest) for d in dims]
    positions: dict[tuple[int, int], Tensor] = {}
    for block, d in reversed(_loops(nesting, into)):
        trips = _trips(block, d, sizes, tiles).unsqueeze(-1)
        after = torch.floor(rest / trips)
        positions[block, d] = rest - after * trips
        rest = after
    valid = rest == 0
    for block in range(into + 1):
        for d in dims:
            tile = tiles[block][d].unsqueeze(-1)
            start[d] = start[d] + positions[block, d] * tile if (block, d) in positions else start[d]
            end[d] = torch.minimum(end[d], start[d] + tile)
            valid = valid & (end[d] > start[d])
    row, column = structure.diagonal
    valid = valid & (start[column] <= end[row] - 1)
    before = _previous(valid)
    found = []
    for pattern in structure.patterns:
        seen = before < 0
        elements = valid.to(torch.float64)
        for d in pattern.dims:
            seen = seen | (torch.gather(start[d], 1, before.clamp(min=0)) != start[d])
            elements = elements * (end[d] - start[d])
        found.append(((elements * seen).sum(-1) * repeats).reshape(shape))
    return found


def _visits(nesting: Nesting, into: int, sizes: Sequence[Tensor], tiles: Sequence[Sequence[Tensor]]) -> Tensor:
    """Iterations of blocks 0 to `into`, one number a candidate."""
    total = torch.ones_like(sizes[0])
    for block, d in _loops(nesting, into):
        total = total * _trips(block, d, sizes, tiles)
    return total


def _loops(nesting: Nesting, into: int) -> list[tuple[int, int]]:
    return [(block, d) for block in range(into + 1) for d in nesting.orders[block]]


def _trips(block: int, d: int, sizes: Sequence[Tensor], tiles: Sequence[Sequence[Tensor]]) -> Tensor:
    return torch.ceil((tiles[block - 1][d] if block else sizes[d]) / tiles[block][d])


def _previous(valid: Tensor) -> Tensor:
    """Position of the valid visit before each, -1 for none."""
    at = torch.arange(valid.shape[-1], device=valid.device).expand(valid.shape)
    last = torch.where(valid, at, torch.full_like(at, -1)).cummax(-1).values
    return torch.cat([torch.full_like(last[:, :1], -1), last[:, :-1]], -1)
