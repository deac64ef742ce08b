"""Residency, replayed by an independent check on random programs and random capacities."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torch_regflat.schedule.kernels import form_kernels
from torch_regflat.schedule.residency import cached, managed

from .graphs import meta, programs, work_of

TENSOR = 64 * 64 * 2


@settings(max_examples=150, deadline=None)
@given(programs(), st.integers(0, 12))
def test_managed_memory_is_never_overfull_and_finds_only_what_was_put_there(
    program: Callable[[Tensor, Tensor], Tensor], tensors: int
) -> None:
    work = work_of(program, meta(64, 64), meta(64, 64))
    kernels = form_kernels(work)
    capacity = tensors * TENSOR + 1.0
    places = managed(kernels, work, capacity, reserve=0.0)
    seen: set[int] = set()
    for kernel, place in zip(kernels, places, strict=True):
        assert place.occupied_bytes <= capacity
        assert place.found <= set(kernel.reads) & seen
        assert place.kept <= set(kernel.writes)
        seen |= {*kernel.reads, *kernel.writes}


@settings(max_examples=100, deadline=None)
@given(programs(slices=False))
def test_with_room_for_everything_external_traffic_is_compulsory(program: Callable[[Tensor, Tensor], Tensor]) -> None:
    work = work_of(program, meta(64, 64), meta(64, 64))
    kernels = form_kernels(work)
    places = managed(kernels, work, 1e12, reserve=0.0)
    read = sum(b for k, p in zip(kernels, places, strict=True) for t, b in k.reads.items() if t not in p.found)
    used = {t for k in kernels for t in k.reads if work.tensors[t].producer is None}
    assert read == sum(work.tensors[t].nbytes for t in used)
    written = {t for k, p in zip(kernels, places, strict=True) for t in k.writes if t not in p.kept}
    unread = {t for k in kernels for t in k.writes} - {t for k in kernels for t in k.reads}
    assert all(work.tensors[t].is_output or t in unread for t in written)
    assert sum(p.evicted_bytes for p in places) == 0


@settings(max_examples=100, deadline=None)
@given(programs(), st.integers(1, 12), st.integers(1, 12))
def test_a_larger_cache_finds_no_less(program: Callable[[Tensor, Tensor], Tensor], a: int, b: int) -> None:
    work = work_of(program, meta(64, 64), meta(64, 64))
    kernels = form_kernels(work)
    small, large = (cached(kernels, work, n * TENSOR) for n in sorted((a, b)))
    for one, other in zip(small, large, strict=True):
        assert one.found <= other.found
        assert one.kept <= other.kept


def test_without_capacity_nothing_is_found() -> None:
    def program(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y).softmax(-1) @ y

    work = work_of(program, meta(64, 64), meta(64, 64))
    kernels = form_kernels(work)
    assert not any(p.found or p.kept for p in managed(kernels, work, 1.0, reserve=0.0))
    assert not any(p.found or p.kept for p in cached(kernels, work, 0.0))
