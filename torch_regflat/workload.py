"""What a model does, free of any chip: loop nests, operations, and the tensors between them.

Three counts of arithmetic are kept apart and never mixed:

- `flops`: the convention of torch's `FlopCounterMode`. Matrix products, convolutions and attention only, causal
  attention in full, 1 multiply-accumulate = 2 FLOPs. The familiar "model FLOPs".
- `executed_flops`: what a matrix (or vector) engine really has to do for those: half of a causal square, for example.
- `vector_ops`, `special_ops`: element-wise arithmetic and transcendental functions (exp, rsqrt, tanh, ...).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

Access = Literal["read", "write", "update"]
"""`update` reads and writes every element once (an in-place accumulation or a scatter)."""

Role = Literal["activation", "weight", "kv_cache", "state"]
"""What a tensor is: `state` is anything else that outlives the pass (buffers, optimizer moments)."""

Kind = Literal["product", "attention", "convolution", "reduction", "pointwise", "movement", "sequential"]
"""The family of a loop nest, which decides the libraries' kernels that can run it."""

CollectiveKind = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send"]

Layout = tuple[tuple[int, ...], tuple[int, ...]]
"""Sizes and strides, in elements, of a tensor as an operation sees it."""

Axis = tuple[tuple[int, int], ...]
"""One axis of an operand as an affine index: pairs of (loop dimension, stride), summed."""


@dataclass(frozen=True)
class Operand:
    """One tensor as a loop nest sees it.

    `slot` points into the operation's tensors (inputs first, then outputs), so that a nest can be shared by every
    operation of the same shape. `axes` gives, for each axis of the operand, the loop dimensions that index it: a
    matrix indexed by m and k has axes `(((m, 1),), ((k, 1),))`, the rows a convolution reads have the single axis
    `((p, stride), (r, dilation))` and span `stride·(P-1) + dilation·(R-1) + 1` elements.

    `distinct` replaces the number of elements that the axes span by an expected number that is really touched:
    rows of an embedding, weights of the experts that were hit. `extent` caps the span (padding is not read).
    """

    slot: int
    axes: tuple[Axis, ...]
    bits: float
    access: Access = "read"
    role: Role = "activation"
    distinct: float | None = None
    extent: float | None = None

    @functools.cached_property
    def dims(self) -> frozenset[int]:
        """The loop dimensions that index this operand."""
        return frozenset(d for axis in self.axes for d, _ in axis)

    def elements(self, sizes: tuple[int, ...]) -> float:
        """Elements spanned by a tile with these loop sizes (the whole operand, for the nest's own sizes)."""
        spanned = math.prod(1 + sum(stride * (sizes[d] - 1) for d, stride in axis) for axis in self.axes)
        return spanned if self.extent is None else min(spanned, self.extent)

    def footprint_bytes(self, sizes: tuple[int, ...]) -> float:
        """Bytes touched at least once when the whole nest of these sizes runs."""
        touched = self.elements(sizes) if self.distinct is None else self.distinct
        return touched * self.bits / 8


@dataclass(frozen=True)
class LoopNest:
    """A perfectly nested loop over `dims` with the operands each point touches.

    `dims` are (name, size) pairs, named as the field does: m, n, k of a product, b of a batch, g of a group; n, k,
    p, q, c, r, s of a convolution; b, h, q, s, d, e of attention (queries, keys, head size, value size).
    `whole` dimensions are never tiled (the head size of fused attention). `domain_fraction` is the part of the
    iteration space that is really executed: 1 but for causal or windowed attention. `causal` gives the two dimensions
    (queries, keys) of which only points with key <= query are executed. `passes` is how often the operands are
    streamed (a sort needs several). `ragged` says how the groups of a grouped product differ, as pairs of rows and how
    many groups have about so many; empty where all are alike. `sweeps` is how often a kernel that cannot hold a row
    where it computes goes over it, of rows (dims r and c) that are normalized: 2 for a norm (statistics, result), 3
    for a softmax (maximum, sum, result); 0 for anything else.
    """

    kind: Kind
    dims: tuple[tuple[str, int], ...]
    operands: tuple[Operand, ...]
    dtype: str
    flops: int = 0
    executed_flops: float | None = None
    vector_ops: float = 0.0
    special_ops: float = 0.0
    whole: frozenset[str] = frozenset()
    domain_fraction: float = 1.0
    causal: tuple[int, int] | None = None
    passes: int = 1
    sweeps: int = 0
    sequential: int = 1
    ragged: tuple[tuple[float, float], ...] = ()

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        return tuple(size for _, size in self.dims)

    @functools.cached_property
    def footprints(self) -> tuple[float, ...]:
        """Bytes each operand touches at least once, in the order of `operands`."""
        return tuple(operand.footprint_bytes(self.sizes) for operand in self.operands)

    @functools.cached_property
    def work(self) -> float:
        """Executed FLOPs of the matrix-like part: `executed_flops`, or `flops` over the executed domain."""
        return self.flops * self.domain_fraction if self.executed_flops is None else self.executed_flops

    def compulsory_bytes(self, access: Access | None = None) -> float:
        """Bytes that must move at least once if nothing is on chip before and after."""
        total = 0.0
        for operand, touched in zip(self.operands, self.footprints, strict=True):
            if access is None or operand.access == access:
                total += touched * (2 if operand.access == "update" else 1) * self.passes
        return total

    @property
    def arithmetic_intensity(self) -> float:
        """Executed FLOPs per compulsory byte (FLOP/B); 0 where there are no FLOPs."""
        moved = self.compulsory_bytes()
        return self.work / moved if moved else 0.0


