"""Why a kernel is run as it is where memories are managed explicitly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..cost.chip_tensors import chip_tensors
from ..cost.problem import Structure
from ..cost.shapes import KernelShape
from ..hardware.chip import Chip
from ..hardware.software import Software
from ..memory.quantities import ProblemTensors, Stages
from ..memory.sums import Fetch, Listed
from ..memory.tiling import extents_of
from ..result import Alternative, Explanation, OperandUse
from .kernels import Kernel
from .managed import Group, Search, describe
from .mapper.found import Mapping
from .select import bound_by

STREAMS = "stream every operand once"
LOOK_AT = 256
"""Mappings that are kept to show those that lost: many of the best read alike."""


def explain_managed(kernel: Kernel, shape: KernelShape, chip: Chip, software: Software, losers: int) -> Explanation:
    """One kernel, `losers` alternatives."""
    search = Search(chip, software, chip_tensors([chip], [software]), effort="survey", keep=LOOK_AT)
    (found,) = search.found([shape])
    tried: list[Mapping | None] = [None] if found is None else list(found.mappings)
    groups = search.price([shape] * len(tried), tried)
    at = {index: (group, row) for group in groups for row, index in enumerate(group.members)}
    (group, row), chosen = at[0], tried[0]
    name, operations = names_of(kernel)
    busy, stretch = _busy(group, row, chip.external.name), _read(group, row, group.cost.stretch)
    return Explanation(
        chip=chip.name,
        path=kernel.path,
        kernel=name,
        operations=operations,
        sizes=_sizes(shape),
        loops=(STREAMS,) if chosen is None else _loops(shape, chosen, chip),
        operands=(*_operands(shape, chosen, chip), *streams(shape, chip.external.name)),
        busy_s=busy,
        latency_s=_read(group, row, group.cost.latency_s),
        energy_j=_read(group, row, group.cost.energy_j),
        bound_by=bound_by(busy, stretch, chip.external.name),
        mapping="streamed" if chosen is None else describe(shape, chosen, chip),
        alternatives=_alternatives(shape, tried, at, chip, losers),
        candidates=1 if found is None else found.candidates,
        legal=1 if found is None else found.legal,
        rejected={} if found is None else found.rejected,
    )


def names_of(kernel: Kernel) -> tuple[str, tuple[str, ...]]:
    """What a kernel is called, and its operations in words."""
    return kernel.name, tuple(f"{op.path}: {op.target} {op.shapes}" for op in kernel.operations)


def streams(shape: KernelShape, external: str) -> Sequence[OperandUse]:
    """What moves once, whatever the tiles."""
    used = []
    for stream in shape.streams:
        read, write = stream.read_near + stream.read_far, stream.write_near + stream.write_far
        for access, total, far in (("read", read, stream.read_far), ("write", write, stream.write_far)):
            if total:
                used.append(OperandUse(stream.role, access, "streamed", total, {}, {external: far}))
    return used


def _sizes(shape: KernelShape) -> dict[str, int]:
    if shape.problem is None:
        return {}
    return {name: size for name, size in zip(shape.problem.structure.names, shape.problem.sizes, strict=True)}


def _read(group: Group, row: int, tensor: torch.Tensor) -> float:
    return float(tensor.expand(len(group.members), 1, 1, 1)[row, 0, 0, 0])


def _busy(group: Group, row: int, external: str) -> dict[str, float]:
    stretch = _read(group, row, group.cost.stretch)
    busy = {name: _read(group, row, seconds) * stretch for name, seconds in group.movement.core_s.items()}
    busy[external] = _read(group, row, group.movement.external_s)
    busy["launch"] = _read(group, row, group.movement.overhead_s)
    return busy


def _alternatives(
    shape: KernelShape, tried: Sequence[Mapping | None], at: dict[int, tuple[Group, int]], chip: Chip, losers: int
) -> tuple[Alternative, ...]:
    """The next best mappings that read differently."""
    texts = {index: describe(shape, mapping, chip) for index, mapping in enumerate(tried) if mapping is not None}
    first: dict[str, int] = {}
    for index, text in texts.items():
        first.setdefault(text, index)
    # Those that keep another operand in place first; then whatever comes next.
    kinds: dict[str, int] = {}
    for text, index in first.items():
        kinds.setdefault(text.rpartition(", ")[2] if "stationary" in text else "", index)
    picked = dict.fromkeys([*kinds.values(), *first.values()])
    picked.pop(0, None)
    return tuple(_alternative(texts[index], *at[index], chip) for index in sorted(list(picked)[:losers]))


def _alternative(text: str, group: Group, row: int, chip: Chip) -> Alternative:
    external = chip.external.name
    bound = bound_by(_busy(group, row, external), _read(group, row, group.cost.stretch), external)
    seconds, joules = (_read(group, row, t) for t in (group.cost.latency_s, group.cost.energy_j))
    return Alternative(text, seconds, joules, bound)


def _operands(shape: KernelShape, mapping: Mapping | None, chip: Chip) -> list[OperandUse]:
    """Each operand's tile at every level and what crosses above it."""
    if mapping is None or shape.problem is None:
        return []
    problem, stages = shape.problem, Stages.of(chip)
    problems = ProblemTensors.of([shape])
    tiles = [[torch.tensor([[float(t)]], dtype=torch.float64) for t in stage] for stage in mapping.tiles]
    along = extents_of(problems, stages, [list(dim) for dim in zip(*tiles, strict=True)])
    values = Listed(problem.structure, mapping.nesting, along)
    used = []
    for o, (operand, pattern) in enumerate(zip(shape.operands, problem.structure.patterns, strict=True)):
        element = problem.partial_bytes[o] if pattern.is_result else problem.element_bytes[o]
        held = {chip.memory[stages.level(s)].name: pattern.elements(mapping.tiles[s]) * element for s in stages.stored}
        crossed, above = {}, chip.external.name
        for stage in stages.stored:
            seen = stage - 1 if stage == stages.spatial else stage
            times = float(values.fetched(Fetch(o, seen))) / max(pattern.elements(problem.sizes), 1)
            share = float(problems.outer[o]) if stage == stages.stored[0] else 1.0
            crossed[above] = (
                _bytes(
                    operand.footprint_bytes,
                    times,
                    problem.partial_bytes[o] / problem.element_bytes[o],
                    pattern.is_result,
                )
                * share
            )
            above = chip.memory[stages.level(stage)].name
        used.append(
            OperandUse(
                operand.role, operand.access, _axes(problem.structure, o), operand.footprint_bytes, held, crossed
            )
        )
    return used


