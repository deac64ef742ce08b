"""Which kernels work on rows apart: the same rows of what they read give the same rows of what they write.

Rows are followed through views by sizes and strides: a row is an index into the dimensions of a storage that all
tensors of a chain share (tokens, or batch entries and tokens). What an operation mixes between rows, or what is not
known well enough to tell, ends a chain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...workload import Layout, LoopNest, Operation
from ..kernels import Kernel

Rows = tuple[tuple[int, int], ...]
"""The dimensions of a storage that count its rows, as (size, stride), outermost first."""

_PRODUCTS = ("linear", "mm", "bmm", "matmul", "addmm", "baddbmm", "_scaled_mm", "_int_mm", "_weight_int8pack_mm")
_COPIES = ("clone", "contiguous", "reshape", "_to_copy", "copy_", "flatten", "_unsafe_view")
_LAST = ("softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax", "layer_norm", "native_layer_norm",
         "rms_norm", "_fused_rms_norm")  # fmt: skip
_SUMS = ("sum", "mean", "amax", "amin", "prod", "var", "std", "logsumexp", "norm", "linalg_vector_norm", "any", "all")
_DIMS = frozenset({"b", "b0", "b1", "b2", "b3", "m", "n", "k"})


@dataclass
class Found:
    """What a kernel that works on rows apart does with tensors.

    `rows` are those it touches row by row, `shared` those every row needs whole (weights, keys), `batched` the ones
    among them of which rows of one batch entry need only their own part, `causal` those of which a row needs no more
    than what lies before it. `batches` is how many entries there are (1 where nothing is batched).
    """

    rows: dict[int, Rows] = field(default_factory=dict)
    shared: set[int] = field(default_factory=set)
    batched: set[int] = field(default_factory=set)
    causal: set[int] = field(default_factory=set)
    batches: int = 1


def seeds(kernel: Kernel) -> list[tuple[int, Rows]]:
    """What the rows of a chain that starts with this kernel may be: the tensor they are read from, and its rows."""
    op = kernel.operations[0]
    if not op.layouts or not op.nests:
        return []
    nest, slot = op.nests[0], op.nests[0].operands[0].slot
    sizes, strides = op.layouts[slot]
    leading = [d for d in range(len(sizes) - 1) if sizes[d] > 1]
    if not leading or nest.kind not in ("product", "reduction", "pointwise", "attention"):
        return []
    choices = [leading]
    if nest.kind in ("product", "attention") and len(leading) > 1:
        # Heads may lie within a row: rows are then tokens.
        choices += [[leading[-1]], *([[0, leading[-1]]] if len(leading) > 2 and sizes[0] > 1 else [])]
    found = []
    for dims in choices:
        rows = _rows_at((sizes, strides), tuple(dims))
        if rows is not None:
            found.append((op.inputs[slot], rows))
    return found


def count(rows: Rows) -> int:
    """How many rows."""
    return math.prod(size for size, _ in rows)


def examine(kernel: Kernel, known: Mapping[int, Rows]) -> Found | None:
    """What a kernel does, where `known` has the tensors that are made of rows already; None if it mixes rows.

    A kernel that reads none of them is not one of the chain: None.
    """
    found = Found(dict(known))
    total = count(next(iter(known.values())))
    for op in kernel.operations:
        if not (op.modelled and op.layouts and len(op.layouts) == len(op.tensors) and _walk(op, found, total)):
            return None
    return found


def _walk(op: Operation, found: Found, total: int) -> bool:
    """Add one operation to what was found; False if it mixes rows or touches none."""
    if len(op.nests) != 1:
        return False
    used = {o.slot for o in op.nests[0].operands if o.access != "write"}
    inputs = [slot for slot, t in enumerate(op.inputs) if t in found.rows and slot in used]
    if not inputs:
        return False
    places: dict[int, tuple[int, ...]] = {}
    for slot in inputs:
        at = _places(op.layouts[slot], found.rows[op.inputs[slot]], total)
        if at is None:
            return False
        places[slot] = at
    nest, name = op.nests[0], op.target.removeprefix("aten.").split(".")[0]
    if nest.kind == "product":
        return name in _PRODUCTS and _product(op, nest, places, found)
    if nest.kind == "attention":
        return _attention(op, nest, places, found)
    if nest.kind == "pointwise":
        return _elementwise(op, places, found)
    if nest.kind == "reduction":
        return _reduction(op, nest, name, places, found)
    joins = name in ("cat", "stack") and _joins_within(op, places)
    if name in _COPIES and len(op.inputs) == 1:
        return _copy(op, places[0], found)
    return joins and _elementwise(op, places, found, joins)


def _places(layout: Layout, rows: Rows, total: int) -> tuple[int, ...] | None:
    """Which dimensions of a view count the rows of its storage, in order; None if they are not all there."""
    sizes, strides = layout
    found = [
        d
        for d, (size, stride) in enumerate(zip(sizes, strides, strict=True))
        if size > 1
        and any(stride >= step and stride % step == 0 and size * stride <= many * step for many, step in rows)
    ]
    steps = [strides[d] for d in found]
    whole = math.prod(sizes[d] for d in found) == total and steps == sorted(steps, reverse=True)
    return tuple(found) if whole and len(set(steps)) == len(steps) else None


def _rows_at(layout: Layout, dims: tuple[int, ...]) -> Rows | None:
    """The rows that these dimensions of a view count; None where their order is not that of the storage."""
    sizes, strides = layout
    merged: list[tuple[int, int]] = []
    for d in dims:
        if sizes[d] == 1:
            continue
        if strides[d] == 0 or (merged and strides[d] >= merged[-1][1]):
            return None
        if merged and merged[-1][1] == sizes[d] * strides[d]:
            merged[-1] = (merged[-1][0] * sizes[d], strides[d])
        else:
            merged.append((sizes[d], strides[d]))
    return tuple(merged) or None


def _write(op: Operation, slot: int, dims: tuple[int, ...], total: int, found: Found) -> bool:
    """Note the rows of a result."""
    rows = _rows_at(op.layouts[slot], dims)
    if rows is None or count(rows) != total:
        return False
    tensor = op.tensors[slot]
    return found.rows.setdefault(tensor, rows) == rows


def _results(op: Operation, dims: tuple[int, ...], rank: int, found: Found) -> bool:
    total = count(next(iter(found.rows.values())))
    slots = range(len(op.inputs), len(op.tensors))
    return all(len(op.layouts[s][0]) == rank and _write(op, s, dims, total, found) for s in slots)


def _product(op: Operation, nest: LoopNest, places: dict[int, tuple[int, ...]], found: Found) -> bool:
    left, right = nest.operands[0].slot, nest.operands[1].slot
    if set(places) - {left} - _extras(op, nest) or left not in places or nest.ragged:
        return False
    sizes, dims = op.layouts[left][0], dict(nest.dims)
    at, rank = places[left], len(sizes)
    if not set(dims) <= _DIMS or rank < 2 or at[-1] == rank - 1 or sizes[-1] != dims["k"]:
        return False
    batch = any(name.startswith("b") for name in dims)
    if batch and sizes[-2] > 1 and rank - 2 not in at:
        return False
    whole = math.prod(sizes[d] for d in at)
    if not batch and dims["m"] % whole:
        return False
    outer = tuple(d for d in at if d != rank - 2) if batch else ()
    if outer and not _batches(op, right, outer, rank, found):
        return False
    weights = {o.slot for o in nest.operands if o.access == "read"} - {left}
    for slot in weights - set(places):
        if not (slot in _extras(op, nest) and _broadcasts(op, slot, at, rank, found)):
            found.shared.add(op.tensors[slot])
    return _results(op, at, rank, found)


def _extras(op: Operation, nest: LoopNest) -> set[int]:
    """Operands of a product beside its factors and results: a bias, a mask that is added."""
    return {o.slot for o in nest.operands[2:] if o.access == "read" and len(op.layouts[o.slot][0]) > 2}


def _batches(op: Operation, slot: int, outer: tuple[int, ...], rank: int, found: Found) -> bool:
    """Whether a shared factor has a part of its own for each batch entry of the rows, or none at all."""
    left, own = op.layouts[op.nests[0].operands[0].slot][0], op.layouts[slot][0]
    shift = rank - len(own)
    whole = math.prod(own[d - shift] for d in outer if d >= shift)
    entries = math.prod(left[d] for d in outer)
    if whole == 1:
        return True
    if whole != entries or found.batches not in (1, entries):
        return False
    found.batches = entries
    found.batched.add(op.tensors[slot])
    return True


def _attention(op: Operation, nest: LoopNest, places: dict[int, tuple[int, ...]], found: Found) -> bool:
    query, keys, values = (o.slot for o in nest.operands[:3])
    if set(places) != {query}:
        return False
    sizes, at = op.layouts[query][0], places[query]
    rank = len(sizes)
    if rank < 3 or (rank - 2 not in at and sizes[-2] > 1) or at[-1] == rank - 1:
        return False
    outer = tuple(d for d in at if d != rank - 2)
    if not set(outer) <= {0} or (rank == 3 and outer):
        return False
    for slot in (keys, values):
        if outer and not _batches(op, slot, outer, rank, found):
            return False
        found.shared.add(op.tensors[slot])
        if nest.causal is not None:
            found.causal.add(op.tensors[slot])
    for operand in nest.operands[3:]:
        if operand.access == "read" and not _broadcasts(op, operand.slot, at, rank, found):
            found.shared.add(op.tensors[operand.slot])
    return _results(op, at, rank, found)


def _elementwise(op: Operation, places: dict[int, tuple[int, ...]], found: Found, joins: bool = False) -> bool:
    rank = len(op.layouts[len(op.inputs)][0])
    aligned = {tuple(d + rank - len(op.layouts[s][0]) for d in at) for s, at in places.items()}
    if len(aligned) != 1:
        return False
    (at,) = aligned
    sizes = op.layouts[len(op.inputs)][0]
    for slot, own in places.items():
        shape = op.layouts[slot][0]
        if min(at) < 0 or any(shape[o] != sizes[d] for o, d in zip(own, at, strict=True)):
            return False
        if not joins and not _spans(shape, sizes):
            return False
    for slot in range(len(op.inputs)):
        if slot not in places and 0 not in op.layouts[slot][0] and not _broadcasts(op, slot, at, rank, found):
            found.shared.add(op.inputs[slot])
    return _results(op, at, rank, found)


def _copy(op: Operation, at: tuple[int, ...], found: Found) -> bool:
    """A copy, which may give what lies within a row another shape."""
    sizes, out = op.layouts[0][0], op.layouts[1][0]
    upto = at[-1] + 1
    return sizes[:upto] == out[:upto] and math.prod(sizes) == math.prod(out) and _results(op, at, len(out), found)


def _spans(shape: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    """Whether a shape broadcasts to another (a copy that reshapes what lies within a row does not)."""
    return all(own in (1, size) for own, size in zip(reversed(shape), reversed(sizes), strict=False))


def _broadcasts(op: Operation, slot: int, at: tuple[int, ...], rank: int, found: Found) -> bool:
    """Whether a tensor from elsewhere has the chain's rows, in which case it is read row by row from here on."""
    layout = op.layouts[slot]
    shift = rank - len(layout[0])
    if any(d < shift for d in at):
        return False
    own = tuple(d - shift for d in at)
    wanted = op.layouts[len(op.inputs)][0]
    rows = _rows_at(layout, own)
    tensor = op.tensors[slot]
    if rows is None or any(layout[0][o] != wanted[d] for o, d in zip(own, at, strict=True)):
        return False
    if tensor in found.rows or tensor in found.shared:
        return False
    found.rows[tensor] = rows
    return True


