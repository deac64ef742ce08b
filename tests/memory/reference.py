"""An independent count of traffic: walk the loops of a mapping with real buffers. Plain Python, no shared code.

Written from the words of "Exact traffic" in docs/model.md, and from nothing else. Small cases only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

Region = tuple[tuple[int, int], ...]
"""First index and number of indices along each loop dimension."""

Core = tuple[int, ...]
"""Which part of what all cores hold a core has: its position along each dimension."""


@dataclass(frozen=True)
class Tensor:
    """What indexes a tensor: for each of its axes, pairs of (loop dimension, stride)."""

    axes: tuple[tuple[tuple[int, int], ...], ...]
    is_result: bool = False

    def own(self, region: Region) -> Region:
        """The part of a region that this tensor sees."""
        dims = sorted({d for axis in self.axes for d, _ in axis})
        return tuple(region[d] for d in dims)

    def elements(self, region: Region) -> frozenset[tuple[int, ...]]:
        """The elements that the loops over this region touch."""
        along = []
        for axis in self.axes:
            ranges = [range(region[d][0], region[d][0] + region[d][1]) for d, _ in axis]
            strides = [stride for _, stride in axis]
            along.append({sum(i * s for i, s in zip(at, strides, strict=True)) for at in itertools.product(*ranges)})
        return frozenset(itertools.product(*along))


@dataclass(frozen=True)
class Stage:
    """One step of tiling: the tile's sizes, and the loops over tiles, outermost first (None: the cores, all at once).

    `stored` is False for a step that holds nothing, such as what all cores hold together.
    """

    tile: tuple[int, ...]
    order: tuple[int, ...] | None
    stored: bool = True


@dataclass
class Count:
    """Elements that crossed into one level from the level above it, by tensor.

    `seen_above` counts what leaves the level above (a word that several cores want at once leaves it once).
    `partial` counts sums that were not complete when they left, `returned` those that came back.
    """

    filled: dict[int, int] = field(default_factory=dict)
    seen_above: dict[int, int] = field(default_factory=dict)
    written: dict[int, int] = field(default_factory=dict)
    seen_written: dict[int, int] = field(default_factory=dict)
    returned: dict[int, int] = field(default_factory=dict)


def parts(region: Region, tile: tuple[int, ...]) -> list[list[tuple[int, int]]]:
    """The tiles of each dimension of a region; the last may be partial."""
    return [
        [(start + i, min(size, length - i)) for i in range(0, length, size)]
        for (start, length), size in zip(region, tile, strict=True)
    ]


def visible(region: Region, diagonal: tuple[int, int] | None) -> bool:
    """Whether any point of the region is computed: with a diagonal, column <= row."""
    if diagonal is None:
        return True
    row, column = diagonal
    return region[column][0] <= region[row][0] + region[row][1] - 1


def steps(region: Region, stage: Stage, diagonal: tuple[int, int] | None) -> Iterator[tuple[tuple[int, ...], Region]]:
    """The tiles of a region and their positions, in loop order, without those in which nothing is computed."""
    pieces = parts(region, stage.tile)
    order = stage.order if stage.order is not None else tuple(range(len(region)))
    for at in itertools.product(*(range(len(pieces[d])) for d in order)):
        index = dict(zip(order, at, strict=True))
        tile = tuple(pieces[d][index[d]] for d in range(len(region)))
        if visible(tile, diagonal):
            yield at, tile


class Walk:
    """Runs the loops. `counts[i]` is what crossed into stage i, for stages that store."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        tensors: tuple[Tensor, ...],
        stages: tuple[Stage, ...],
        diagonal: tuple[int, int] | None = None,
    ) -> None:
        self.tensors, self.stages, self.diagonal = tensors, stages, diagonal
        self.counts = [Count() for _ in stages]
        self.held: dict[tuple[int, Core, int], Region] = {}
        self.complete: list[set[tuple[int, tuple[int, ...]]]] = [set() for _ in stages]
        self.whole = tuple((0, size) for size in sizes)

    def run(self) -> None:
        self._descend(0, {(): self.whole}, frozenset())

    def _descend(self, level: int, regions: dict[Core, Region], changed: frozenset[tuple[Core, int]]) -> None:
        """All loops below a stage, for each core's region. `changed`: (core, tensor) whose tile above was replaced."""
        if level == len(self.stages):
            return
        stage = self.stages[level]
        if stage.order is None:
            # The cores share out one region: all at once.
            (region,) = regions.values()
            cores = dict(steps(region, stage, self.diagonal))
            fresh = frozenset(t for _, t in changed)
            self._load_cores(level, cores, fresh)
            self._descend(level + 1, cores, frozenset((core, t) for core in cores for t in fresh))
            return
        for core, region in regions.items():
            first = True
            for _, tile in steps(region, stage, self.diagonal):
                stale = frozenset(t for c, t in changed if c == core) if first else frozenset()
                fresh = self._enter(level, core, tile, stale)
                self._descend(level + 1, {core: tile}, frozenset((core, t) for t in fresh))
                first = False

    def _enter(self, level: int, core: Core, tile: Region, stale: frozenset[int]) -> frozenset[int]:
        """Replace the buffers of one stage where their tile changes; which tensors were."""
        fresh = set()
        for number, tensor in enumerate(self.tensors):
            wanted = tensor.own(tile)
            if self.held.get((level, core, number)) == wanted and number not in stale:
                continue
            self.held[(level, core, number)] = wanted
            fresh.add(number)
            if self.stages[level].stored:
                self._count(self.counts[level], level, number, [tensor.elements(tile)])
        return frozenset(fresh)

    def _load_cores(self, level: int, cores: dict[Core, Region], fresh: frozenset[int]) -> None:
        for number in fresh:
            tensor = self.tensors[number]
            self._count(self.counts[level], level, number, [tensor.elements(tile) for tile in cores.values()])

    def _count(self, count: Count, level: int, number: int, tiles: list[frozenset[tuple[int, ...]]]) -> None:
        together = frozenset().union(*tiles)
        total, distinct = sum(map(len, tiles)), len(together)
        if not self.tensors[number].is_result:
            _add(count.filled, number, total)
            _add(count.seen_above, number, distinct)
            return
        # A result's tile is written when it is given up; each tile that is taken up is given up once.
        _add(count.written, number, total)
        _add(count.seen_written, number, distinct)
        known = self.complete[level]
        _add(count.returned, number, sum((number, element) in known for element in together))
        known.update((number, element) for element in together)


def _add(counts: dict[int, int], number: int, amount: int) -> None:
    counts[number] = counts.get(number, 0) + amount


def whole_elements(tensor: Tensor, sizes: tuple[int, ...]) -> int:
    """Elements of a tensor, each once."""
    return len(tensor.elements(tuple((0, size) for size in sizes)))


def points(sizes: tuple[int, ...]) -> int:
    return math.prod(sizes)
