"""A cache hierarchy: registers and shared memory in each core, an L2 they share, external memory behind it.

This is a model on top of the exact tile counts, not itself exact. A kernel is a grid of thread blocks (CTAs), one
result tile each, run in waves over the cores. What a block loads passes through L2; what L2 does not hold comes from
external memory. Concurrent blocks of a wave form a rectangle of tiles that shares its rows and columns in L2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..cost.chip_tensors import ChipTensors, RateTensors
from ..cost.kernel import Movement, merge
from ..cost.shapes import KernelTensors, OperandTensors, where_lacking
from ..mapping import MappingBatch
from . import attention

WARP_TILE = 64.0
"""Rows (and, fed from registers, columns) of the result a group of warps holds: how often shared memory is read."""
WIDEST_INSTRUCTION = 256.0
"""Columns that one instruction covers when the matrix engine reads shared memory itself (n of wgmma)."""
VECTOR_BYTES = 8.0
"""Register bytes of a vector operation: an intermediate of 4 bytes written and read once (estimate, both systems)."""
ACCUMULATOR_BYTES = 4.0


def move(kernels: KernelTensors, mapping: MappingBatch, chip: ChipTensors, rates: RateTensors) -> Movement:
    """Traffic and times of every mapping on a cache hierarchy with levels registers, shared, L2, external."""
    fused = kernels.attention > 0
    if bool(fused.all()):
        return attention.move(kernels, mapping, chip, rates)
    plain = _move(kernels, mapping, chip, rates)
    if not bool(fused.any()):
        return plain
    return merge(fused, attention.move(kernels, mapping, chip, rates), plain)


def _move(kernels: KernelTensors, mapping: MappingBatch, chip: ChipTensors, rates: RateTensors) -> Movement:
    """Products, convolutions, and kernels that only stream."""
    grid = _Grid(kernels, mapping, chip)
    near = _l2_to_core(kernels, mapping, grid)
    far_read, far_write, by_operand = _external(kernels, mapping, grid, chip)
    macs = kernels.work / 2.0
    load, store = near
    shared_read, fragments = _engine_feed(kernels, grid, rates)
    register_read = fragments + macs * ACCUMULATOR_BYTES / rates.depth
    register_write = macs * ACCUMULATOR_BYTES / rates.depth
    vector = (kernels.vector_ops + kernels.special_ops) * (VECTOR_BYTES / 2.0)
    streams_in, streams_out = kernels.read_near + kernels.read_far, kernels.write_near + kernels.write_far
    reads = (register_read + vector + streams_out, shared_read, load + streams_in, far_read)
    # A fragment is loaded once for a warp's tile and read by every instruction on it.
    loaded = shared_read * rates.feeds_registers
    writes = (register_write + vector + streams_in + loaded, load, store + streams_out, far_write)
    l2 = chip.levels[2]
    core = {
        "compute": grid.compute_s(rates),
        "vector": kernels.vector_ops / chip.vector_rate + kernels.special_ops / chip.special_rate,
        "shared memory": (shared_read + load) / chip.levels[1].read_bandwidth,
        "L2 bandwidth": (load + streams_in + store + streams_out) / (l2.read_bandwidth * chip.l2_efficiency),
    }
    bandwidth = chip.levels[3].read_bandwidth * chip.memory_efficiency
    return Movement(
        read_bytes=reads,
        write_bytes=writes,
        core_s=core,
        external_s=(far_read + far_write - kernels.apart_bytes) / bandwidth,
        overhead_s=chip.launch_gap
        + chip.prologue * kernels.sequential
        + (chip.launch_gap + chip.prologue) * kernels.apart_kernels
        + kernels.apart_bytes / bandwidth
        + chip.split_cost * (mapping.split > 1.0) * kernels.tiled,
        operand_far_bytes=by_operand,
        fits=_fits(kernels, mapping, chip),
    )


class _Grid:
    """Blocks, waves and padded work of each mapping."""

    def __init__(self, kernels: KernelTensors, mapping: MappingBatch, chip: ChipTensors) -> None:
        b, m, n, k = kernels.sizes
        self.kernels, self.mapping, self.chip = kernels, mapping, chip
        self.blocks_m, self.blocks_n = _tiles_a_group(kernels, mapping), torch.ceil(n / mapping.n)
        self.steps_k = torch.ceil(k / (mapping.k * mapping.split))
        self.blocks = b * self.blocks_m * self.blocks_n * mapping.split
        padded_k = self.steps_k * mapping.k * mapping.split
        self.padding = (self.blocks_m * mapping.m / m) * (self.blocks_n * mapping.n / n) * (padded_k / k)
        exact = self.blocks / chip.cores
        softness = chip.wave_softness
        self.waves = (1.0 - softness) * torch.ceil(exact) + softness * torch.clamp(exact, min=1.0)

    def compute_s(self, rates: RateTensors) -> Tensor:
        """Matrix time of the busiest core."""
        kernels, chip = self.kernels, self.chip
        matrix = kernels.work / (rates.rate * chip.issue_efficiency * kernels.rate_share)
        per_block = (matrix * self.padding + self._feed_s(rates)) * chip.cores / self.blocks
        return torch.where(kernels.tiled > 0, per_block * self.waves, matrix)

    def _feed_s(self, rates: RateTensors) -> Tensor:
        """Seconds of shared memory that operands cost on their way through registers, one line of it a clock."""
        b, _, _, k = self.kernels.sizes
        first, second = _factor_bytes(self.kernels)
        lines = (self.mapping.m * first + self.mapping.n * second) * k / self.chip.levels[1].read_bandwidth
        return lines * self.chip.feed_cycles_ratio * rates.feeds_registers * b * self.blocks_m * self.blocks_n


def _tiles_a_group(kernels: KernelTensors, mapping: MappingBatch) -> Tensor:
    """Tiles along m of each group; their mean where groups differ."""
    b, m, _, _ = kernels.sizes
    if kernels.ragged is None:
        return torch.ceil(m / mapping.m)
    rows, counts = kernels.ragged
    return (torch.ceil(rows / mapping.m.unsqueeze(-1)) * counts).sum(-1) / b


def _factor_bytes(kernels: KernelTensors) -> tuple[Tensor, Tensor]:
    """Bytes an element of the first and of the second factor has."""
    first = torch.zeros_like(kernels.work)
    second = torch.zeros_like(kernels.work)
    for o in kernels.operands:
        element = o.point_bytes * (1.0 - o.write)
        first = torch.maximum(first, element * o.m)
        second = torch.maximum(second, element * (1.0 - o.m) * o.k)
    return first, second


def _engine_feed(kernels: KernelTensors, grid: _Grid, rates: RateTensors) -> tuple[Tensor, Tensor]:
    """Bytes the matrix engines take from shared memory, and the fragments of them that pass through registers."""
    macs = kernels.work / 2.0
    first, second = _factor_bytes(kernels)
    wide = torch.clamp(grid.mapping.n, max=WIDEST_INSTRUCTION)
    columns = torch.where(rates.feeds_registers > 0, torch.full_like(wide, WARP_TILE), wide)
    shared = macs * (first / columns + second / WARP_TILE)
    fragments = macs * (first / rates.columns + second / rates.rows) * rates.feeds_registers
    return shared, fragments


def _l2_to_core(kernels: KernelTensors, mapping: MappingBatch, grid: _Grid) -> tuple[Tensor, Tensor]:
    """Bytes blocks load through L2 and store to it. A factor is loaded by every block along the axis it lacks."""
    loads = torch.zeros_like(grid.blocks)
    stores = torch.zeros_like(grid.blocks)
    partial = torch.where(mapping.split > 1.0, mapping.split, torch.zeros_like(mapping.split))
    for o in kernels.operands:
        whole = o.bytes_of(kernels.sizes)
        repeats = (
            where_lacking(o.m, grid.blocks_m) * where_lacking(o.n, grid.blocks_n) * where_lacking(o.b, kernels.sizes[0])
        )
        split = where_lacking(o.k, mapping.split)
        executed = torch.where(o.k > 0, kernels.domain_fraction, torch.ones_like(kernels.domain_fraction))
        loads = loads + whole * repeats * split * executed * (1.0 - o.write)
        stores = stores + whole * o.write * o.leaves
        partials = o.elements_of(kernels.sizes) * ACCUMULATOR_BYTES * partial * o.write
        loads, stores = loads + partials, stores + partials
    return loads, stores


def _external(
    kernels: KernelTensors, mapping: MappingBatch, grid: _Grid, chip: ChipTensors
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """External bytes read and written, and both by operand: re-reads follow from the rectangle of tiles of a wave."""
    b, m, n, _ = kernels.sizes
    budget = chip.levels[2].capacity * chip.residency_share
    wave_m = torch.clamp(torch.ceil(torch.sqrt(chip.cores * mapping.n / mapping.m)), min=1.0)
    wave_m = torch.minimum(torch.minimum(wave_m, grid.blocks_m), chip.cores)
    wave_n = torch.minimum(torch.ceil(chip.cores / wave_m), grid.blocks_n)
    bands_m, bands_n = torch.ceil(grid.blocks_m / wave_m), torch.ceil(grid.blocks_n / wave_n)
    rows = _side_bytes(kernels, lambda o: o.m * (1.0 - o.n))
    columns = _side_bytes(kernels, lambda o: o.n * (1.0 - o.m) + o.k * (1.0 - o.m) * (1.0 - o.n))
    rows_fit, columns_fit = rows / b <= budget, columns / b <= budget
    one = torch.ones_like(bands_m)
    row_band_fits = rows / b * torch.clamp(wave_m * mapping.m / m, max=1.0) <= budget
    column_band_fits = columns / b * torch.clamp(wave_n * mapping.n / n, max=1.0) <= budget
    down = (torch.where(row_band_fits, one, bands_n), torch.where(columns_fit, one, bands_m))
    across = (torch.where(rows_fit, one, bands_n), torch.where(column_band_fits, one, bands_m))
    better = rows * down[0] + columns * down[1] <= rows * across[0] + columns * across[1]
    row_factor, column_factor = torch.where(better, down[0], across[0]), torch.where(better, down[1], across[1])
    read = kernels.read_far + kernels.apart_bytes / 2.0 + torch.zeros_like(grid.blocks)
    write = kernels.write_far + kernels.apart_bytes / 2.0 + torch.zeros_like(grid.blocks)
    by_operand = []
    for o in kernels.operands:
        factor = torch.where(o.m > o.n, row_factor, torch.where(o.write > 0, one, column_factor))
        moved = o.footprint_bytes * (1.0 - o.resident) * o.leaves
        by_operand.append(moved * torch.where(o.write > 0, one, factor))
        read = read + by_operand[-1] * (1.0 - o.write)
        write = write + by_operand[-1] * o.write
    return read, write, tuple(by_operand)


def _side_bytes(kernels: KernelTensors, belongs: Callable[[OperandTensors], Tensor]) -> Tensor:
    total = torch.zeros_like(kernels.work)
    for o in kernels.operands:
        total = total + o.footprint_bytes * (1.0 - o.write) * belongs(o)
    return total


def _fits(kernels: KernelTensors, mapping: MappingBatch, chip: ChipTensors) -> dict[str, Tensor]:
    """Accumulators fit a core's registers; two stages of both factors fit its shared memory."""
    element = torch.zeros_like(kernels.work)
    for o in kernels.operands:
        element = torch.maximum(element, o.point_bytes * (1.0 - o.write))
    accumulators = mapping.m * mapping.n * ACCUMULATOR_BYTES * chip.cores
    stages = 2.0 * (mapping.m + mapping.n) * mapping.k * element * chip.cores
    streams = kernels.tiled == 0
    return {
        chip.level_names[0]: (accumulators <= chip.levels[0].capacity) | streams,
        chip.level_names[1]: (stages <= chip.levels[1].capacity) | streams,
    }