def _reduction(
    op: Operation, nest: LoopNest, name: str, places: dict[int, tuple[int, ...]], found: Found
) -> bool:
    """A sum or norm along dimensions that are not rows."""
    first = len(op.inputs)
    (sizes, _), (out, _) = op.layouts[0], op.layouts[first]
    at = places.get(0)
    if at is None:
        return False
    if name in _LAST:
        columns = dict(nest.dims).get("c", 0)
        trailing = sizes[at[-1] + 1 :]
        known = nest.sweeps == 2 or (nest.sweeps == 3 and trailing != () and sizes[-1] == columns)
        inside = math.prod(list(trailing)) % columns == 0 if columns else False
        if not known or not inside or out != sizes:
            return False
        found.shared.update(t for slot, t in enumerate(op.inputs) if slot not in places)
        return _results(op, at, len(sizes), found)
    if name not in _SUMS:
        return False
    if len(out) == len(sizes):
        kept = all(size == own or size == 1 for size, own in zip(out, sizes, strict=True))
        return kept and len(places) == 1 and _results(op, at, len(out), found)
    if len(out) == len(sizes) - 1 and at[-1] < len(sizes) - 1:
        gone = [d for d in range(len(sizes)) if sizes[:d] + sizes[d + 1 :] == out]
        return gone == [len(sizes) - 1] and len(places) == 1 and _results(op, at, len(out), found)
    return False


def _joins_within(op: Operation, places: dict[int, tuple[int, ...]]) -> bool:
    """Whether tensors are put side by side within rows."""
    out = op.layouts[len(op.inputs)][0]
    shapes = [op.layouts[s][0] for s in range(len(op.inputs)) if math.prod(op.layouts[s][0])]
    if any(len(shape) != len(out) for shape in shapes):
        return False
    along = [d for d in range(len(out)) if any(shape[d] != out[d] for shape in shapes)]
    return len(along) <= 1 and not any(d in at for at in places.values() for d in along)
