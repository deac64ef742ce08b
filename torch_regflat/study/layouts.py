"""`regflat.layouts`: every way to divide a model among so many chips, priced together.

A layout is captured with a few of the model's layers, which stand for those built alike (`capture.thin`), and divided
into stages afterwards: what a stage takes is the sum of its layers, and the tensor that it hands on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from .. import pipeline
from ..capture._torch_distributed import fake_ranks
from ..capture.huggingface import build, resolve
from ..capture.parallel import check_layout
from ..capture.prefill import sharing
from ..capture.record import no_collection
from ..capture.thin import Thin
from ..errors import CaptureError, InputError
from ..hardware.chip import Chip
from ..hardware.library import load
from ..layout import Layout, divisors
from ..profiler import Captured, capture_model
from ..progress import counted
from ..result import ChipResult, Parallel
from ..schedule.fit import fit, memory_of
from ..schedule.kernels import form_kernels
from ..schedule.modes import Execution
from ..schedule.run import Job, run_all
from ..sharded import SEND, even, share_of_batch, split, unit_of
from ..workload import Operation, Workload

TOGETHER = 48
"""Layouts priced at once: equal kernels of all are priced once."""


@dataclass(frozen=True)
class LayoutCost:
    """A layout and what a step takes on it. `needs_bytes` is that of the fullest chip."""

    layout: Layout
    parallel: Parallel
    needs_bytes: int
    has_bytes: int
    bound_by: str

    @property
    def fits(self) -> bool:
        return self.needs_bytes <= self.has_bytes

    @property
    def step_s(self) -> float:
        return self.parallel.step_s

    @property
    def energy_j(self) -> float:
        """Of all chips, for a step."""
        return self.parallel.energy_j


def layouts(
    model: str | nn.Module,
    chip: str | Path | Chip = "h100-sxm",
    *,
    chips: int,
    batch: int = 1,
    phase: str | None = None,
    micro_batches: int = 1,
    mode: str = "serving",
    progress: bool | None = None,
    **options: Any,
) -> list[LayoutCost]:
    """Every legal layout of a model on `chips` chips, the fastest first; those that do not fit last.

    `batch` is that of all chips; `options` (`seq_len`, `context`, `dtype`, `weights`, ...) are as of `profile_model`.
    Layouts that do not divide the model, its layers or the batch are left out. Raises `InputError` where none is left.
    """
    hardware, execution = load(chip), Execution.of(mode, options.pop("software", None), [load(chip)])
    if phase == "train":
        raise InputError("layouts are compared for inference; price a training step with profile_model(..., layout=)")
    module = build(resolve(model), dtype=options.pop("dtype", None)) if isinstance(model, str) else model
    name = model if isinstance(model, str) else type(module).__name__
    sizes: dict[str, Any] = {"batch": batch, "micro_batches": micro_batches, "phase": phase, "mode": mode}
    thin = Thin.of(module)
    wanted = list(legal(module, name, chips, batch, micro_batches, thin))
    if not wanted:
        raise InputError(f"no layout of {chips} chips divides {name} with a batch of {batch}")
    found: list[LayoutCost] = []
    if thin is not None:
        try:
            capture_model(module, thin=thin, **{**sizes, "micro_batches": 1, "batch": 1}, **options)
        except CaptureError:
            thin = None  # it counts its layers by its configuration
    with no_collection(), fake_ranks(chips), sharing(), counted("layouts", len(wanted), progress) as step:
        for start in range(0, len(wanted), TOGETHER):
            some = []
            for layout in wanted[start : start + TOGETHER]:
                some.append((layout, capture_model(module, layout=layout, thin=thin, **sizes, **options)))
                step(1)
            if thin is None:
                found += _whole(some, hardware, execution)
            else:
                found += _priced(some, thin, hardware, execution, micro_batches)
    return sorted(found, key=lambda cost: (not cost.fits, cost.step_s, str(cost.layout)))


def legal(
    module: nn.Module, name: str, chips: int, batch: int, micro_batches: int = 1, thin: Thin | None = None
) -> Iterator[Layout]:
    """The layouts of so many chips that divide a model, its layers and a batch."""
    layers = len(thin.kinds) if thin is not None else _longest(module)
    for pp in divisors(chips):
        for tp in divisors(chips // pp):
            dp = chips // pp // tp
            for ep in divisors(tp * dp):
                layout = Layout(tp, ep, pp, dp)
                with suppress(InputError):
                    check_layout(module, layout, name)
                    share_of_batch(batch, layout, micro_batches)
                    if pp <= layers:
                        yield layout


def _longest(module: nn.Module) -> int:
    """How many layers the longest list of a model has."""
    return max((len(part) for part in module.modules() if isinstance(part, nn.ModuleList)), default=1)


class _Parts:
    """What one layer of each kind takes on a chip, and what comes before the layers, after them, and between stages."""

    def __init__(self, captured: Captured, thin: Thin, chip: Chip) -> None:
        self.work, self.thin, self.chip = captured.workload, thin, chip
        self.places: dict[str, int | str] = {}
        """Of each module path the kept layer that it is in, or `before` or `after`."""
        seen = False
        for op in self.work:
            unit = unit_of(op.path)
            inside = unit is not None and unit[0] == thin.container
            seen = seen or inside
            where = int(unit[1]) if unit is not None and inside else "after" if seen else "before"
            self.places.setdefault(op.path, where)
        self.seconds: dict[int | str, float] = {}
        self.dynamic_j: dict[int | str, float] = {}
        self.bounds: dict[int | str, dict[str, float]] = {}
        self.bytes = self._held()

    def add(self, result: ChipResult, to: str | None = None) -> None:
        """Add the kernels of a result; to where each part's module is, or all to one place."""
        for kernel in result.kernels:
            for part in kernel.parts:
                place = self.places[part.path] if to is None else to
                seconds = kernel.latency_s * part.share
                joules = (kernel.energy_j - kernel.static_energy_j) * part.share
                self.seconds[place] = self.seconds.get(place, 0.0) + seconds
                self.dynamic_j[place] = self.dynamic_j.get(place, 0.0) + joules
                bounds = self.bounds.setdefault(place, {})
                bounds[kernel.bound_by] = bounds.get(kernel.bound_by, 0.0) + seconds

    def _held(self) -> dict[int | str, tuple[int, int]]:
        """(weights, caches) in bytes of each place, each storage where it is read first."""
        held: dict[int | str, tuple[int, int]] = {}
        counted: set[int] = set()
        for op in self.work:
            for tensor in op.inputs:
                known = self.work.tensors[tensor]
                if tensor in counted or known.producer is not None or known.role == "activation":
                    continue
                counted.add(tensor)
                weights, caches = held.get(self.places[op.path], (0, 0))
                cache = known.role == "kv_cache"
                held[self.places[op.path]] = (weights + known.nbytes * (not cache), caches + known.nbytes * cache)
        return held

    def stage(self, layers: range, first: bool, last: bool) -> list[tuple[int | str, float]]:
        """The places that a stage of these layers consists of, and how often each counts."""
        kinds, standing = self.thin.counts(layers), self.thin.standing_for()
        found: list[tuple[int | str, float]] = [(standing[kind], count) for kind, count in kinds.items()]
        found += [("before", 1.0)] if first else [("again", 1.0)]
        return found + ([("after", 1.0)] if last else [(SEND, 1.0)])


