"""Stages of a pipeline, each priced on a chip of its own, as one result; and what a step costs on all chips."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from .. import pipeline
from ..hardware.chip import Chip
from ..layout import Layout
from ..result import ChipResult, Coverage, Fit, KernelCost, Parallel
from ..timeline import Timeline
from .run import levels_of, links_of, total_of

OPTIMIZER = "optimizer"


def joined(stages: Sequence[ChipResult], chip: Chip, layout: Layout, micro_batches: int) -> ChipResult:
    """One chip of each stage, in the order in which a micro-batch passes them."""
    starts = [0.0, *itertools.accumulate(stage.total.latency_s for stage in stages)]
    kernels = tuple(
        kernel if start == 0.0 else replace(kernel, start_s=kernel.start_s + start)
        for stage, start in zip(stages, starts, strict=False)
        for kernel in stage.kernels
    )
    first = stages[0]
    one = len(stages) == 1
    return replace(
        first,
        fit=_fullest([stage.fit for stage in stages], layout, micro_batches, _trains(first)),
        total=first.total if one else total_of(kernels, chip, first.interval),
        coverage=first.coverage if one else _coverage([stage.coverage for stage in stages]),
        levels=first.levels if one else levels_of(kernels, chip),
        links=first.links if one else links_of(kernels, chip),
        kernels=kernels,
        peaks_flops_per_s=dict(itertools.chain.from_iterable(stage.peaks_flops_per_s.items() for stage in stages)),
        parallel=_parallel(stages, chip, layout, micro_batches),
    )


def _parallel(stages: Sequence[ChipResult], chip: Chip, layout: Layout, micro_batches: int) -> Parallel:
    """Of training, the optimizer and what belongs to it runs once, after all micro-batches."""
    once = [math.fsum(k.latency_s for k in stage.kernels if k.phase == OPTIMIZER) for stage in stages]
    each = tuple(stage.total.latency_s - seconds for stage, seconds in zip(stages, once, strict=True))
    step_s = pipeline.batch_s(each, micro_batches) + max(once)
    kernels = [kernel for stage in stages for kernel in stage.kernels]
    dynamic = math.fsum(_dynamic_j(k) * (1 if k.phase == OPTIMIZER else micro_batches) for k in kernels)
    static = chip.power.static.value * step_s * len(stages)
    return Parallel(
        tp=layout.tp,
        ep=layout.ep,
        pp=layout.pp,
        dp=layout.dp,
        chips=layout.chips,
        micro_batches=micro_batches,
        stages_s=each,
        step_s=step_s,
        bubble=pipeline.bubble(each, micro_batches, step_s - max(once)),
        energy_j=(dynamic + static) * layout.tp * layout.dp,
    )


def _dynamic_j(kernel: KernelCost) -> float:
    return kernel.energy_j - kernel.static_energy_j


def _trains(stage: ChipResult) -> bool:
    return any(kernel.phase == "backward" for kernel in stage.kernels)


def _fullest(fits: Sequence[Fit], layout: Layout, micro_batches: int, trains: bool) -> Fit:
    """What the fullest chip has to hold: caches of all micro-batches, and activations of those that wait for their
    backward."""
    found = []
    for stage, fit in enumerate(fits):
        caches = fit.kv_cache_bytes * (1 if trains else micro_batches)
        kept = pipeline.in_flight(stage, len(fits), micro_batches) if trains else 1
        activations = fit.activations_bytes * kept
        needs = fit.needs_bytes - fit.kv_cache_bytes - fit.activations_bytes + caches + activations
        fits_it = needs <= fit.has_bytes
        chips = layout.chips if fits_it else math.ceil(needs / fit.has_bytes) * layout.chips
        found.append(
            replace(
                fit,
                fits=fits_it,
                needs_bytes=needs,
                kv_cache_bytes=caches,
                activations_bytes=activations,
                chips=chips,
            )
        )
    return max(found, key=lambda fit: fit.needs_bytes)


def _coverage(stages: Sequence[Coverage]) -> Coverage:
    """As good as the worst stage; an operator without a formula has its largest share."""
    unknown: dict[str, float] = {}
    for stage in stages:
        for target, share in stage.unmodelled.items():
            unknown[target] = max(unknown.get(target, 0.0), share)
    return Coverage(min(stage.modelled_bytes_share for stage in stages), unknown)


def joined_timeline(stages: Sequence[Timeline]) -> Timeline:
    """The time lines of all stages one after the other, as one micro-batch passes them."""
    if len(stages) == 1:
        return stages[0]
    kernels, transfers, on_chip, start, count = [], [], [], 0.0, 0
    stalls: dict[str, float] = {}
    for stage in stages:
        kernels += [
            replace(k, start_s=k.start_s + start, compute_s=k.compute_s + start, end_s=k.end_s + start)
            for k in stage.kernels
        ]
        transfers += [
            replace(t, kernel=t.kernel + count, start_s=t.start_s + start, end_s=t.end_s + start)
            for t in stage.transfers
        ]
        on_chip += [(when + start, size) for when, size in stage.on_chip]
        for cause, seconds in stage.stalls_s.items():
            stalls[cause] = stalls.get(cause, 0.0) + seconds
        start, count = start + stage.latency_s, count + len(stage.kernels)
    return replace(
        stages[0],
        latency_s=start,
        computing_s=start - math.fsum(stalls.values()),
        stalls_s=stalls,
        kernels=tuple(kernels),
        transfers=tuple(transfers),
        on_chip=tuple(on_chip),
    )
