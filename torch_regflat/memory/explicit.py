"""Explicitly managed memories: a register-flat memory, or scratchpads behind one another.

The bytes that cross each boundary are exact (see `traffic`); what the arithmetic arrays take from the innermost level
is a model of the array. Loads enter a level through a write port of its own, or through the one port there is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cost.chip_tensors import ChipTensors, LevelTensors, RateTensors
from ..cost.kernel import Movement
from ..cost.shapes import KernelTensors, where_lacking
from .attention import RESIDENT
from .cache import ACCUMULATOR_BYTES, VECTOR_BYTES
from .network import Network, network
from .quantities import Stages
from .systolic import Systolic, systolic
from .tiling import Tiling


@dataclass(frozen=True)
class Fixed:
    """What does not depend on the tiles, worked out once for all candidates; `[kernel, chip, 1, split]`.

    `read` and `written` are bytes of every level, nearest the engines first: what arithmetic takes and leaves, and what
    streams from and to external memory through every level, or within the chip. `network` is what goes from core to
    core.
    """

    read: tuple[Tensor, ...]
    written: tuple[Tensor, ...]
    compute_s: Tensor
    vector_s: Tensor
    overhead_s: Tensor
    far_share: Tensor
    room: tuple[Tensor, ...]
    systolic: Systolic | None
    network: Network | None = None


def fixed(kernels: KernelTensors, split: Tensor, stages: Stages, chip: ChipTensors, rates: RateTensors) -> Fixed:
    """What kernels do on chips whatever the tiles, where a sum is split over `split` cores `[..., split]`."""
    read, written, compute = _arrays(kernels, split, chip, rates)
    arrays = systolic(kernels, chip, rates, ACCUMULATOR_BYTES)
    if arrays is not None:
        read, written = torch.where(arrays.where, arrays.read, read), torch.where(arrays.where, arrays.written, written)
    vector = (kernels.vector_ops + kernels.special_ops) * (VECTOR_BYTES / 2.0)
    far_in, far_out = kernels.read_far, kernels.write_far
    passing, near_in, near_out = far_in + far_out, kernels.read_near, kernels.write_near
    count = len(chip.levels)
    reads = [passing + near_in + near_out] * (count - 2) + [passing + near_in, far_in]
    writes = [passing + near_in + near_out] * (count - 2) + [passing + near_out, far_out]
    between = network(kernels, split, written + vector + near_out, chip, rates)
    if between is not None:
        written = written + between.copies
    reads[0], writes[0] = reads[0] + (read + vector), writes[0] + (written + vector)
    latency = sum((level.latency for level in chip.levels[1:-1]), chip.levels[0].latency)
    lanes = kernels.vector_ops / chip.vector_rate + kernels.special_ops / chip.special_rate
    # What software loses, as on a cache hierarchy; an ideal mapper loses none of it.
    attends = kernels.attention > 0
    compute = compute / rates.issue
    compute = compute + attends * chip.softmax_exposed * torch.minimum(compute, lanes)
    overhead = chip.launch_gap + attends * chip.block_latency / RESIDENT
    overhead = overhead + (chip.prologue * ~attends + latency) * kernels.sequential
    if bool(chip.bulk.any()):
        # Cores compute after the exchange, with one engine at a time.
        compute = compute + lanes * chip.bulk
        overhead = overhead if between is None else overhead + between.seconds * chip.bulk
    return Fixed(
        tuple(reads),
        tuple(writes),
        compute,
        lanes,
        overhead,
        far_share(kernels, chip),
        tuple(room(kernels, stages, chip)),
        arrays,
        between,
    )


def far_share(kernels: KernelTensors, chip: ChipTensors) -> Tensor:
    """Share of the external memory's bandwidth that the software reaches, `[kernel, chip, 1, 1]`."""
    product = torch.where(kernels.attention > 0, chip.attention_memory, chip.memory_efficiency)
    return torch.where(kernels.tiled > 0, product, chip.stream_efficiency)


def move(kernels: KernelTensors, tiling: Tiling, own: Fixed, chip: ChipTensors) -> Movement:
    """Traffic and times of every mapping."""
    stages = tiling.stages
    read, written, compute = list(own.read), list(own.written), own.compute_s
    if own.systolic is not None:
        again, seconds = own.systolic.passes(tiling.tile)
        read[0] = read[0] + again
        compute = torch.where(own.systolic.where, seconds, compute)
    above = len(chip.levels) - 1
    for (down, up, own_down, own_up), stage in zip(tiling.boundaries, stages.stored, strict=True):
        level = stages.level(stage)
        read[above], written[above] = read[above] + down, written[above] + up
        read[level], written[level] = read[level] + own_up, written[level] + own_down
        above = level
    spread = _spread(kernels, tiling, chip)
    core = {"compute": compute if spread is None else compute * spread, "vector": own.vector_s}
    for i, (name, numbers) in enumerate(zip(chip.level_names[:-1], chip.levels[:-1], strict=True)):
        port = port_s(read[i], written[i], numbers)
        core[f"{name} ports"] = port * spread if spread is not None and stages.is_own(i) else port
    if own.network is not None:
        core[f"{chip.level_names[0]} network"] = own.network.seconds
    external = chip.levels[-1]
    return Movement(
        read_bytes=tuple(read),
        write_bytes=tuple(written),
        core_s=core,
        external_s=(read[-1] + written[-1]) / (external.read_bandwidth * own.far_share),
        overhead_s=own.overhead_s,
        operand_far_bytes=tiling.operands,
        fits=_fits(kernels, tiling, own, chip),
        network_bytes=None if own.network is None else own.network.moved,
    )


def _spread(kernels: KernelTensors, tiling: Tiling, chip: ChipTensors) -> Tensor | None:
    """How much longer the busiest core works than if all shared evenly; None where there is one core."""
    if tiling.shared is None:
        return None
    steps, busy, _ = tiling.shared
    return torch.where(kernels.tiled > 0, chip.cores * steps / busy, torch.ones_like(kernels.work))


def port_s(read: Tensor, written: Tensor, numbers: LevelTensors) -> Tensor:
    """Seconds of a level's ports: one for reads and one for writes, or one for both."""
    shared = numbers.shared_port > 0
    if bool(shared.all()):
        return (read + written) / numbers.read_bandwidth
    apart = torch.maximum(read / numbers.read_bandwidth, written / numbers.write_bandwidth)
    if not bool(shared.any()):
        return apart
    return torch.where(shared, (read + written) / numbers.read_bandwidth, apart)


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


def _fits(kernels: KernelTensors, tiling: Tiling, own: Fixed, chip: ChipTensors) -> dict[str, Tensor]:
    """Whether the tiles fit what is free of each level, and the chip has as many cores as share a step."""
    stages, streams = tiling.stages, kernels.tiled == 0
    checks = {
        chip.level_names[stages.level(stage)]: held <= torch.where(streams, torch.inf, free)
        for held, free, stage in zip(tiling.holds, own.room, stages.stored, strict=True)
    }
    if tiling.shared is not None:
        checks["cores"] = (tiling.shared[2] <= chip.cores) | streams
    return checks


def _arrays(
    kernels: KernelTensors, split: Tensor, chip: ChipTensors, rates: RateTensors
) -> tuple[Tensor, Tensor, Tensor]:
    """Bytes the matrix arrays read from the innermost level and write to it, and their seconds.

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
    return read, write, compute
