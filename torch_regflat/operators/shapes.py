"""From shapes to loop nests: what every family of operators shares.

Counting rules, the same everywhere:

- an operand's bytes are the *distinct* elements it touches: a broadcast or expanded (stride 0) axis is read once,
  overlapping windows of one storage are read once;
- `vector_ops` is one per add, multiply, compare, select or convert of an element, a fused multiply-add counting 2;
- `special_ops` is one per evaluation of exp, log, sin, cos, tanh, erf, a square root, a reciprocal or a division
  (what GPUs run on their special-function units); sigmoid is 2 (exp, reciprocal), a general power 2 (log, exp).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch

from ..errors import InputError
from ..workload import Access, Axis, Kind, LoopNest, Operand
from .registry import Call

Layout: TypeAlias = tuple[Sequence[int], Sequence[int]]
"""Shape and strides of a tensor, or of some of its axes."""

_dtype_names: dict[torch.dtype, str] = {}
_NAMES = ("c", "r", "b", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b9")
"""Names of element-wise loop dimensions, innermost first: columns, rows, batch."""


def dtype_name(tensor: torch.Tensor) -> str:
    """`torch.bfloat16` → `"bfloat16"`."""
    dtype = tensor.dtype
    name = _dtype_names.get(dtype)
    if name is None:
        name = _dtype_names[dtype] = str(dtype).removeprefix("torch.")
    return name


def expected_distinct(population: float, draws: float, at_once: float = 1) -> float:
    """Expected number of distinct items when `draws` times `at_once` different items of `population` are picked.

    `E·(1 - (1 - k/E)^T)` for T tokens that each pick k of E experts, and with k = 1 the rows of a table of E rows
    that T uniformly random indices hit.
    """
    if population <= 0 or draws <= 0:
        return 0.0
    missed = float((1 - min(at_once / population, 1.0)) ** draws)
    return population * (1 - missed)


def checked_skew(skew: float) -> float:
    """A routing skew that makes sense: 0 or more, finite."""
    if not (isinstance(skew, (int, float)) and math.isfinite(skew) and skew >= 0):
        raise InputError(f"routing_skew is {skew!r}; it must be a number of 0 (uniform) or more, 1 is Zipf's law")
    return float(skew)


@functools.cache
def expected_experts(experts: int, tokens: float, per_token: int, skew: float = 0.0) -> float:
    """Expected number of different experts that `tokens` tokens hit, `per_token` different ones each.

    With a skew s the i-th most popular expert is picked with a weight of 1/i^s: Zipf's law, uniform for s = 0. A token
    draws its experts one after the other without putting them back, so expert i is among them with probability
    π_i = 1 - exp(-λ·w_i), λ such that Σ π_i = k (successive sampling, as with a softmax and Gumbel noise), and is
    hit by any of the tokens with 1 - (1 - π_i)^T. For s = 0 this is E·(1 - (1 - k/E)^T) exactly.
    """
    if skew == 0 or per_token >= experts:
        return expected_distinct(experts, tokens, per_token)
    weights = [(i + 1) ** -skew for i in range(experts)]
    picked = _picked(weights, per_token)
    return math.fsum(1 - (1 - p) ** tokens for p in picked)


def expected_rows(experts: int, tokens: float, per_token: int, skew: float) -> tuple[float, ...]:
    """Expected rows of each expert under a skew, most first; empty for uniform routing, where all get alike."""
    if skew == 0 or per_token >= experts:
        return ()
    loads = [tokens * p for p in _picked([(i + 1) ** -skew for i in range(experts)], per_token)]
    return tuple(max(load, 1.0) for load in loads if load >= 0.5)


BINS = 32


def histogram(rows: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Group sizes as at most 32 pairs of rows and how many groups have about so many; empty where all are equal."""
    ordered = sorted(rows, reverse=True)
    if not ordered or ordered[0] == ordered[-1]:
        return ()
    counts = {size: ordered.count(size) for size in dict.fromkeys(ordered)}
    if len(counts) <= BINS:
        return tuple((float(size), float(count)) for size, count in counts.items())
    edges = [round(i * len(ordered) / BINS) for i in range(BINS + 1)]
    parts = [ordered[a:b] for a, b in itertools.pairwise(edges)]
    return tuple((math.fsum(part) / len(part), float(len(part))) for part in parts if part)


