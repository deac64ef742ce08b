"""Runs of kernels that may be fused by rows: each tile of rows goes through all of them before the next one starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from ...workload import Workload
from ..kernels import Kernel
from .rows import Found, Rows, count, examine, seeds

LONGEST = 24
"""Kernels of a chain, with those between them that run before it: about two layers of a decoder."""


@dataclass(frozen=True)
class Chain:
    """Kernels that work on the same rows, by their index, and what they touch.

    `before` are kernels in between that do not depend on the chain and run before it. `slices` are bytes of one row of
    every tensor that is touched by rows; `shared` bytes of what every row needs, whole.
    """

    members: tuple[int, ...]
    before: tuple[int, ...]
    rows: int
    batches: int
    slices: Mapping[int, float]
    shared: Mapping[int, float]
    batched: frozenset[int]
    causal: frozenset[int]
    reads: Mapping[int, float]
    writes: Mapping[int, float]
    """Bytes that cross the border of the whole chain, each once."""
    layouts: Mapping[int, Rows]
    """Where the rows of each tensor that is touched by rows lie in its storage."""

    @property
    def first(self) -> int:
        return min((*self.members, *self.before))

    @property
    def last(self) -> int:
        return self.members[-1]


class Chains:
    """All chains of a list of kernels."""

    def __init__(self, kernels: Sequence[Kernel], workload: Workload) -> None:
        self.kernels, self.workload = kernels, workload
        self.last_read: dict[int, int] = {}
        for kernel in kernels:
            for tensor in kernel.reads:
                self.last_read[tensor] = kernel.index

    def starting(self, first: int) -> Iterator[Chain]:
        """Chains whose first member is this kernel, of every length from two kernels on."""
        known: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
        for tensor, rows in seeds(self.kernels[first]):
            aside: frozenset[int] = frozenset()
            while True:
                walk = _Walk(self, first, {tensor: rows}, aside)
                for chain in walk.run():
                    if (chain.members, chain.before) not in known:
                        known.add((chain.members, chain.before))
                        yield chain
                if walk.blocker is None or walk.blocker in aside or walk.blocker == first:
                    break
                # It makes what a later one needs whole: let it run before the chain, if it can.
                aside = aside | {walk.blocker}


class _Walk:
    """One chain as it grows, kernel by kernel."""

    def __init__(self, owner: Chains, first: int, seed: dict[int, Rows], aside: Set[int]) -> None:
        self.owner, self.first, self.aside = owner, first, aside
        self.known: dict[int, Rows] = dict(seed)
        self.total = count(next(iter(seed.values())))
        self.members: list[int] = []
        self.before: list[int] = []
        self.written: dict[int, int] = {}
        """Tensors that members write, and the first that does."""
        self.touched: set[int] = set()
        self.all = Found(batches=1)
        self.blocker: int | None = None

    def run(self) -> Iterator[Chain]:
        kernels = self.owner.kernels
        phase = kernels[self.first].operations[0].phase
        for kernel in kernels[self.first : self.first + LONGEST]:
            if kernel.operations[0].phase != phase or kernel.collective is not None:
                return
            depends = any(t in self.written for t in (*kernel.reads, *kernel.writes))
            found = None
            if kernel.index not in self.aside and (depends or any(t in self.known for t in kernel.reads)):
                found = examine(kernel, self.known)
            if found is not None and self._joins(kernel, found):
                self._add(kernel, found)
                if len(self.members) > 1:
                    yield self._chain()
                continue
            if depends or any(t in self.touched for t in kernel.writes):
                self._block(kernel)
                return
            self.before.append(kernel.index)

    def _joins(self, kernel: Kernel, found: Found) -> bool:
        """Whether what the rows share is not made by the chain itself, and one division into batches serves all."""
        if any(t in self.written for t in found.shared):
            return False
        if found.shared & set(kernel.writes) or set(kernel.writes) & self.all.shared:
            return False
        return 1 in (found.batches, self.all.batches) or found.batches == self.all.batches

    def _block(self, kernel: Kernel) -> None:
        """What keeps this kernel from joining: a member that makes something it needs whole."""
        makers = {self.written[t] for t in kernel.reads if t in self.written}
        if len(self.members) > 1 and makers:
            self.blocker = max(makers) if max(makers) != self.first else None

    def _add(self, kernel: Kernel, found: Found) -> None:
        self.members.append(kernel.index)
        crossing = kernel.reads.keys() | kernel.writes.keys()
        self.known.update({t: rows for t, rows in found.rows.items() if t in crossing})
        self.all.shared |= found.shared & kernel.reads.keys()
        self.all.batched |= found.batched
        self.all.causal |= found.causal
        self.all.batches = max(self.all.batches, found.batches)
        self.touched |= crossing
        for t in kernel.writes:
            self.written.setdefault(t, kernel.index)

    def _chain(self) -> Chain:
        owner, members = self.owner, [self.owner.kernels[i] for i in self.members]
        tensors = owner.workload.tensors
        moved: dict[int, float] = {}
        reads: dict[int, float] = {}
        writes: dict[int, float] = {}
        made: set[int] = set()
        for kernel in members:
            for t, size in kernel.reads.items():
                if t not in made:
                    # Each may read another part of it.
                    part = size if t in self.all.shared else reads.get(t, 0.0) + size
                    reads[t] = min(max(part, reads.get(t, 0.0)), max(float(tensors[t].nbytes), size))
                moved[t] = max(moved.get(t, 0.0), size)
            for t, size in kernel.writes.items():
                writes[t] = max(writes.get(t, 0.0), size)
                moved[t] = max(moved.get(t, 0.0), size)
            made.update(kernel.writes)
        inside = {t for t in writes if owner.last_read.get(t, -1) <= self.members[-1] and t in owner.last_read}
        for t in inside:
            if not tensors[t].is_output and tensors[t].producer is not None and tensors[t].role == "activation":
                del writes[t]
        shared = {t: max(k.reads.get(t, 0.0) for k in members) for t in sorted(self.all.shared)}
        return Chain(
            members=tuple(self.members),
            before=tuple(self.before),
            rows=self.total,
            batches=self.all.batches,
            slices={t: size / self.total for t, size in moved.items() if t not in shared},
            shared=shared,
            batched=frozenset(self.all.batched),
            causal=frozenset(self.all.causal),
            reads=reads,
            writes=writes,
            layouts={t: rows for t, rows in self.known.items() if t in moved and t not in shared},
        )
