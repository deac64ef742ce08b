"""Why a kernel is run as it is: its loop nest, operands, times, the mappings that lost and those that did not fit."""

from __future__ import annotations

import math

import torch

from .. import mapping as mappings
from ..conditions import SCHEDULED, Conditions
from ..cost.chip_tensors import chip_tensors
from ..cost.kernel import Cost, Movement
from ..cost.shapes import KernelShape
from ..errors import InputError, near
from ..hardware.chip import Chip
from ..hardware.software import Software
from ..result import Alternative, Explanation, OperandUse
from ..workload import Workload
from .kernels import Kernel
from .run import places_of
from .select import COARSE, FINE, Halvings, Search, bound_by, choose, describe, pick
from .shape import shape_of

AXES = ("b", "m", "n", "k")


def explain(
    workload: Workload,
    kernels: list[Kernel],
    chip: Chip,
    software: Software,
    path: str,
    losers: int = 5,
    conditions: Conditions = SCHEDULED,
) -> list[Explanation]:
    """Explain the kernels that run (part of) the module at `path`, `losers` alternatives each.

    Raises `InputError` naming near paths when no kernel belongs to `path`.
    """
    found = [k for k in kernels if any(op.path == path or op.path.startswith(f"{path}.") for op in k.operations)]
    if not found:
        known = sorted({op.path for k in kernels for op in k.operations})
        raise InputError(
            f"no kernel runs {path!r}{near(path, known) or ';'} regflat profile --by module lists the paths"
        )
    places = places_of(kernels, workload, chip, software, conditions)
    search = Search(chip, software, chip_tensors([chip], [software], conditions), "latency", conditions=conditions)
    shapes = [shape_of(k, places[k.index], workload) for k in found]
    chosen = [choice.shape for choice in choose(shapes, chip, software, conditions=conditions)]
    return [_explain(k, shape, search, losers) for k, shape in zip(found, chosen, strict=True)]


def _explain(kernel: Kernel, shape: KernelShape, search: Search, losers: int) -> Explanation:
    halvings: Halvings = COARSE
    batch, move, cost = search.price([shape], halvings)
    if not bool(move.legal.any()):
        batch, move, cost = search.price([shape], FINE)
    wide = (1, 1, batch.m.shape[-2], batch.split.shape[-1])
    best, _, legal = pick(cost.latency_s, cost.energy_j, move.legal, batch.key)
    chosen = int(best.reshape(-1)[0])
    order = _ranking(cost, move, wide)
    external = search.chip.external.name
    count = batch.candidates if shape.is_tiled else 1
    busy = _busy(move, cost, wide, chosen, external)
    return Explanation(
        chip=search.chip.name,
        path=kernel.path,
        kernel="+".join(dict.fromkeys(op.target.removeprefix("aten.").split(".")[0] for op in kernel.operations)),
        operations=tuple(f"{op.path}: {op.target} {op.shapes}" for op in kernel.operations),
        sizes=dict(zip(AXES, shape.sizes, strict=True)) if shape.is_tiled else {},
        loops=_loops(shape, batch, wide, chosen, search.chip) if shape.is_tiled else ("stream every operand once",),
        operands=_operands(shape, batch, move, wide, chosen),
        busy_s=busy,
        latency_s=_at(cost.latency_s, wide, chosen),
        energy_j=_at(cost.energy_j, wide, chosen),
        bound_by=bound_by(busy, _at(cost.stretch, wide, chosen), external),
        mapping=describe(shape, _tile(batch, wide, chosen), search.chip.memory_system)
        if shape.is_tiled
        else "streamed",
        alternatives=_alternatives(shape, batch, move, cost, wide, order, chosen, losers, search.chip),
        candidates=count,
        legal=int(legal.reshape(-1)[0]) if shape.is_tiled else 1,
        rejected={
            name: int((~fits).expand(wide).sum())
            for name, fits in move.fits.items()
            if not bool(fits.expand(wide).all())
        },
    )


def _at(tensor: torch.Tensor, wide: tuple[int, ...], flat: int) -> float:
    return float(tensor.expand(wide).reshape(-1)[flat])


def _tile(batch: mappings.MappingBatch, wide: tuple[int, ...], flat: int) -> list[float]:
    return [_at(t, wide, flat) for t in (batch.m, batch.n, batch.k, batch.split, batch.order)]