def _picked(weights: list[float], count: int) -> list[float]:
    """Probability of each item to be among `count` that are drawn by weight, by bisection for λ."""
    low, high = 0.0, 1.0
    while math.fsum(-math.expm1(-high * w) for w in weights) < count and high < 1e300:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if math.fsum(-math.expm1(-middle * w) for w in weights) < count:
            low = middle
        else:
            high = middle
    return [-math.expm1(-high * w) for w in weights]


def distinct_elements(tensor: torch.Tensor) -> int:
    """Elements of memory that a tensor covers: expanded axes once, overlapping windows not twice."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        if stride != 0 or size == 0:
            count *= size
    if not tensor.is_contiguous():
        count = min(count, tensor.untyped_storage().nbytes() // tensor.dtype.itemsize)
    return count


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that these shapes broadcast to."""
    rank = max((len(shape) for shape in shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True))


def same_storage(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors of a nested argument or result, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in tensors_in(item)]
    return []


class Loop:
    """Writes down one nest: name the dimensions, then say which of them index each tensor.

    Loop(call, m=m, n=n, k=k).read(a, "m", "k").read(b, "k", "n").write(out, "m", "n").nest("product", flops=...)
    """

    __slots__ = ("_call", "_dims", "_index", "_operands")

    def __init__(self, call: Call, dims: Iterable[tuple[str, int]] = (), **sizes: int) -> None:
        self._call = call
        self._dims: tuple[tuple[str, int], ...] = (*dims, *sizes.items())
        self._index = {name: i for i, (name, _) in enumerate(self._dims)}
        self._operands: list[Operand] = []

    def read(self, tensor: torch.Tensor | None, *axes: str | Axis, **options: Any) -> Loop:
        """Add an operand that is read; no tensor (an absent bias) adds nothing."""
        return self._add(tensor, axes, "read", options)

    def write(self, tensor: torch.Tensor | None, *axes: str | Axis, **options: Any) -> Loop:
        return self._add(tensor, axes, "write", options)

    def update(self, tensor: torch.Tensor | None, *axes: str | Axis, **options: Any) -> Loop:
        """Add an operand whose elements are read and written back."""
        return self._add(tensor, axes, "update", options)

    def axis(self, *terms: tuple[str, int]) -> Axis:
        """A sliding window: `axis(("p", stride), ("r", dilation))`."""
        return tuple((self._index[name], step) for name, step in terms)

    def _add(
        self, tensor: torch.Tensor | None, axes: tuple[str | Axis, ...], access: Access, options: dict[str, Any]
    ) -> Loop:
        if tensor is None:
            return self
        index, dims = self._index, self._dims
        if "distinct" not in options and "extent" not in options:
            spanned = math.prod(dims[index[axis]][1] for axis in axes if isinstance(axis, str))
            covered = tensor.numel() if tensor.is_contiguous() else distinct_elements(tensor)
            if covered != spanned:
                options = {"distinct": float(covered), **options}
        indexed = [index[axis] if isinstance(axis, str) else axis for axis in axes]
        self._operands.append(self._call.operand(tensor, indexed, access, **options))
        return self

    def nest(self, kind: Kind, dtype: str = "", **counts: Any) -> LoopNest:
        """The finished nest; its dtype is that of the first tensor unless told otherwise."""
        if not dtype:
            tensors = self._call.inputs or self._call.out
            dtype = dtype_name(tensors[0]) if tensors else ""
        return LoopNest(kind=kind, dims=self._dims, operands=tuple(self._operands), dtype=dtype, **counts)


def collapse(shape: Sequence[int], layouts: Sequence[Layout]) -> tuple[list[int], list[tuple[bool, ...]]]:
    """Merge adjacent axes of a broadcast `shape` that every tensor either walks along or does not.

    `layouts` are the tensors' shapes and strides. Returns the merged sizes and, for each, which tensors it indexes.
    A tensor does not walk along an axis that it lacks, where its size is 1, or that is expanded (stride 0).
    """
    sizes: list[int] = []
    masks: list[tuple[bool, ...]] = []
    for back in range(len(shape), 0, -1):
        size = shape[-back]
        if size == 1:
            continue
        mask = tuple(back <= len(own) and own[-back] != 1 and step[-back] != 0 for own, step in layouts)
        if masks and masks[-1] == mask:
            sizes[-1] *= size
        else:
            sizes.append(size)
            masks.append(mask)
    return sizes, masks


