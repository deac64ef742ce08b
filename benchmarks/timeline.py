"""The scheduler in time: its speed on long graphs, and the time line of large models after capture.

Run with `python -m benchmarks.timeline`; `--models` adds the two large models (about 20 s of capture).
"""

from __future__ import annotations

import gc
import sys
import time

from torch_regflat.schedule.timeline.graph import Data, Graph, Machine, Task
from torch_regflat.schedule.timeline.search import schedule

CHIPS = ("h100-sxm", "regflat-ideal", "regflat-physical", "regflat-pessimistic")


def layers(count: int) -> Graph:
    """A decoder-like graph of `count` kernels: weights from outside, a residual that lives over several kernels."""
    data = {0: Data(4.0, outside=True)}
    tasks: list[Task] = []
    stream = value = 0
    for i in range(count):
        weight, result = len(data), len(data) + 1
        data[weight] = Data(10.0 + i % 7, outside=True)
        data[result] = Data(4.0)
        reads = {value: 4.0, weight: data[weight].size}
        if i % 6 == 5:
            reads[stream] = 4.0
            stream = result
        tasks.append(Task(8.0 + i % 11, reads, {result: 4.0}, workspace=2.0, launch_s=0.1))
        value = result
    data[value] = Data(4.0, leaves=True)
    return Graph(tasks, data)


def long_graphs() -> None:
    print(f"{'kernels':>10} {'seconds':>8} {'of CPU':>8} {'us/kernel':>10}")
    gc.disable()  # as profile() does
    for count in (1_000, 10_000, 100_000):
        graph = layers(count)
        begin, busy = time.perf_counter(), time.process_time()
        schedule(graph, Machine(60.0, 1.0))
        seconds, busy = time.perf_counter() - begin, time.process_time() - busy
        print(f"{count:>10} {seconds:>8.2f} {busy:>8.2f} {busy / count * 1e6:>10.1f}")
    gc.enable()


def models() -> None:
    import torch_regflat as regflat

    for name, options in (("kimi-k2", {"phase": "decode", "context": 4096}), ("llama-3-70b", {"phase": "prefill"})):
        prof = regflat.profile_model(name, chips=list(CHIPS), **options)  # type: ignore[arg-type]
        for chip in CHIPS:
            begin, busy = time.perf_counter(), time.process_time()
            line = prof.timeline(chip)
            seconds, busy = time.perf_counter() - begin, time.process_time() - busy
            print(f"{name:>12} {chip:>20}: {len(line.kernels)} kernels in {seconds:.2f} s, {busy:.2f} s of CPU")


if __name__ == "__main__":
    long_graphs()
    if "--models" in sys.argv:
        models()