def _priced(
    some: Sequence[tuple[Layout, Captured]], thin: Thin, chip: Chip, execution: Execution, micro_batches: int
) -> list[LayoutCost]:
    """Layouts with the layers that are kept, and what their stages hand on, priced together."""
    jobs: list[Job] = []
    for layout, captured in some:
        jobs.append(captured.job(chip))
        jobs += [_job(work, captured, chip) for work in _between(captured.workload, layout)]
    results = iter(run_all(jobs, chip, execution.software_of(chip), conditions=execution.mode.conditions))
    found = []
    for layout, captured in some:
        parts = _Parts(captured, thin, chip)
        parts.add(next(results))
        for place in ("again", SEND) if layout.pp > 1 else ():
            parts.add(next(results), place)
        found.append(_cost(parts, layout, micro_batches))
    return found


def _job(work: Workload, captured: Captured, chip: Chip) -> Job:
    return Job(work, form_kernels(work, captured.mode), fit(work, chip))


def _between(work: Workload, layout: Layout) -> list[Workload]:
    """Of a pipeline, what a stage computes again of what comes before the layers, and what it hands on."""
    if layout.pp == 1:
        return []
    first, second = split(work, replace(layout, pp=2)).stages
    again = itertools.takewhile(lambda op: unit_of(op.path) is None, second)
    send = [op for op in first if op.target == SEND]
    return [_only(second, list(again)), _only(first, send)]


