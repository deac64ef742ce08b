"""Which tensors lie on chip when a kernel starts, and which need not leave it.

A cache keeps what was touched last: a read hits if no more than its budget was touched since. A register-flat memory
is managed: it keeps the tensors whose next use comes soonest (Belady), and evicting one that is still needed and was
never written back costs its write.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..conditions import SCHEDULED, Conditions
from ..errors import CapacityError
from ..workload import Workload
from .kernels import Kernel

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
    return _Managed(kernels, workload, capacity, reserve).run()


class _Managed:
    def __init__(self, kernels: list[Kernel], workload: Workload, capacity: float, reserve: float) -> None:
        self.kernels, self.workload, self.capacity = kernels, workload, capacity
        self.limit = capacity * (1.0 - reserve)
        self.uses: dict[int, list[int]] = {}
        for kernel in kernels:
            for tensor in kernel.reads:
                self.uses.setdefault(tensor, []).append(kernel.index)
        self.held: dict[int, float] = {}
        self.only_here: set[int] = set()
        self.total = 0.0
        self.kept_at: dict[int, int] = {}
        self.result: list[Residency] = []

    def run(self) -> list[Residency]:
        for kernel in self.kernels:
            here = Residency()
            self.result.append(here)
            here.found = {t for t in kernel.reads if t in self.held}
            for tensor in kernel.reads:
                whole = kernel.reads[tensor] >= self.workload.tensors[tensor].nbytes * WHOLE
                if whole and tensor not in self.held and self._next_use(tensor, kernel.index) < math.inf:
                    self._place(tensor, kernel, here)
            for tensor in kernel.writes:
                self._write(tensor, kernel, here)
            # Bucketed, so that the same layer at another place is the same kernel.
            free = max(self.capacity - self.total, 0.0) / self.capacity
            here.available = max(math.floor(free * STEPS), 1) / STEPS
            here.occupied_bytes = self.total
            for tensor in [*kernel.reads, *kernel.writes]:
                if self._next_use(tensor, kernel.index) == math.inf:
                    self._drop(tensor)
        return self.result

    def _write(self, tensor: int, kernel: Kernel, here: Residency) -> None:
        temporary = _temporary(tensor, self.workload)
        if self._next_use(tensor, kernel.index) == math.inf:
            return
        whole = kernel.writes[tensor] >= self.workload.tensors[tensor].nbytes * WHOLE
        placed = tensor in self.held or (whole and self._place(tensor, kernel, here))
        if placed and temporary:
            self.only_here.add(tensor)
            here.kept.add(tensor)

    def _place(self, tensor: int, kernel: Kernel, here: Residency) -> bool:
        """Make room by evicting what is needed later than this tensor; False if that is not enough."""
        size = float(self.workload.tensors[tensor].nbytes)
        due = self._next_use(tensor, kernel.index)
        if size > self.limit:
            return False
        victims: list[int] = []
        room = self.limit - self.total
        if room < size:
            busy = kernel.reads.keys() | kernel.writes.keys()
            later = ((self._next_use(t, kernel.index), t) for t in self.held if t not in busy)
            for next_use, victim in sorted(later, reverse=True):
                if room >= size or next_use <= due:
                    break
                victims.append(victim)
                room += self.held[victim]
        if room < size:
            return False
        for victim in victims:
            if victim in self.only_here:
                here.evicted_bytes += self.held[victim]
            self._drop(victim)
        self.held[tensor] = size
        self.total += size
        return True

    def _drop(self, tensor: int) -> None:
        if tensor in self.held:
            self.total -= self.held.pop(tensor)
            self.only_here.discard(tensor)

    def _next_use(self, tensor: int, now: int) -> float:
        uses = self.uses.get(tensor, [])
        position = bisect.bisect_right(uses, now)
        return uses[position] if position < len(uses) else math.inf


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
