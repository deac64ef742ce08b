"""How a chain is cut up: rows of a tile, chunks of columns, and which shared tensors stay on chip for all tiles.

For every choice the bytes that cross the external boundary are known exactly: what is touched by rows crosses once,
what stays crosses once, and what does not stay crosses once a tile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from ..kernels import Kernel
from .chains import Chain
from .spans import Span, spans

STREAMED = 0.125
"""Share of the memory for tiles of what streams through while a chain runs (a choice of ours)."""
HELD = 0.75
"""Share of the memory that rows, and what stays for all of them, may take: as for tensors between kernels."""
EVEN = 64
"""Rows of a tile are a multiple of this where there is room, to fill the arrays."""
CHUNKS = (1, 2, 4, 8, 16, 32, 64)
SUM_BYTES = 4.0
"""Bytes of a sum that is not complete (fp32)."""


@dataclass(frozen=True)
class Cut:
    """`entries` batch entries of `rows` rows each are a tile; within the members of `spans`, columns are taken in
    `chunks` chunks; `stays` are the shared tensors that are fetched once. `held` bytes on chip hold all that.
    """

    entries: int
    rows: int
    chunks: int
    spans: tuple[Span, ...]
    stays: frozenset[int]
    held: float

    def chunked(self, member: int) -> bool:
        """Whether the member at this position is done chunk by chunk."""
        return self.chunks > 1 and any(s.first <= member <= s.last for s in self.spans)

    def sizes(self, chain: Chain) -> tuple[tuple[int, int, int], ...]:
        """(batch entries, rows of each, how many tiles) of whole and partial tiles; the last along each may be less."""
        depth = chain.rows // chain.batches
        along = _pieces(depth, self.rows)
        across = _pieces(chain.batches, self.entries)
        return tuple((c, r, many * times) for c, many in across for r, times in along)

    def tiles(self, chain: Chain) -> int:
        """How many tiles there are."""
        return sum(times for _, _, times in self.sizes(chain))


def visits(chain: Chain, cut: Cut, tensor: int) -> float:
    """How often over a shared tensor is fetched if it does not stay on chip: once a tile, or the part a tile needs."""
    depth = chain.rows // chain.batches
    along = math.ceil(depth / cut.rows)
    if tensor in chain.causal:
        along_all = sum(min((i + 1) * cut.rows, depth) for i in range(along)) / depth
    else:
        along_all = float(along)
    if tensor in chain.batched:
        return along_all
    return along_all * math.ceil(chain.batches / cut.entries)


def far_bytes(chain: Chain, cut: Cut, near: Set[int], readers: Mapping[int, int]) -> float:
    """External bytes of a chain that finds, and leaves, what is `near` on chip; `readers` counts the members that read
    a shared tensor."""
    rows = [size for t, size in chain.reads.items() if t not in chain.shared and t not in near]
    shared = [
        size * (1.0 if t in cut.stays else visits(chain, cut, t) * readers[t])
        for t, size in chain.shared.items()
        if t not in near
    ]
    return math.fsum((*rows, *shared, *(size for t, size in chain.writes.items() if t not in near)))


def best_cut(chain: Chain, members: Sequence[Kernel], capacity: float, near: Mapping[int, float]) -> Cut | None:
    """The cut that moves least across the external boundary, the coarsest of those; None where not a row fits.

    `near` has the bytes of the chain's tensors that lie on chip whole, before or after it.
    """
    found: tuple[tuple[float, int, int], Cut] | None = None
    own = spans(chain, members)
    readers = readers_of(chain, members)
    shared = sorted((t for t in chain.shared if t not in near), key=lambda t: (chain.shared[t], t))
    room = capacity * HELD - math.fsum(near.values())
    for chunks in CHUNKS if own else CHUNKS[:1]:
        if any(span.columns % chunks or span.columns // chunks < EVEN for span in own):
            continue
        need = _row_bytes(chain, members, own, chunks, near)
        for count in range(len(shared) + 1):
            stays = frozenset(shared[:count])
            cut = _largest(chain, own, chunks, stays, need, room)
            if cut is None:
                break
            key = (far_bytes(chain, cut, near.keys(), readers), chunks, cut.tiles(chain))
            if found is None or key < found[0]:
                found = key, cut
    return None if found is None else found[1]


def readers_of(chain: Chain, members: Sequence[Kernel]) -> dict[int, int]:
    """How many members read each shared tensor."""
    return {t: sum(t in kernel.reads for kernel in members) for t in chain.shared}


def _largest(
    chain: Chain, own: tuple[Span, ...], chunks: int, stays: frozenset[int], need: tuple[float, float], room: float
) -> Cut | None:
    """As many rows as fit, in tiles of about the same size."""
    depth = chain.rows // chain.batches

    def held(entries: int, rows: int) -> float:
        parts = [
            chain.shared[t] / chain.batches * min(2 * entries, chain.batches) if t in chain.batched else chain.shared[t]
            for t in stays
        ]
        double = entries * rows < chain.rows
        return need[double] * entries * rows + math.fsum(parts)

    entries = chain.batches
    while entries > 1 and held(entries, depth) > room:
        entries = math.ceil(entries / 2)
    if held(entries, depth) <= room:
        return Cut(entries, depth, chunks, own, stays, held(entries, depth))
    spare = room - held(1, 0)
    most = int(spare / need[1]) if need[1] else 0
    if most < 1:
        return None
    rows = math.ceil(depth / math.ceil(depth / most))
    even = math.ceil(rows / EVEN) * EVEN
    rows = even if even <= most else rows
    return Cut(1, rows, chunks, own, stays, held(1, rows))


def _row_bytes(
    chain: Chain, members: Sequence[Kernel], own: tuple[Span, ...], chunks: int, near: Mapping[int, float]
) -> tuple[float, float]:
    """Bytes on chip for one row where members need most: of the only tile, and of one of several (what comes from
    outside and what leaves are then held twice, so that they move while others are used)."""
    uses: dict[int, list[int]] = {}
    for position, kernel in enumerate(members):
        for t in {*kernel.reads, *kernel.writes} & chain.slices.keys():
            uses.setdefault(t, []).append(position)
    most = [0.0, 0.0]
    cutting = own if chunks > 1 else ()
    for position in range(len(members)):
        span = next((s for s in cutting if s.first <= position <= s.last), None)
        inside = range(span.first, span.last + 1) if span else range(position, position + 1)
        once = twice = 0.0
        for t, at in uses.items():
            if t in near or at[-1] < inside.start or at[0] >= inside.stop:
                continue
            size = chain.slices[t]
            if span is not None and t in span.wide:
                size /= chunks
            once += size
            twice += size * (2.0 if t in chain.reads or t in chain.writes else 1.0)
        if span is not None:
            sums = _sums(members[span.last], chain.rows)
            once, twice = once + sums, twice + sums
        most = [max(most[0], once), max(most[1], twice)]
    return most[0], most[1]


def _sums(kernel: Kernel, rows: int) -> float:
    """Bytes of the sums of a product, for one row of the chain."""
    assert kernel.anchor is not None
    dims = dict(kernel.anchor.dims)
    return SUM_BYTES * dims["m"] * dims["n"] / rows


def sum_bytes(kernel: Kernel) -> float:
    """Bytes of all sums of a product while they are not complete."""
    return _sums(kernel, 1)


def _pieces(size: int, tile: int) -> list[tuple[int, int]]:
    """(extent, how many) of the tiles of a dimension."""
    whole, rest = divmod(size, tile)
    return [piece for piece in ((tile, whole), (rest, 1 if rest else 0)) if piece[1]]
