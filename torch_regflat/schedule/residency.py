"""Which tensors lie on chip when a kernel starts, and which need not leave it.

A cache keeps what was touched last: a read hits if no more than its budget was touched since. A memory that software
manages keeps what `timeline.plan` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..conditions import SCHEDULED, Conditions
from ..errors import CapacityError
from ..workload import Workload
from .kernels import Kernel
from .timeline.graph import Data, Graph, Task
from .timeline.plan import Step, plan

STEPS = 16
"""Free capacity is rounded down to this many steps, so that equal kernels keep equal shapes."""


EDGE = 0.2
"""Share of a cache over which hits fade from all to none."""
WHOLE = 0.999
"""A tensor counts as on chip once this share of it was read or written there; appending to a cache is not enough."""


@dataclass(slots=True)
class Residency:
    """For one kernel: tensors it finds on chip, tensors it leaves there only, bytes evicted, and the free share.

    Of tensors in `partly` only a share is found, or kept.
    """

    found: set[int] = field(default_factory=set)
    kept: set[int] = field(default_factory=set)
    partly: dict[int, float] = field(default_factory=dict)
    evicted_bytes: float = 0.0
    available: float = 1.0
    occupied_bytes: float = 0.0
    step: Step | None = None
    """In a managed memory, the step of the plan, about tensors in `data`."""
    data: Mapping[int, Data] = field(default_factory=dict)
    exchanges: bool = False
    """Whether the kernel exchanges with other chips, beside the engines."""
    after: tuple[int, ...] = ()
    """Where kernels exchange: those that end before this one starts. Others follow one another."""

    def read_share(self, tensor: int) -> float:
        """Share of a tensor's reads that are served on chip."""
        return 1.0 if tensor in self.found else self.partly.get(tensor, 0.0)

    def write_share(self, tensor: int) -> float:
        """Share of a tensor's writes that stay on chip."""
        return 1.0 if tensor in self.kept else self.partly.get(tensor, 0.0)


def cached(
    kernels: list[Kernel], workload: Workload, budget: float, conditions: Conditions = SCHEDULED
) -> list[Residency]:
    """Residency in a cache of `budget` usable bytes with least-recently-used replacement.

    A read hits when its own bytes and those touched since its tensor was last touched fit the budget. An activation
    whose whole life passes within the budget is overwritten in place by the next allocation and is never written out.
    What comes from outside and what leaves are where `conditions` say.
    """
    clock = 0.0
    touched: dict[int, tuple[float, float]] = {}
    """Of each tensor, the bytes touched last and when."""
    marks: list[float] = []
    result: list[Residency] = []
    for kernel in kernels:
        here = Residency()
        for tensor, size in kernel.reads.items():
            when, known = touched.get(tensor, (0.0, 0.0))
            if known >= size * WHOLE and clock - when + size <= budget:
                here.found.add(tensor)
        clock += math.fsum(kernel.reads.values()) + math.fsum(kernel.writes.values())
        for tensor, size in (*kernel.reads.items(), *kernel.writes.items()):
            touched[tensor] = (clock, max(size, touched.get(tensor, (0.0, 0.0))[1] if tensor in here.found else 0.0))
        marks.append(clock)
        result.append(here)
    last_read = _last_reads(kernels)
    for kernel, here in zip(kernels, result, strict=True):
        for tensor, size in kernel.writes.items():
            last = last_read.get(tensor, -1)
            lives = last > kernel.index and _temporary(tensor, workload)
            if lives and marks[last] - marks[kernel.index] + size <= budget:
                here.kept.add(tensor)
    _repeat(kernels, workload, budget, conditions, result)
    return result


