"""What a mapping costs an explicitly managed memory, as sums of products over dimensions.

Built once for a structure and its loop orders; `sums` prices it for listed candidates or for whole spaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ..cost.problem import Pattern, Problem, Structure
from ..cost.shapes import KernelShape
from ..hardware.chip import Chip
from .sums import Fetch, Sum
from .traffic import Factor, Term

DOUBLE_BUFFER = 2.0
_ONE = Factor("one")


@dataclass(frozen=True)
class Stages:
    """The tiles of a chip's memories, outermost first.

    `levels[i]` is the level (counted from the engines) that holds tile i; None for what all cores hold together, which
    is the stage before `spatial`, the first that each core has of its own.
    """

    levels: tuple[int | None, ...]
    spatial: int | None = None

    @classmethod
    def of(cls, chip: Chip) -> Stages:
        """One stage a level; a register-flat memory is one, wherever its words lie."""
        inwards = list(reversed(range(len(chip.on_chip))))
        several = chip.memory_system == "scratchpad" and chip.cores.count.value > 1
        own = [level for level in inwards if chip.on_chip[level].scope == "core"] if several else []
        if not own:
            return cls(tuple(inwards))
        shared = [level for level in inwards if level not in own]
        return cls((*shared, None, *own), len(shared) + 1)

    @property
    def stored(self) -> tuple[int, ...]:
        """Stages that a memory holds."""
        return tuple(i for i, level in enumerate(self.levels) if level is not None)

    def level(self, stage: int) -> int:
        """The level that holds the tile of a stored stage."""
        found = self.levels[stage]
        assert found is not None
        return found

    def is_own(self, level: int) -> bool:
        """Whether each core has this level to itself."""
        return self.spatial is not None and level in self.levels[self.spatial :]


@dataclass(frozen=True)
class ProblemTensors:
    """Problems of one structure; what belongs to an operand is `[kernel, 1]`.

    `outer` is the share of an operand that crosses the external boundary: 0 where it lies on chip already, stays
    there, or never leaves its fused kernel.
    """

    structure: Structure
    sizes: tuple[Tensor, ...]
    element_bytes: tuple[Tensor, ...]
    partial_bytes: tuple[Tensor, ...]
    outer: tuple[Tensor, ...]

    @classmethod
    def pack(
        cls, problems: Sequence[Problem], outer: Sequence[Sequence[float]], device: torch.device | None = None
    ) -> ProblemTensors:
        """Lay problems of one structure out; `outer` per problem and operand."""

        def columns(rows: Sequence[Sequence[float]]) -> tuple[Tensor, ...]:
            table = torch.tensor(rows, dtype=torch.float64, device=device)
            return tuple(table[:, i : i + 1] for i in range(table.shape[1]))

        return cls(
            problems[0].structure,
            columns([p.sizes for p in problems]),
            columns([p.element_bytes for p in problems]),
            columns([p.partial_bytes for p in problems]),
            columns(outer),
        )

    @classmethod
    def of(cls, shapes: Sequence[KernelShape], device: torch.device | None = None) -> ProblemTensors:
        """The problems of tiled kernels, with what of them lies on chip already."""
        problems = [shape.problem for shape in shapes if shape.problem is not None]
        return cls.pack(problems, [[(1.0 - o.resident) * o.leaves for o in s.operands] for s in shapes], device)

    @property
    def operands(self) -> range:
        return range(len(self.structure.patterns))


@dataclass(frozen=True)
class Boundary:
    """Bytes that come down into a stage and go up out of it, as the level above sees them and as the stage itself does.

    They differ where several cores want the same word (it leaves the level above once), or add to the same sum (the
    cores add up among themselves before one result leaves).
    """

    down: Sum
    up: Sum
    own_down: Sum
    own_up: Sum


@dataclass(frozen=True)
class Quantities:
    """All that is counted of a mapping, whatever its loop orders.

    `boundaries` and `holds` go with the stored stages, outermost first; `holds` is bytes of one copy. `steps` and
    `busy` count the steps that all cores make together and the core tiles in them, `cores` how many cores share a
    step. `tile` are the (m, n, k) of the innermost stage. `operands` are the bytes each operand moves across the
    external boundary.
    """

    boundaries: tuple[Boundary, ...]
    holds: tuple[Sum, ...]
    steps: Sum
    busy: Sum
    cores: Sum
    tile: tuple[Sum, Sum, Sum]
    operands: tuple[Sum, ...]


def quantities(problems: ProblemTensors, stages: Stages, buffers: float = DOUBLE_BUFFER) -> Quantities:
    """What to count. `buffers` is how many tiles of a moving operand are held: 2 lets loads overlap arithmetic."""
    last = len(stages.levels) - 1
    above = last if stages.spatial is None else stages.spatial - 1
    dims = range(len(problems.sizes))
    m, n, k = (
        _product(Factor("tile", last) if d in role else _ONE for d in dims) for role in roles(problems.structure)
    )
    return Quantities(
        boundaries=tuple(_boundary(problems, stages, stage) for stage in stages.stored),
        holds=tuple(_holds(problems, stage, buffers) for stage in stages.stored),
        steps=_product(Factor("count", above, above) for _ in dims),
        busy=_product(
            Factor("count", above + 1 if stages.spatial else above, above + 1 if stages.spatial else above)
            for _ in dims
        ),
        cores=_product(Factor("shares") if stages.spatial is not None else _ONE for _ in dims),
        tile=(m, n, k),
        operands=tuple(_operand(problems, o) for o in problems.operands),
    )


def roles(structure: Structure) -> tuple[frozenset[int], frozenset[int], frozenset[int]]:
    """Dimensions that are rows, columns and the summed axis of a product of the first two operands."""
    left, right, result = structure.patterns[0].dims, structure.patterns[1].dims, structure.patterns[-1].dims
    return (left & result) - right, (right & result) - left, (left | right) - result


def _product(factors: Iterable[Factor]) -> Sum:
    return Sum().add(1.0, Term(1, tuple(factors)))


def _boundary(problems: ProblemTensors, stages: Stages, stage: int) -> Boundary:
    share = problems.outer if stage == stages.stored[0] else (1.0,) * len(problems.outer)
    if stage != stages.spatial:
        down, up = _down(problems, share, stage, stage), _up(problems, share, stage)
        return Boundary(down, up, down, up)
    # Partial sums that come back go to one of the cores that share the sum.
    return Boundary(
        down=_down(problems, share, stage - 1, stage - 1),
        up=_up(problems, share, stage - 1),
        own_down=_down(problems, share, stage, stage - 1),
        own_up=_up(problems, share, stage),
    )


Shares: TypeAlias = "Sequence[Tensor | float]"


def _down(problems: ProblemTensors, share: Shares, stage: int, returned: int) -> Sum:
    """Bytes into a stage: tiles of the factors, and partial sums taken up again (counted at stage `returned`)."""
    total = Sum()
    for o, pattern in enumerate(problems.structure.patterns):
        if pattern.is_result:
            partial = problems.partial_bytes[o] * share[o]
            total.add(partial, Fetch(o, returned))
            total.constant = total.constant - partial * _elements(problems, pattern)
        else:
            total.add(problems.element_bytes[o] * share[o], Fetch(o, stage))
    return total


def _up(problems: ProblemTensors, share: Shares, stage: int) -> Sum:
    """Bytes out of a stage. Every tile of a result that is taken up is given up once: complete the last time, else
    as partial sums."""
    total = Sum()
    for o, pattern in enumerate(problems.structure.patterns):
        if pattern.is_result:
            total.add(problems.partial_bytes[o] * share[o], Fetch(o, stage))
            saved = (problems.partial_bytes[o] - problems.element_bytes[o]) * share[o]
            total.constant = total.constant - saved * _elements(problems, pattern)
    return total


def _operand(problems: ProblemTensors, o: int) -> Sum:
    """External bytes of one operand, in and out."""
    share = problems.outer[o]
    pattern, element, partial = problems.structure.patterns[o], problems.element_bytes[o], problems.partial_bytes[o]
    if not pattern.is_result:
        return Sum().add(element * share, Fetch(o, 0))
    constant = (element - 2.0 * partial) * share * _elements(problems, pattern)
    return Sum(constant).add(2.0 * partial * share, Fetch(o, 0))


def _elements(problems: ProblemTensors, pattern: Pattern) -> Tensor:
    """Elements of a whole operand, `[kernel, 1]`."""
    total = torch.zeros_like(problems.sizes[0])
    for sign, shifts in pattern.monomials:
        shift = dict(shifts)
        part = torch.full_like(total, float(sign))
        for d in pattern.dims:
            part = part * torch.clamp(problems.sizes[d] - shift.get(d, 0), min=0.0)
        total = total + part
    return total


def _holds(problems: ProblemTensors, stage: int, buffers: float) -> Sum:
    """Bytes that one copy of a level holds: all tiles, those that are replaced while in use `buffers` times.

    What lies on chip whole before the kernel starts, and what stays there, is counted by the schedule, not here. A
    result whose sum is complete when it leaves needs its own bytes, else those of partial sums.
    """
    total = Sum()
    for o, pattern in enumerate(problems.structure.patterns):
        element, partial, outer = problems.element_bytes[o], problems.partial_bytes[o], problems.outer[o]
        for sign, shifts in pattern.monomials:
            kinds: tuple[tuple[Literal["tile", "only"], float], ...] = (("tile", buffers), ("only", 1.0 - buffers))
            for kind, copies in kinds:
                tile, done = _tiles(problems, pattern, kind, stage, dict(shifts))
                if not pattern.is_result:
                    total.add(element * outer * copies, Term(sign, tile))
                else:
                    total.add(partial * outer * copies, Term(sign, tile))
                    total.add((element - partial) * outer * copies, Term(sign, done))
    return total


def _tiles(
    problems: ProblemTensors, pattern: Pattern, kind: Literal["tile", "only"], stage: int, shift: dict[int, int]
) -> tuple[tuple[Factor, ...], tuple[Factor, ...]]:
    """Factors of the elements of a tile; the same where no sum is left to be completed."""
    dims = range(len(problems.sizes))
    own = {d: Factor(kind, stage, 0, shift.get(d, 0)) for d in pattern.dims}
    return tuple(own.get(d, _ONE) for d in dims), tuple(own.get(d, Factor("single", stage)) for d in dims)
