"""Candidates of an explicitly managed memory with all their quantities evaluated: listed ones, or a whole space."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .quantities import DOUBLE_BUFFER, ProblemTensors, Quantities, Stages, quantities
from .sums import Halves, Listed, Sum
from .traffic import Extents, Nesting

VISITS = 16.0
"""Visits counted one by one at a time, for each candidate that a chunk of a product space has."""


@dataclass(frozen=True)
class Tiling:
    """What candidates move and hold; tensors broadcast to `[kernel, chip, candidate, split]`.

    `boundaries` has (down, up, own down, own up) of each stored stage, outermost first, and `holds` the bytes it
    needs: see `quantities`. `split` says over how many cores of a flat memory a sum is divided, `tile` the (m, n, k) of
    the innermost stage.
    """

    stages: Stages
    boundaries: tuple[tuple[Tensor, Tensor, Tensor, Tensor], ...]
    holds: tuple[Tensor, ...]
    tile: tuple[Tensor, Tensor, Tensor]
    split: Tensor
    shared: tuple[Tensor, Tensor, Tensor] | None = None
    """Steps that all cores make together, core tiles in them, and the cores that work at once."""
    operands: tuple[Tensor, ...] = ()


def listed(
    problems: ProblemTensors,
    stages: Stages,
    nesting: Nesting,
    tiles: Sequence[Sequence[Tensor]],
    split: Tensor,
    buffers: float = DOUBLE_BUFFER,
) -> Tiling:
    """Candidates side by side: `tiles[stage][dim]` are `[kernel, candidate]`, `split` `[kernel, 1, candidate, 1]`."""
    ((_, tiling),) = listed_in((nesting,), problems, stages, tiles, split, buffers, operands=True)
    return tiling


def listed_in(
    nestings: Sequence[Nesting],
    problems: ProblemTensors,
    stages: Stages,
    tiles: Sequence[Sequence[Tensor]],
    split: Tensor,
    buffers: float = DOUBLE_BUFFER,
    operands: bool = False,
) -> Iterator[tuple[Nesting, Tiling]]:
    """The same candidates in some loop orders, one after the other; what does not depend on the order is done once."""
    along = extents_of(problems, stages, [list(dim) for dim in zip(*tiles, strict=True)])
    counted = quantities(problems, stages, buffers)
    for nesting in nestings:
        values = Listed(problems.structure, nesting, along)
        yield nesting, _evaluated(stages, counted, split, values.value, operands)


@dataclass(frozen=True)
class Part:
    """Candidates of a chunk: all `numbers` of the first of `nestings`, then of the next."""

    nestings: range
    numbers: range


@dataclass(frozen=True)
class Product:
    """A product space: `choices[dim]` are `[kernel, stage, choice]`, and any goes with any of another dimension.

    Candidates are numbered as the choices of the dimensions, the first dimension slowest.
    """

    problems: ProblemTensors
    stages: Stages
    nestings: tuple[Nesting, ...]
    choices: tuple[Tensor, ...]
    buffers: float = DOUBLE_BUFFER

    @property
    def count(self) -> int:
        """Candidates of one nesting."""
        return math.prod(choice.shape[-1] for choice in self.choices)

    def at(self, flat: Tensor) -> list[list[Tensor]]:
        """`tiles[stage][dim]` `[kernel, candidate]` of candidates `[kernel, candidate]` by their numbers."""
        by_dim: list[Tensor] = []
        for choice in reversed(self.choices):
            count = choice.shape[-1]
            index = (flat % count).unsqueeze(1).expand(-1, choice.shape[1], -1)
            by_dim.insert(0, torch.gather(choice.expand(flat.shape[0], -1, -1), 2, index))
            flat = torch.div(flat, count, rounding_mode="floor")
        return [[dim[:, stage] for dim in by_dim] for stage in range(len(self.stages.levels))]

    def chunks(self, size: int, split: Tensor) -> Iterator[tuple[Part, Tiling]]:
        """The whole space, about `size` candidates at a time."""
        return self._crossed(size, split) if self.problems.structure.diagonal is None else self._visited(size, split)

    def _crossed(self, size: int, split: Tensor) -> Iterator[tuple[Part, Tiling]]:
        """All loop orders of some rows of the two halves of the dimensions."""
        halves = Halves(extents_of(self.problems, self.stages, [list(c.unbind(1)) for c in self.choices]))
        counted = quantities(self.problems, self.stages, self.buffers)
        matrices = _Matrices(halves, self.problems, self.nestings)
        rows = max(1, size // (halves.columns * len(self.nestings)))
        for first in range(0, halves.rows, rows):
            last = min(first + rows, halves.rows)
            part = Part(range(len(self.nestings)), range(first * halves.columns, last * halves.columns))

            def value(total: Sum, rows: slice = slice(first, last)) -> Tensor:
                return matrices.value(total, rows)

            yield part, _evaluated(self.stages, counted, split, value)

    def _visited(self, size: int, split: Tensor) -> Iterator[tuple[Part, Tiling]]:
        """One by one: below a diagonal nothing is a product. Chunks shrink with the tiles that are visited."""
        sizes, kernels = self.problems.sizes, len(self.problems.sizes[0])
        trips = [torch.ceil(s.unsqueeze(-1) / c[:, -1:]).max() for s, c in zip(sizes, self.choices, strict=True)]
        step = max(1, int(VISITS * size / max(math.prod(float(t) for t in trips), 1.0)) // kernels)
        for position, nesting in enumerate(self.nestings):
            for first in range(0, self.count, step):
                numbers = range(first, min(first + step, self.count))
                flat = torch.arange(numbers.start, numbers.stop, device=sizes[0].device)
                tiles = self.at(flat.expand(kernels, -1))
                tiling = listed(self.problems, self.stages, nesting, tiles, split, self.buffers)
                yield Part(range(position, position + 1), numbers), tiling


class _Matrices:
    """The matrices of a space's sums, made once."""

    def __init__(self, halves: Halves, problems: ProblemTensors, nestings: Sequence[Nesting]) -> None:
        self.halves, self.problems, self.nestings = halves, problems, nestings
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def value(self, total: Sum, rows: slice) -> Tensor:
        """Some rows of a sum for all loop orders, `[kernel, candidate]`."""
        if not total.parts:
            return torch.zeros_like(self.problems.sizes[0]) + total.constant
        pair = self._known.get(id(total))
        if pair is None:
            pair = self._known[id(total)] = self.halves.matrices(total, self.problems.structure, self.nestings)
        value = torch.matmul(pair[0][:, :, rows], pair[1]).flatten(1)
        return value if isinstance(total.constant, float) and not total.constant else value + total.constant


def extents_of(problems: ProblemTensors, stages: Stages, tiles: Sequence[Sequence[Tensor]]) -> list[Extents]:
    """`tiles[dim][stage]` are `[kernel, candidate or choice]`."""
    return [Extents(size, chain, stages.spatial) for size, chain in zip(problems.sizes, tiles, strict=True)]


def _evaluated(
    stages: Stages, counted: Quantities, split: Tensor, value: Callable[[Sum], Tensor], operands: bool = False
) -> Tiling:
    known: dict[int, Tensor] = {}

    def once(total: Sum) -> Tensor:
        if id(total) not in known:
            known[id(total)] = value(total).unsqueeze(1).unsqueeze(-1)
        return known[id(total)]

    m, n, k = counted.tile
    shared = (once(counted.steps), once(counted.busy), once(counted.cores)) if stages.spatial is not None else None
    return Tiling(
        stages=stages,
        boundaries=tuple((once(b.down), once(b.up), once(b.own_down), once(b.own_up)) for b in counted.boundaries),
        holds=tuple(once(held) for held in counted.holds),
        tile=(once(m), once(n), once(k)),
        split=split,
        shared=shared,
        operands=tuple(once(o) for o in counted.operands) if operands else (),
    )
