"""Where a chain can also be cut along its width: columns that one product makes and the next one sums over.

A gated MLP: gate and up make columns, the activation and the product of both keep them apart, down sums over them. In
chunks of columns only the sums of the last product have to be held for all rows of a tile, not the wide tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..kernels import Kernel
from .chains import Chain


@dataclass(frozen=True)
class Span:
    """Members of a chain, by position, from the first that makes columns to the product that sums over them.

    `wide` are the tensors in between, `columns` how many a row of them has at least.
    """

    first: int
    last: int
    wide: frozenset[int]
    columns: int


def spans(chain: Chain, members: Sequence[Kernel]) -> tuple[Span, ...]:
    """All of them, none within another."""
    found: list[Span] = []
    for last, kernel in enumerate(members):
        span = _ending(last, kernel, chain, members)
        if span is not None and (not found or span.first > found[-1].last):
            found.append(span)
    return tuple(found)


def _ending(last: int, kernel: Kernel, chain: Chain, members: Sequence[Kernel]) -> Span | None:
    nest = kernel.anchor
    if nest is None or nest.kind != "product" or set(dict(nest.dims)) != {"m", "n", "k"}:
        return None
    op = kernel.operations[0]
    summed = op.tensors[nest.operands[0].slot]
    if summed in kernel.writes or any(summed in other.inputs for other in kernel.operations[1:]):
        return None
    wide, columns = {summed}, dict(nest.dims)["k"]
    waiting, first = {summed}, last
    while waiting and first > 0:
        first -= 1
        maker = members[first]
        if not set(maker.writes) & waiting or set(maker.writes) - wide:
            return None
        taken = _columns_of(maker, wide, chain, columns)
        if taken is None:
            return None
        waiting = (waiting - set(maker.writes)) | (taken - wide)
        wide |= taken
    stays = all(t not in chain.writes and t not in chain.reads for t in wide)
    inside = all(
        not (set(k.reads) | set(k.writes)) & wide for i, k in enumerate(members) if not first <= i <= last
    )
    return Span(first, last, frozenset(wide), columns) if not waiting and stays and inside else None


def _columns_of(maker: Kernel, wide: set[int], chain: Chain, columns: int) -> set[int] | None:
    """What a kernel reads column by column to make columns of its results; None if it mixes them."""
    nest, rest = maker.anchor, maker.operations
    made: set[int] = set()
    if nest is not None:
        dims = dict(nest.dims)
        if nest.kind != "product" or set(dims) != {"m", "n", "k"} or dims["n"] % columns:
            return None
        made, rest = set(rest[0].outputs), rest[1:]
        if maker.operations[0].tensors[nest.operands[0].slot] in wide:
            return None
    taken: set[int] = set()
    for op in rest:
        if any(n.kind != "pointwise" for n in op.nests) or not op.layouts:
            return None
        shape = op.layouts[len(op.inputs)][0]
        for slot, tensor in enumerate(op.inputs):
            if tensor in made:
                continue
            if tensor in chain.shared:
                continue  # a scale or shift of columns goes with them
            if op.layouts[slot][0] != shape:
                return None
            taken.add(tensor)
        made.update(op.outputs)
    return taken
