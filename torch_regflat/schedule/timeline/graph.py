"""What a schedule is made for: data with sizes, tasks that read and write it, and a machine that runs them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

WHOLE = 0.999
"""Data counts as touched whole from this share of its bytes on: only then may it stay on chip afterwards."""


@dataclass(frozen=True, slots=True)
class Data:
    """A tensor of `size` bytes. It lies `outside` (in external memory) at the start, or else some task writes it first;
    where it `leaves`, its last value has to be outside at the end.
    """

    size: float
    outside: bool = False
    leaves: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """A kernel: seconds on its engine after `launch_s`, what it reads and writes (data to bytes), its tile buffers.

    While it runs, `workspace` bytes hold the tiles of what streams through it. `after` are tasks that have to end first
    for other reasons than data.
    """

    core_s: float
    reads: Mapping[int, float] = field(default_factory=dict)
    writes: Mapping[int, float] = field(default_factory=dict)
    workspace: float = 0.0
    launch_s: float = 0.0
    engine: int = 0
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class Graph:
    """Tasks in program order: a read sees what the latest task before it has written."""

    tasks: Sequence[Task]
    data: Mapping[int, Data]

    def waits_for(self) -> list[tuple[int, ...]]:
        """Of each task, the tasks that have to end before it starts."""
        return waits_for([(task.reads, task.writes, task.after) for task in self.tasks])


def waits_for(
    tasks: Iterable[tuple[Iterable[int], Iterable[int], Iterable[int]]],
) -> list[tuple[int, ...]]:
    """Of each of (reads, writes, others it waits for), those before it that have to end first: reads come after writes,
    writes after either."""
    writer: dict[int, int] = {}
    readers: dict[int, list[int]] = {}
    found = []
    for index, (reads, writes, after) in enumerate(tasks):
        before = set(after)
        before |= {writer[d] for d in (*reads, *writes) if d in writer}
        for d in writes:
            before.update(readers.pop(d, ()))
            writer[d] = index
        for d in reads:
            readers.setdefault(d, []).append(index)
        found.append(tuple(sorted(before - {index})))
    return found


@dataclass(frozen=True, slots=True)
class Machine:
    """On-chip bytes, and bytes a second of the external channel, which loads and stores share.

    `prefetch` and `overlap` can be turned off, to see what they are worth: without prefetch no load starts before its
    task may, without overlap a task loads, then computes, then stores, and nothing runs beside it. `window` is how many
    tasks ahead of its own a load may start.
    """

    capacity: float
    bandwidth: float
    prefetch: bool = True
    overlap: bool = True
    window: int = 32