def _repeat(
    kernels: list[Kernel], workload: Workload, budget: float, conditions: Conditions, places: list[Residency]
) -> None:
    """Add what runs of the same kernels just before have left: tensors touched within the budget since they were last
    touched, with a soft edge, for replacement is not strictly by age.
    """
    if conditions.weights == conditions.activations == "scheduled":
        return
    read = {t: size for kernel in kernels for t, size in kernel.reads.items() if _from_outside(t, workload)}
    weights = math.fsum(size for t, size in read.items() if workload.tensors[t].role == "weight")
    others = math.fsum(read.values()) - weights
    last_read = _last_reads(kernels)
    left = {t: s for k in kernels for t, s in k.writes.items() if last_read.get(t, -1) <= k.index and t not in read}
    results = math.fsum(left.values())
    turns = [conditions.copies if place == "rotating" else 1 for place in (conditions.weights, conditions.activations)]
    once, all_turns = weights + others + results, turns[0] * weights + turns[1] * others + results
    for kernel, here in zip(kernels, places, strict=True):
        for tensor in kernel.reads.keys() & read.keys() - here.found:
            role = workload.tensors[tensor].role
            place = conditions.weights if role == "weight" else conditions.activations
            if place in ("warm", "rotating"):
                here.partly[tensor] = _hits(all_turns if place == "rotating" else once, budget)
        if conditions.activations in ("warm", "rotating"):
            here.partly.update({t: _hits(once, budget) for t in kernel.writes.keys() & left.keys() - here.kept})


def _hits(distance: float, budget: float) -> float:
    """Share of accesses that hit when so many bytes were touched since the last one."""
    return min(max(0.5 + (1.0 - distance / budget) / EDGE, 0.0), 1.0) if budget > 0.0 else 0.0


def _from_outside(tensor: int, workload: Workload) -> bool:
    return workload.tensors[tensor].producer is None


def managed(kernels: list[Kernel], workload: Workload, capacity: float, reserve: float) -> list[Residency]:
    """Residency in a managed memory of `capacity` bytes, of which the share `reserve` is kept free for streaming."""
    graph = graph_of(kernels, workload)
    return [_planned(step, graph, capacity) for step in plan(graph, capacity, reserve=reserve * capacity)]


def graph_of(kernels: list[Kernel], workload: Workload) -> Graph:
    """Kernels as tasks of a schedule, without what they cost, and the tensors they pass on."""
    read = {t for kernel in kernels for t in kernel.reads}
    touched = read.union(*(kernel.writes for kernel in kernels))
    data = {}
    for t in touched:
        known = workload.tensors[t]
        # A side output that nobody reads is still written.
        leaves = t not in read or not _temporary(t, workload)
        data[t] = Data(float(known.nbytes), _from_outside(t, workload), leaves)
    return Graph([Task(0.0, kernel.reads, kernel.writes) for kernel in kernels], data)


def _planned(step: Step, graph: Graph, capacity: float) -> Residency:
    """What a step of the plan means for its kernel's traffic."""
    writes = graph.tasks[step.task].writes
    late = [size - writes.get(t, 0.0) for t, size in step.stores.items() if size > writes.get(t, 0.0)]
    # Bucketed, so that the same layer at another place is the same kernel.
    free = max(capacity - step.held, 0.0) / capacity
    return Residency(
        found=step.found,
        kept=writes.keys() - step.stores.keys(),
        evicted_bytes=math.fsum((*late, *(size for _, size in step.evicted))),
        available=max(math.floor(free * STEPS), 1) / STEPS,
        occupied_bytes=step.held,
        step=step,
        data=graph.data,
    )


def _last_reads(kernels: Iterable[Kernel]) -> dict[int, int]:
    last: dict[int, int] = {}
    for kernel in kernels:
        for tensor in kernel.reads:
            last[tensor] = kernel.index
    return last


def _temporary(tensor: int, workload: Workload) -> bool:
    """Neither an output nor something that lives outside the run."""
    known = workload.tensors[tensor]
    return not known.is_output and known.producer is not None and known.role == "activation"


def preloaded(kernels: list[Kernel], workload: Workload, capacity: float, reserve: float) -> list[Residency]:
    """Residency in a managed memory that holds the weights, and finds the inputs, before the run, as chips without DRAM
    of their own are used: run after run with the same weights.

    What the weights leave of `capacity` is managed for the rest. Raises `CapacityError` where they leave nothing.
    """
    outside = {t for kernel in kernels for t in kernel.reads if _from_outside(t, workload)}
    weights = math.fsum(float(workload.tensors[t].nbytes) for t in outside if workload.tensors[t].role == "weight")
    if weights >= capacity:
        raise CapacityError(
            f"weights of {weights / 2**20:.0f} MiB do not fit the {capacity / 2**20:.0f} MiB on one chip"
        )
    share = 1.0 - weights / capacity
    places = managed(kernels, workload, capacity * share, reserve)
    for kernel, here in zip(kernels, places, strict=True):
        here.found |= kernel.reads.keys() & outside
        here.available *= share
        here.occupied_bytes += weights
    return places
