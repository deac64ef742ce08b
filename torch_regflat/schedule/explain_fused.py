"""How kernels were fused on chip: the loops over tiles, and what crosses the external boundary."""

from __future__ import annotations

import math

from ..hardware.chip import Chip
from ..result import Explanation, OperandUse
from ..workload import Workload
from .explain_managed import names_of
from .fused.nest import FusedNest
from .fused.tiles import visits
from .kernels import Kernel
from .select import Choice, bound_by


def explain_fused(kernel: Kernel, choice: Choice, workload: Workload, chip: Chip) -> Explanation:
    """One chain. It has no alternatives of its own: its kernels one by one are what it was compared with."""
    assert kernel.fused is not None
    name, operations = names_of(kernel)
    busy = {**choice.resources_s, chip.external.name: choice.external_s, "launch": choice.overhead_s}
    joules = (choice.compute_energy_j, choice.unattributed_energy_j, choice.static_energy_j)
    return Explanation(
        chip=chip.name,
        path=kernel.path,
        kernel=name,
        operations=operations,
        sizes={"rows": kernel.fused.chain.rows},
        loops=_loops(kernel.fused),
        operands=_operands(kernel.fused, workload, chip),
        busy_s=busy,
        latency_s=choice.latency_s,
        energy_j=math.fsum((*choice.level_energy_j, *joules)),
        bound_by=bound_by(busy, choice.stretch, chip.external.name),
        mapping=choice.mapping,
        alternatives=(),
        candidates=choice.candidates,
        legal=choice.legal,
        rejected={},
    )


def _loops(nest: FusedNest) -> tuple[str, ...]:
    """The loops around the members, outermost first, and the members in turn."""
    chain, cut = nest.chain, nest.cut
    depth = chain.rows // chain.batches
    lines = []
    if chain.batches > cut.entries:
        trips = math.ceil(chain.batches / cut.entries)
        lines.append(f"for batch entries in steps of {cut.entries}: {trips} trips")
    if depth > cut.rows:
        lines.append(f"for rows in steps of {cut.rows}: {math.ceil(depth / cut.rows)} trips")
    for position, kernel in enumerate(nest.members):
        chunks = f", in {cut.chunks} chunks of columns" if cut.chunked(position) else ""
        lines.append(f"{names_of(kernel)[0]} of {kernel.path or 'the model'}{chunks}")
    return tuple(lines)


def _operands(nest: FusedNest, workload: Workload, chip: Chip) -> tuple[OperandUse, ...]:
    """What the chain reads, passes on and writes, with what lies on chip of it and what crosses the external boundary
    where it does not lie there before, or stay afterwards."""
    chain, cut, external = nest.chain, nest.cut, chip.external.name
    rows, level = cut.entries * cut.rows, chip.on_chip[-1].name
    used = []
    for t, size in chain.slices.items():
        whole = size * chain.rows
        access = "read" if t in chain.reads else "write" if t in chain.writes else "stays inside"
        crossed = {external: chain.reads.get(t, 0.0) + chain.writes.get(t, 0.0)}
        used.append(OperandUse(workload.tensors[t].role, access, "rows", whole, {level: size * rows}, crossed))
    for t, size in chain.shared.items():
        stays = t in cut.stays
        crossed = {external: size * (1.0 if stays else visits(chain, cut, t))}
        held = {level: size} if stays else {}
        axes = "stays" if stays else "each tile"
        used.append(OperandUse(workload.tensors[t].role, "read", axes, size, held, crossed))
    return tuple(used)
