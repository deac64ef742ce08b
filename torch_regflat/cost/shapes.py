"""What one kernel does, reduced to the numbers that cost it: four tile axes, a few tiled operands, and streams.

Every matrix-like nest is seen through four axes, as a GEMM library sees it: b (batch or group), m and n (the axes of
the result that index one factor each) and k (the axes that are summed over). A convolution is its implicit GEMM
(m = images x output pixels, n = output channels, k = input channels x filter); fused attention has m = queries of all
heads that share keys, k = keys, and n = 1, because the head size is never tiled. Everything else only streams.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..workload import Access, Collective, Kind, LoopNest, Operand, Role

if TYPE_CHECKING:
    from .problem import Problem

AXES = ("b", "m", "n", "k")
MAX_TILED = 4


@dataclass(frozen=True, slots=True)
class TiledOperand:
    """An operand whose traffic depends on the tiling. `point_bytes` is per point of the axes that index it."""

    role: Role
    access: Access
    axes: tuple[bool, bool, bool, bool]
    point_bytes: float
    footprint_bytes: float
    resident: float = 0.0
    """Share of it that lies on chip when the kernel starts (a write: that stays on chip)."""
    leaves: bool = True
    """False for an intermediate of a fused kernel that never leaves it."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Bytes that move exactly once whatever the mapping. `near` lie on chip, `far` in external memory."""

    role: Role
    read_near: float = 0.0
    read_far: float = 0.0
    write_near: float = 0.0
    write_far: float = 0.0


@dataclass(frozen=True, slots=True)
class Sliding:
    """A plain 2-D convolution with a filter of 3 x 3, stride 1 and one group; height and width are the result's."""

    images: int
    channels: int
    filters: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that are normalized one by one: how many, of how many elements and bytes, and how often each is swept over
    where it cannot be held.
    """

    count: float
    columns: float
    row_bytes: float
    sweeps: int


@dataclass(frozen=True, slots=True)
class KernelShape:
    """A kernel free of its instance: equal shapes cost the same, so each is priced once.

    `work` are executed FLOPs of the matrix part, `available` the share of on-chip capacity free for its tiles.
    """

    kind: Kind
    dtype: str
    sizes: tuple[int, int, int, int]
    operands: tuple[TiledOperand, ...]
    streams: tuple[Stream, ...]
    work: float
    vector_ops: float
    special_ops: float
    domain_fraction: float = 1.0
    width: int = 1
    """Head size of attention (its whole, untiled axis); 1 elsewhere."""
    group: int = 1
    """Query heads of attention that share keys and values."""
    sequential: int = 1
    widened: float = 0.0
    """Elements of a factor that is stored in fewer bits than it is multiplied in."""
    grouped: bool = False
    """A product a group (experts): the axis b, which libraries run with kernels of their own."""
    ragged: tuple[tuple[float, float], ...] = ()
    """Groups (the axis b) that differ: (rows, how many have about so many); m is then their mean."""
    available: float = 1.0
    problem: Problem | None = None
    """The nest as explicitly managed memories tile it; equal problems are one object."""
    sliding: Sliding | None = None
    rows: Rows | None = None
    algorithm: str = ""
    """Another algorithm than the loop nest itself (`schedule/algorithms.py`); `work` and operands are then its own."""
    apart_bytes: float = 0.0
    """External bytes that kernels before and after this one move for it, `apart_kernels` of them."""
    apart_kernels: float = 0
    rate_share: float = 1.0
    """Share of the rate of long products that the algorithm's own kernel sustains."""
    exchange: Collective | None = None
    """What it exchanges with other chips, beside what it moves in the memories of its own."""

    @property
    def is_tiled(self) -> bool:
        return bool(self.operands)


def tile_axes(nest: LoopNest) -> tuple[tuple[int, int, int, int], tuple[tuple[Operand, tuple[bool, ...]], ...]]:
    """Sizes of (b, m, n, k) of a product-like nest, and its tiled operands with the axes that index each.

    Operands that are neither factors nor the result (a bias, a mask) are left out: they are streams.
    """
    if nest.kind == "attention":
        return _attention_axes(nest)
    result = next(o for o in nest.operands if o.access != "read")
    left, right = _factors(nest, result)
    sizes = [1, 1, 1, 1]
    axis_of: dict[int, int] = {}
    for dim, (_, size) in enumerate(nest.dims):
        inside = (dim in left.dims, dim in right.dims, dim in result.dims)
        axis = {(True, True, True): 0, (True, False, True): 1, (False, True, True): 2}.get(inside, 3)
        axis = 0 if inside == (False, False, True) else axis
        axis_of[dim] = axis
        sizes[axis] *= size
    tiled = tuple(
        (operand, tuple(any(axis_of[d] == axis for d in operand.dims) for axis in range(4)))
        for operand in (left, right, result)
    )
    return (sizes[0], sizes[1], sizes[2], sizes[3]), tiled


