"""Schedules of random graphs: an independent replay finds nothing that cannot happen, and no bound is beaten."""

from __future__ import annotations

import pytest

from torch_regflat.schedule.timeline.bounds import lower_bound
from torch_regflat.schedule.timeline.search import schedule

from .random_graphs import random_case
from .replay import replay


def check(seeds: range, most: int, engines: int = 1) -> None:
    for seed in seeds:
        graph, machine = random_case(seed, most, engines)
        found = schedule(graph, machine, effort=60).schedule
        assert not list(replay(graph, machine, found)), seed
        assert found.end_s >= lower_bound(graph, machine) * (1 - 1e-9), seed


def test_schedules_of_random_graphs_can_happen() -> None:
    check(range(400), 14)
    check(range(400, 500), 14, engines=2)