def elementwise(
    call: Call,
    reads: Sequence[torch.Tensor],
    writes: Sequence[torch.Tensor],
    vector: float = 0.0,
    special: float = 0.0,
    kind: Kind = "pointwise",
) -> LoopNest:
    """A nest over the elements of `writes[0]` in which every tensor broadcasts; counts are per element."""
    shape = writes[0].shape
    count = writes[0].numel()
    if all(t.shape == shape and t.is_contiguous() for t in reads):
        loop = Loop(call, (("c", count),))
        own: list[tuple[str, ...]] = [("c",)] * (len(reads) + len(writes))
    else:
        tensors = [*reads, *writes]
        sizes, masks = collapse(shape, [(t.shape, t.stride()) for t in tensors])
        names = _NAMES[: len(sizes)][::-1]
        loop = Loop(call, tuple(zip(names, sizes, strict=True)) or (("c", 1),))
        own = [tuple(n for n, m in zip(names, masks, strict=True) if m[i]) for i in range(len(tensors))]
    for tensor, axes in zip(reads, own, strict=False):
        loop.read(tensor, *axes)
    for tensor, axes in zip(writes, own[len(reads) :], strict=True):
        loop.write(tensor, *axes)
    return loop.nest(kind, vector_ops=vector * count, special_ops=special * count)


def rows(
    call: Call,
    count: int,
    columns: int,
    reads: Sequence[torch.Tensor],
    writes: Sequence[torch.Tensor],
    *,
    vector: float = 0.0,
    special: float = 0.0,
    row_special: float = 0.0,
    passes: int = 1,
    sweeps: int = 0,
    kind: Kind = "reduction",
) -> LoopNest:
    """A nest over `count` rows of `columns` elements; each tensor is indexed by what its size says.

    A tensor of rows·columns elements is indexed by both, of `count` elements by rows, of `columns` elements by
    columns; any other (scale and shift per channel, say) is touched once as a whole. `vector` and `special` are
    counts per element, `row_special` per row.
    """
    loop = Loop(call, r=count, c=columns)
    for tensor in reads:
        loop.read(tensor, *_row_axes(tensor, count, columns))
    for tensor in writes:
        loop.write(tensor, *_row_axes(tensor, count, columns))
    elements = count * columns
    return loop.nest(
        kind,
        vector_ops=vector * elements,
        special_ops=special * elements + row_special * count,
        passes=passes,
        sweeps=sweeps,
    )


def _row_axes(tensor: torch.Tensor, count: int, columns: int) -> tuple[str, ...]:
    size = tensor.numel()
    if size == count * columns:
        return ("r", "c")
    if size == count:
        return ("r",)
    return ("c",) if size == columns else ()


def flat(
    call: Call,
    reads: Iterable[torch.Tensor],
    writes: Iterable[torch.Tensor],
    *,
    updates: Iterable[torch.Tensor] = (),
    vector: float = 0.0,
    special: float = 0.0,
    kind: Kind = "movement",
    passes: int = 1,
) -> LoopNest:
    """Plain traffic: every tensor's distinct elements once, along one dimension c as long as the longest tensor.

    `vector` and `special` are totals, not per element.
    """
    ins, outs, both = [t for t in reads if t.numel()], [t for t in writes if t.numel()], list(updates)
    longest = max((t.numel() for t in (*ins, *outs, *both)), default=0)
    loop = Loop(call, c=longest)
    for tensor in ins:
        loop.read(tensor, "c")
    for tensor in outs:
        loop.write(tensor, "c")
    for tensor in both:
        loop.update(tensor, "c")
    return loop.nest(kind, vector_ops=vector, special_ops=special, passes=passes)


def packets(namespace: Any, names: str) -> list[Any]:
    """The operators of these space-separated names that this torch has; each with its in-place form."""
    found: list[Any] = []
    for name in names.split():
        for spelled in (name, name + "_"):
            packet = getattr(namespace, spelled, None)
            if packet is not None:
                found.append(packet)
    return found