def _factors(nest: LoopNest, result: Operand) -> tuple[Operand, Operand]:
    """The two factors of a product: the reads with the most loop dimensions, in their written order."""
    reads = [o for o in nest.operands if o.access == "read"]
    if len(reads) < 2:
        return reads[0], reads[0]
    reduced = {d for o in reads for d in o.dims} - result.dims
    factors = [o for o in reads if o.dims & reduced] if reduced else reads
    factors = factors if len(factors) >= 2 else reads
    return factors[0], factors[1]


def _attention_axes(nest: LoopNest) -> tuple[tuple[int, int, int, int], tuple[tuple[Operand, tuple[bool, ...]], ...]]:
    size = dict(nest.dims)
    names = [name for name, _ in nest.dims]
    tiled = []
    for operand in nest.operands:
        seen = {names[d] for d in operand.dims}
        if seen & {"d", "e"}:
            tiled.append((operand, ("b" in seen, "q" in seen, False, "s" in seen)))
    return (size.get("b", 1), size.get("g", 1) * size["q"], 1, size["s"]), tuple(tiled[:MAX_TILED])


def tiled_operand(
    operand: Operand,
    axes: tuple[bool, ...],
    nest: LoopNest,
    sizes: tuple[int, int, int, int],
    resident: float,
    leaves: bool,
) -> TiledOperand:
    """An operand of `nest` with its bytes per point of the tile axes (implicit GEMM: every point it is used at)."""
    points = math.prod(size for size, used in zip(sizes, axes, strict=True) if used)
    spanned = math.prod(nest.sizes[d] for d in operand.dims)
    footprint = operand.footprint_bytes(nest.sizes)
    return TiledOperand(
        role=operand.role,
        access=operand.access,
        axes=(axes[0], axes[1], axes[2], axes[3]),
        point_bytes=spanned * operand.bits / 8 / points,
        footprint_bytes=footprint,
        resident=resident,
        leaves=leaves,
    )


@dataclass(frozen=True)
class OperandTensors:
    """One operand position of every kernel, each `[kernel, 1, 1, 1]` float64; absent operands have zero bytes."""

    b: Tensor
    m: Tensor
    n: Tensor
    k: Tensor
    point_bytes: Tensor
    footprint_bytes: Tensor
    resident: Tensor
    write: Tensor
    leaves: Tensor

    def bytes_of(self, sizes: Sequence[Tensor]) -> Tensor:
        """Bytes of all points of its own axes, for axis sizes (b, m, n, k)."""
        return self.elements_of(sizes) * self.point_bytes

    def elements_of(self, sizes: Sequence[Tensor]) -> Tensor:
        """Points of its own axes, for axis sizes (b, m, n, k)."""
        total = torch.ones_like(sizes[0])
        for used, size in zip((self.b, self.m, self.n, self.k), sizes, strict=True):
            total = total * where_used(used, size)
        return total


def where_used(used: Tensor, count: Tensor) -> Tensor:
    """`count` where the axis indexes the operand, else 1."""
    return torch.where(used > 0, count, torch.ones_like(count))


def where_lacking(used: Tensor, count: Tensor) -> Tensor:
    """`count` where the axis does not index the operand, which is then repeated along it; else 1."""
    return torch.where(used > 0, torch.ones_like(count), count)


