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
from .exchanges import explained
from .explain_managed import STREAMS, explain_managed, names_of, streams
from .kernels import Kernel
from .run import places_of
from .search import choose
from .select import Search, bound_by, describe, pick
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
    shapes = [shape_of(k, places[k.index], workload) for k in found]
    if chip.memory_system != "cache":
        said = [explain_managed(k, shape, chip, software, losers) for k, shape in zip(found, shapes, strict=True)]
        if not any(shape.exchange for shape in shapes):
            return said
    chosen = choose(shapes, chip, software, conditions=conditions)
    if chip.memory_system == "cache":
        search = Search(chip, software, chip_tensors([chip], [software], conditions), "latency", conditions=conditions)
        said = [_explain(k, choice.shape, search, losers) for k, choice in zip(found, chosen, strict=True)]
    return [explained(one, choice, chip, software) for one, choice in zip(said, chosen, strict=True)]


def _explain(kernel: Kernel, shape: KernelShape, search: Search, losers: int) -> Explanation:
    batch, move, cost = search.price([shape])
    wide = (1, 1, batch.m.shape[-2], batch.split.shape[-1])
    best, _, legal = pick(cost.latency_s, cost.energy_j, move.legal, batch.key)
    chosen = int(best.reshape(-1)[0])
    order = _ranking(cost, move, wide)
    external = search.chip.external.name
    count = batch.candidates if shape.is_tiled else 1
    busy = _busy(move, cost, wide, chosen, external)
    name, operations = names_of(kernel)
    return Explanation(
        chip=search.chip.name,
        path=kernel.path,
        kernel=name,
        operations=operations,
        sizes=dict(zip(AXES, shape.sizes, strict=True)) if shape.is_tiled else {},
        loops=_loops(shape, batch, wide, chosen, search.chip) if shape.is_tiled else (STREAMS,),
        operands=_operands(shape, batch, move, wide, chosen, search.chip),
        busy_s=busy,
        latency_s=_at(cost.latency_s, wide, chosen),
        energy_j=_at(cost.energy_j, wide, chosen),
        bound_by=bound_by(busy, _at(cost.stretch, wide, chosen), external),
        mapping=describe(shape, _tile(batch, wide, chosen)) if shape.is_tiled else "streamed",
        alternatives=_alternatives(shape, batch, move, cost, wide, order, chosen, losers, external),
        candidates=count,
        legal=int(legal.reshape(-1)[0]) if shape.is_tiled else 1,
        rejected={
            level: int((~fits).expand(wide).sum())
            for level, fits in move.fits.items()
            if not bool(fits.expand(wide).all())
        },
    )


def _at(tensor: torch.Tensor, wide: tuple[int, ...], flat: int) -> float:
    return float(tensor.expand(wide).reshape(-1)[flat])


def _tile(batch: mappings.MappingBatch, wide: tuple[int, ...], flat: int) -> list[float]:
    return [_at(t, wide, flat) for t in (batch.m, batch.n, batch.k, batch.split)]


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
    external: str,
) -> tuple[Alternative, ...]:
    """The next best mappings that read differently; many tilings of a small axis are one and the same."""
    if not shape.is_tiled:
        return ()
    seen = {describe(shape, _tile(batch, wide, chosen))}
    found: list[Alternative] = []
    for flat in order:
        text = describe(shape, _tile(batch, wide, flat))
        if text in seen:
            continue
        seen.add(text)
        bound = bound_by(_busy(move, cost, wide, flat, external), _at(cost.stretch, wide, flat), external)
        found.append(Alternative(text, _at(cost.latency_s, wide, flat), _at(cost.energy_j, wide, flat), bound))
        if len(found) == losers:
            break
    return tuple(found)


def _operands(
    shape: KernelShape, batch: mappings.MappingBatch, move: Movement, wide: tuple[int, ...], flat: int, chip: Chip
) -> tuple[OperandUse, ...]:
    m, n, k, _ = _tile(batch, wide, flat)
    tile = (1.0, m, 1.0 if shape.kind == "attention" else n, k)
    core, shared, external = chip.on_chip[1].name, chip.on_chip[-1].name, chip.external.name
    used = []
    for i, (operand, moved) in enumerate(zip(shape.operands, move.operand_far_bytes, strict=False)):
        points = math.prod(size for size, has in zip(tile, operand.axes, strict=True) if has)
        axes = "".join(name for name, has in zip(AXES, operand.axes, strict=True) if has)
        held, crossed = {core: points * operand.point_bytes}, {external: _at(moved, wide, flat)}
        if move.operand_core_bytes:
            crossed = {shared: _at(move.operand_core_bytes[i], wide, flat), **crossed}
        used.append(OperandUse(operand.role, operand.access, axes, operand.footprint_bytes, held, crossed))
    return (*used, *streams(shape, external))


def _loops(
    shape: KernelShape, batch: mappings.MappingBatch, wide: tuple[int, ...], flat: int, chip: Chip
) -> tuple[str, ...]:
    """The loop nest as chosen, outermost first."""
    m, n, k, split = _tile(batch, wide, flat)
    b, size_m, size_n, size_k = shape.sizes
    n = 1.0 if shape.kind == "attention" else n
    blocks = f"{math.ceil(size_m / m)} x {math.ceil(size_n / n)}" + (f" x {split:.0f} along k" if split > 1 else "")
    cores = f"{chip.cores.count.value:.0f} {chip.cores.name}s"
    return (
        *([f"for b in 0..{b}"] if b > 1 else []),
        f"spatial: {blocks} thread blocks over {cores}, each m{m:.0f} n{n:.0f}",
        f"for k in steps of {k:.0f}: {math.ceil(size_k / (k * split))} steps, both factors through shared memory",
    )
