"""Which operations run as one kernel.

The rules are those of a compiler such as Inductor, with the products, convolutions and attention left to libraries:
element-wise operations and reductions over the same elements run together; a product takes an element-wise epilogue
when nothing else reads its result; appending to a KV cache writes the new entries in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..workload import LoopNest, Operation, Workload

_LIBRARY = ("product", "convolution", "attention", "sequential")


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
    def path(self) -> str:
        return self.operations[0].path


def form_kernels(workload: Workload) -> list[Kernel]:
    """Group the operations of a workload into kernels, in program order; views vanish."""
    return _Fuser(workload).run()


class _Fuser:
    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.operations = [op for op in workload if not op.is_view]
        self.kernels: list[Kernel] = []
        self.writer: dict[int, int] = {}
        """Kernel that last wrote a tensor."""
        self.toucher: dict[int, int] = {}
        """Last kernel that read or wrote a tensor."""
        self.consumers = _count_readers(self.operations)
        self.points: dict[int, float] = {}
        self.library: dict[int, bool] = {}
        self.outputs: dict[int, set[int]] = {}

    def run(self) -> list[Kernel]:
        for op in self.operations:
            home = self._home(op)
            if home is None:
                home = len(self.kernels)
                self.kernels.append(Kernel(index=home))
                self.points[home] = max(_points(nest) for nest in op.nests)
                self.library[home] = any(nest.kind in _LIBRARY for nest in op.nests)
                self.outputs[home] = set()
            self._join(op, home)
        _find_traffic(self.kernels, self.workload)
        return self.kernels

    def _join(self, op: Operation, home: int) -> None:
        self.kernels[home].operations.append(op)
        self.outputs[home].update(op.outputs)
        for tensor in op.inputs:
            self.toucher[tensor] = max(home, self.toucher.get(tensor, home))
        for tensor in op.outputs:
            self.writer[tensor] = home
            self.toucher[tensor] = max(home, self.toucher.get(tensor, home))

    def _home(self, op: Operation) -> int | None:
        """The kernel this operation joins: the one that wrote the latest of its inputs, if the rules allow."""
        if any(nest.kind not in ("pointwise", "reduction") for nest in op.nests) or not op.modelled:
            return None
        written = [self.writer[t] for t in op.inputs if t in self.writer]
        if not written:
            return None
        home = max(written)
        # Writing in place must not overtake a later kernel that still reads the old value.
        if any(self.toucher.get(t, home) > home for t in op.outputs):
            return None
        if self.library[home]:
            return home if self._is_epilogue(op, home) else None
        return home if self._same_space(op, home) else None

    def _same_space(self, op: Operation, home: int) -> bool:
        """Same elements, or the rows that a reduction of the kernel left."""
        points = max(_points(nest) for nest in op.nests)
        largest = self.points[home]
        if points == largest:
            return True
        if points > largest:
            return False
        rows = {_result_points(nest) for other in self.kernels[home].operations for nest in other.nests}
        return points in rows

    def _is_epilogue(self, op: Operation, home: int) -> bool:
        """Element-wise, on the whole result of a product or convolution that nothing else reads."""
        first = self.kernels[home].operations[0]
        if first.nests[0].kind not in ("product", "convolution") or any(n.kind != "pointwise" for n in op.nests):
            return False
        mine = [t for t in op.inputs if t in self.outputs[home]]
        result = _result_points(first.nests[0])
        return all(self.consumers[t] == 1 for t in mine) and all(_points(n) == result for n in op.nests)


def _points(nest: LoopNest) -> float:
    points = 1.0
    for size in nest.sizes:
        points *= size
    return points


def _result_points(nest: LoopNest) -> float:
    """Elements of the result of a nest."""
    result = next((o for o in nest.operands if o.access != "read"), nest.operands[-1])
    points = 1.0
    for dim in result.dims:
        points *= nest.sizes[dim]
    return points


def _count_readers(operations: Iterable[Operation]) -> dict[int, int]:
    readers: dict[int, int] = {}
    for op in operations:
        for tensor in set(op.inputs):
            readers[tensor] = readers.get(tensor, 0) + 1
    return readers


def _find_traffic(kernels: list[Kernel], workload: Workload) -> None:
    """Fill `reads` and `writes`: bytes that cross the border of each kernel."""
    last_reader: dict[int, int] = {}
    for kernel in kernels:
        for op in kernel.operations:
            for tensor in op.inputs:
                last_reader[tensor] = kernel.index
    for kernel in kernels:
        made: set[int] = set()
        for op in kernel.operations:
            for nest in op.nests:
                for operand in nest.operands:
                    tensor = op.tensors[operand.slot]
                    moved = operand.footprint_bytes(nest.sizes) * nest.passes
                    if operand.access != "write" and tensor not in made:
                        kernel.reads[tensor] = max(kernel.reads.get(tensor, 0.0), moved)
                    if operand.access != "read":
                        kernel.writes[tensor] = max(kernel.writes.get(tensor, 0.0), moved)
            made.update(op.outputs)
        # A side output that nobody reads is still written; only what is read in here alone never leaves.
        for tensor in [t for t in kernel.writes if t in last_reader and last_reader[t] <= kernel.index]:
            known = workload.tensors[tensor]
            if not known.is_output and known.producer is not None:
                del kernel.writes[tensor]
