"""A chain as one kernel, and what its steps are: each member on each tile of rows, and chunk of columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ...cost.problem import Problem, resized
from ...cost.shapes import KernelShape, Stream, TiledOperand, tile_axes
from ...workload import Role, Workload
from ..kernels import Kernel
from ..residency import Residency
from .chains import Chain
from .tiles import STREAMED, Cut, sum_bytes, visits


@dataclass(frozen=True)
class FusedNest:
    """Kernels that share rows, run tile by tile, so that what they pass on never leaves the chip."""

    chain: Chain
    members: tuple[Kernel, ...]
    cut: Cut

    def workspace(self, capacity: float) -> float:
        """Bytes on chip while it runs: its rows and what stays for all of them, and tiles of what streams through."""
        return self.cut.held + STREAMED * capacity

    def kernel(self, index: int) -> Kernel:
        """All members as one kernel."""
        operations = [op for kernel in self.members for op in kernel.operations]
        return Kernel(index, operations, dict(self.chain.reads), dict(self.chain.writes), self)

    def __str__(self) -> str:
        chain, cut = self.chain, self.cut
        rows = cut.entries * cut.rows
        tiles = f"{cut.tiles(chain)} tiles of {rows} rows" if rows < chain.rows else f"all {rows} rows at once"
        chunks = f", {cut.chunks} chunks of columns" if cut.chunks > 1 and cut.spans else ""
        return f"{len(self.members)} kernels fused, {tiles}{chunks}"


@dataclass(frozen=True)
class Step:
    """A member on one tile: its position, which share of all its work that is, and how many such steps there are."""

    member: int
    entries: int
    rows: int
    chunks: int
    share: float
    times: int


def steps(nest: FusedNest) -> Iterator[Step]:
    """All steps, alike ones together."""
    for member in range(len(nest.members)):
        chunks = nest.cut.chunks if nest.cut.chunked(member) else 1
        for entries, rows, tiles in nest.cut.sizes(nest.chain):
            share = entries * rows / nest.chain.rows / chunks
            yield Step(member, entries, rows, chunks, share, tiles * chunks)


def parts_of(
    nest: FusedNest, whole: Sequence[KernelShape], here: Residency, workload: Workload
) -> tuple[tuple[KernelShape, int], ...]:
    """The shape of every step, and how often it runs. `whole` are the members' own shapes, with nothing on chip."""
    traffic = _Traffic(nest, here, workload)
    found: dict[KernelShape, int] = {}
    for step in steps(nest):
        kernel, shape = nest.members[step.member], whole[step.member]
        streams = traffic.streams(step, shape)
        resident = traffic.resident(kernel, shape)
        part = _scaled(shape, step, nest, streams, resident, here.room)
        found[part] = found.get(part, 0) + step.times
    return tuple(found.items())


class _Traffic:
    """What each member moves from and to outside, and within the chip, over all tiles."""

    def __init__(self, nest: FusedNest, here: Residency, workload: Workload) -> None:
        self.nest, self.here, self.workload = nest, here, workload
        self.fetched: dict[int, int] = {}
        """Of what crosses once, the member with which it comes, or leaves."""
        for position, kernel in enumerate(nest.members):
            for t in kernel.reads:
                self.fetched.setdefault(t, position)
        self.left = {t: max(i for i, k in enumerate(nest.members) if t in k.writes) for t in nest.chain.writes}

    def resident(self, kernel: Kernel, shape: KernelShape) -> tuple[float, ...]:
        """Share of each tiled operand that lies on chip when a step starts: all but what streams through."""
        return tuple(
            self.here.read_share(t) if self._streams(t, operand) else 1.0
            for t, operand in zip(tiled_tensors(kernel, shape), shape.operands, strict=True)
        )

    def _streams(self, tensor: int, operand: TiledOperand) -> bool:
        """Whether a factor is fetched anew for every tile by the mapping itself, all of it."""
        chain = self.nest.chain
        return (
            operand.access == "read"
            and tensor in chain.shared
            and tensor not in chain.causal
            and tensor not in self.nest.cut.stays
        )

    def streams(self, step: Step, shape: KernelShape) -> tuple[Stream, ...]:
        """Bytes of a step beside its tiled operands: its share of what its member moves in all."""
        kernel, chain = self.nest.members[step.member], self.nest.chain
        tiled = dict(zip(tiled_tensors(kernel, shape), shape.operands, strict=True))
        sums: dict[Role, list[float]] = {}
        for t, size in kernel.reads.items():
            row = sums.setdefault(self.workload.tensors[t].role, [0.0] * 4)
            far = 0.0 if t in tiled and self._streams(t, tiled[t]) else self._far_read(t, size, step.member)
            row[1] += far
            if t not in tiled:
                times = visits(chain, self.nest.cut, t) if t in chain.shared else 1.0
                row[0] += max(size * times - far, 0.0)
        for t, size in kernel.writes.items():
            row = sums.setdefault(self.workload.tensors[t].role, [0.0] * 4)
            leaves = t in chain.writes and self.left[t] == step.member
            far = chain.writes[t] * (1.0 - self.here.write_share(t)) if leaves else 0.0
            row[3] += far
            if t not in tiled:
                row[2] += max(size - far, 0.0)
        for span in self.nest.cut.spans if step.chunks > 1 else ():
            if span.last == step.member:
                # Sums go back and forth between chunks.
                row = sums.setdefault("activation", [0.0] * 4)
                again = sum_bytes(kernel) * (step.chunks - 1)
                row[0], row[2] = row[0] + again, row[2] + again
        if step.member == 0 and self.here.evicted_bytes:
            sums.setdefault("activation", [0.0] * 4)[3] += self.here.evicted_bytes
        return tuple(Stream(role, *(v * step.share for v in row)) for role, row in sorted(sums.items()))

    def _far_read(self, tensor: int, size: float, member: int) -> float:
        """External bytes that a member reads of a tensor in all."""
        chain, cut = self.nest.chain, self.nest.cut
        outside = 1.0 - self.here.read_share(tensor)
        if tensor in chain.shared and tensor not in cut.stays:
            return size * visits(chain, cut, tensor) * outside
        if tensor in chain.reads and self.fetched[tensor] == member:
            return chain.reads[tensor] * outside
        return 0.0


