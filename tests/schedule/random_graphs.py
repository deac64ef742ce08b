"""Random graphs of tasks from a fixed generator, with capacities around their working sets."""

from __future__ import annotations

import random

from torch_regflat.schedule.timeline.graph import Data, Graph, Machine, Task


def random_graph(rng: random.Random, most: int, engines: int = 1, parts: bool = True) -> Graph:
    """Up to `most` tasks that read earlier results and data from outside, some of it twice, with `parts` in part."""
    data = {d: Data(rng.randint(1, 40), outside=True) for d in range(rng.randint(1, most))}
    sources = list(data)
    results: list[int] = []
    tasks: list[Task] = []
    for _ in range(rng.randint(2, most)):
        reads = {}
        for d in (*rng.sample(results, min(len(results), rng.randint(0, 2))), *rng.sample(sources, rng.randint(0, 1))):
            reads[d] = data[d].size * (rng.uniform(0.0, 0.9) if parts and rng.random() < 0.1 else 1.0)
        writes = {}
        if results and rng.random() < 0.15:
            d = rng.choice(results)
            writes[d] = data[d].size * (rng.choice((0.25, 1.0)) if parts else 1.0)
            if rng.random() < 0.7:
                reads.setdefault(d, data[d].size)
        if not writes or rng.random() < 0.3:
            d = len(data)
            data[d] = Data(rng.randint(1, 40), leaves=rng.random() < 0.15)
            writes[d] = data[d].size
            results.append(d)
        core = rng.choice((0.0, rng.uniform(0, 10), rng.uniform(0, 60)))
        work = rng.choice((0, rng.randint(0, 8)))
        tasks.append(Task(core, reads, writes, work, rng.choice((0.0, 0.5)), rng.randrange(engines)))
    read = {d for task in tasks for d in task.reads}
    for d in results:
        if d not in read:
            data[d] = Data(data[d].size, leaves=True)
    return Graph(tasks, data)


def working_set(graph: Graph) -> float:
    """The most bytes that are alive at once, with the buffers of the task that runs."""
    last: dict[int, int] = {}
    first: dict[int, int] = {}
    for i, task in enumerate(graph.tasks):
        for d in (*task.reads, *task.writes):
            last[d] = i
            first.setdefault(d, i)
    return max(
        task.workspace + sum(graph.data[d].size for d in first if first[d] <= i <= last[d])
        for i, task in enumerate(graph.tasks)
    )


def random_case(seed: int, most: int, engines: int = 1) -> tuple[Graph, Machine]:
    """A graph and a machine with half to twice its working set on chip."""
    rng = random.Random(seed)
    graph = random_graph(rng, most, engines)
    room = max(working_set(graph) * rng.uniform(0.5, 2.0), *(task.workspace for task in graph.tasks))
    return graph, Machine(room, rng.choice((0.5, 1.0, 4.0)))
