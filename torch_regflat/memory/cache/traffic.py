"""Bytes that a product moves between the levels of a cache hierarchy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...cost.chip_tensors import FEED_ROWS, ChipTensors, RateTensors
from ...cost.shapes import KernelTensors, OperandTensors, where_lacking
from ...mapping import MappingBatch
from .grid import ACCUMULATOR_BYTES, Grid

WARP_TILE = FEED_ROWS
"""Columns of the result that a group of warps holds where the engine is fed from registers."""
WIDEST_INSTRUCTION = 256.0
"""Columns that one instruction covers when the matrix engine reads shared memory itself (n of wgmma)."""


def factor_bytes(kernels: KernelTensors) -> tuple[Tensor, Tensor]:
    """Bytes an element of the first and of the second factor has."""
    first = torch.zeros_like(kernels.work)
    second = torch.zeros_like(kernels.work)
    for o in kernels.operands:
        element = o.point_bytes * (1.0 - o.write)
        first = torch.maximum(first, element * o.m)
        second = torch.maximum(second, element * (1.0 - o.m) * o.k)
    return first, second


def engine_feed(kernels: KernelTensors, grid: Grid, rates: RateTensors) -> tuple[Tensor, Tensor]:
    """Bytes the matrix engines take from shared memory, and the fragments of them that pass through registers."""
    macs = kernels.work / 2.0
    first, second = factor_bytes(kernels)
    wide = torch.clamp(grid.mapping.n, max=WIDEST_INSTRUCTION)
    columns = torch.where(rates.feeds_registers > 0, torch.full_like(wide, WARP_TILE), wide)
    rows = torch.minimum(torch.clamp(grid.mapping.m * grid.chip.cluster, min=WARP_TILE), rates.feed_rows)
    shared = macs * (first / columns + second / rows)
    fragments = macs * (first / rates.columns + second / rates.rows) * rates.feeds_registers
    return shared, fragments


def l2_to_core(
    kernels: KernelTensors, mapping: MappingBatch, grid: Grid
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """Bytes that leave L2, that arrive in blocks, that blocks store, and both of these by operand.

    A factor is loaded by every block along the axis it lacks. Where the engine reads shared memory itself, blocks of a
    cluster (along m) load what they have in common once.
    """
    cluster = torch.where(grid.rates.runs_ahead > 0.0, grid.chip.cluster, torch.ones_like(grid.chip.cluster))
    sent = torch.zeros_like(grid.blocks)
    loads = torch.zeros_like(grid.blocks)
    stores = torch.zeros_like(grid.blocks)
    partial = torch.where(mapping.split > 1.0, mapping.split, torch.zeros_like(mapping.split))
    by_operand = []
    for o in kernels.operands:
        whole = o.bytes_of(kernels.sizes)
        repeats = (
            where_lacking(o.m, grid.blocks_m) * where_lacking(o.n, grid.blocks_n) * where_lacking(o.b, kernels.sizes[0])
        )
        split = where_lacking(o.k, mapping.split)
        executed = torch.where(o.k > 0, kernels.domain_fraction, torch.ones_like(kernels.domain_fraction))
        arrives = whole * repeats * split * executed * (1.0 - o.write)
        loads = loads + arrives
        sent = sent + arrives * torch.where(o.m > 0, 1.0, torch.ceil(grid.blocks_m / cluster) / grid.blocks_m)
        leaves = whole * o.write * o.leaves
        stores = stores + leaves
        partials = o.elements_of(kernels.sizes) * ACCUMULATOR_BYTES * partial * o.write
        sent, loads, stores = sent + partials, loads + partials, stores + partials
        by_operand.append(arrives + leaves + 2.0 * partials)
    return sent, loads, stores, tuple(by_operand)


def external(
    kernels: KernelTensors, mapping: MappingBatch, grid: Grid, chip: ChipTensors
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """External bytes read and written, and both by operand: re-reads follow from the rectangle of tiles of a wave."""
    b, m, n, _ = kernels.sizes
    budget = chip.levels[2].capacity * chip.residency_share
    wave_m, wave_n = _wave(mapping, grid, chip)
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
        # What lies on chip saves the first fetch alone: a factor that is fetched again has been evicted since.
        fetches = torch.where(o.write > 0, one, factor) - o.resident
        by_operand.append(o.footprint_bytes * fetches * o.leaves)
        read = read + by_operand[-1] * (1.0 - o.write)
        write = write + by_operand[-1] * o.write
    return read, write, tuple(by_operand)


def _wave(mapping: MappingBatch, grid: Grid, chip: ChipTensors) -> tuple[Tensor, Tensor]:
    """Tiles of a wave along m and n: about a square of the result, or lines of tiles along its shorter side."""
    square = torch.clamp(torch.ceil(torch.sqrt(chip.cores * mapping.n / mapping.m)), min=1.0)
    square = torch.minimum(torch.minimum(square, grid.blocks_m), chip.cores)
    line = torch.minimum(grid.blocks_m, chip.cores)
    across = torch.clamp(chip.cores / torch.minimum(grid.blocks_n, chip.cores), min=1.0)
    line = torch.where(grid.blocks_m <= grid.blocks_n, line, torch.minimum(across, grid.blocks_m))
    wave_m = torch.where(chip.walks_lines > 0.0, line, square)
    lines = chip.cores / wave_m
    rest = torch.where(chip.walks_lines > 0.0, torch.clamp(lines, min=1.0), torch.ceil(lines))
    return wave_m, torch.minimum(rest, grid.blocks_n)


def _side_bytes(kernels: KernelTensors, belongs: Callable[[OperandTensors], Tensor]) -> Tensor:
    total = torch.zeros_like(kernels.work)
    for o in kernels.operands:
        total = total + o.footprint_bytes * (1.0 - o.write) * belongs(o)
    return total
