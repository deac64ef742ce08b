"""Which operations run as one kernel.

The rules are those of a compiler such as Inductor, with the products, convolutions and attention left to libraries:

- element-wise operations and reductions over the same elements run together
- an element-wise kernel whose results only one other such kernel reads is computed inside that one
- a product or convolution takes an element-wise epilogue when nothing else reads its result; attention writes its
  result in the order the next operation wants it
- appending to a KV cache writes the new entries in place
- the parts of a training step run one after the other; the optimizer updates all parameters in one kernel
- an exchange between chips is a kernel of its own, which nothing joins

In the eager mode every operation is a kernel, but for the optimizer, and appending to a cache copies it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..workload import Collective, LoopNest, Operation, Workload, extended_caches
from .exchanges import with_nests
from .modes import GRAPH, Mode

_LIBRARY = ("product", "convolution", "attention", "sequential")
_FUSIBLE = ("pointwise", "reduction")


@dataclass(slots=True)
class Kernel:
    """Operations that run as one: what they read from outside, and what of theirs is read outside.

    `reads` and `writes` map tensor ids to bytes. Operations are in program order.
    """

    index: int
    operations: list[Operation] = field(default_factory=list)
    reads: dict[int, float] = field(default_factory=dict)
    writes: dict[int, float] = field(default_factory=dict)

    @property
    def anchor(self) -> LoopNest | None:
        """The nest a library kernel runs; None for a kernel that only streams."""
        nest = self.operations[0].nests[0]
        return nest if nest.kind in _LIBRARY and len(self.operations[0].nests) == 1 else None

    @property
    def collective(self) -> Collective | None:
        """What it exchanges with other chips."""
        return self.operations[0].collective

    @property
    def path(self) -> str:
        return self.operations[0].path

    @property
    def name(self) -> str:
        """The names of its operators, without overloads."""
        return "+".join(dict.fromkeys(_short(op) for op in self.operations))


def _short(op: Operation) -> str:
    if op.collective is not None:
        return op.collective.kind
    return op.target.removeprefix("aten.").removeprefix("regflat.").split(".")[0]


def form_kernels(workload: Workload, mode: Mode = GRAPH) -> list[Kernel]:
    """Group the operations of a workload into kernels, in program order; views vanish."""
    groups = _Fuser(workload, mode.fused).run()
    groups = _absorb_producers(groups, workload) if mode.fused else groups
    kernels = [Kernel(index, group.operations) for index, group in enumerate(groups)]
    _find_traffic(kernels, workload, mode.copies_caches)
    return kernels


@dataclass(slots=True)
class _Group:
    """Operations found to run together, and what later operations have to know about them."""

    operations: list[Operation]
    points: float
    """Elements of the largest iteration space."""
    library: bool

    def outputs(self) -> set[int]:
        return {t for op in self.operations for t in op.outputs}

    def inputs(self) -> set[int]:
        return {t for op in self.operations for t in op.inputs}


class _Fuser:
    """One walk in program order: each operation joins the group that wrote the latest of its inputs, or opens one."""

    def __init__(self, workload: Workload, fused: bool) -> None:
        self.fused = fused
        self.operations = [with_nests(op, workload) for op in workload if not op.is_view]
        self.groups: list[_Group] = []
        self.writer: dict[int, int] = {}
        """Group that last wrote a tensor."""
        self.toucher: dict[int, int] = {}
        """Last group that read or wrote a tensor."""
        self.readers = _count_readers(self.operations)

    def run(self) -> list[_Group]:
        for op in self.operations:
            home = self._home(op)
            points = max(_points(nest) for nest in op.nests)
            if home is None:
                home = len(self.groups)
                self.groups.append(_Group([], points, any(nest.kind in _LIBRARY for nest in op.nests)))
            group = self.groups[home]
            group.operations.append(op)
            group.points = max(group.points, points) if not group.library else group.points
            for tensor in (*op.inputs, *op.outputs):
                self.toucher[tensor] = max(home, self.toucher.get(tensor, home))
            for tensor in op.outputs:
                self.writer[tensor] = home
        return self.groups

    def _home(self, op: Operation) -> int | None:
        if not op.modelled or op.collective is not None:
            return None
        if op.phase == "optimizer" and self.groups and self.groups[-1].operations[0].target == op.target:
            return len(self.groups) - 1
        if not self.fused:
            return None
        written = [self.writer[t] for t in op.inputs if t in self.writer]
        if not written:
            return None
        home = max(written)
        if self.groups[home].operations[0].phase != op.phase:
            return None
        # Writing in place must not overtake a later group that still reads the old value.
        if any(self.toucher.get(t, home) > home for t in op.outputs):
            return None
        group = self.groups[home]
        if group.operations[0].collective is not None:
            return None
        joins = self._is_epilogue(op, group) if group.library else self._same_space(op, group)
        return home if joins else None

    def _same_space(self, op: Operation, group: _Group) -> bool:
        """Same elements, or the rows that a reduction of the group left."""
        known = all(other.modelled for other in group.operations)
        if not known or not all(nest.kind in _FUSIBLE for nest in op.nests):
            return False
        points = max(_points(nest) for nest in op.nests)
        if points == group.points:
            return True
        rows = {_result_points(nest) for other in group.operations for nest in other.nests}
        return points < group.points and points in rows

    def _is_epilogue(self, op: Operation, group: _Group) -> bool:
        """Element by element on the whole result of a library kernel that nothing else reads."""
        first = group.operations[0].nests[0]
        outputs = group.outputs()
        if any(self.readers[t] != 1 for t in op.inputs if t in outputs) or len(op.nests) != 1:
            return False
        nest = op.nests[0]
        if _points(nest) != _result_points(first):
            return False
        if first.kind == "attention":
            return _is_copy(op) and len(group.operations) == 1
        return first.kind in ("product", "convolution") and nest.kind == "pointwise"


def _absorb_producers(groups: list[_Group], workload: Workload) -> list[_Group]:
    """Compute an element-wise group inside the only group that reads its results, where nothing changes in between."""
    readers: dict[int, set[int]] = {}
    writers: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        for tensor in group.inputs():
            readers.setdefault(tensor, set()).add(index)
        for tensor in group.outputs():
            writers.setdefault(tensor, []).append(index)
    gone: dict[int, int] = {}
    for index in range(len(groups) - 1, -1, -1):
        group = groups[index]
        target = _only_reader(index, group, readers, workload)
        if target is None or groups[target].operations[0].phase != group.operations[0].phase:
            continue
        # The reader may itself have moved into a later group.
        while target in gone:
            target = gone[target]
        changed = any(index < w <= target for t in group.inputs() for w in writers.get(t, ()))
        host = groups[target]
        if changed or host.library or group.points > host.points or not _streams_only(host, _FUSIBLE):
            continue
        host.operations[:0] = group.operations
        host.points = max(host.points, group.points)
        gone[index] = target
    return [group for index, group in enumerate(groups) if index not in gone]


def _only_reader(index: int, group: _Group, readers: dict[int, set[int]], workload: Workload) -> int | None:
    if group.library or not _streams_only(group, ("pointwise",)):
        return None
    found: set[int] = set()
    for tensor in group.outputs():
        known = workload.tensors[tensor]
        if known.is_output or known.producer is None:
            return None
        found |= readers.get(tensor, set()) - {index}
    return found.pop() if len(found) == 1 and min(found) > index else None


def _streams_only(group: _Group, kinds: tuple[str, ...]) -> bool:
    """Only nests of these kinds and concatenations: what a generated kernel can compute where it is needed."""
    joins = ("aten.cat", "aten.stack")
    return all(
        op.modelled and all(nest.kind in kinds or op.target.startswith(joins) for nest in op.nests)
        for op in group.operations
    )


def _is_copy(op: Operation) -> bool:
    return op.target.startswith(("aten.clone", "aten.contiguous", "aten.reshape", "aten.flatten"))


def _points(nest: LoopNest) -> float:
    return float(math.prod(nest.sizes))


def _result_points(nest: LoopNest) -> float:
    """Elements of the result of a nest."""
    result = next((o for o in nest.operands if o.access != "read"), nest.operands[-1])
    return float(math.prod(nest.sizes[dim] for dim in result.dims))


def _count_readers(operations: Iterable[Operation]) -> dict[int, int]:
    readers: dict[int, int] = {}
    for op in operations:
        for tensor in set(op.inputs):
            readers[tensor] = readers.get(tensor, 0) + 1
    return readers


def _find_traffic(kernels: Sequence[Kernel], workload: Workload, copies_caches: bool) -> None:
    """Fill `reads` and `writes`: bytes that cross the border of each kernel."""
    last_reader: dict[int, int] = {}
    for kernel in kernels:
        for op in kernel.operations:
            for tensor in op.inputs:
                last_reader[tensor] = kernel.index
    for kernel in kernels:
        made: set[int] = set()
        for op in kernel.operations:
            extended = () if copies_caches else extended_caches(op, workload.tensors)
            _add_operands(kernel, op, made, extended)
            made.update(op.outputs)
        # A side output that nobody reads is still written; only what is read in here alone never leaves.
        for tensor in [t for t in kernel.writes if t in last_reader and last_reader[t] <= kernel.index]:
            known = workload.tensors[tensor]
            if not known.is_output and known.producer is not None:
                del kernel.writes[tensor]


def _add_operands(kernel: Kernel, op: Operation, made: set[int], extended: tuple[int, ...]) -> None:
    for nest in op.nests:
        uses = [(o, op.tensors[o.slot], size) for o, size in zip(nest.operands, nest.footprints, strict=True)]
        kept = math.fsum(size for o, tensor, size in uses if o.access == "read" and tensor in extended)
        for operand, tensor, size in uses:
            moved = size * nest.passes
            if operand.access != "write" and tensor not in made and tensor not in extended:
                kernel.reads[tensor] = max(kernel.reads.get(tensor, 0.0), moved)
            if operand.access != "read":
                kernel.writes[tensor] = max(kernel.writes.get(tensor, 0.0), moved - kept)
