"""Schedules of random graphs: an independent replay finds nothing that cannot happen, no bound is beaten, and small
graphs are scheduled nearly as well as the best of all orders and residencies."""

from __future__ import annotations

import dataclasses
import random

import pytest

from torch_regflat.schedule.timeline.bounds import lower_bound
from torch_regflat.schedule.timeline.channel import Segment
from torch_regflat.schedule.timeline.graph import Machine
from torch_regflat.schedule.timeline.records import Schedule
from torch_regflat.schedule.timeline.search import schedule

from .brute_force import best
from .random_graphs import random_case
from .replay import end_with_port, replay


def test_ten_thousand_schedules_can_happen() -> None:
    for seed in range(10_000):
        graph, machine = random_case(seed, 14, engines=2 if seed % 10 == 9 else 1)
        found = schedule(graph, machine, effort=1).schedule
        assert not list(replay(graph, machine, found)), seed
        assert found.end_s >= lower_bound(graph, machine) * (1 - 1e-9), seed


def test_schedules_with_a_port_can_happen() -> None:
    """Tasks use the port for up to twice their time, and a second of the channel takes up to 0.6 of it. In nine of ten
    the end is within 1 % of a replay in which every task gets what loads leave of the port."""
    late, ratios = 0, []
    for seed in range(30_000, 30_600):
        graph, machine = random_case(seed, 14)
        rng = random.Random(seed)
        tasks = [dataclasses.replace(task, port_s=task.core_s * rng.uniform(0.0, 2.0)) for task in graph.tasks]
        graph = dataclasses.replace(graph, tasks=tasks)
        machine = dataclasses.replace(machine, port=rng.choice((0.05, 0.1, 0.3, 0.6)))
        found = schedule(graph, machine, effort=1).schedule
        assert not list(replay(graph, machine, found)), seed
        late += any("on-chip ports" in placed.stalls for placed in found.tasks)
        ratios.append(max(p.end_s for p in found.tasks) / end_with_port(graph, machine, found))
    assert late > 100
    assert max(ratios) <= 1 + 1e-9 and min(ratios) > 0.85
    assert sorted(ratios)[60] > 0.99


def test_searched_schedules_can_happen() -> None:
    for seed in range(20_000, 20_100):
        graph, machine = random_case(seed, 9)
        found = schedule(graph, machine, effort=500).schedule
        assert not list(replay(graph, machine, found)), seed
        assert found.end_s >= lower_bound(graph, machine) * (1 - 1e-9), seed


@pytest.mark.slow
def test_small_graphs_are_scheduled_nearly_as_well_as_can_be() -> None:
    ratios = []
    for seed in range(100_000, 100_300):
        graph, machine = random_case(seed, 7)
        found = schedule(graph, machine).schedule.end_s
        ratios.append(found / best(graph, machine, found, lower_bound(graph, machine)))
    optimal = sum(ratio <= 1 + 1e-6 for ratio in ratios)
    assert optimal >= 0.9 * len(ratios)
    assert max(ratios) <= 1.1


def broken(what: str) -> tuple[Schedule, list[str]]:
    """The words of the replay about a schedule that was tampered with."""
    graph, machine = random_case(3, 12)
    found = schedule(graph, machine, effort=1).schedule
    assert not list(replay(graph, machine, found))
    if what == "late data":
        transfer = next(t for t in found.transfers if t.what == "load")
        shift = found.end_s
        transfer.segments[:] = [Segment(s.start + shift, s.end + shift, s.rate) for s in transfer.segments]
    elif what == "early task":
        last = found.tasks[-1]
        last.start_s, last.go_s, last.end_s = 0.0, last.go_s - last.start_s, last.end_s - last.start_s
    elif what == "bandwidth":
        for transfer in found.transfers:
            halves = [Segment(s.start, (s.start + s.end) / 2, s.rate * 2) for s in transfer.segments]
            transfer.segments[:] = halves
    elif what == "capacity":
        machine = dataclasses.replace(machine, capacity=max(b for _, b in found.occupancy) * 0.8)
    elif what == "lost data":
        found.transfers[:] = [t for t in found.transfers if t.what == "load"]
    return found, list(replay(graph, Machine(machine.capacity, machine.bandwidth), found))


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("late data", "before what it loads"),
        ("early task", "before task"),
        ("bandwidth", "bandwidth"),
        ("capacity", "on chip"),
        ("lost data", "does not leave"),
    ],
)
def test_the_replay_notices_what_cannot_happen(what: str, word: str) -> None:
    _, words = broken(what)
    assert any(word in one for one in words), words