def _bytes(whole: float, times: float, wider: float, is_result: bool) -> float:
    """Bytes of an operand that is fetched `times` times over: a result's partial sums are wider, go and come back."""
    return whole * (1.0 + (times - 1.0) * 2.0 * wider) if is_result else whole * times


def _axes(structure: Structure, operand: int) -> str:
    return " ".join(name for d, name in enumerate(structure.names) if d in structure.patterns[operand].dims)


def _loops(shape: KernelShape, mapping: Mapping, chip: Chip) -> tuple[str, ...]:
    """The loop nest as chosen, outermost first: a line a loop that has more than one trip."""
    assert shape.problem is not None
    names, around = shape.problem.structure.names, shape.problem.sizes
    stages, lines = Stages.of(chip), []
    for stage, (tile, order) in enumerate(zip(mapping.tiles, mapping.nesting.orders, strict=True)):
        level = stages.levels[stage]
        where = "all cores together" if level is None else chip.memory[level].name
        if stage == stages.spatial:
            shares = [f"{n}/{-(-a // t)}" for n, a, t in zip(names, around, tile, strict=True) if a > t]
            lines.append(
                f"spatial: {' '.join(shares) or 'one core'} over {chip.cores.count.value:.0f} {chip.cores.name}s, "
                f"tiles held in {where}"
            )
        else:
            for d in order:
                trips = math.ceil(around[d] / tile[d])
                if trips > 1:
                    lines.append(f"for {names[d]} in steps of {tile[d]}: {trips} trips, tile held in {where}")
        around = tile
    lines = lines or [f"no loop: everything is held in {chip.memory[stages.level(stages.stored[-1])].name} at once"]
    engine = chip.engine_for(shape.dtype) or chip.engines[0]
    split = f", k split over {mapping.split}" if mapping.split > 1 else ""
    rows, columns = (1 if q is None else int(q.value) for q in (engine.rows, engine.columns))
    flow = f", {engine.dataflow}" if engine.dataflow else ""
    lines.append(f"arrays of {rows} x {columns}{flow} on {chip.cores.count.value:.0f} {chip.cores.name}s{split}")
    return tuple(lines)