@dataclass(frozen=True, slots=True)
class Collective:
    """An exchange between chips, as one of them sees it.

    `nbytes` is what the chip puts in: of an all-gather its shard, of an all-to-all all its blocks, its own included.
    `ranks` chips take part, `stride` apart in the numbering of ranks (1: neighbours). A `send` has two.
    """

    kind: CollectiveKind
    nbytes: float
    ranks: int
    stride: int = 1


@dataclass(frozen=True, slots=True)
class Tensor:
    """A storage: all views of it, and what was written to it in place, are this one tensor."""

    id: int
    name: str
    nbytes: int
    role: Role
    producer: int | None = None
    """Index of the operation that first writes it; None for inputs, weights and caches."""
    is_output: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One ATen call: its loop nests (none for a view), where it came from, and the tensors it touches."""

    index: int
    target: str
    path: str
    nests: tuple[LoopNest, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: str = ""
    modelled: bool = True
    node: str = ""
    dtype: str = ""
    phase: str = ""
    """Of a training step: `forward`, `backward`, `recompute` or `optimizer`."""
    collective: Collective | None = None
    layouts: tuple[Layout, ...] = ()
    """Of every slot; empty where they are not known."""

    @property
    def tensors(self) -> tuple[int, ...]:
        """Tensor ids in slot order."""
        return self.inputs + self.outputs

    @property
    def flops(self) -> int:
        return sum(n.flops for n in self.nests)

    @property
    def is_view(self) -> bool:
        return not self.nests and self.collective is None


@dataclass(frozen=True, slots=True)
class Workload:
    """All operations of one run in program order, and the tensors they pass on.

    Operations of repeated layers share their nests, so selection prices each distinct nest once while the schedule
    still sees every instance with its own tensors.
    """

    operations: tuple[Operation, ...]
    tensors: dict[int, Tensor] = field(default_factory=dict)
    name: str = ""
    phase: str = ""

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    @property
    def flops(self) -> int:
        return sum(op.flops for op in self.operations)

    def role_bytes(self, role: Role) -> int:
        """Bytes of all tensors with this role, each storage once."""
        return sum(t.nbytes for t in self.tensors.values() if t.role == role)


def extended_caches(op: Operation, tensors: dict[int, Tensor]) -> tuple[int, ...]:
    """The KV cache tensors that a concatenation extends; serving engines keep room and write only what is new."""
    if not op.target.startswith("aten.cat"):
        return ()
    return tuple(t for t in op.inputs if tensors[t].role == "kv_cache")


def with_growing_caches(workload: Workload) -> Workload:
    """The same workload where a KV cache that was appended to is a KV cache."""
    tensors = dict(workload.tensors)
    for op in workload:
        if extended_caches(op, tensors):
            for tensor in op.outputs:
                tensors[tensor] = replace(tensors[tensor], role="kv_cache")
    return replace(workload, tensors=tensors)


def with_kv_bits(workload: Workload, bits: float) -> Workload:
    """The same workload with its KV cache stored in `bits` bits an element."""
    roles = {key: tensor.role for key, tensor in workload.tensors.items()}
    stored: set[float] = set()
    changed: dict[tuple[int, ...], tuple[LoopNest, ...]] = {}

    def operand(op: Operation, old: Operand) -> Operand:
        if roles[op.tensors[old.slot]] != "kv_cache":
            return old
        stored.add(old.bits)
        return replace(old, bits=bits)

    def nests(op: Operation) -> tuple[LoopNest, ...]:
        cached = [slot for slot, tensor in enumerate(op.tensors) if roles[tensor] == "kv_cache"]
        if not cached:
            return op.nests
        key = (id(op.nests), *cached)
        if key not in changed:
            new = [replace(nest, operands=tuple(operand(op, o) for o in nest.operands)) for nest in op.nests]
            changed[key] = tuple(new)
        return changed[key]

    operations = tuple(replace(op, nests=nests(op)) for op in workload)
    scale = bits / max(stored) if stored else 1.0
    tensors = {
        key: replace(t, nbytes=round(t.nbytes * scale)) if t.role == "kv_cache" else t
        for key, t in workload.tensors.items()
    }
    return replace(workload, operations=operations, tensors=tensors)
