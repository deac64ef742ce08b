"""Exact traffic of explicitly managed memories, for any number of levels, tilings and loop orders.

The words are in docs/model.md, "Exact traffic"; `tests/memory/reference.py` counts the same with real buffers.

Stages run from the outermost tile to the innermost; block b holds the loops over tiles of stage b within a tile of
stage b - 1 (stage -1 is the whole nest). With T_i(d) the tile of dimension d at stage i, an operand is fetched into
stage i at every iteration of blocks 0..i but those in which only loops advance that do not index it, and none of its
own loops further in has more than one trip. So for an operand with dimensions `own`, elements fetched are

    Π_{own} N_d · Π_{e not own} n_e(i)
      - Σ_{b <= i} Σ_{e not own} Π_{own} A_d(i, β_d) · [n_e(b) - n_e(b - 1)] · Π_{e' not own, e' != e} n_e'(β_e')

where n_d(b) is the number of tiles of stage b, A_d(i, β) the sum of sizes of those tiles of stage β that are no larger
than T_i (their loops further in have one trip), and β_d = b for dimensions whose loop in block b lies outside that of
e, b - 1 for the others. Every term is a product over dimensions of a number that depends on the tiles of that
dimension alone. Tiles that do not divide leave a partial one; its sizes are followed exactly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ..cost.problem import Pattern, Structure

Order: TypeAlias = tuple[int, ...]
"""The loops of one block, dimension numbers, outermost first; empty for the block that the cores share out."""


@dataclass(frozen=True)
class Nesting:
    """The loop orders of all blocks, outermost first. `spatial` is the block that the cores do at once, if any."""

    orders: tuple[Order, ...]
    spatial: int | None = None

    def outside(self, block: int, dim: int, of: int) -> bool:
        """Whether the loop over `dim` in this block lies outside that over `of`."""
        order = self.orders[block]
        return order.index(dim) < order.index(of)

    @property
    def temporal(self) -> tuple[int, ...]:
        return tuple(b for b in range(len(self.orders)) if b != self.spatial)


@dataclass(frozen=True, slots=True)
class Factor:
    """What one dimension contributes to a term: a method of `Extents`, and what it takes."""

    kind: Literal["one", "count", "steps", "whole", "still", "tile", "only", "single", "shares"]
    into: int = 0
    stage: int = 0
    shift: int = 0


class Extents:
    """One dimension's tiles at every stage, whole and partial: pairs of sizes and how many there are.

    `size` and `tiles[stage]` are float64 tensors of whole numbers that broadcast with each other; one entry a
    candidate, or a choice of the dimension. Stage -1 is the whole dimension.
    """

    def __init__(self, size: Tensor, tiles: Sequence[Tensor], spatial: int | None = None) -> None:
        self.size, self.tiles, self.spatial = size, tiles, spatial
        self._known: dict[Factor, Tensor] = {}
        one = torch.ones_like(size)
        self._classes: list[list[tuple[Tensor, Tensor]]] = [[(size, one)]]
        for tile in tiles:
            whole, rest = torch.zeros_like(one * tile), []
            for extent, count in self._classes[-1]:
                full = torch.floor(extent / tile)
                whole = whole + count * full
                rest.append((extent - full * tile, count))
            self._classes.append([(tile, whole), *rest])

    def value(self, factor: Factor) -> Tensor:
        """What this dimension contributes to a term; worked out once."""
        found = self._known.get(factor)
        if found is None:
            found = self._known[factor] = getattr(self, factor.kind)(factor.into, factor.stage, factor.shift)
        return found

    # The kinds of factors; `stage` and `shift` matter to some of them only.

    def one(self, into: int, stage: int, shift: int) -> Tensor:
        return torch.ones_like(self.size)

    def count(self, into: int, stage: int, shift: int = 0) -> Tensor:
        """Tiles of `stage`; where `into` lies inside the cores and `stage` outside, how many cores the first of the
        steps in each keeps busy."""
        return self._sum(stage, lambda extent: self._busy(into, stage, extent))

    def steps(self, into: int, stage: int, shift: int = 0) -> Tensor:
        """Advances of the loop over this dimension in block `stage`, beyond the first trip of each."""
        return self.count(into, stage) - self.count(into, stage - 1)

    def whole(self, into: int, stage: int, shift: int) -> Tensor:
        """Sum over all tiles of stage `into` of (size - shift)⁺."""
        return self._sum(into, lambda extent: torch.clamp(extent - shift, min=0.0))

    def still(self, into: int, stage: int, shift: int) -> Tensor:
        """The same over those tiles of `stage` within which the tile at `into` never changes."""
        return self._sum(stage, lambda extent: self._still(into, stage, extent, shift))

    def tile(self, into: int, stage: int, shift: int) -> Tensor:
        """(size of a whole tile of stage `into` - shift)⁺."""
        return torch.clamp(self.tiles[into] - shift, min=0.0)

    def only(self, into: int, stage: int, shift: int) -> Tensor:
        """The same where this is the only tile of the dimension, else 0."""
        return self.tile(into, stage, shift) * (self.size <= self.tiles[into])

    def single(self, into: int, stage: int, shift: int) -> Tensor:
        """1 where the dimension has one tile at stage `into`, else 0."""
        return (self.size <= self.tiles[into]).to(self.size.dtype)

    def shares(self, into: int, stage: int, shift: int) -> Tensor:
        """Cores among which a whole tile is shared out along this dimension."""
        assert self.spatial is not None
        return torch.ceil(self.tiles[self.spatial - 1] / self.tiles[self.spatial])

    def classes(self, stage: int) -> list[tuple[Tensor, Tensor]]:
        """(extent, how many) of the tiles of a stage; an extent of 0 stands for none."""
        return self._classes[stage + 1]

    def _sum(self, stage: int, value: Callable[[Tensor], Tensor]) -> Tensor:
        parts = [count * (extent > 0) * value(extent) for extent, count in self.classes(stage)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _inside(self, into: int, stage: int) -> bool:
        return self.spatial is not None and stage < self.spatial <= into

    def _busy(self, into: int, stage: int, extent: Tensor) -> Tensor:
        if not self._inside(into, stage):
            return torch.ones_like(extent)
        assert self.spatial is not None
        together = self.tiles[self.spatial - 1] if self.spatial else extent
        return torch.ceil(torch.minimum(extent, together) / self.tiles[self.spatial])

    def _still(self, into: int, stage: int, extent: Tensor, shift: int) -> Tensor:
        if not self._inside(into, stage):
            return torch.clamp(extent - shift, min=0.0) * (extent <= self.tiles[into])
        assert self.spatial is not None
        core, tile = self.tiles[self.spatial], self.tiles[into]
        full = torch.floor(extent / core)
        rest = extent - full * core
        still = full * torch.clamp(core - shift, min=0.0) * (core <= tile)
        still = still + torch.clamp(rest - shift, min=0.0) * (rest <= tile)
        return still * (extent <= self.tiles[self.spatial - 1]) if self.spatial else still


@dataclass(frozen=True)
class Term:
    """sign · Π over dimensions of a factor."""

    sign: int
    factors: tuple[Factor, ...]


@functools.lru_cache(maxsize=4096)
def fetch_terms(structure: Structure, operand: int, nesting: Nesting, into: int) -> tuple[Term, ...]:
    """The elements fetched into a stage as a sum of products over dimensions (a result: taken up, and given up)."""
    pattern, dims = structure.patterns[operand], range(len(structure.names))
    found: list[Term] = []
    for sign, shifts in pattern.monomials:
        shift = dict(shifts)
        found.append(
            Term(
                sign,
                tuple(
                    Factor("whole", into, 0, shift.get(d, 0)) if d in pattern.dims else Factor("count", into, into)
                    for d in dims
                ),
            )
        )
        for block in (b for b in nesting.temporal if b <= into):
            found += [
                Term(-sign, tuple(_idle(pattern, nesting, into, block, e, d, shift) for d in dims))
                for e in dims
                if e not in pattern.dims
            ]
    return tuple(found)


def _idle(pattern: Pattern, nesting: Nesting, into: int, block: int, e: int, d: int, shift: dict[int, int]) -> Factor:
    """The factor of `d` in the iterations in which the loop over `e` advances and the operand's tile stays."""
    if d == e:
        return Factor("steps", into, block)
    stage = block if nesting.outside(block, d, e) else block - 1
    return Factor("still", into, stage, shift.get(d, 0)) if d in pattern.dims else Factor("count", into, stage)


def fetched(structure: Structure, nesting: Nesting, into: int, extents: Sequence[Extents]) -> list[Tensor]:
    """Elements of each operand fetched into a stage, one number a candidate."""
    found = []
    for operand in range(len(structure.patterns)):
        total: Tensor | None = None
        for term in fetch_terms(structure, operand, nesting, into):
            value = extents[0].value(term.factors[0])
            for factor, extent in zip(term.factors[1:], extents[1:], strict=True):
                value = value * extent.value(factor)
            total = term.sign * value if total is None else total + term.sign * value
        assert total is not None
        found.append(total)
    return found
