"""What serving engines change in a model before they run it: projections merged, rows gathered by the experts.

- linear layers that read the same rows (queries, keys and values; gate and up) are one product, their weights side by
  side
- a grouped product reads the tokens themselves and picks the rows of each expert, instead of a copy in their order

That a residual is added by the norm after it, and that new keys and values go into room kept for them, holds of every
mode but the eager one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..workload import LoopNest, Operand, Operation, Workload

_GROUPED = ("aten._grouped_mm", "aten._scaled_grouped_mm", "transformers::grouped_mm_fallback")
_GATHERS = ("aten.index.", "aten.index_select")


def served(workload: Workload) -> Workload:
    """The workload as a serving engine runs it."""
    return _merge_projections(_gather_inside(workload))


def _merge_projections(workload: Workload) -> Workload:
    groups: dict[tuple[object, ...], list[Operation]] = {}
    written: dict[int, int] = {}
    for op in workload:
        key = _projection(op, workload, written)
        if key is not None:
            groups.setdefault(key, []).append(op)
        written.update(dict.fromkeys(op.outputs, op.index))
    made: dict[tuple[int, ...], LoopNest] = {}
    merged: dict[int, Operation] = {}
    gone: dict[int, int] = {}
    for members in groups.values():
        if len(members) < 2:
            continue
        shared = tuple(id(op.nests) for op in members)
        if shared not in made:
            made[shared] = _side_by_side(members)
        merged[members[0].index] = _one_operation(members, made[shared])
        gone.update(dict.fromkeys((op.index for op in members[1:]), members[0].index))
    return _changed(workload, merged, gone)


def _changed(workload: Workload, changed: dict[int, Operation], gone: dict[int, int]) -> Workload:
    """The workload with some operations changed, and without those that are `gone` into another, numbered anew."""
    operations = [changed.get(op.index, op) for op in workload if op.index not in gone]
    place = {op.index: number for number, op in enumerate(operations)}
    tensors = {
        key: t if t.producer is None else replace(t, producer=place[gone.get(t.producer, t.producer)])
        for key, t in workload.tensors.items()
    }
    numbered = tuple(replace(op, index=number) for number, op in enumerate(operations))
    return replace(workload, operations=numbered, tensors=tensors)


def _projection(op: Operation, workload: Workload, written: dict[int, int]) -> tuple[object, ...] | None:
    """What projections that can be one share: their module, the rows they read (and what last wrote them), formats."""
    if not op.modelled or len(op.nests) != 1 or op.nests[0].kind != "product" or len(op.outputs) != 1:
        return None
    nest = op.nests[0]
    sizes = dict(nest.dims)
    factors = [o for o in nest.operands if o.access == "read"]
    if set(sizes) != {"m", "n", "k"} or len(factors) < 2 or workload.tensors[op.outputs[0]].is_output:
        return None
    rows, weight = factors[0], factors[1]
    names = {nest.dims[d][0] for d in rows.dims}
    if names != {"m", "k"} or workload.tensors[op.tensors[weight.slot]].role != "weight":
        return None
    tensor = op.tensors[rows.slot]
    formats = (rows.bits, weight.bits, nest.dtype)
    return (op.path.rpartition(".")[0], tensor, written.get(tensor), sizes["m"], sizes["k"], *formats, op.phase)


def _side_by_side(members: Sequence[Operation]) -> LoopNest:
    """One nest for all: the columns add up; of each operand the elements that are its own are touched."""
    first = members[0].nests[0]
    columns = sum(dict(op.nests[0].dims)["n"] for op in members)
    dims = tuple((name, columns if name == "n" else size) for name, size in first.dims)
    operands: list[Operand] = []
    inputs = sum(len(op.inputs) for op in members)
    seen_in = seen_out = 0
    rows_slot = next(o for o in first.operands if o.access == "read").slot
    for number, op in enumerate(members):
        nest = op.nests[0]
        for operand in nest.operands:
            if number and operand is next(o for o in nest.operands if o.access == "read"):
                continue
            is_input = operand.slot < len(op.inputs)
            slot = seen_in + operand.slot if is_input else inputs + seen_out + operand.slot - len(op.inputs)
            own = nest.footprints[nest.operands.index(operand)] * 8 / operand.bits
            whole = operand.slot == rows_slot and not number
            operands.append(replace(operand, slot=slot, distinct=operand.distinct if whole else own))
        seen_in, seen_out = seen_in + len(op.inputs), seen_out + len(op.outputs)
    nests = [op.nests[0] for op in members]
    return replace(
        first,
        dims=dims,
        operands=tuple(operands),
        flops=sum(nest.flops for nest in nests),
        executed_flops=sum(nest.work for nest in nests),
        vector_ops=sum(nest.vector_ops for nest in nests),
        special_ops=sum(nest.special_ops for nest in nests),
    )


def _one_operation(members: Sequence[Operation], nest: LoopNest) -> Operation:
    return replace(
        members[0],
        path=members[0].path.rpartition(".")[0],
        nests=(nest,),
        inputs=tuple(t for op in members for t in op.inputs),
        outputs=tuple(t for op in members for t in op.outputs),
        shapes=" + ".join(op.shapes for op in members if op.shapes),
        layouts=(
            *(layout for op in members for layout in op.layouts[: len(op.inputs)]),
            *(layout for op in members for layout in op.layouts[len(op.inputs) :]),
        ),
    )


def _gather_inside(workload: Workload) -> Workload:
    readers: dict[int, list[Operation]] = {}
    for op in workload:
        for tensor in dict.fromkeys(op.inputs):
            readers.setdefault(tensor, []).append(op)
    changed: dict[int, Operation] = {}
    gone: dict[int, int] = {}
    for op in workload:
        if not op.target.startswith(_GATHERS) or len(op.outputs) != 1 or workload.tensors[op.outputs[0]].is_output:
            continue
        users = readers.get(op.outputs[0], [])
        if len(users) != 1 or not users[0].target.startswith(_GROUPED):
            continue
        user = changed.get(users[0].index, users[0])
        taken = _taking(user, op)
        if taken is not None:
            changed[user.index] = taken
            gone[op.index] = user.index
    return _changed(workload, changed, gone)


def _taking(user: Operation, gather: Operation) -> Operation | None:
    """The grouped product with the tensor that was gathered from in the place of the copy."""
    source = next((o for o in gather.nests[0].operands if o.access == "read"), None)
    (copy,) = gather.outputs
    if source is None or len(user.nests) != 1 or copy not in user.inputs:
        return None
    tensor = gather.tensors[source.slot]
    slot = user.inputs.index(copy)
    elements = gather.nests[0].footprints[gather.nests[0].operands.index(source)] * 8 / source.bits
    nest = user.nests[0]
    operands = tuple(
        replace(o, distinct=min(elements, nest.footprints[i] * 8 / o.bits)) if o.slot == slot else o
        for i, o in enumerate(nest.operands)
    )
    inputs = tuple(tensor if t == copy else t for t in user.inputs)
    return replace(user, nests=(replace(nest, operands=operands),), inputs=inputs)