def _busy(move: Movement, cost: Cost, wide: tuple[int, ...], flat: int, external: str) -> dict[str, float]:
    stretch = _at(cost.stretch, wide, flat)
    busy = {name: _at(seconds, wide, flat) * stretch for name, seconds in move.core_s.items()}
    busy[external] = _at(move.external_s, wide, flat)
    busy["launch"] = _at(move.overhead_s, wide, flat)
    return busy


def _ranking(cost: Cost, move: Movement, wide: tuple[int, ...]) -> list[int]:
    """Legal candidates from fastest to slowest."""
    seconds = torch.where(move.legal.expand(wide), cost.latency_s.expand(wide), math.inf).reshape(-1)
    return [int(i) for i in torch.argsort(seconds, stable=True).tolist() if math.isfinite(float(seconds[i]))]


def _alternatives(
    shape: KernelShape,
    batch: mappings.MappingBatch,
    move: Movement,
    cost: Cost,
    wide: tuple[int, ...],
    order: list[int],
    chosen: int,
    losers: int,
    chip: Chip,
) -> tuple[Alternative, ...]:
    """The next best mappings that read differently; many tilings of a small axis are one and the same."""
    if not shape.is_tiled:
        return ()
    seen = {describe(shape, _tile(batch, wide, chosen), chip.memory_system)}
    found: list[Alternative] = []
    for flat in order:
        text = describe(shape, _tile(batch, wide, flat), chip.memory_system)
        if text in seen:
            continue
        seen.add(text)
        bound = bound_by(
            _busy(move, cost, wide, flat, chip.external.name), _at(cost.stretch, wide, flat), chip.external.name
        )
        found.append(Alternative(text, _at(cost.latency_s, wide, flat), _at(cost.energy_j, wide, flat), bound))
        if len(found) == losers:
            break
    return tuple(found)


def _operands(
    shape: KernelShape, batch: mappings.MappingBatch, move: Movement, wide: tuple[int, ...], flat: int
) -> tuple[OperandUse, ...]:
    m, n, k, _, _ = _tile(batch, wide, flat)
    tile = (1.0, m, 1.0 if shape.kind == "attention" else n, k)
    used = []
    for operand, moved in zip(shape.operands, move.operand_far_bytes, strict=False):
        points = math.prod(size for size, has in zip(tile, operand.axes, strict=True) if has)
        axes = "".join(name for name, has in zip(AXES, operand.axes, strict=True) if has)
        external = _at(moved, wide, flat)
        used.append(
            OperandUse(
                operand.role, operand.access, axes, operand.footprint_bytes, points * operand.point_bytes, external
            )
        )
    for stream in shape.streams:
        read, write = stream.read_near + stream.read_far, stream.write_near + stream.write_far
        for access, total, far in (("read", read, stream.read_far), ("write", write, stream.write_far)):
            if total:
                used.append(OperandUse(stream.role, access, "streamed", total, total, far))
    return tuple(used)


def _loops(
    shape: KernelShape, batch: mappings.MappingBatch, wide: tuple[int, ...], flat: int, chip: Chip
) -> tuple[str, ...]:
    """The loop nest as chosen, outermost first."""
    m, n, k, split, order = _tile(batch, wide, flat)
    b, size_m, size_n, size_k = shape.sizes
    tile = {"m": m, "n": 1.0 if shape.kind == "attention" else n, "k": k}
    trips = {axis: math.ceil(size / tile[axis]) for axis, size in zip("mnk", (size_m, size_n, size_k), strict=True)}
    cores = f"{chip.cores.count.value:.0f} {chip.cores.name}s"
    lines = [f"for b in 0..{b}"] if b > 1 else []
    if chip.memory_system == "cache":
        blocks = f"{trips['m']} x {trips['n']}" + (f" x {split:.0f} along k" if split > 1 else "")
        lines.append(f"spatial: {blocks} thread blocks over {cores}, each m{tile['m']:.0f} n{tile['n']:.0f}")
        lines.append(
            f"for k in steps of {k:.0f}: {math.ceil(size_k / (k * split))} steps, both factors through shared memory"
        )
        return tuple(lines)
    for axis in mappings.ORDERS[int(order)]:
        name = "mnk"[axis]
        lines.append(
            f"for {name} in steps of {tile[name]:.0f}: {trips[name]} trips, tile held in {chip.on_chip[-1].name}"
        )
    rows, columns, depth = (chip.engine_for(shape.dtype) or chip.engines[0]).native_tile()
    lines.append(
        f"spatial: arrays of {rows} x {columns} x {depth} on {cores}"
        + (f", k split over {split:.0f}" if split > 1 else "")
    )
    return tuple(lines)
