"""A workload on one chip: kernels, residency, mappings and time line, joined into a `ChipResult`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import CapacityError
from ..hardware.chip import Chip
from ..hardware.software import Software
from ..result import ChipResult, Coverage, Fit, KernelCost, LevelCost, Part, Total
from ..workload import Operation, Workload
from .kernels import Kernel
from .residency import Residency, cached, managed
from .select import Choice, Objective, Shuffle, choose
from .shape import shape_of
from .timeline import Slot, prefetched, serial

STREAM_RESERVE = 0.25
"""Share of a register memory kept free of resident tensors, so that loads can run ahead (a choice of ours)."""


def run(
    workload: Workload,
    kernels: list[Kernel],
    chip: Chip,
    software: Software,
    fit: Fit,
    *,
    objective: Objective = "latency",
    shuffle: Shuffle | None = None,
) -> ChipResult:
    """Price `kernels` (from `form_kernels`) on `chip`. `shuffle` reorders candidates and must not matter."""
    places = _places(kernels, workload, chip, software)
    shapes = [shape_of(kernel, place, workload) for kernel, place in zip(kernels, places, strict=True)]
    distinct = list(dict.fromkeys(shapes))
    price = dict(zip(distinct, choose(distinct, chip, software, objective, shuffle), strict=True))
    choices = [price[shape] for shape in shapes]
    if chip.memory_system == "cache":
        slots = serial(choices)
    else:
        slots = prefetched(choices, places, chip.on_chip[-1].usable_bytes)
    costs = tuple(
        _kernel_cost(kernel, choice, slot, workload, chip)
        for kernel, choice, slot in zip(kernels, choices, slots, strict=True)
    )
    return ChipResult(
        chip=chip.name,
        title=chip.title,
        memory_system=chip.memory_system,
        chip_hash=chip.hash,
        evidence=chip.evidence,
        fit=fit,
        total=_total(costs, chip),
        coverage=coverage(workload),
        levels=_levels(costs, chip),
        kernels=costs,
        peak_flops_per_s=_main_peak(costs, chip),
    )


def _places(kernels: list[Kernel], workload: Workload, chip: Chip, software: Software) -> list[Residency]:
    last = chip.on_chip[-1].usable_bytes
    if chip.memory_system == "cache":
        return cached(kernels, workload, last * software.residency_share.value)
    return managed(kernels, workload, last, STREAM_RESERVE)


def _kernel_cost(kernel: Kernel, choice: Choice, slot: Slot, workload: Workload, chip: Chip) -> KernelCost:
    names = [level.name for level in chip.memory]
    work = math.fsum(nest.work for op in kernel.operations for nest in op.nests)
    dtype = kernel.operations[0].dtype
    parts = _parts(kernel, chip)
    peak = _peak(chip, dtype)
    far = choice.read_bytes[-1] + choice.write_bytes[-1]
    seconds = slot.share_s
    return KernelCost(
        name="+".join(dict.fromkeys(_short(op.target) for op in kernel.operations)),
        path=kernel.path,
        parts=parts,
        latency_s=seconds,
        start_s=slot.start_s,
        flops=sum(op.flops for op in kernel.operations),
        executed_flops=work,
        vector_ops=math.fsum(n.vector_ops + n.special_ops for op in kernel.operations for n in op.nests),
        traffic_bytes={n: r + w for n, r, w in zip(names, choice.read_bytes, choice.write_bytes, strict=True)},
        operand_bytes=_by_role(kernel, choice, workload, far),
        memory_energy_j=dict(zip(names, choice.level_energy_j, strict=True)),
        compute_energy_j=choice.compute_energy_j,
        static_energy_j=chip.power.static.value * seconds,
        unattributed_energy_j=choice.unattributed_energy_j,
        utilization=min(work / (seconds * peak), 1.0) if seconds and peak else 0.0,
        bandwidth_utilization=min(far / (seconds * chip.external.read_bytes_per_s), 1.0) if seconds else 0.0,
        bound_by=_bound_by(choice, slot, chip),
        busy_s={**choice.resources_s, chip.external.name: choice.external_s, "launch": choice.overhead_s},
        dtype=dtype,
        mapping=choice.mapping,
        candidates=choice.candidates,
        reason=choice.reason,
        modelled=all(op.modelled for op in kernel.operations),
    )


def _bound_by(choice: Choice, slot: Slot, chip: Chip) -> str:
    external = f"{chip.external.name} bandwidth"
    if slot.waited_for:
        return external
    busy = {**choice.resources_s, external: choice.external_s, "launch": choice.overhead_s}
    largest = max(busy, key=lambda name: busy[name])
    throttled = choice.stretch > 1.01 and largest in choice.resources_s
    return f"power ({largest})" if throttled else largest


def _by_role(kernel: Kernel, choice: Choice, workload: Workload, far: float) -> dict[str, float]:
    """External bytes by operand role: the tiled operands from their mapping, the rest by the kernel's own traffic."""
    found: dict[str, float] = {}
    anchor = kernel.anchor
    if anchor is not None:
        for operand, moved in zip(anchor.operands, choice.operand_far_bytes, strict=False):
            found[operand.role] = found.get(operand.role, 0.0) + moved
    rest = far - math.fsum(found.values())
    streamed = {t: size for t, size in (*kernel.reads.items(), *kernel.writes.items())}
    total = math.fsum(streamed.values())
    if rest > 0 and total and anchor is None:
        for tensor, size in streamed.items():
            role = workload.tensors[tensor].role
            found[role] = found.get(role, 0.0) + rest * size / total
    elif rest > 0:
        found["activation"] = found.get("activation", 0.0) + rest
    return found


