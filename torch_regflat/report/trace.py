"""A trace: Chrome's JSON ("Trace Event Format"), as Perfetto and TensorBoard read it.

A process a chip; tracks for modules, kernels, waits, what each engine, port and memory does, each direction of the
external channel, and the links to other chips; arrows from a load to its kernel and from a kernel to its store;
counters of bandwidth, power and on-chip occupancy. Times are whole nanoseconds, written in microseconds as the format
asks for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..result import ChipResult, KernelCost, Result
from ..timeline import Timeline
from .spans import lanes, nested, sweep
from .text import printable
from .timelines import matched

Event = dict[str, Any]


def render(result: Result, *, timelines: Sequence[Timeline] = ()) -> str:
    """The trace as JSON text. Without the time line of a chip its kernels run one after the other, by their shares."""
    by_chip = matched(result, timelines)
    events: list[Event] = []
    for number, chip in enumerate(result.chips, 1):
        events += _Chip(number, chip, result, by_chip.get(chip.chip)).events()
    about = {"model": result.model, "phase": result.phase, "cost model": result.model_version, **result.versions}
    document = {
        "schemaVersion": 1,
        "displayTimeUnit": "ns",
        "otherData": {"made by": "torch_regflat, a model and not a measurement", **about},
        "traceEvents": events,
    }
    return json.dumps(document, allow_nan=False, separators=(",", ":")) + "\n"


@dataclass(frozen=True, slots=True)
class _Run:
    """A kernel in time, in nanoseconds."""

    kernel: KernelCost
    begin: int
    end: int


class _Chip:
    """The events of one chip."""

    def __init__(self, process: int, chip: ChipResult, result: Result, line: Timeline | None) -> None:
        self.process, self.chip, self.line = process, chip, line
        self.title = f"{chip.chip}: {result.model} {result.phase}" + ("" if chip.fit.fits else ", hypothetical")
        self.external = chip.levels[-1].name if chip.levels else ""
        self.tracks = 0
        self.place: dict[int, int] = {}
        """Track of each kernel."""
        self.runs = [_Run(kernel, *_span(kernel, line, i)) for i, kernel in enumerate(chip.kernels)]

    def events(self) -> list[Event]:
        return [
            {"ph": "M", "name": "process_name", "pid": self.process, "args": {"name": printable(self.title)}},
            {"ph": "M", "name": "process_sort_index", "pid": self.process, "args": {"sort_index": self.process}},
            *self._modules(),
            *self._kernels(),
            *self._waits(),
            *self._transfers(),
            *self._resources(),
            *self._counters(),
        ]

    def _modules(self) -> Iterator[Event]:
        """Modules as they nest, each as long as its kernels that follow one another."""
        track = yield from self._track("modules")
        for path, begin, end in nested((run.kernel.path, run.begin, run.end) for run in self.runs):
            name = path.rpartition(".")[2] or "(top level)"
            yield self._slice(track, name, "module", begin, end, {"module": path})

    def _kernels(self) -> Iterator[Event]:
        for label, members in lanes("kernels", [(run.begin, run.end) for run in self.runs]):
            track = yield from self._track(label)
            for index in members:
                run = self.runs[index]
                self.place[index] = track
                facts = {"device": self.process, "stream": track, **_facts(run.kernel)}  # as TensorBoard has them
                yield self._slice(track, run.kernel.name, "kernel", run.begin, run.end, facts)

    def _waits(self) -> Iterator[Event]:
        """What engines waited for, drawn at the end of the kernel in which they did, launches at its beginning."""
        if self.line is None:
            return
        spans = []
        for run, span in zip(self.runs, self.line.kernels, strict=True):
            if span.waits_s.get("launch"):
                spans.append(("launch", run.begin, min(run.begin + _ns(span.waits_s["launch"]), run.end), run))
            others = {cause: s for cause, s in span.waits_s.items() if cause != "launch"}
            if others:
                longest = max(others, key=lambda cause: (others[cause], cause))
                begin = max(run.end - _ns(math.fsum(others.values())), run.begin)
                spans.append((longest, begin, run.end, run))
        for label, members in lanes("waits", [(begin, end) for _, begin, end, _ in spans]):
            track = yield from self._track(label)
            for index in members:
                cause, begin, end, run = spans[index]
                facts = {"kernel": run.kernel.name, "module": run.kernel.path}
                yield self._slice(track, cause, "wait", begin, end, facts)

    def _transfers(self) -> Iterator[Event]:
        """Transfers on the external channel and on links, with an arrow from a load to its kernel, or from a kernel to
        its store."""
        if self.line is None:
            return
        arrow = self.process << 40
        for over, what in dict.fromkeys((one.resource, one.what) for one in self.line.transfers):
            moved = [one for one in self.line.transfers if (one.resource, one.what) == (over, what)]
            for label, members in lanes(f"{over} {what}", [(_ns(t.start_s), _ns(t.end_s)) for t in moved]):
                track = yield from self._track(label)
                for index in members:
                    one = moved[index]
                    begin, end = _ns(one.start_s), _ns(one.end_s)
                    name = ", ".join(one.tensors) or what
                    facts = {"bytes": one.size_bytes, "waited for": one.waited_for or "nothing"}
                    yield self._slice(track, name, what, begin, end, facts)
                    arrow += 1
                    run, own = self.runs[one.kernel], self.place[one.kernel]
                    if what == "load":
                        yield self._arrow("s", arrow, track, begin)
                        yield self._arrow("f", arrow, own, max(run.begin, begin))
                    elif begin >= run.begin:
                        yield self._arrow("s", arrow, own, run.begin)
                        yield self._arrow("f", arrow, track, begin)

    def _resources(self) -> Iterator[Event]:
        """How long each engine, port and memory needs for each kernel, from the kernel's beginning."""
        links = {link.name for link in self.chip.links}
        known = {self.external, "launch", *links} if self.line is not None else set()
        names = dict.fromkeys(name for run in self.runs for name in run.kernel.busy_s if name not in known)
        for name in names:
            busy = [run for run in self.runs if run.kernel.busy_s.get(name)]
            spans = [(run.begin, min(run.begin + _ns(run.kernel.busy_s[name]), run.end)) for run in busy]
            for label, members in lanes(name, spans):
                track = yield from self._track(label)
                for index in members:
                    run, (begin, end) = busy[index], spans[index]
                    facts = {"busy_s": run.kernel.busy_s[name], "module": run.kernel.path}
                    yield self._slice(track, run.kernel.name, "resource", begin, end, facts)

    def _counters(self) -> Iterator[Event]:
        for level in self.chip.everywhere:
            yield from self._counter(f"{level.name} bandwidth (GB/s)", self._bandwidth(level.name), 1e9)
        power = ((run.begin, run.end, run.kernel.energy_j) for run in self.runs)
        yield from self._counter("power (W)", sweep(power))
        if self.line is not None and self.line.on_chip:
            taken = [(_ns(seconds), size) for seconds, size in self.line.on_chip]
            yield from self._counter("on chip (MB)", taken, 1e6)

    def _bandwidth(self, level: str) -> list[tuple[int, float]]:
        if self.line is not None and level in (self.external, *(link.name for link in self.chip.links)):
            moved = (t for t in self.line.transfers if t.resource == level)
            return sweep((_ns(t.start_s), _ns(t.end_s), t.size_bytes) for t in moved)
        return sweep((run.begin, run.end, run.kernel.traffic_bytes.get(level, 0.0)) for run in self.runs)

    def _counter(self, name: str, steps: Iterable[tuple[int, float]], unit: float = 1.0) -> Iterator[Event]:
        for time, value in steps:
            own = {"pid": self.process, "tid": 0, "ts": time / 1000}
            yield {"ph": "C", "name": name, **own, "args": {"value": value / unit}}

    def _track(self, name: str) -> Generator[Event, None, int]:
        """Name the next track, and say which it is."""
        self.tracks += 1
        own = {"pid": self.process, "tid": self.tracks}
        yield {"ph": "M", "name": "thread_name", **own, "args": {"name": printable(name)}}
        yield {"ph": "M", "name": "thread_sort_index", **own, "args": {"sort_index": self.tracks}}
        return self.tracks

    def _slice(self, track: int, name: str, kind: str, begin: int, end: int, facts: dict[str, Any]) -> Event:
        own = {"pid": self.process, "tid": track, "ts": begin / 1000, "dur": (end - begin) / 1000}
        return {"ph": "X", "name": printable(name), "cat": kind, **own, "args": facts}

    def _arrow(self, end: str, number: int, track: int, time: int) -> Event:
        own = {"id": number, "pid": self.process, "tid": track, "ts": time / 1000}
        return {"ph": end, "name": "data", "cat": "data", **own, **({"bp": "e"} if end == "f" else {})}


def _span(kernel: KernelCost, line: Timeline | None, index: int) -> tuple[int, int]:
    if line is None:
        return _ns(kernel.start_s), _ns(kernel.start_s + kernel.latency_s)
    return _ns(line.kernels[index].start_s), _ns(line.kernels[index].end_s)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _facts(kernel: KernelCost) -> dict[str, Any]:
    facts = {
        "module": kernel.path,
        "operators": ", ".join(dict.fromkeys(part.target for part in kernel.parts)),
        "shapes": kernel.parts[0].shapes if kernel.parts else "",
        "bound by": kernel.bound_by,
        "mapping": kernel.mapping,
        "dtype": kernel.dtype,
        "phase": kernel.phase,
        "latency_s": kernel.latency_s,
        "latency_low_s": kernel.latency_low_s,
        "latency_high_s": kernel.latency_high_s,
        "energy_j": kernel.energy_j,
        "executed_flops": kernel.executed_flops,
        "utilization": kernel.utilization,
        **{f"{level} bytes": size for level, size in kernel.traffic_bytes.items()},
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}
