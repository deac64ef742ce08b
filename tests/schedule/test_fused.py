"""Chains fused on chip: traffic against a walk with real buffers, work unchanged, rows really apart, never worse."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from torch_regflat.capture.record import capture
from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import for_chip
from torch_regflat.operators.lowering import workload
from torch_regflat.schedule.fused.chains import Chain, Chains
from torch_regflat.schedule.fused.nest import FusedNest
from torch_regflat.schedule.fused.tiles import Cut, best_cut
from torch_regflat.schedule.kernels import Kernel, form_kernels
from torch_regflat.schedule.program import Scheduler
from torch_regflat.schedule.residency import Residency
from torch_regflat.schedule.search import choose
from torch_regflat.schedule.shape import shape_of
from torch_regflat.workload import Workload

from .graphs import meta, work_of

Program = Callable[..., Tensor]


def attention_written_out(x: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor) -> Tensor:
    batch, rows, width = x.shape
    query, key, value = ((x @ w).view(batch, rows, 2, width // 2).transpose(1, 2) for w in (q, k, v))
    scores = (query @ key.transpose(-1, -2) * 0.1).softmax(-1)
    return (scores @ value).transpose(1, 2).reshape(batch, rows, width) @ o


def causal_attention(x: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor) -> Tensor:
    batch, rows, width = x.shape
    query, key, value = ((x @ w).view(batch, rows, 2, width // 2).transpose(1, 2) for w in (q, k, v))
    found = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return x + found.transpose(1, 2).reshape(batch, rows, width) @ o


def gated(x: Tensor, norm: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    y = functional.rms_norm(x, (x.shape[-1],), norm)
    return x + (functional.silu(y @ gate) * (y @ up)) @ down


def norm_into_products(x: Tensor, norm: Tensor, a: Tensor, b: Tensor) -> Tensor:
    y = functional.layer_norm(x, (x.shape[-1],), norm)
    return (y @ a) * 2.0 + torch.tanh(y @ b)


def inputs(program: Program, batch: int, rows: int, width: int, wide: int) -> list[tuple[int, ...]]:
    shapes: dict[Program, list[tuple[int, ...]]] = {
        attention_written_out: [(width, width)] * 4,
        causal_attention: [(width, width)] * 4,
        gated: [(width,), (width, wide), (width, wide), (wide, width)],
        norm_into_products: [(width,), (width, wide), (width, wide)],
    }
    return [(batch, rows, width), *shapes[program]]


PROGRAMS = (attention_written_out, causal_attention, gated, norm_into_products)


def small(kib: float) -> Chip:
    return load("regflat-physical").replace(
        **{"cores.count": "1 1", "memory.registers.capacity": f"{kib:g} KiB", "memory.HBM3.read_bandwidth": "20 GB/s"}
    )


@dataclass
class Walk:
    """Runs a chain tile by tile with the rows that are on chip, and counts bytes that come and go.

    Written from the words of "Fused on chip" in docs/model.md. Of the package it takes the decisions only: the members,
    how rows and columns are cut, and what stays.
    """

    chain: Chain
    members: list[Kernel]
    cut: Cut
    work: Workload
    read: float = 0.0
    written: float = 0.0
    points: set[tuple[int, int, int]] = field(default_factory=set)

    def run(self) -> None:
        chain, cut = self.chain, self.cut
        depth = chain.rows // chain.batches
        fetched: set[int] = set()
        for entry in range(0, chain.batches, cut.entries):
            for row in range(0, depth, cut.rows):
                entries = range(entry, min(entry + cut.entries, chain.batches))
                rows = range(row, min(row + cut.rows, depth))
                self._tile(entries, rows, depth, fetched)

    def _tile(self, entries: range, rows: range, depth: int, fetched: set[int]) -> None:
        here: set[tuple[int, int]] = set()
        tile = [e * depth + r for e in entries for r in rows]
        for number, chunk in self._order():
            kernel = self.members[number]
            for t in kernel.reads:
                if t in self.chain.shared:
                    self._shared(t, number, chunk, entries, rows, depth, fetched)
                    continue
                self.read += sum(self._row(t) for r in tile if (t, r) not in here)
                here.update((t, r) for r in tile)
            for t in kernel.writes:
                first = all((t, r) not in here for r in tile)
                here.update((t, r) for r in tile)
                if first and t in self.chain.writes:
                    self.written += self._row(t) * len(tile)
            for r in tile:
                assert (number, r, chunk) not in self.points
                self.points.add((number, r, chunk))

    def _order(self) -> Iterator[tuple[int, int]]:
        """Members in turn; those that are cut along columns take turns chunk by chunk."""
        number = 0
        while number < len(self.members):
            span = next((s for s in self.cut.spans if s.first == number), None)
            if span is None or self.cut.chunks == 1:
                yield number, 0
                number += 1
                continue
            for chunk in range(self.cut.chunks):
                for inside in range(span.first, span.last + 1):
                    yield inside, chunk
            number = span.last + 1

    def _shared(
        self, t: int, number: int, chunk: int, entries: range, rows: range, depth: int, fetched: set[int]
    ) -> None:
        size = float(self.work.tensors[t].nbytes)
        if t in self.cut.stays:
            if t not in fetched:
                self.read += size
            fetched.add(t)
            return
        if t in self.chain.batched:
            size *= len(entries) / self.chain.batches
        if t in self.chain.causal:
            size *= (rows[-1] + 1) / depth
        self.read += size / (self.cut.chunks if self.cut.chunked(number) else 1)

    def _row(self, t: int) -> float:
        return float(self.work.tensors[t].nbytes) / self.chain.rows


@st.composite
def cases(draw: st.DrawFn) -> tuple[Workload, list[Kernel], float]:
    program = draw(st.sampled_from(PROGRAMS))
    batch, rows = draw(st.integers(1, 3)), draw(st.integers(2, 150))
    width, wide = 16 * draw(st.integers(1, 4)), 128 * draw(st.integers(1, 3))
    shapes = inputs(program, batch, rows, width, wide)
    work = work_of(program, *(meta(*shape) for shape in shapes))
    return work, form_kernels(work), 2.0 ** draw(st.floats(3.0, 10.0))


@settings(max_examples=60, deadline=None)
@given(cases(), st.data())
def test_traffic_equals_a_walk_and_work_stays(case: tuple[Workload, list[Kernel], float], data: st.DataObject) -> None:
    work, kernels, kib = case
    chip = small(kib)
    chains = Chains(kernels, work)
    found = [chain for kernel in kernels for chain in chains.starting(kernel.index)]
    assert found
    chain = data.draw(st.sampled_from(found))
    members = [kernels[i] for i in chain.members]
    cut = best_cut(chain, members, chip.on_chip[-1].usable_bytes, {})
    if cut is None:
        return
    nest = FusedNest(chain, tuple(members), cut)
    shape = shape_of(nest.kernel(0), Residency(), work)
    (choice,) = choose([shape], chip, for_chip(chip))
    walk = Walk(chain, members, cut, work)
    walk.run()
    assert choice.read_bytes[-1] == pytest.approx(walk.read, rel=1e-12)
    assert choice.write_bytes[-1] == pytest.approx(walk.written, rel=1e-12)
    assert len(walk.points) == sum(chain.rows * (cut.chunks if cut.chunked(n) else 1) for n in range(len(members)))
    alone = [shape_of(kernel, Residency(), work) for kernel in members]
    for name in ("work", "vector_ops", "special_ops"):
        one_by_one = math.fsum(getattr(s, name) for s in alone)
        assert math.fsum(getattr(s, name) * times for s, times in shape.steps) == pytest.approx(one_by_one, rel=1e-12)
    assert choice.held_bytes <= nest.workspace(chip.on_chip[-1].usable_bytes) * (1 + 1e-12)


@settings(max_examples=25, deadline=None)
@given(cases(), st.sampled_from(["latency", "energy", "edp"]))
def test_never_worse_than_unfused(case: tuple[Workload, list[Kernel], float], objective: str) -> None:
    work, kernels, kib = case
    chip = small(kib)
    scheduler = Scheduler(chip, for_chip(chip), objective=objective)  # type: ignore[arg-type]
    priced: dict = {}
    (best,) = scheduler.decided([(kernels, work)], priced)
    plain = scheduler.program(kernels, work)
    assert scheduler.measure(best, priced) <= scheduler.measure(plain, priced)
    flops = [sum(op.flops for kernel in program.kernels for op in kernel.operations) for program in (best, plain)]
    assert flops[0] == flops[1]
    assert all(place.occupied_bytes <= chip.on_chip[-1].usable_bytes for place in best.places)


def test_with_room_for_everything_nothing_is_fused() -> None:
    shapes = inputs(gated, 1, 64, 64, 256)
    work = work_of(gated, *(meta(*shape) for shape in shapes))
    chip = small(2**20)
    (best,) = Scheduler(chip, for_chip(chip)).decided([(form_kernels(work), work)], {})
    assert not best.chains


def test_attention_written_out_wins_where_scores_do_not_fit() -> None:
    """Scores of 8192 tokens leave the chip kernel by kernel, and never do in tiles of rows."""
    shapes = [(1, 8192, 256), *[(256, 256)] * 4]
    work = work_of(attention_written_out, *(meta(*shape) for shape in shapes))
    kernels, chip = form_kernels(work), load("regflat-physical")
    scheduler, priced = Scheduler(chip, for_chip(chip)), {}  # type: ignore[var-annotated]
    (best,) = scheduler.decided([(kernels, work)], priced)
    plain = scheduler.program(kernels, work)
    (nest,) = best.chains
    assert any("softmax" in op.target for kernel in nest.members for op in kernel.operations)
    far = [
        math.fsum(c.read_bytes[-1] + c.write_bytes[-1] for c in program.choices(priced)) for program in (best, plain)
    ]
    scores = 2 * 8192 * 8192 * 2
    assert far[0] < 0.1 * scores < scores < far[1]
    assert scheduler.measure(best, priced)[0] < 0.8 * scheduler.measure(plain, priced)[0]


ROWS_MIXED: dict[str, Program] = {
    "columns become rows": lambda x, w: (x @ w).transpose(-1, -2).contiguous() @ w,
    "a softmax over rows": lambda x, w: (x @ w).softmax(-2) @ w,
    "a sum over rows": lambda x, w: (x @ w) * (x @ w).sum(-2, keepdim=True),
    "rows in another order": lambda x, w: (x @ w).flip(-2) @ w,
    "rows moved": lambda x, w: (x @ w).roll(1, -2) @ w,
    "running sums": lambda x, w: (x @ w).cumsum(-2) @ w,
    "a row next to another": lambda x, w: torch.cat([(x @ w)[:, 1:], (x @ w)[:, :1]], 1) @ w,
    "rows of each other": lambda x, w: ((x @ w) @ (x @ w).transpose(-1, -2)) @ x,
}


@pytest.mark.parametrize("name", ROWS_MIXED)
def test_what_mixes_rows_ends_a_chain(name: str) -> None:
    """Rows, columns and width are all 32, so that sizes tell nothing."""
    shapes = [(1, 32, 32), (32, 32)]
    assert_rows_apart(ROWS_MIXED[name], shapes)


@pytest.mark.parametrize("program", PROGRAMS)
def test_rows_are_apart(program: Program) -> None:
    assert assert_rows_apart(program, inputs(program, 2, 6, 32, 128)) > 1


def assert_rows_apart(program: Program, shapes: list[tuple[int, ...]]) -> int:
    """Run every chain's members on real numbers, with one row of one of its inputs changed: of all results that row
    changes, and no other. How many chains there were."""
    graph = capture(program, tuple(meta(*shape) for shape in shapes))
    work = workload(graph)
    kernels = form_kernels(work)
    chains = Chains(kernels, work)
    found = [chain for kernel in kernels for chain in chains.starting(kernel.index)]
    real = Real(graph, [torch.randn(*shape, dtype=torch.float64) for shape in shapes])
    for chain in found:
        members = {op.node for i in chain.members for op in kernels[i].operations}
        for tensor in set(chain.layouts) & set(chain.reads):
            for row in (0, chain.rows // 2):
                changed = real.changed(members, tensor, chain.layouts[tensor], row)
                for t, values in changed.items():
                    if t in chain.writes and t in chain.layouts:
                        rows = rows_at(torch.arange(values.numel()), chain.layouts[t])
                        assert set(rows[values].tolist()) <= {row}, (chain.members, tensor, t)
    return len(found)


def rows_at(offsets: Tensor, layout: tuple[tuple[int, int], ...]) -> Tensor:
    """The row that each place of a storage belongs to."""
    row = torch.zeros_like(offsets)
    for size, stride in layout:
        row = row * size + offsets // stride % size
    return row


class Real(torch.fx.Interpreter):
    """A captured graph on real numbers, all values kept."""

    def __init__(self, graph: torch.fx.GraphModule, values: list[Tensor]) -> None:
        super().__init__(graph, garbage_collect_values=False)
        torch.manual_seed(0)
        self.run(*values)
        self.before = dict(self.env)

    def changed(
        self, members: set[str], tensor: int, layout: tuple[tuple[int, int], ...], row: int
    ) -> dict[int, Tensor]:
        """Of each storage, which places change when a row of `tensor` does and only `members` (and views) run again."""
        self.env = dict(self.before)
        first = next(n for n in self.module.graph.nodes if n.meta.get("storage") == tensor)
        value = self.before[first]
        flat = flattened(value).clone()
        flat[rows_at(torch.arange(flat.numel()), layout) == row] += 1.0
        self.env[first] = flat.as_strided(value.shape, value.stride(), value.storage_offset())
        found = {}
        for node in self.module.graph.nodes:
            if node.op != "call_function" or node is first:
                continue
            view = not node.meta["operation"].nests
            if view or node.name in members:
                self.env[node] = self.run_node(node)
            if not view and isinstance(self.env[node], Tensor):
                found[node.meta["storage"]] = flattened(self.env[node]) != flattened(self.before[node])
        return found


def flattened(value: Tensor) -> Tensor:
    count = value.untyped_storage().nbytes() // value.element_size()
    return value.as_strided((count,), (1,), 0)
