"""A tiled loop nest as explicitly managed memories see it: loop dimensions, and the operands they index.

Where the cache model needs only the four axes of a matrix product (`shapes.tile_axes`), the exact count of traffic
takes the nest as it is: convolutions with their sliding windows, groups, and the causal triangle of attention.
Dimensions that index the same operands in the same way are folded into one, and dimensions that are never tiled (the
head size of attention) into the size of an element.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

from ..workload import Axis, LoopNest, Operand, Role
from .shapes import tile_axes

PARTIAL_BYTES = 4.0
"""Bytes of an element of a result whose sum is not complete (fp32), where the result itself is narrower."""


@dataclass(frozen=True, slots=True)
class Window:
    """Two loop dimensions that slide along one axis of an operand: index = step·first + hole·second.

    The tile of sizes P and R touches P·R - (P - skip_first)⁺·(R - skip_second)⁺ elements along it: the index is the
    same for (first, second) and (first + skip_first, second - skip_second), and for no other pair in between.
    """

    first: int
    second: int
    skip_first: int
    skip_second: int


@dataclass(frozen=True)
class Pattern:
    """Which dimensions index an operand, and which pairs of them slide along one axis."""

    dims: frozenset[int]
    windows: tuple[Window, ...] = ()
    is_result: bool = False

    @functools.cached_property
    def monomials(self) -> tuple[tuple[int, tuple[tuple[int, int], ...]], ...]:
        """The elements of a tile as a sum of products over dimensions: (sign, ((dimension, shift), ...)).

        A dimension of tile size T contributes T, or (T - shift)⁺ where it is listed.
        """
        found: list[tuple[int, tuple[tuple[int, int], ...]]] = [(1, ())]
        for w in self.windows:
            shifted = ((w.first, w.skip_first), (w.second, w.skip_second))
            found += [(-sign, (*shifts, *shifted)) for sign, shifts in found]
        return tuple(found)

    def elements(self, sizes: tuple[int, ...]) -> int:
        """Elements that a tile of these sizes touches."""
        total = 0
        for sign, shifts in self.monomials:
            shift = dict(shifts)
            total += sign * math.prod(max(sizes[d] - shift.get(d, 0), 0) for d in self.dims)
        return total


@dataclass(frozen=True, slots=True)
class Structure:
    """What problems must share to be priced together: the dimensions, how operands are indexed, the causal diagonal.

    `diagonal = (row, column)`: only points with column <= row are computed.
    """

    names: tuple[str, ...]
    patterns: tuple[Pattern, ...]
    diagonal: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Problem:
    """A structure with sizes; `problem_of` makes equal ones one object, so that they compare by identity.

    `element_bytes` per operand are those of one point of its dimensions;
    `partial_bytes` those of a sum that is not complete.
    """

    structure: Structure
    sizes: tuple[int, ...]
    element_bytes: tuple[float, ...]
    partial_bytes: tuple[float, ...]
    roles: tuple[Role, ...]


@functools.lru_cache(maxsize=4096)
def problem_of(nest: LoopNest) -> Problem:
    """The problem of a product, convolution or attention: its factors and its result, in the order of `tile_axes`."""
    _, tiled = tile_axes(nest)
    operands = [operand for operand, _ in tiled]
    sizes = {d: size for d, (name, size) in enumerate(nest.dims) if name not in nest.whole}
    diagonal = nest.causal
    kept = _folded(operands, sizes, diagonal)
    position = {d: i for i, group in enumerate(kept) for d in group}
    patterns = tuple(_pattern(o, position) for o in operands)
    folded = tuple(math.prod(sizes[d] for d in group) for group in kept)
    names = tuple("·".join(nest.dims[d][0] for d in group) for group in kept)
    element = tuple(
        o.footprint_bytes(nest.sizes) / max(p.elements(folded), 1) for o, p in zip(operands, patterns, strict=True)
    )
    partial = tuple(b * max(PARTIAL_BYTES * 8 / o.bits, 1.0) for b, o in zip(element, operands, strict=True))
    place = None if diagonal is None else (position[diagonal[0]], position[diagonal[1]])
    return _one(Structure(names, patterns, place), folded, element, partial, tuple(o.role for o in operands))


_one = functools.cache(Problem)


def resized(problem: Problem, sizes: tuple[int, ...]) -> Problem:
    """The same nest with other sizes, and without its causal diagonal."""
    structure = replace(problem.structure, diagonal=None) if problem.structure.diagonal else problem.structure
    return _one(structure, sizes, problem.element_bytes, problem.partial_bytes, problem.roles)


def _folded(operands: list[Operand], sizes: dict[int, int], diagonal: tuple[int, int] | None) -> list[tuple[int, ...]]:
    """Dimensions in groups that can be tiled as one: the same operands, and no sliding window or diagonal."""
    alone = {d for o in operands for axis in o.axes if len(axis) > 1 for d, _ in axis} | set(diagonal or ())
    groups: dict[object, list[int]] = {}
    for d in sizes:
        key: object = d if d in alone else tuple(d in o.dims for o in operands)
        groups.setdefault(key, []).append(d)
    return [tuple(group) for group in groups.values()]


def _pattern(operand: Operand, position: dict[int, int]) -> Pattern:
    windows = tuple(_window(axis, position) for axis in operand.axes if len(axis) > 1)
    dims = frozenset(position[d] for d in operand.dims if d in position)
    return Pattern(dims, windows, operand.access != "read")


def _window(axis: Axis, position: dict[int, int]) -> Window:
    (first, step), (second, hole) = axis
    common = math.gcd(step, hole)
    return Window(position[first], position[second], hole // common, step // common)