@dataclass(frozen=True)
class KernelTensors:
    """Many kernels as float64 tensors `[kernel, 1, 1, 1]`, ready to broadcast to `[kernel, chip, tile, split]`."""

    sizes: tuple[Tensor, Tensor, Tensor, Tensor]
    operands: tuple[OperandTensors, ...]
    work: Tensor
    vector_ops: Tensor
    special_ops: Tensor
    domain_fraction: Tensor
    width: Tensor
    group: Tensor
    sequential: Tensor
    rows: Tensor
    row_columns: Tensor
    row_bytes: Tensor
    sweeps: Tensor
    """Of rows that are normalized, as in `Rows`; 0 elsewhere."""
    available: Tensor
    widened: Tensor
    apart_bytes: Tensor
    apart_kernels: Tensor
    rate_share: Tensor
    grouped: Tensor
    ragged: tuple[Tensor, Tensor] | None
    """Of groups that differ, rows and counts `[kernel, 1, 1, 1, bin]`; None where no kernel has any."""
    attention: Tensor
    convolution: Tensor
    tiled: Tensor
    read_near: Tensor
    read_far: Tensor
    write_near: Tensor
    write_far: Tensor

    @property
    def stream_bytes(self) -> Tensor:
        return self.read_near + self.read_far + self.write_near + self.write_far


def pack(shapes: list[KernelShape], device: torch.device | None = None) -> KernelTensors:
    """Lay kernels out as tensors."""

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device).reshape(-1, 1, 1, 1)

    empty = TiledOperand("activation", "read", (False, False, False, False), 0.0, 0.0)
    padded = [tuple(s.operands) + (empty,) * (MAX_TILED - len(s.operands)) for s in shapes]
    operands = []
    for position in range(MAX_TILED):
        row = [p[position] for p in padded]
        operands.append(
            OperandTensors(
                **{axis: column([float(o.axes[i]) for o in row]) for i, axis in enumerate(AXES)},
                point_bytes=column([o.point_bytes for o in row]),
                footprint_bytes=column([o.footprint_bytes for o in row]),
                resident=column([o.resident for o in row]),
                write=column([float(o.access != "read") for o in row]),
                leaves=column([float(o.leaves) for o in row]),
            )
        )
    totals: dict[str, Any] = {
        f.name: column([math.fsum(getattr(stream, f.name) for stream in s.streams) for s in shapes])
        for f in fields(Stream)
        if f.name != "role"
    }
    return KernelTensors(
        sizes=(
            column([s.sizes[0] for s in shapes]),
            column([s.sizes[1] for s in shapes]),
            column([s.sizes[2] for s in shapes]),
            column([s.sizes[3] for s in shapes]),
        ),
        operands=tuple(operands),
        work=column([s.work for s in shapes]),
        vector_ops=column([s.vector_ops for s in shapes]),
        special_ops=column([s.special_ops for s in shapes]),
        domain_fraction=column([s.domain_fraction for s in shapes]),
        width=column([s.width for s in shapes]),
        group=column([s.group for s in shapes]),
        sequential=column([s.sequential for s in shapes]),
        rows=column([s.rows.count if s.rows else 0.0 for s in shapes]),
        row_columns=column([s.rows.columns if s.rows else 0.0 for s in shapes]),
        row_bytes=column([s.rows.row_bytes if s.rows else 0.0 for s in shapes]),
        sweeps=column([float(s.rows.sweeps) if s.rows else 0.0 for s in shapes]),
        available=column([s.available for s in shapes]),
        widened=column([s.widened for s in shapes]),
        apart_bytes=column([s.apart_bytes for s in shapes]),
        apart_kernels=column([s.apart_kernels for s in shapes]),
        rate_share=column([s.rate_share for s in shapes]),
        grouped=column([float(s.grouped) for s in shapes]),
        ragged=_ragged(shapes, device),
        attention=column([float(s.kind == "attention") for s in shapes]),
        convolution=column([float(s.kind == "convolution") for s in shapes]),
        tiled=column([float(s.is_tiled) for s in shapes]),
        **totals,
    )


def _ragged(shapes: list[KernelShape], device: torch.device | None) -> tuple[Tensor, Tensor] | None:
    """Bins of every kernel, padded with empty ones; of a kernel without any, its groups as one bin."""
    if not any(s.ragged for s in shapes):
        return None
    bins = [s.ragged or ((float(s.sizes[1]), float(s.sizes[0])),) for s in shapes]
    width = max(map(len, bins))
    table = torch.tensor([[*b, *[(0.0, 0.0)] * (width - len(b))] for b in bins], dtype=torch.float64, device=device)
    rows, counts = (table[..., i].reshape(len(shapes), 1, 1, 1, width) for i in range(2))
    return rows, counts
