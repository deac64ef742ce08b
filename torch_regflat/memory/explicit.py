"""Explicitly managed memories: a register-flat memory, or scratchpads behind one another.

The bytes that cross each boundary are exact (see `traffic`); what the arithmetic arrays take from the innermost level
is a model of the array. Loads enter a level through a write port of its own, or through the one port there is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cost.chip_tensors import ChipTensors, LevelTensors, RateTensors
from ..cost.kernel import Movement
from ..cost.shapes import KernelTensors, where_lacking
from .cache import ACCUMULATOR_BYTES, VECTOR_BYTES
from .quantities import Stages
from .systolic import passes
from .tiling import Tiling


@dataclass(frozen=True)
class Near:
    """What does not depend on the tiles: bytes the arithmetic takes from the innermost level and writes to it, and its
    seconds, `[kernel, chip, 1, split]`.
    """

    read: Tensor
    written: Tensor
    compute_s: Tensor
    vector_s: Tensor
    vector_bytes: Tensor


def move(kernels: KernelTensors, tiling: Tiling, near: Near, chip: ChipTensors, rates: RateTensors) -> Movement:
    """Traffic and times of every mapping."""
    stages = tiling.stages
    if bool((rates.arrays > 0).any()):
        near = _systolic(kernels, tiling, near, chip, rates)
    levels = _constant(kernels, near, len(chip.levels))
    above = levels[-1]
    for (down, up, own_down, own_up), stage in zip(tiling.boundaries, stages.stored, strict=True):
        level = levels[stages.level(stage)]
        above.read, above.written = above.read + down, above.written + up
        level.read, level.written = level.read + own_up, level.written + own_down
        above = level
    spread = _spread(kernels, tiling, chip)
    core = {"compute": near.compute_s if spread is None else near.compute_s * spread, "vector": near.vector_s}
    for i, (name, level, numbers) in enumerate(zip(chip.level_names[:-1], levels[:-1], chip.levels[:-1], strict=True)):
        port = _port_s(level, numbers)
        core[f"{name} ports"] = port * spread if spread is not None and stages.is_own(i) else port
    latency = sum((level.latency for level in chip.levels[1:-1]), chip.levels[0].latency)
    external, far = chip.levels[-1], levels[-1]
    return Movement(
        read_bytes=tuple(level.read for level in levels),
        write_bytes=tuple(level.written for level in levels),
        core_s=core,
        external_s=(far.read + far.written) / (external.read_bandwidth * chip.memory_efficiency),
        overhead_s=chip.launch_gap + (chip.prologue + latency) * kernels.sequential,
        operand_far_bytes=tiling.operands,
        fits=_fits(kernels, tiling, chip),
    )


def _systolic(
    kernels: KernelTensors, tiling: Tiling, near: Near, chip: ChipTensors, rates: RateTensors
) -> Near:
    """The same where systolic arrays do the products: they depend on the tiles."""
    own = passes(kernels, tiling.tile, chip, rates, ACCUMULATOR_BYTES)
    where = (rates.arrays > 0) & (kernels.tiled > 0)
    return replace(
        near,
        read=torch.where(where, own.read + near.vector_bytes, near.read),
        written=torch.where(where, own.written + near.vector_bytes, near.written),
        compute_s=torch.where(where, own.compute_s, near.compute_s),
    )


@dataclass
class _Level:
    """Bytes read and written so far."""

    read: Tensor
    written: Tensor


def _constant(kernels: KernelTensors, near: Near, count: int) -> list[_Level]:
    """Bytes that move whatever the tiles: what arithmetic takes and leaves, and what streams from and to external memory
    through every level, or within the chip. They come first, so that a sum over candidates is added to once.
    """
    far_in, far_out = kernels.read_far, kernels.write_far
    passing, near_in, near_out = far_in + far_out, kernels.read_near, kernels.write_near
    levels = [_Level(passing + near_in + near_out, passing + near_in + near_out) for _ in range(count - 2)]
    levels += [_Level(passing + near_in, passing + near_out), _Level(far_in, far_out)]
    levels[0] = _Level(levels[0].read + near.read, levels[0].written + near.written)
    return levels


def _spread(kernels: KernelTensors, tiling: Tiling, chip: ChipTensors) -> Tensor | None:
    """How much longer the busiest core works than if all shared evenly; None where there is one core."""
    if tiling.shared is None:
        return None
    steps, busy, _ = tiling.shared
    return torch.where(kernels.tiled > 0, chip.cores * steps / busy, torch.ones_like(kernels.work))


def _port_s(level: _Level, numbers: LevelTensors) -> Tensor:
    """Seconds of a level's ports: one for reads and one for writes, or one for both."""
    shared = numbers.shared_port > 0
    if bool(shared.all()):
        return (level.read + level.written) / numbers.read_bandwidth
    apart = torch.maximum(level.read / numbers.read_bandwidth, level.written / numbers.write_bandwidth)
    if not bool(shared.any()):
        return apart
    return torch.where(shared, (level.read + level.written) / numbers.read_bandwidth, apart)


