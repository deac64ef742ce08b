"""An independent count of external traffic: walk the tile loops with real buffers. Plain Python, no shared code.

Semantics, in words: every operand has one buffer that holds one tile. Loops over tiles run in a given order. A tile of
a factor is fetched whenever the buffer holds another one. A tile of the result is written back whenever the buffer
moves on, and fetched first if it was written back before.
"""

from __future__ import annotations

import itertools
import math


def spans(size: int, tile: int) -> list[int]:
    """Sizes of the tiles of an axis; the last may be partial."""
    return [min(tile, size - start) for start in range(0, size, tile)]


def walk(sizes: tuple[int, int, int], tiles: tuple[int, int, int], order: tuple[int, int, int]) -> dict[str, int]:
    """Elements moved of A[m,k], B[k,n] and C[m,n] for loops nested in `order` (axis numbers, outermost first)."""
    parts = [spans(size, tile) for size, tile in zip(sizes, tiles, strict=True)]
    axes = {"A": (0, 2), "B": (2, 1), "C": (0, 1)}
    held: dict[str, tuple[int, ...] | None] = dict.fromkeys(axes)
    moved = {"A": 0, "B": 0, "C read": 0, "C write": 0}
    complete: set[tuple[int, ...]] = set()

    def elements(name: str, at: tuple[int, ...]) -> int:
        return math.prod(parts[axis][position] for axis, position in zip(axes[name], at, strict=True))

    for steps in itertools.product(*(range(len(parts[axis])) for axis in order)):
        position = dict(zip(order, steps, strict=True))
        for name in ("A", "B"):
            wanted = tuple(position[axis] for axis in axes[name])
            if held[name] != wanted:
                moved[name] += elements(name, wanted)
                held[name] = wanted
        wanted = tuple(position[axis] for axis in axes["C"])
        if held["C"] != wanted:
            if held["C"] is not None:
                moved["C write"] += elements("C", held["C"])
                complete.add(held["C"])
            if wanted in complete:
                moved["C read"] += elements("C", wanted)
            held["C"] = wanted
    assert held["C"] is not None
    moved["C write"] += elements("C", held["C"])
    return moved
