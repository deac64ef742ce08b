"""The exact traffic of a mapping in plain Python, one mapping at a time: the formulas of docs/model.md as one would
write them down. Slow on purpose: `cost_kernel.py` measures against it, and checks that both say the same."""

from __future__ import annotations

from collections.abc import Sequence

from torch_regflat.cost.problem import Pattern, Problem
from torch_regflat.hardware.chip import Chip


def tiles_at(size: int, chain: Sequence[int], stage: int) -> list[tuple[int, int]]:
    """(extent, how many) of the tiles of a stage; -1 is the whole dimension."""
    classes = {size: 1}
    for tile in chain[: stage + 1]:
        finer: dict[int, int] = {}
        for extent, count in classes.items():
            whole, rest = divmod(extent, tile)
            if whole:
                finer[tile] = finer.get(tile, 0) + whole * count
            if rest:
                finer[rest] = finer.get(rest, 0) + count
        classes = finer
    return list(classes.items())


def count(size: int, chain: Sequence[int], stage: int) -> int:
    return sum(n for _, n in tiles_at(size, chain, stage))


def still(size: int, chain: Sequence[int], into: int, stage: int, shift: int) -> int:
    return sum(n * max(e - shift, 0) for e, n in tiles_at(size, chain, stage) if e <= chain[into])


def fetched(
    problem: Problem, pattern: Pattern, order: Sequence[int], chains: Sequence[Sequence[int]], into: int
) -> int:
    """Elements of an operand fetched into a stage."""
    sizes, dims = problem.sizes, range(len(problem.sizes))
    total = 0
    for sign, shifts in pattern.monomials:
        shift = dict(shifts)
        everything = sign
        for d in dims:
            if d in pattern.dims:
                everything *= sum(n * max(e - shift.get(d, 0), 0) for e, n in tiles_at(sizes[d], chains[d], into))
            else:
                everything *= count(sizes[d], chains[d], into)
        total += everything
        for block in range(into + 1):
            for e in dims:
                if e in pattern.dims:
                    continue
                idle = sign * (count(sizes[e], chains[e], block) - count(sizes[e], chains[e], block - 1))
                for d in dims:
                    stage = block if order.index(d) < order.index(e) else block - 1
                    if d in pattern.dims:
                        idle *= still(sizes[d], chains[d], into, stage, shift.get(d, 0))
                    elif d != e:
                        idle *= count(sizes[d], chains[d], stage)
                total -= idle
    return total


def priced(
    problem: Problem, order: Sequence[int], chains: Sequence[Sequence[int]], chip: Chip
) -> tuple[float, float, bool]:
    """External bytes, seconds of the slowest memory, and whether the tiles fit."""
    stages = len(chains[0])
    external = slowest = 0.0
    fits = True
    for into in range(stages):
        moved = held = 0.0
        for o, pattern in enumerate(problem.structure.patterns):
            elements = fetched(problem, pattern, order, chains, into)
            if pattern.is_result:
                size = pattern.elements(problem.sizes)
                moved += (2 * problem.partial_bytes[o] * (elements - size)) + problem.element_bytes[o] * size
            else:
                moved += problem.element_bytes[o] * elements
            held += 2 * problem.element_bytes[o] * pattern.elements(tuple(chain[into] for chain in chains))
        level = chip.memory[stages - 1 - into]
        fits = fits and held <= level.usable_bytes
        slowest = max(slowest, moved / chip.memory[stages - into].read_bytes_per_s)
        external = moved if into == 0 else external
    return external, slowest, fits
