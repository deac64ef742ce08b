"""Sums of products over dimensions, priced for listed candidates or for whole product spaces.

Every quantity of an explicitly managed memory (bytes across a boundary, bytes a level must hold, passes of an array) is

    constant + Σ_t weight_t · Π_d factor_td(tiles of dimension d)

For candidates that are listed one by one the factors are multiplied as they stand. In a product space, where any choice
of tiles of one dimension goes with any of the others, the dimensions are put into two halves. A term is then an outer
product of a vector over the choices of one half and one over those of the other, and the sum of all terms of a quantity
is a matrix product: the whole space is priced at the speed of the matrix library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..cost.problem import Structure
from .diagonal import fetched_below
from .traffic import Extents, Factor, Nesting, Term, fetch_terms, fetched


@dataclass(frozen=True, slots=True)
class Fetch:
    """Stands for the elements of an operand that are fetched into a stage: terms, once loop orders are known."""

    operand: int
    stage: int


@dataclass
class Sum:
    """constant + Σ weight · term; constants and weights are `[kernel, 1]`."""

    constant: Tensor | float = 0.0
    parts: list[tuple[Tensor | float, Term | Fetch]] = field(default_factory=list)

    def add(self, weight: Tensor | float, *parts: Term | Fetch) -> Sum:
        self.parts += [(weight, part) for part in parts]
        return self


class Listed:
    """Candidates that are listed: `extents[dim]` hold the tiles of each side by side, `[kernel, candidate]`."""

    def __init__(self, structure: Structure, nesting: Nesting, extents: Sequence[Extents]) -> None:
        self.structure, self.nesting, self.extents = structure, nesting, extents
        self._fetches: dict[int, list[Tensor]] = {}

    def value(self, total: Sum) -> Tensor:
        """`[kernel, candidate]`."""
        result = torch.zeros_like(self.extents[0].tiles[0]) + total.constant
        for weight, part in total.parts:
            result = result + (self.fetched(part) if isinstance(part, Fetch) else self._term(part)) * weight
        return result

    def _term(self, term: Term) -> Tensor:
        value = self.extents[0].value(term.factors[0])
        for factor, extent in zip(term.factors[1:], self.extents[1:], strict=True):
            value = value * extent.value(factor)
        return value * term.sign

    def fetched(self, fetch: Fetch) -> Tensor:
        """Elements of an operand fetched into a stage, `[kernel, candidate]`."""
        found = self._fetches.get(fetch.stage)
        if found is None:
            count = fetched if self.structure.diagonal is None else fetched_below
            found = self._fetches[fetch.stage] = count(self.structure, self.nesting, fetch.stage, self.extents)
        return found[fetch.operand]


class Halves:
    """A product space with its dimensions in two halves; candidates are numbered row by row, `[rows, columns]`.

    Sums that hold no fetches are the same in all loop orders, and have one entry along `nesting`.
    """

    def __init__(self, extents: Sequence[Extents]) -> None:
        self.extents = extents
        counts = [e.tiles[0].shape[-1] for e in extents]
        self.cut = _cut(counts)
        self.shape = tuple(counts)
        self.rows, self.columns = math.prod(counts[: self.cut]), math.prod(counts[self.cut :])
        self._known: dict[tuple[int, tuple[Factor, ...]], Tensor] = {}

    def matrices(self, total: Sum, structure: Structure, nestings: Sequence[Nesting]) -> tuple[Tensor, Tensor]:
        """The two matrices whose product the sum is, less its constant, for each of some loop orders:
        `[kernel, nesting, rows, term]` and `[kernel, nesting, term, columns]`."""
        both = [self._of_one(total, structure, nesting) for nesting in nestings]
        return torch.stack([left for left, _ in both], 1), torch.stack([right for _, right in both], 1)

    def _of_one(self, total: Sum, structure: Structure, nesting: Nesting) -> tuple[Tensor, Tensor]:
        left, right = [], []
        for weight, part in total.parts:
            terms = fetch_terms(structure, part.operand, nesting, part.stage) if isinstance(part, Fetch) else (part,)
            for term in terms:
                left.append(self._outer(0, term.factors[: self.cut]))
                right.append(self._outer(self.cut, term.factors[self.cut :]) * (weight * term.sign))
        return torch.stack(left, -1), torch.stack(right, -2)

    def _outer(self, first: int, factors: tuple[Factor, ...]) -> Tensor:
        """The factors of some dimensions multiplied out over all their choices, `[kernel, choices]`."""
        key = (first, factors)
        found = self._known.get(key)
        if found is None:
            last = first + len(factors) - 1
            value = self.extents[last].value(factors[-1]).expand(-1, self.shape[last])
            if len(factors) > 1:
                before = self._outer(first, factors[:-1])
                value = (before.unsqueeze(-1) * value.unsqueeze(-2)).flatten(-2)
            found = self._known[key] = value
        return found


def _cut(counts: Sequence[int]) -> int:
    """Where to cut the dimensions so that both halves have about as many choices."""
    best = range(1, len(counts))
    return min(best, key=lambda cut: max(math.prod(counts[:cut]), math.prod(counts[cut:])), default=1)
