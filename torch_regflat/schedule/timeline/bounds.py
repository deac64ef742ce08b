"""What no schedule can beat: the engines' work, the bytes that have to cross the border, the longest chain."""

from __future__ import annotations

from .graph import Graph, Machine


def lower_bound(graph: Graph, machine: Machine) -> float:
    """Seconds that any order, any residency and any overlap need at least."""
    return max(engine_s(graph), compulsory_bytes(graph) / machine.bandwidth, chain_s(graph))


def engine_s(graph: Graph) -> float:
    """Seconds of the busiest engine."""
    busy: dict[int, float] = {}
    for task in graph.tasks:
        busy[task.engine] = busy.get(task.engine, 0.0) + task.core_s + task.launch_s
    return max(busy.values(), default=0.0)


def compulsory_bytes(graph: Graph) -> float:
    """Bytes from outside that are read before anything overwrites them, and bytes that have to be outside at the end,
    each once."""
    read: dict[int, float] = {}
    written: dict[int, float] = {}
    for task in graph.tasks:
        for d, size in task.reads.items():
            if graph.data[d].outside and d not in written:
                read[d] = max(read.get(d, 0.0), size)
        for d, size in task.writes.items():
            if graph.data[d].leaves:
                written[d] = max(written.get(d, 0.0), size)
            else:
                written.setdefault(d, 0.0)
    return sum(read.values()) + sum(written.values())


def chain_s(graph: Graph) -> float:
    """Seconds of the longest chain of tasks that wait for each other."""
    ends: list[float] = []
    for task, before in zip(graph.tasks, graph.waits_for(), strict=True):
        ends.append(max((ends[b] for b in before), default=0.0) + task.core_s + task.launch_s)
    return max(ends, default=0.0)