def _parts(kernel: Kernel, chip: Chip) -> tuple[Part, ...]:
    """Each operation with its share of the kernel, in proportion to its own roofline time."""
    alone = [_roofline(op, chip) for op in kernel.operations]
    total = math.fsum(alone)
    return tuple(
        Part(
            target=op.target,
            path=op.path,
            share=seconds / total if total else 1.0 / len(alone),
            flops=op.flops,
            executed_flops=math.fsum(nest.work for nest in op.nests),
            shapes=op.shapes,
        )
        for op, seconds in zip(kernel.operations, alone, strict=True)
    )


def _roofline(op: Operation, chip: Chip) -> float:
    moved = math.fsum(nest.compulsory_bytes() for nest in op.nests) / chip.external.read_bytes_per_s
    peak = _peak(chip, op.dtype)
    return max(moved, math.fsum(nest.work for nest in op.nests) / peak if peak else 0.0)


def _peak(chip: Chip, dtype: str) -> float:
    return chip.peak_flops(dtype) if chip.supports(dtype) else 0.0


def _main_peak(costs: Sequence[KernelCost], chip: Chip) -> float:
    """Peak FLOP/s of the dtype that most of the executed FLOPs have."""
    by_dtype: dict[str, float] = {}
    for cost in costs:
        by_dtype[cost.dtype] = by_dtype.get(cost.dtype, 0.0) + cost.executed_flops
    return _peak(chip, max(by_dtype, key=lambda d: (by_dtype[d], d))) if by_dtype else 0.0


def _total(costs: Sequence[KernelCost], chip: Chip) -> Total:
    latency = math.fsum(c.latency_s for c in costs)
    memory = math.fsum(e for c in costs for e in c.memory_energy_j.values())
    compute = math.fsum(c.compute_energy_j for c in costs)
    static = math.fsum(c.static_energy_j for c in costs)
    extra = math.fsum(c.unattributed_energy_j for c in costs)
    bound: dict[str, list[float]] = {}
    for cost in costs:
        bound.setdefault(cost.bound_by, []).append(cost.latency_s)
    ideal = math.fsum(c.executed_flops / _peak(chip, c.dtype) for c in costs if c.executed_flops)
    far = math.fsum(c.traffic_bytes[chip.external.name] for c in costs)
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
    )


def _levels(costs: Sequence[KernelCost], chip: Chip) -> tuple[LevelCost, ...]:
    return tuple(
        LevelCost(
            level.name,
            math.fsum(c.traffic_bytes[level.name] for c in costs),
            math.fsum(c.memory_energy_j[level.name] for c in costs),
        )
        for level in chip.memory
    )


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
    """Raise `CapacityError`'s sibling for a dtype the chip cannot compute in, naming the first module that needs it."""
    for kernel in kernels:
        for op in kernel.operations:
            for nest in op.nests:
                if nest.work and not chip.supports(nest.dtype):
                    does = ", ".join(chip.dtypes)
                    raise CapacityError(
                        f"{chip.name} cannot compute in {nest.dtype}, which {op.path or 'the model'} ({op.target}) needs; "
                        f"it does {does}: pass another --dtype or chip"
                    )


def _short(target: str) -> str:
    return target.removeprefix("aten.").split(".")[0]
