"""A workload on one chip: kernels, residency, mappings and time line, joined into a `ChipResult`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..conditions import SCHEDULED, Conditions
from ..cost.shapes import KernelShape
from ..errors import InputError
from ..hardware.chip import Chip
from ..hardware.evidence import evidence_of
from ..hardware.library import describe_rows
from ..hardware.software import Software
from ..interconnect import NOTHING, bound_s
from ..result import ChipFigure, ChipResult, Coverage, Fit, Interval, KernelCost, LevelCost, Part, Total, ends
from ..timeline import KernelSpan, Timeline, TransferSpan
from ..workload import Operation, Workload
from .exchanges import waits_of
from .intervals import Ends, Intervals, Prices
from .kernels import Kernel
from .mapper.found import Objective
from .residency import Residency, cached, managed
from .search import choose, rechosen
from .select import Choice, Shuffle, bound_by
from .shape import shape_of
from .timeline.chip import Slot, schedule_of, slots_of, stalls_of
from .timeline.records import NETWORK
from .uncertainty import kind_of

STREAM_RESERVE = 0.25
"""Share of a register memory kept free of resident tensors, so that loads can run ahead (a choice of ours)."""


@dataclass(frozen=True, slots=True)
class Job:
    """A workload to price: its kernels (from `form_kernels`), and whether it fits the chip."""

    workload: Workload
    kernels: list[Kernel]
    fit: Fit


def run(
    workload: Workload,
    kernels: list[Kernel],
    chip: Chip,
    software: Software,
    fit: Fit,
    *,
    objective: Objective = "latency",
    shuffle: Shuffle | None = None,
    conditions: Conditions = SCHEDULED,
    prices: Prices | None = None,
) -> ChipResult:
    """Price `kernels` (from `form_kernels`) on `chip`. `shuffle` reorders candidates and must not matter.

    What distinct kernels cost is added to `prices`, for `timeline` to use.
    """
    job = Job(workload, kernels, fit)
    return run_all([job], chip, software, objective=objective, shuffle=shuffle, conditions=conditions, prices=prices)[0]


def run_all(
    jobs: Sequence[Job],
    chip: Chip,
    software: Software,
    *,
    objective: Objective = "latency",
    shuffle: Shuffle | None = None,
    conditions: Conditions = SCHEDULED,
    prices: Prices | None = None,
) -> list[ChipResult]:
    """Price many workloads that have nothing to do with each other; equal kernels of all are priced once, together."""
    places = [places_of(job.kernels, job.workload, chip, software, conditions) for job in jobs]
    shapes = [
        [shape_of(kernel, place, job.workload) for kernel, place in zip(job.kernels, here, strict=True)]
        for job, here in zip(jobs, places, strict=True)
    ]
    distinct = list(dict.fromkeys(shape for some in shapes for shape in some))

    chosen = choose(distinct, chip, software, objective, shuffle, conditions=conditions)

    def at(variant: Chip) -> dict[KernelShape, Choice]:
        """The program as it was compiled for the chip, on one whose numbers turn out otherwise."""
        if chip.memory_system != "cache":
            return dict(zip(distinct, rechosen(chosen, variant, software, conditions), strict=True))
        return dict(zip(distinct, choose(distinct, variant, software, conditions=conditions), strict=True))

    evidence = evidence_of(chip)
    priced, intervals = dict(zip(distinct, chosen, strict=True)), Intervals(chip, evidence.kind, at)
    if prices is not None:
        prices.update(priced)
    maker = _Maker(chip, str(evidence), priced, intervals)
    return [maker.result(*one) for one in zip(jobs, places, shapes, strict=True)]


def timeline(
    workload: Workload,
    kernels: list[Kernel],
    chip: Chip,
    software: Software,
    conditions: Conditions = SCHEDULED,
    prices: Prices | None = None,
) -> Timeline:
    """Every kernel and every transfer of `run` in time, and what lies on chip. `prices` are those that `run` found."""
    places = places_of(kernels, workload, chip, software, conditions)
    shapes = [shape_of(kernel, place, workload) for kernel, place in zip(kernels, places, strict=True)]
    priced = dict(prices or {})
    missing = [shape for shape in dict.fromkeys(shapes) if shape not in priced]
    if missing:
        priced.update(zip(missing, choose(missing, chip, software, conditions=conditions), strict=True))
    schedule = schedule_of(chip, [priced[shape] for shape in shapes], places)
    stalls = stalls_of(schedule)
    names = {t: tensor.name or f"{tensor.role} {t}" for t, tensor in workload.tensors.items()}
    return Timeline(
        chip=chip.name,
        latency_s=schedule.end_s,
        computing_s=schedule.end_s - math.fsum(stalls.values()),
        stalls_s=stalls,
        kernels=tuple(
            KernelSpan(kernel.name, kernel.path, one.start_s, one.go_s, one.end_s, one.stalls)
            for kernel, one in zip(kernels, schedule.tasks, strict=True)
        ),
        transfers=tuple(
            TransferSpan(
                kernel=one.task,
                what=one.what,
                resource=one.resource or chip.external.name,
                tensors=tuple(names[t] for t in one.data),
                size_bytes=one.size,
                start_s=one.segments[0].start,
                end_s=one.segments[-1].end,
                waited_for=one.waited_for,
            )
            for one in schedule.transfers
            if one.segments
        ),
        on_chip=tuple(schedule.occupancy),
        capacity_bytes=chip.on_chip[-1].usable_bytes,
    )


class _Maker:
    """Makes the results of workloads on one chip from the prices of their kernels."""

    def __init__(self, chip: Chip, evidence: str, priced: dict[KernelShape, Choice], intervals: Intervals) -> None:
        self.chip, self.evidence, self.priced, self.intervals = chip, evidence, priced, intervals
        self.figures = tuple(ChipFigure(**row) for row in describe_rows(chip))

    def result(self, job: Job, places: list[Residency], shapes: list[KernelShape]) -> ChipResult:
        chip = self.chip
        choices = [self.priced[shape] for shape in shapes]
        slots = slots_of(chip, choices, places)
        bounds = [_bound_by(choice, slot, chip.external.name) for choice, slot in zip(choices, slots, strict=True)]
        stated = self.intervals.of(shapes, places, slots, bounds)
        pricer = _Pricer(chip)
        costs = tuple(
            pricer.cost(*one) for one in zip(job.kernels, shapes, choices, slots, bounds, stated, strict=True)
        )
        return ChipResult(
            chip=chip.name,
            title=chip.title,
            memory_system=chip.memory_system,
            chip_hash=chip.hash,
            evidence=self.evidence,
            fit=job.fit,
            total=total_of(costs, chip, self.intervals.interval),
            coverage=coverage(job.workload),
            levels=levels_of(costs, chip),
            links=links_of(costs, chip),
            kernels=costs,
            peak_flops_per_s=_peak(chip, main_dtype(job.workload)),
            interval=self.intervals.interval,
            peaks_flops_per_s=_peaks(costs, chip),
            figures=self.figures,
        )


def places_of(
    kernels: list[Kernel], workload: Workload, chip: Chip, software: Software, conditions: Conditions = SCHEDULED
) -> list[Residency]:
    """What each kernel finds on this chip, by its memory system's policy and the conditions at the start."""
    last = chip.on_chip[-1].usable_bytes
    if chip.memory_system == "cache":
        places = cached(kernels, workload, last * software.residency_share.value, conditions)
    else:
        places = managed(kernels, workload, last, STREAM_RESERVE)
    if any(kernel.collective is not None for kernel in kernels):
        for kernel, place, after in zip(kernels, places, waits_of(kernels), strict=True):
            place.exchanges, place.after = kernel.collective is not None, after
    return places