def _only(work: Workload, operations: list[Operation]) -> Workload:
    tensors = {t: replace(work.tensors[t], producer=None) for op in operations for t in op.tensors}
    numbered = tuple(replace(op, index=index) for index, op in enumerate(operations))
    return replace(work, operations=numbered, tensors=tensors)


def _cost(parts: _Parts, layout: Layout, micro_batches: int) -> LayoutCost:
    chip, layers = parts.chip, len(parts.thin.kinds)
    counts = even(layers, layout.pp)
    starts = [0, *itertools.accumulate(counts)]
    stages = [
        parts.stage(range(start, start + count), index == 0, index == layout.pp - 1)
        for index, (start, count) in enumerate(zip(starts, counts, strict=False))
    ]

    def sums(amounts: Mapping[int | str, float]) -> list[float]:
        return [math.fsum(amounts.get(place, 0.0) * times for place, times in stage) for stage in stages]

    stages_s = sums(parts.seconds)
    step_s = pipeline.batch_s(stages_s, micro_batches)
    dynamic = math.fsum(sums(parts.dynamic_j)) * micro_batches
    weights = sums({place: float(held[0]) for place, held in parts.bytes.items()})
    caches = sums({place: float(held[1]) for place, held in parts.bytes.items()})
    needs = max(w + c * micro_batches for w, c in zip(weights, caches, strict=True)) + memory_of(parts.work).peak
    bounds: dict[str, float] = {}
    for place, times in itertools.chain.from_iterable(stages):
        for name, seconds in parts.bounds.get(place, {}).items():
            bounds[name] = bounds.get(name, 0.0) + seconds * times
    static = chip.power.static.value * step_s * layout.pp
    return LayoutCost(
        layout=layout,
        parallel=Parallel(
            layout.tp, layout.ep, layout.pp, layout.dp, layout.chips, micro_batches, tuple(stages_s), step_s,
            pipeline.bubble(stages_s, micro_batches, step_s), (dynamic + static) * layout.tp * layout.dp,
        ),
        needs_bytes=round(needs),
        has_bytes=int(chip.capacity_bytes),
        bound_by=max(bounds, key=lambda name: (bounds[name], name), default="nothing"),
    )  # fmt: skip


def _whole(
    some: Sequence[tuple[Layout, Captured]], chip: Chip, execution: Execution
) -> list[LayoutCost]:
    """Layouts of a model of few layers, priced as they are."""
    jobs = [captured.jobs(chip) for _, captured in some]
    every, conditions = list(itertools.chain.from_iterable(jobs)), execution.mode.conditions
    results = iter(run_all(every, chip, execution.software_of(chip), conditions=conditions))
    found = []
    for (layout, captured), own in zip(some, jobs, strict=True):
        result = captured.result([next(results) for _ in own], chip)
        assert result.parallel is not None
        needs, has = result.fit.needs_bytes, result.fit.has_bytes
        found.append(LayoutCost(layout, result.parallel, needs, has, result.total.bound_by))
    return found
