"""The time line of kernels on chips: shares add up, what is turned off adds up, GPUs run kernel by kernel."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_regflat.cost.shapes import KernelShape
from torch_regflat.schedule.select import Choice
from torch_regflat.schedule.timeline.bounds import compulsory_bytes
from torch_regflat.schedule.timeline.chip import serial
from torch_regflat.schedule.timeline.graph import Data, Graph, Machine, Task
from torch_regflat.schedule.timeline.search import Found, schedule

from .random_graphs import random_case, random_graph

seconds = st.floats(0.0, 1.0)
EMPTY = KernelShape("pointwise", "float32", (1, 1, 1, 1), (), (), 0.0, 0.0, 0.0)


def choice(latency: float) -> Choice:
    return Choice(
        latency_s=latency,
        core_s=latency,
        external_s=0.0,
        overhead_s=0.0,
        resources_s={"compute": latency},
        stretch=1.0,
        read_bytes=(0.0, 0.0),
        write_bytes=(0.0, 0.0),
        level_energy_j=(0.0, 0.0),
        compute_energy_j=0.0,
        unattributed_energy_j=0.0,
        static_energy_j=0.0,
        operand_far_bytes=(),
        tile=(1.0, 1.0, 1.0, 1.0),
        shape=EMPTY,
        mapping="",
        candidates=1,
        legal=1,
        reason="",
    )


@given(st.lists(seconds, min_size=1, max_size=20))
def test_serial_kernels_follow_each_other(kernels: list[float]) -> None:
    slots = serial([choice(s) for s in kernels])
    assert slots[-1].end_s == pytest.approx(math.fsum(kernels))
    assert all(a.end_s == b.start_s for a, b in itertools.pairwise(slots))


def weighted(*kernels: tuple[float, float], capacity: float) -> Found:
    """A chain of kernels of (seconds, bytes of weights) on a machine that moves a byte a second."""
    data = {i: Data(size, outside=True) for i, (_, size) in enumerate(kernels)}
    tasks = [Task(core, {i: data[i].size}, after=(i - 1,) if i else ()) for i, (core, _) in enumerate(kernels)]
    return schedule(Graph(tasks, data), Machine(capacity, 1.0))


def test_weights_of_the_next_kernel_load_while_this_one_computes() -> None:
    assert weighted((10, 5), (10, 9), capacity=100).schedule.end_s == pytest.approx(20.0)
    # Without room beside the first, the second loads after it, while it computes.
    assert weighted((1, 4), (1, 9), capacity=4).schedule.end_s == pytest.approx(4 + 9)
    assert weighted((10, 1), (1, 9), capacity=1).schedule.end_s == pytest.approx(10 + 8)
    assert weighted((10, 1), (1, 9), capacity=100).schedule.end_s == pytest.approx(10 + 1)


@pytest.mark.parametrize(
    ("port_s", "port", "ends"),
    [((10.0, 0.0), 0.5, 22.5), ((5.0, 0.0), 0.5, 20.0), ((8.0, 0.0), 0.5, 20.5), ((10.0, 0.0), 0.0, 20.0)],
)
def test_loads_take_the_port_of_the_kernel_that_runs(port_s: tuple[float, float], port: float, ends: float) -> None:
    """Loads of 5 s of the channel beside a kernel of 10 s that uses the port for so long: what it does not leave free
    holds it up, and so the next one."""
    tasks = [Task(10.0, port_s=port_s[0]), Task(10.0, {0: 5.0}, after=(0,), port_s=port_s[1])]
    found = schedule(Graph(tasks, {0: Data(5.0, outside=True)}), Machine(100.0, 1.0, port=port)).schedule
    assert found.end_s == pytest.approx(ends)
    assert found.tasks[1].stalls.get("on-chip ports", 0.0) == pytest.approx(ends - 20.0)


def test_a_kernel_does_not_pay_for_what_was_loaded_before_it() -> None:
    """8 s of the port by itself, 10 with its loads, which came while the kernel before left the port free."""
    tasks = [Task(10.0), Task(4.0, {0: 4.0}, after=(0,), port_s=8.0)]
    data = {0: Data(4.0, outside=True)}
    assert schedule(Graph(tasks, data), Machine(100.0, 1.0, port=0.5)).schedule.end_s == pytest.approx(18.0)
    alone = Graph([dataclasses.replace(tasks[1], after=())], data)
    assert schedule(alone, Machine(100.0, 1.0, port=0.5)).schedule.end_s == pytest.approx(10.0)


def test_one_kernel_takes_the_longer_of_computing_and_moving() -> None:
    graph = Graph([Task(3.0, {0: 4.0}, {1: 2.0})], {0: Data(4.0, outside=True), 1: Data(2.0, leaves=True)})
    assert schedule(graph, Machine(100.0, 1.0)).schedule.end_s == pytest.approx(6.0)
    assert schedule(graph, Machine(100.0, 4.0)).schedule.end_s == pytest.approx(3.0)


def test_transfers_at_the_same_time_share_the_bandwidth() -> None:
    """A store of half the bandwidth, at the pace of its task, leaves the other half to the next load."""
    data = {0: Data(8.0, leaves=True), 1: Data(8.0, outside=True), 2: Data(1.0, leaves=True)}
    graph = Graph([Task(16.0, {}, {0: 8.0}), Task(1.0, {1: 8.0}, {2: 1.0})], data)
    found = schedule(graph, Machine(100.0, 1.0)).schedule
    load = next(t for t in found.transfers if t.what == "load")
    assert load.segments[0].rate == pytest.approx(0.5)
    assert load.segments[-1].end == pytest.approx(16.0)


def test_what_is_evicted_while_it_is_needed_is_written_back_and_loaded_again() -> None:
    data = {0: Data(6.0), 1: Data(6.0), 2: Data(1.0, leaves=True), 3: Data(1.0, leaves=True)}
    uses = [({}, {0: 6.0}), ({}, {1: 6.0}), ({1: 6.0}, {2: 1.0}), ({0: 6.0}, {3: 1.0})]
    graph = Graph([Task(1.0, reads, writes) for reads, writes in uses], data)
    roomy, tight = (schedule(graph, Machine(capacity, 1.0), effort=1).schedule for capacity in (20.0, 8.0))
    # Results leave at the pace of their making.
    assert roomy.end_s == pytest.approx(4.0)
    assert [t.what for t in roomy.transfers] == ["store", "store"]
    moved = {what: sum(t.size for t in tight.transfers if t.what == what) for what in ("write-back", "load")}
    assert moved == {"write-back": 6.0, "load": 6.0}


@pytest.mark.parametrize("seed", range(60))
def test_without_prefetch_and_overlap_time_is_the_sum(seed: int) -> None:
    graph, machine = random_case(seed, 12)
    apart = Machine(machine.capacity, machine.bandwidth, prefetch=False, overlap=False)
    found = schedule(graph, apart, effort=1).schedule
    computing = sum(task.core_s + task.launch_s for task in graph.tasks)
    moving = sum(t.size for t in found.transfers) / machine.bandwidth
    assert found.end_s == pytest.approx(computing + moving)
    together = schedule(graph, machine, effort=1).schedule
    assert together.end_s <= found.end_s * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(200))
def test_with_room_for_everything_traffic_is_compulsory(seed: int) -> None:
    graph = random_graph(random.Random(seed), 12, parts=False)
    found = schedule(graph, Machine(1e9, 1.0), effort=1).schedule
    assert sum(t.size for t in found.transfers) == pytest.approx(compulsory_bytes(graph))


@pytest.mark.parametrize("seed", range(100))
def test_computing_and_stalls_add_up_to_the_makespan(seed: int) -> None:
    graph, machine = random_case(seed, 12)
    found = schedule(graph, machine, effort=1).schedule
    last = max(p.end_s for p in found.tasks)
    stalls = sum(s for p in found.tasks for s in p.stalls.values())
    assert sum(task.core_s for task in graph.tasks) + stalls == pytest.approx(last)
    assert all(s > 0 for p in found.tasks for s in p.stalls.values())
    assert max(size for _, size in found.occupancy) <= machine.capacity * (1 + 1e-6)
