"""A kernel instance with its residency → the shape that is priced."""

from __future__ import annotations

import math
from dataclasses import replace

from ..cost.problem import Problem, problem_of
from ..cost.shapes import KernelShape, Stream, TiledOperand, tile_axes, tiled_operand
from ..workload import LoopNest, Role, Workload
from .kernels import Kernel
from .residency import Residency

_TILED = ("product", "convolution", "attention")


def shape_of(kernel: Kernel, here: Residency, workload: Workload) -> KernelShape:
    """What this kernel does here and now; equal results are priced once."""
    nests = [nest for op in kernel.operations for nest in op.nests]
    anchor = kernel.anchor
    tiled: list[tuple[int, TiledOperand]] = []
    sizes = (1, 1, 1, 1)
    problem = None
    if anchor is not None and anchor.kind in _TILED:
        sizes, found = tile_axes(anchor)
        problem = problem_of(anchor)
        first = kernel.operations[0]
        for operand, axes in found:
            tensor = first.tensors[operand.slot]
            leaves = operand.access == "read" or tensor in kernel.writes
            resident = float(tensor in (here.found if operand.access == "read" else here.kept))
            known = replace(operand, role=workload.tensors[tensor].role)
            tiled.append((tensor, tiled_operand(known, axes, anchor, sizes, resident, leaves)))
    operands = tuple(operand for _, operand in tiled)
    return _shape(
        anchor or nests[0], nests, sizes, operands, _streams(kernel, here, workload, tiled), here.available, problem
    )


def shape_of_nest(nest: LoopNest) -> KernelShape:
    """A product, convolution or attention on its own, with nothing on chip before and nothing kept there after."""
    sizes, found = tile_axes(nest)
    operands = tuple(tiled_operand(o, axes, nest, sizes, 0.0, True) for o, axes in found)
    return _shape(nest, [nest], sizes, operands, (), 1.0, problem_of(nest))


def _shape(
    lead: LoopNest,
    nests: list[LoopNest],
    sizes: tuple[int, int, int, int],
    operands: tuple[TiledOperand, ...],
    streams: tuple[Stream, ...],
    available: float,
    problem: Problem | None,
) -> KernelShape:
    return KernelShape(
        kind=lead.kind,
        dtype=_dtype(nests, lead),
        sizes=sizes,
        operands=operands,
        streams=streams,
        work=math.fsum(nest.work for nest in nests),
        vector_ops=math.fsum(nest.vector_ops for nest in nests),
        special_ops=math.fsum(nest.special_ops for nest in nests),
        domain_fraction=lead.domain_fraction,
        width=max(dict(lead.dims).get("d", 1), dict(lead.dims).get("e", 1)) if lead.kind == "attention" else 1,
        sequential=max(nest.sequential for nest in nests),
        available=available,
        problem=problem,
    )


def _dtype(nests: list[LoopNest], lead: LoopNest) -> str:
    """The number format that the arithmetic is done in: that of the nest with the most work, else the first's."""
    return max(nests, key=lambda nest: nest.work).dtype if any(nest.work for nest in nests) else lead.dtype


def _streams(
    kernel: Kernel, here: Residency, workload: Workload, tiled: list[tuple[int, TiledOperand]]
) -> tuple[Stream, ...]:
    """Everything that crosses the kernel's border and is not tiled, summed by role."""
    read_whole = {t for t, o in tiled if o.access == "read"}
    written_whole = {t for t, o in tiled if o.access != "read"}
    sums: dict[Role, list[float]] = {}
    for tensor, size in kernel.reads.items():
        if tensor not in read_whole:
            row = sums.setdefault(workload.tensors[tensor].role, [0.0] * 4)
            row[0 if tensor in here.found else 1] += size
    for tensor, size in kernel.writes.items():
        if tensor not in written_whole:
            row = sums.setdefault(workload.tensors[tensor].role, [0.0] * 4)
            row[2 if tensor in here.kept else 3] += size
    if here.evicted_bytes:
        sums.setdefault("activation", [0.0] * 4)[3] += here.evicted_bytes
    return tuple(Stream(role, *row) for role, row in sorted(sums.items()))
