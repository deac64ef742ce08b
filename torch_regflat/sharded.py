"""What each stage of a pipeline does: a workload of one rank, split by whole repeated layers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .errors import InputError
from .layout import Layout, divisors
from .workload import Collective, Operation, Tensor, Workload

_UNIT = re.compile(r"^(.*?)(?:^|\.)(\d+)(?=\.|$)")
SEND = "send"
"""The operation that hands a tensor on to the next stage."""


@dataclass(frozen=True)
class Sharded:
    """A model divided among chips: what the first rank of each stage does with one micro-batch."""

    layout: Layout
    stages: tuple[Workload, ...]
    layers: tuple[int, ...] = ()
    """How many repeated layers each stage has."""

    @property
    def flops(self) -> int:
        """FLOPs of all chips for one micro-batch; what ranks do alike is counted on each."""
        return sum(stage.flops for stage in self.stages) * self.layout.tp * self.layout.dp


def split(workload: Workload, layout: Layout) -> Sharded:
    """Divide a workload into `layout.pp` stages of as equal a number of repeated layers as can be, the first having one
    more. What comes before the layers (the embedding) is in the first, what comes after in the last.

    A tensor that another stage reads is sent to it once (`Operation.collective`), but for what was computed before the
    first layer (positions, masks): every stage that needs that computes it for itself. Raises `InputError` for more
    stages than layers.
    """
    if layout.pp == 1:
        return Sharded(layout, (workload,))
    units = _units(workload)
    if len(units) < layout.pp:
        have = f"the {len(units)} repeated layers" if units else "the model, which has no repeated layers,"
        raise InputError(
            f"pp is {layout.pp}, more stages than {have} of {workload.name or 'the model'}; use a pp of at most "
            f"{max(len(units), 1)}"
        )
    counts = even(len(units), layout.pp)
    stage_of = dict(zip(units, (s for s, count in enumerate(counts) for _ in range(count)), strict=True))
    return Sharded(layout, tuple(_Splitter(workload, layout, stage_of).run()), tuple(counts))


def even(count: int, parts: int) -> list[int]:
    """`count` things in so many parts, as even as can be, the first ones having one more."""
    return [count // parts + (part < count % parts) for part in range(parts)]


def unit_of(path: str) -> tuple[str, str] | None:
    """The repeated layer that a module belongs to, as (container, index): the outermost numbered one."""
    found = _UNIT.match(path)
    return None if found is None else (found[1], found[2])


def _units(workload: Workload) -> list[tuple[str, str]]:
    """The repeated layers, as (container, index), in the order in which they run first."""
    found = dict.fromkeys(unit for op in workload if (unit := unit_of(op.path)) is not None)
    sizes: dict[str, int] = {}
    for container, _ in found:
        sizes[container] = sizes.get(container, 0) + 1
    most = max(sizes.values(), default=0)
    return [unit for unit in found if 2 * sizes[unit[0]] >= most > 1]


class _Splitter:
    """One walk in program order: each operation goes to its stage, and what it reads from another is sent before."""

    def __init__(self, workload: Workload, layout: Layout, stage_of: dict[tuple[str, str], int]) -> None:
        self.workload, self.layout, self.stage_of = workload, layout, stage_of
        self.lists: list[list[Operation]] = [[] for _ in range(layout.pp)]
        self.home: dict[int, int | None] = {}
        """Of each tensor, the stage that wrote it last; None: before the first layer."""
        self.has: list[set[int]] = [set() for _ in range(layout.pp)]
        """Tensors of other stages that a stage has got since they were written."""
        self.before: list[Operation] = []
        self._is_early = True
        self.own_before: list[set[int]] = [set() for _ in range(layout.pp)]
        """What a stage has computed for itself of what comes before the first layer."""

    def run(self) -> Iterator[Workload]:
        for op, stage in self._placed():
            for tensor in dict.fromkeys(op.inputs):
                self._fetch(tensor, stage)
            self.lists[stage].append(op)
            if self._is_early:
                self.before.append(op)
            for tensor in () if op.is_view else op.outputs:
                self.home[tensor] = None if self._is_early else stage
                for has in self.has:
                    has.discard(tensor)
        yield from map(self._workload, self.lists)

    def _placed(self) -> Iterator[tuple[Operation, int]]:
        """Each operation with its stage: that of its layer, else of the operation before it; of a backward or an
        update, else that of its module's forward.
        """
        stage, self._is_early = 0, True
        of_path: dict[str, int] = {}
        for op in self.workload:
            unit = unit_of(op.path)
            if unit in self.stage_of:
                stage, self._is_early = self.stage_of[unit], False
            elif op.phase in ("", "forward"):
                of_path[op.path] = stage
            elif op.path:
                stage = of_path.get(op.path, stage)
            yield op, stage

    def _fetch(self, tensor: int, stage: int) -> None:
        if tensor not in self.home or tensor in self.has[stage]:
            return
        source = self.home[tensor]
        if source == stage or (source is None and stage == 0):
            return
        self.has[stage].add(tensor)
        if source is None:
            self._compute_before(tensor, stage)
            return
        nbytes = float(self.workload.tensors[tensor].nbytes)
        last = self.lists[source][-1]
        link = Collective("send", nbytes, 2, abs(stage - source) * self.layout.tp * self.layout.dp)
        self.lists[source].append(
            Operation(0, SEND, last.path, (), (tensor,), (), dtype=last.dtype, phase=last.phase, collective=link)
        )

    def _compute_before(self, tensor: int, stage: int) -> None:
        """Repeat on this stage what led to a tensor from before the first layer."""
        needed, chosen = {tensor}, []
        for op in reversed(self.before):
            if needed.intersection(op.outputs) and op.index not in self.own_before[stage]:
                chosen.append(op)
                self.own_before[stage].add(op.index)
                needed.update(op.inputs)
        self.lists[stage] += reversed(chosen)
        self.has[stage] |= needed

    def _workload(self, operations: list[Operation]) -> Workload:
        numbered = tuple(replace(op, index=index) for index, op in enumerate(operations))
        producers: dict[int, int] = {}
        for op in numbered:
            for tensor in op.outputs:
                producers.setdefault(tensor, op.index)
        used = dict.fromkeys(t for op in numbered for t in op.tensors)
        tensors: dict[int, Tensor] = {}
        for key in used:
            known = self.workload.tensors[key]
            # What comes from another stage has no producer here.
            tensors[key] = replace(known, producer=None if known.producer is None else producers.get(key))
        return replace(self.workload, operations=numbered, tensors=tensors)


def share_of_batch(batch: int, layout: Layout | None, micro_batches: int = 1) -> tuple[int, tuple[str, ...]]:
    """Sequences of one micro-batch in the fullest data-parallel group, and what is to be said about it.

    Raises `InputError` for a batch that does not give every group and every micro-batch a sequence.
    """
    if micro_batches < 1:
        raise InputError(f"micro_batches is {micro_batches}; it must be 1 or more")
    groups = 1 if layout is None else layout.dp
    if layout is None and micro_batches > 1:
        raise InputError("micro_batches pass the stages of a pipeline; give a layout with pp of 2 or more")
    if 0 < batch < groups:
        works = ", ".join(str(d) for d in divisors(groups) if d <= batch)
        raise InputError(
            f"batch is {batch}, fewer than the dp = {groups} groups of chips that take different sequences; "
            f"use a batch of {groups} or more, or a dp of {works}"
        )
    own = math.ceil(batch / groups)
    if own < micro_batches:
        raise InputError(
            f"a batch of {batch} over dp = {groups} gives a pipeline {own} sequences, fewer than the {micro_batches} "
            f"micro-batches; use at most {own} micro-batches"
        )
    most = math.ceil(own / micro_batches)
    if most * micro_batches * groups == batch:
        return most, ()
    return most, (f"{batch} sequences do not divide evenly; a chip with a micro-batch of {most} is shown",)
