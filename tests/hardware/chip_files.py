"""A small chip file that the tests bend in one place at a time."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from torch_regflat.errors import ChipError
from torch_regflat.hardware.chip import Chip


def number(value: float, unit: str, **more: Any) -> dict[str, Any]:
    return {"value": value, "unit": unit, "source": "made up for tests", "kind": "estimate", **more}


SMALL: dict[str, Any] = {
    "schema": 1,
    "name": "small",
    "title": "A small chip",
    "vendor": "tests",
    "process": "none",
    "memory_system": "cache",
    "clock": number(1, "GHz"),
    "cores": {"name": "core", "count": number(4, "1")},
    "engines": [
        {"name": "array", "kind": "matrix", "rate": {"bf16": number(1000, "FLOP/clk/core")}},
        {"name": "lanes", "kind": "vector", "rate": {"fp32": number(100, "FLOP/clk/core")}},
    ],
    "memory": [
        {
            "name": "scratch",
            "scope": "core",
            "capacity": number(1, "MiB"),
            "read_bandwidth": number(64, "B/clk/core"),
            "latency": number(10, "cycles"),
        },
        {
            "name": "DRAM",
            "scope": "chip",
            "external": True,
            "capacity": number(10, "GB"),
            "read_bandwidth": number(100, "GB/s", low=80, high=110),
        },
    ],
    "power": {"limit": number(100, "W"), "static": number(10, "W")},
    "execution": {"launch_gap_stream": number(2, "us"), "launch_gap_graph": number(1000, "cycles")},
}


def small(**changes: Any) -> dict[str, Any]:
    """A copy of `SMALL` with items at dotted paths set; the value `...` removes one."""
    data = copy.deepcopy(SMALL)
    for path, value in changes.items():
        place: Any = data
        *steps, last = path.split(".")
        for step in steps:
            place = place[int(step)] if step.isdigit() else place[step]
        if value is ...:
            del place[int(last) if last.isdigit() else last]
        else:
            place[last] = value
    return data


def refused(**changes: Any) -> str:
    """The message with which the changed chip is refused."""
    with pytest.raises(ChipError) as caught:
        Chip.from_dict(small(**changes), "mine.toml")
    return str(caught.value)