def room(kernels: KernelTensors, stages: Stages, chip: ChipTensors) -> list[Tensor]:
    """Bytes free in one copy of each stored stage, `[kernel, chip, 1, 1]`.

    The schedule keeps tensors in the outermost level, so only a share of it is free.
    """
    found = []
    for stage in stages.stored:
        level = stages.level(stage)
        free = chip.levels[level].capacity / (chip.cores if stages.is_own(level) else 1.0)
        found.append(free * (kernels.available if stage == stages.stored[0] else torch.ones_like(kernels.available)))
    return found


def _fits(kernels: KernelTensors, tiling: Tiling, chip: ChipTensors) -> dict[str, Tensor]:
    """Whether the tiles fit what is free of each level, and the chip has as many cores as share a step."""
    stages, streams = tiling.stages, kernels.tiled == 0
    free = room(kernels, stages, chip)
    checks = {
        chip.level_names[stages.level(stage)]: (held <= bytes_) | streams
        for held, bytes_, stage in zip(tiling.holds, free, stages.stored, strict=True)
    }
    if tiling.shared is not None:
        checks["cores"] = (tiling.shared[2] <= chip.cores) | streams
    return checks


def engines(kernels: KernelTensors, split: Tensor, chip: ChipTensors, rates: RateTensors) -> Near:
    """What the arrays read and write, and how long they take, where a sum is split over `split` cores `[..., split]`.

    A core's array holds rows x columns accumulators and eats `depth` steps of k a cycle: the narrow dtypes are deeper.
    """
    b, m, n, k = kernels.sizes
    rows, columns = rates.rows, rates.columns
    # In attention the array's columns run over keys (scores) and then over the head size (values).
    across = torch.where(kernels.attention > 0, kernels.width, n)
    blocks_m, blocks_n = torch.ceil(m / rows), torch.ceil(across / columns)
    split = torch.minimum(split, k)
    share = torch.ceil(k / split) * split / k
    tasks = b * blocks_m * torch.where(kernels.attention > 0, torch.ones_like(blocks_n), blocks_n) * split
    deep = torch.ceil(k / rates.depth) * rates.depth / k
    padding = (blocks_m * rows / m) * (blocks_n * columns / across) * torch.maximum(share, deep)
    matrix = kernels.work / rates.rate
    waves = chip.cores / tasks * torch.ceil(tasks / chip.cores)
    compute = torch.where(kernels.tiled > 0, matrix * padding * waves, matrix)
    read = torch.zeros_like(padding)
    write = torch.zeros_like(padding)
    for o in kernels.operands:
        bytes_ = o.bytes_of(kernels.sizes)
        again = where_lacking(o.m, blocks_m) * where_lacking(torch.maximum(o.n, kernels.attention), blocks_n)
        again = again * where_lacking(o.b, b)
        executed = torch.where(o.k > 0, kernels.domain_fraction, torch.ones_like(again))
        read = read + bytes_ * again * executed * (1.0 - o.write)
        partial = o.elements_of(kernels.sizes) * ACCUMULATOR_BYTES * (split - 1.0) * o.write
        write = write + bytes_ * o.write + partial
        read = read + partial
    vector = (kernels.vector_ops + kernels.special_ops) * (VECTOR_BYTES / 2.0)
    vector_s = kernels.vector_ops / chip.vector_rate + kernels.special_ops / chip.special_rate
    return Near(read + vector, write + vector, compute, vector_s, vector)