def tiled_tensors(kernel: Kernel, shape: KernelShape) -> tuple[int, ...]:
    """The tensors of a member's tiled operands, in their order."""
    if not shape.operands:
        return ()
    assert kernel.anchor is not None
    op = kernel.operations[0]
    return tuple(op.tensors[operand.slot] for operand, _ in tile_axes(kernel.anchor)[1])


def _scaled(
    shape: KernelShape,
    step: Step,
    nest: FusedNest,
    streams: tuple[Stream, ...],
    resident: tuple[float, ...],
    room: float,
) -> KernelShape:
    """A member's shape on one tile, where the share `room` of the memory is free of what stays all along."""
    chain = nest.chain
    depth = chain.rows // chain.batches
    batched = any(t in chain.batched for t in tiled_tensors(nest.members[step.member], shape))
    along = step.rows / depth if batched else step.entries * step.rows / chain.rows
    across = step.entries / chain.batches if batched else 1.0
    summed = any(span.last == step.member for span in nest.cut.spans)
    scales = [across, along, 1.0, 1.0]
    if step.chunks > 1 and shape.operands:
        scales[3 if summed else 2] /= step.chunks
    problem = None if shape.problem is None else _problem(shape.problem, scales)
    b, m, n, k = (max(round(size * scale), 1) for size, scale in zip(shape.sizes, scales, strict=True))
    operands = tuple(
        replace(
            operand,
            footprint_bytes=operand.footprint_bytes
            * math.prod(scale for scale, has in zip(scales, operand.axes, strict=True) if has),
            resident=share,
            leaves=True,
        )
        for operand, share in zip(shape.operands, resident, strict=True)
    )
    return replace(
        shape,
        sizes=(b, m, n, k),
        operands=operands,
        streams=streams,
        work=shape.work * step.share,
        vector_ops=shape.vector_ops * step.share,
        special_ops=shape.special_ops * step.share,
        available=STREAMED * room,
        problem=problem,
        sliding=None,
        rows=None if shape.rows is None else replace(shape.rows, count=shape.rows.count * step.share),
    )


def _problem(problem: Problem, scales: Sequence[float]) -> Problem:
    """The same nest with its batch, rows, columns and summed dimension scaled; a causal triangle is left to the share
    of points that is executed, for its factors come with their visible part."""
    patterns = problem.structure.patterns
    left, right, result = patterns[0].dims, patterns[1].dims, patterns[-1].dims
    diagonal = problem.structure.diagonal
    sizes = []
    for d, size in enumerate(problem.sizes):
        if d in left & right & result:
            scale = scales[0]
        elif d in left & result:
            # Of attention only the queries are rows; heads that share keys are not cut.
            scale = scales[1] if diagonal is None or d == diagonal[0] else 1.0
            if diagonal is None and problem.structure.names[d] == "g":
                scale = 1.0
        elif d in right & result:
            scale = scales[2]
        else:
            scale = scales[3] if len(patterns) == 3 else 1.0
        sizes.append(max(round(size * scale), 1))
    return resized(problem, tuple(sizes))
