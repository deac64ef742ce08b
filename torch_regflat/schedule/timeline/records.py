"""What a schedule consists of: tasks and transfers with their times, data on chip, and what is waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .channel import Segment

BANDWIDTH, CAPACITY, WRITE_BACK, DEPENDENCY = "external bandwidth", "on-chip capacity", "write-back", "dependency"
LAUNCH, STORES, AHEAD, KERNEL, NETWORK = "launch", "stores at the end", "look-ahead", "kernel", "network"


@dataclass(frozen=True, slots=True)
class Timing:
    """What a task takes: seconds on its engine, of launch, and of the channel alone for loads, stores and evictions."""

    core_s: float
    launch_s: float
    load_s: float
    store_s: float
    evict_s: float
    load_bytes: float
    store_bytes: float
    workspace: float
    engine: int = 0


@dataclass(slots=True)
class Transfer:
    """Bytes of some data that cross the border for a task: `load`, `store` or `write-back`.

    `waited_for` says why it did not start sooner; `KERNEL` where it moves as its task computes.
    """

    task: int
    what: str
    data: tuple[int, ...]
    size: float
    segments: list[Segment]
    waited_for: str = ""
    resource: str = ""
    """What it moves over, where that is not the external channel."""


@dataclass(slots=True)
class Placed:
    """A task in time. It takes its engine from `start_s`, computes from `go_s` and is done at `end_s`.

    `stalls` says for how many seconds its engine had nothing to do before or during it, by cause. `buffers` is what it
    takes on chip while it runs, besides data that stays.
    """

    task: int
    start_s: float
    go_s: float
    end_s: float
    stalls: dict[str, float]
    buffers: float
    staged: float
    engine: int = 0


@dataclass(slots=True)
class Stay:
    """Data on chip, whole: from the start of the task that loads or makes it, until its space is free again."""

    data: int
    start_s: float
    end_s: float | None = None


@dataclass
class Schedule:
    """Everything that happens, in order of issue."""

    tasks: list[Placed] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    stays: list[Stay] = field(default_factory=list)
    end_s: float = 0.0
    occupancy: list[tuple[float, float]] = field(default_factory=list)
    """(time, bytes on chip from then on)."""


def number(value: Any) -> float:
    """A float of a float, or of a scalar of torch without its gradient."""
    return float(value.detach()) if hasattr(value, "detach") else value


def latest(times: Sequence[float]) -> float:
    latest = times[0]
    for time in times:
        if time > latest:
            latest = time
    return latest
