"""A kernel instance with its residency → the shape that is priced."""

from __future__ import annotations

import math
from dataclasses import replace

from ..cost.problem import Problem, problem_of
from ..cost.shapes import KernelShape, Rows, Sliding, Stream, TiledOperand, tile_axes, tiled_operand
from ..hardware.chip import dtype_bits
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
            resident = here.read_share(tensor) if operand.access == "read" else here.write_share(tensor)
            known = replace(operand, role=workload.tensors[tensor].role)
            tiled.append((tensor, tiled_operand(known, axes, anchor, sizes, resident, leaves)))
    operands = tuple(operand for _, operand in tiled)
    streams = _streams(kernel, here, workload, tiled)
    shape = _shape(anchor or nests[0], nests, sizes, operands, streams, here.available, problem)
    return shape if kernel.collective is None else replace(shape, exchange=kernel.collective)


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
        group=dict(lead.dims).get("g", 1) if lead.kind == "attention" else 1,
        sequential=max(nest.sequential for nest in nests),
        grouped=lead.kind == "product" and "g" in dict(lead.dims),
        widened=_widened(lead) if operands and lead.kind == "product" else 0.0,
        ragged=lead.ragged,
        sliding=_sliding(lead) if operands else None,
        rows=None if operands else _rows(nests),
        available=available,
        problem=problem,
    )


def _widened(nest: LoopNest) -> float:
    """Elements of weights that are stored in fewer bits than the arithmetic takes."""
    bits = dtype_bits(nest.dtype)
    narrow = [o for o in nest.operands if o.access == "read" and o.role == "weight" and o.bits < 0.7 * bits]
    return math.fsum(o.footprint_bytes(nest.sizes) * 8 / o.bits for o in narrow if len(o.dims) > 1)


def _rows(nests: list[LoopNest]) -> Rows | None:
    """The rows of the normalization that sweeps most often over its own."""
    found = max(nests, key=lambda nest: nest.sweeps)
    if not found.sweeps:
        return None
    count, columns = found.sizes
    read = [o for o in found.operands if o.access == "read" and len(o.dims) > 1]
    return Rows(count, columns, max((columns * o.bits / 8 for o in read), default=0.0), found.sweeps)


_TAPS = 3


def _sliding(nest: LoopNest) -> Sliding | None:
    """The sizes of a plain convolution with a filter of 3 x 3 and stride 1; None for anything else."""
    if nest.kind != "convolution":
        return None
    at = {name: i for i, (name, _) in enumerate(nest.dims)}
    if set(at) != {"n", "k", "p", "q", "c", "r", "s"}:
        return None
    size = dict(nest.dims)
    window = [((at["p"], 1), (at["r"], 1)), ((at["q"], 1), (at["s"], 1))]
    slides = any(list(o.axes[-2:]) == window for o in nest.operands if o.access == "read")
    if not slides or (size["r"], size["s"]) != (_TAPS, _TAPS):
        return None
    return Sliding(size["n"], size["c"], size["k"], size["p"], size["q"])


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
            share = here.read_share(tensor)
            row[0] += size * share
            row[1] += size * (1.0 - share)
    for tensor, size in kernel.writes.items():
        if tensor not in written_whole:
            row = sums.setdefault(workload.tensors[tensor].role, [0.0] * 4)
            share = here.write_share(tensor)
            row[2] += size * share
            row[3] += size * (1.0 - share)
    if here.evicted_bytes:
        sums.setdefault("activation", [0.0] * 4)[3] += here.evicted_bytes
    return tuple(Stream(role, *row) for role, row in sorted(sums.items()))
