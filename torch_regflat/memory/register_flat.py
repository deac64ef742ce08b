"""A register-flat memory: one large register memory between external memory and the engines.

Traffic with external memory is exact for an explicitly managed buffer: a tile of each operand is held (twice where it
is streamed, so that loads overlap arithmetic), loops run over tiles in the mapping's order, and an operand is fetched
again whenever its tile changes. Loads enter through a write port of their own, or
through the one port there is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..cost.chip_tensors import ChipTensors, RateTensors
from ..cost.kernel import Movement
from ..cost.shapes import KernelTensors, where_lacking, where_used
from ..mapping import MappingBatch
from .cache import ACCUMULATOR_BYTES, VECTOR_BYTES

DOUBLE_BUFFER = 2.0


def move(kernels: KernelTensors, mapping: MappingBatch, chip: ChipTensors, rates: RateTensors) -> Movement:
    """Traffic and times of every mapping on a chip with levels registers, external."""
    registers, external = chip.levels
    far_read, far_write, by_operand = _external(kernels, mapping)
    read, write, compute = _engines(kernels, mapping, chip, rates)
    vector = (kernels.vector_ops + kernels.special_ops) * (VECTOR_BYTES / 2.0)
    reads = read + vector + kernels.read_near + kernels.read_far + far_write
    writes = write + vector + kernels.write_near + kernels.write_far + far_read
    apart = torch.maximum(reads / registers.read_bandwidth, writes / registers.write_bandwidth)
    port = torch.where(registers.shared_port > 0, (reads + writes) / registers.read_bandwidth, apart)
    core = {
        "compute": compute,
        "vector": kernels.vector_ops / chip.vector_rate + kernels.special_ops / chip.special_rate,
        "register ports": port,
    }
    return Movement(
        read_bytes=(reads, far_read),
        write_bytes=(writes, far_write),
        core_s=core,
        external_s=(far_read + far_write) / (external.read_bandwidth * chip.memory_efficiency),
        overhead_s=chip.launch_gap + chip.prologue * kernels.sequential + registers.latency * kernels.sequential,
        operand_far_bytes=by_operand,
        fits={chip.level_names[0]: _fits(kernels, mapping, registers.capacity)},
    )


def _engines(
    kernels: KernelTensors, mapping: MappingBatch, chip: ChipTensors, rates: RateTensors
) -> tuple[Tensor, Tensor, Tensor]:
    """Register bytes read and written by the matrix arrays, and their seconds.

    A core's array holds rows x columns accumulators and eats `depth` steps of k a cycle: the narrow dtypes are deeper.
    """
    b, m, n, k = kernels.sizes
    rows, columns = rates.rows, rates.columns
    # In attention the array's columns run over keys (scores) and then over the head size (values).
    across = torch.where(kernels.attention > 0, kernels.width, n)
    blocks_m, blocks_n = torch.ceil(m / rows), torch.ceil(across / columns)
    split = torch.minimum(mapping.split, k)
    share = torch.ceil(k / split) * split / k
    tasks = b * blocks_m * torch.where(kernels.attention > 0, torch.ones_like(blocks_n), blocks_n) * split
    padding = (blocks_m * rows / m) * (blocks_n * columns / across) * share
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


def _external(kernels: KernelTensors, mapping: MappingBatch) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """External bytes read and written, and both by operand, exact for whole tiles (see `fetches`)."""
    trips = _trips(kernels, mapping)
    depth = (mapping.position(0), mapping.position(1), mapping.position(2))
    read = kernels.read_far + torch.zeros_like(mapping.m)
    write = kernels.write_far + torch.zeros_like(mapping.m)
    by_operand = []
    for o in kernels.operands:
        times = fetches((o.m, o.n, o.k), trips, depth)
        whole = where_used(o.m, trips[0]) * where_used(o.n, trips[1]) * where_used(o.k, trips[2]) == 1.0
        times = times * torch.where((o.b > 0) | whole, torch.ones_like(times), kernels.sizes[0])
        moved = o.footprint_bytes * (1.0 - o.resident) * o.leaves
        # A result that leaves before its sum is complete comes back: one read less than it is written.
        back = moved * (times - 1.0) * o.write
        by_operand.append(moved * times + back)
        read = read + moved * times * (1.0 - o.write) + back
        write = write + moved * times * o.write
    return read, write, tuple(by_operand)


def fetches(
    indexed: tuple[Tensor, Tensor, Tensor], trips: tuple[Tensor, Tensor, Tensor], depth: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """How often an operand is fetched in full.

    `indexed`: which of m, n, k index it; `trips`: tiles along each; `depth`: how deep each loop lies. An operand's
    tile changes whenever one of its own loops advances. So a loop that does not index it repeats all its fetches if,
    and only if, one of its own loops with more than one trip runs inside that loop.
    """
    result = torch.ones_like(trips[0] * trips[1] * trips[2] * depth[0])
    for lacking in range(3):
        repeats = torch.zeros_like(result, dtype=torch.bool)
        for own in range(3):
            moving = (indexed[own] > 0) & (trips[own] > 1.0)
            repeats = repeats | (moving & (depth[own] > depth[lacking]))
        counts = repeats & (indexed[lacking] == 0)
        result = result * torch.where(counts, trips[lacking], torch.ones_like(result))
    return result


def _trips(kernels: KernelTensors, mapping: MappingBatch) -> tuple[Tensor, Tensor, Tensor]:
    _, m, n, k = kernels.sizes
    return torch.ceil(m / mapping.m), torch.ceil(n / mapping.n), torch.ceil(k / mapping.k)


def _fits(kernels: KernelTensors, mapping: MappingBatch, capacity: Tensor) -> Tensor:
    """Two buffers of every tile that is not on chip already fit what is free."""
    tile = (torch.ones_like(mapping.m), mapping.m, mapping.n, mapping.k)
    needed = torch.zeros_like(mapping.m)
    for o in kernels.operands:
        needed = needed + DOUBLE_BUFFER * o.bytes_of(tile) * (1.0 - o.resident) * o.leaves
    return (needed <= capacity * kernels.available) | (kernels.tiled == 0)