@dataclass(frozen=True, slots=True)
class _Known:
    """What kernels of one shape and the same nests have in common."""

    name: str
    shares: tuple[float, ...]
    part_flops: tuple[tuple[int, float], ...]
    flops: int
    work: float
    ideal_s: float
    vector_ops: float
    far_s: float
    traffic: dict[str, float]
    by_role: dict[str, float]
    energy: dict[str, float]
    busy: dict[str, float]


class _Pricer:
    """Makes the `KernelCost` of each instance; what equal kernels share is computed once."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip
        self.external = chip.external
        self.levels = [level.name for level in chip.memory]
        self.known: dict[Any, _Known] = {}

    def cost(
        self, kernel: Kernel, shape: KernelShape, choice: Choice, slot: Slot, bound_by: str, stated: Ends
    ) -> KernelCost:
        key = (shape, *[id(op.nests) for op in kernel.operations])
        known = self.known.get(key)
        if known is None:
            known = self.known[key] = self._learn(kernel, shape, choice)
        seconds = slot.share_s
        return KernelCost(
            name=known.name,
            path=kernel.path,
            parts=tuple(
                Part(op.target, op.path, share, flops, executed, op.shapes)
                for op, share, (flops, executed) in zip(kernel.operations, known.shares, known.part_flops, strict=True)
            ),
            latency_s=seconds,
            start_s=slot.start_s,
            flops=known.flops,
            executed_flops=known.work,
            vector_ops=known.vector_ops,
            traffic_bytes=known.traffic,
            operand_bytes=known.by_role,
            memory_energy_j=known.energy,
            compute_energy_j=choice.compute_energy_j,
            static_energy_j=self.chip.power.static.value * seconds,
            unattributed_energy_j=choice.unattributed_energy_j,
            utilization=min(known.ideal_s / seconds, 1.0) if seconds else 0.0,
            bandwidth_utilization=min(known.far_s / seconds, 1.0) if seconds else 0.0,
            bound_by=bound_by,
            busy_s=known.busy,
            dtype=shape.dtype,
            mapping=choice.mapping,
            candidates=choice.candidates,
            reason=choice.reason,
            modelled=all(op.modelled for op in kernel.operations),
            phase=kernel.operations[0].phase,
            kind=kind_of(shape),
            latency_low_s=stated[0],
            latency_high_s=stated[1],
        )

    def _learn(self, kernel: Kernel, shape: KernelShape, choice: Choice) -> _Known:
        nests = [nest for op in kernel.operations for nest in op.nests]
        alone = [_roofline(op, self.chip) for op in kernel.operations]
        total = math.fsum(alone)
        far = choice.read_bytes[-1] + choice.write_bytes[-1]
        nominal = math.fsum(nest.work for nest in nests)
        # Another algorithm than the loop nest itself executes another number of FLOPs.
        work = choice.shape.work if choice.shape.algorithm else nominal
        share = work / nominal if nominal else 1.0
        peak = _peak(self.chip, shape.dtype)
        traffic = zip(self.levels, choice.read_bytes, choice.write_bytes, strict=True)
        exchange = choice.exchange or NOTHING
        return _Known(
            name=kernel.name,
            shares=tuple(s / total if total else 1.0 / len(alone) for s in alone),
            part_flops=tuple((op.flops, math.fsum(nest.work * share for nest in op.nests)) for op in kernel.operations),
            flops=sum(op.flops for op in kernel.operations),
            work=work,
            ideal_s=work / peak if peak else 0.0,
            vector_ops=math.fsum(n.vector_ops + n.special_ops for n in nests),
            far_s=far / self.external.read_bytes_per_s,
            traffic={**{name: read + written for name, read, written in traffic}, **exchange.sent_bytes},
            by_role=_by_role(shape, choice),
            energy={**dict(zip(self.levels, choice.level_energy_j, strict=True)), **exchange.energy_j},
            busy={**choice.resources_s, self.external.name: choice.external_s, "launch": choice.overhead_s},
        )


def _bound_by(choice: Choice, slot: Slot, external: str) -> str:
    if slot.waited_for:
        return f"{external} bandwidth"
    busy = {**choice.resources_s, external: choice.external_s, "launch": choice.overhead_s}
    if choice.exchange is not None and choice.exchange.seconds >= choice.overhead_s:
        return NETWORK
    return bound_by(busy, choice.stretch, external)


def _by_role(shape: KernelShape, choice: Choice) -> dict[str, float]:
    """External bytes by operand role: the tiled operands as their mapping moves them, the streams once."""
    found: dict[str, list[float]] = {}
    for operand, moved in zip(shape.operands, choice.operand_far_bytes, strict=True):
        found.setdefault(operand.role, []).append(moved)
    for stream in shape.streams:
        found.setdefault(stream.role, []).append(stream.read_far + stream.write_far)
    if choice.shape.apart_bytes:
        found.setdefault("activation", []).append(choice.shape.apart_bytes)
    return {role: math.fsum(parts) for role, parts in found.items()}


def _roofline(op: Operation, chip: Chip) -> float:
    moved = math.fsum(nest.compulsory_bytes() for nest in op.nests) / chip.external.read_bytes_per_s
    return max(moved, _arithmetic_s(op, chip))


def roofline_s(kernels: Sequence[Kernel], chip: Chip, phase: str | None = None) -> float:
    """Seconds by the plain datasheet roofline, kernel by kernel: no launch, no losses, nothing kept on chip between."""
    counted = [kernel for kernel in kernels if phase in (None, kernel.operations[0].phase)]
    return math.fsum(_kernel_roofline(kernel, chip) for kernel in counted)


def _kernel_roofline(kernel: Kernel, chip: Chip) -> float:
    moved = math.fsum((*kernel.reads.values(), *kernel.writes.values())) / chip.external.read_bytes_per_s
    if kernel.collective is not None:
        return max(moved, bound_s(chip, kernel.collective))
    return max(moved, math.fsum(_arithmetic_s(op, chip) for op in kernel.operations))


def _arithmetic_s(op: Operation, chip: Chip) -> float:
    """Seconds of the executed FLOPs at the dense peak of their number formats."""
    peaks = [(nest.work, _peak(chip, nest.dtype)) for nest in op.nests if nest.work]
    return math.fsum(flops / peak for flops, peak in peaks if peak)


def _peak(chip: Chip, dtype: str) -> float:
    return chip.peak_flops(dtype) if chip.supports(dtype) else 0.0


def _peaks(costs: Sequence[KernelCost], chip: Chip) -> dict[str, float]:
    """Dense peaks of the number formats that kernels execute FLOPs in, highest first, and of fp32 on vector engines."""
    peaks = {dtype: _peak(chip, dtype) for dtype in {c.dtype for c in costs if c.executed_flops}}
    if chip.engine_for("fp32", "vector") is not None:
        peaks["fp32, vector"] = chip.peak_flops("fp32", "vector")
    return dict(sorted(peaks.items(), key=lambda item: (-item[1], item[0])))


def total_of(costs: Sequence[KernelCost], chip: Chip, interval: Interval) -> Total:
    """The sums of kernels that run one after the other."""
    latency = math.fsum(c.latency_s for c in costs)
    memory = math.fsum(e for c in costs for e in c.memory_energy_j.values())
    compute = math.fsum(c.compute_energy_j for c in costs)
    static = math.fsum(c.static_energy_j for c in costs)
    extra = math.fsum(c.unattributed_energy_j for c in costs)
    bound: dict[str, list[float]] = {}
    for cost in costs:
        bound.setdefault(cost.bound_by, []).append(cost.latency_s)
    peaks = {dtype: _peak(chip, dtype) for dtype in {c.dtype for c in costs}}
    ideal = math.fsum(c.executed_flops / peaks[c.dtype] for c in costs if c.executed_flops)
    far = math.fsum(c.traffic_bytes[chip.external.name] for c in costs)
    low, high = ends(((c, 1.0) for c in costs), interval)
    return Total(
        latency_s=latency,
        energy_j=math.fsum((memory, compute, static, extra)),
        memory_energy_j=memory,
        compute_energy_j=compute,
        static_energy_j=static,
        unattributed_energy_j=extra,
        flops=sum(c.flops for c in costs),
        executed_flops=math.fsum(c.executed_flops for c in costs),
        vector_ops=math.fsum(c.vector_ops for c in costs),
        utilization=ideal / latency if latency else 0.0,
        bandwidth_utilization=far / chip.external.read_bytes_per_s / latency if latency else 0.0,
        bound_by=max(bound, key=lambda b: (math.fsum(bound[b]), b)) if bound else "nothing",
        kernels=len(costs),
        latency_low_s=low,
        latency_high_s=high,
    )


def levels_of(costs: Sequence[KernelCost], chip: Chip) -> tuple[LevelCost, ...]:
    """Traffic and energy of each memory level."""
    return tuple(
        LevelCost(
            level.name,
            math.fsum(c.traffic_bytes[level.name] for c in costs),
            math.fsum(c.memory_energy_j[level.name] for c in costs),
            level.read_bytes_per_s,
        )
        for level in chip.memory
    )


def links_of(costs: Sequence[KernelCost], chip: Chip) -> tuple[LevelCost, ...]:
    """What is sent to other chips, by way; empty where nothing is."""
    found = []
    for way in chip.ways:
        sent = [cost for cost in costs if way.name in cost.traffic_bytes]
        if sent:
            moved = math.fsum(cost.traffic_bytes[way.name] for cost in sent)
            joules = math.fsum(cost.memory_energy_j[way.name] for cost in sent)
            found.append(LevelCost(way.name, moved, joules, way.bandwidth.value))
    return tuple(found)


def main_dtype(workload: Workload) -> str:
    """The number format of most of the executed FLOPs; empty where there are none."""
    work: dict[str, list[float]] = {}
    for op in workload:
        for nest in op.nests:
            if nest.work:
                work.setdefault(nest.dtype, []).append(nest.work)
    return max(work, key=lambda dtype: (math.fsum(work[dtype]), dtype)) if work else ""


def coverage(workload: Workload) -> Coverage:
    """Share of compulsory bytes that have a formula of their own, and the operators that have none."""
    unknown: dict[str, list[float]] = {}
    total: list[float] = []
    for op in workload:
        moved = math.fsum(nest.compulsory_bytes() for nest in op.nests)
        total.append(moved)
        if not op.modelled:
            unknown.setdefault(op.target, []).append(moved)
    everything = math.fsum(total) or 1.0
    shares = {target: math.fsum(b) / everything for target, b in sorted(unknown.items())}
    return Coverage(modelled_bytes_share=1.0 - math.fsum(shares.values()), unmodelled=shares)


def check_dtypes(kernels: Sequence[Kernel], chip: Chip) -> None:
    """Raise `InputError` for a dtype the chip cannot compute in, naming the first module that needs it."""
    for kernel in kernels:
        for op in kernel.operations:
            for nest in op.nests:
                if nest.work and not chip.supports(nest.dtype):
                    does = ", ".join(chip.dtypes)
                    raise InputError(
                        f"{chip.name} cannot compute in {nest.dtype}, which {op.path or 'the model'} ({op.target}) "
                        f"needs; it does {does}: choose another dtype or chip"
                    )
