"""Systolic arrays: how long they take and what they read, by dataflow.

An array of R x C cells holds either results (output-stationary) or one factor (weight-stationary) while the rest streams
through. One pass takes as many cycles as there are values to stream, plus those to fill and drain the array
(Samajdar et al., SCALE-Sim, 2018, section 3: 2R + C + T - 2 to load R rows, stream T values and drain; R + C + T - 2 where
nothing is loaded first). SCALE-Sim counts cycles from zero, so a product takes one less than its passes together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cost.chip_tensors import ChipTensors, RateTensors
from ..cost.shapes import KernelTensors, where_lacking


@dataclass(frozen=True)
class Passes:
    """Bytes a chip's arrays read from the innermost level and write to it, and their seconds at the nominal clock."""

    read: Tensor
    written: Tensor
    compute_s: Tensor


def passes(
    kernels: KernelTensors, tile: tuple[Tensor, Tensor, Tensor], chip: ChipTensors, rates: RateTensors, partial: float
) -> Passes:
    """Arrays that work through tiles of (m, n, k), all of a core's on one tile; partial tiles as well as whole ones."""
    m, n, k = _sizes(kernels)
    tile_m, tile_k = torch.minimum(tile[0], m), torch.minimum(tile[2], k)
    tile_n = torch.where(kernels.attention > 0, n, torch.minimum(tile[1], n))
    held = rates.weight_stationary > 0
    rows, columns, arrays = rates.array_rows, rates.array_columns, rates.arrays
    along = torch.where(held, tile_k, tile_m)
    stream = torch.where(held, tile_m, tile_k)
    tasks = torch.ceil(along / rows) * torch.ceil(tile_n / columns)
    fill = torch.where(held, 2.0 * rows, rows) + columns - 2.0
    cycles = torch.ceil(tasks / arrays) * (stream + fill)
    ideal = tile_m * tile_n * tile_k / (rows * columns * arrays)
    seconds = kernels.work / rates.rate * (cycles / ideal) - 1.0 / chip.clock
    read, written = _traffic(kernels, tile_m, (m, n, k), rates, partial)
    return Passes(read, written, torch.clamp(seconds, min=0.0))


def _sizes(kernels: KernelTensors) -> tuple[Tensor, Tensor, Tensor]:
    """(m, n, k); of attention, n is the head size, which values and keys have."""
    _, m, n, k = kernels.sizes
    return m, torch.where(kernels.attention > 0, kernels.width, n), k


def _traffic(
    kernels: KernelTensors, tile_m: Tensor, sizes: tuple[Tensor, Tensor, Tensor], rates: RateTensors, partial: float
) -> tuple[Tensor, Tensor]:
    """What is held is loaded once a pass, or written once; what streams is read for every pass across."""
    m, n, k = sizes
    held = rates.weight_stationary > 0
    across = torch.ceil(n / rates.array_columns)
    again = torch.where(held, torch.ceil(m / tile_m), torch.ceil(m / rates.array_rows))
    parts = torch.where(held, torch.ceil(k / rates.array_rows), torch.ones_like(k))
    read = torch.zeros_like(across * tile_m)
    written = torch.zeros_like(read)
    for o in kernels.operands:
        bytes_ = o.bytes_of(kernels.sizes)
        executed = torch.where(o.k > 0, kernels.domain_fraction, torch.ones_like(bytes_))
        repeats = where_lacking(o.m, again) * where_lacking(torch.maximum(o.n, kernels.attention), across)
        repeats = repeats * where_lacking(o.b, kernels.sizes[0])
        read = read + bytes_ * repeats * executed * (1.0 - o.write)
        sums = o.elements_of(kernels.sizes) * partial * (parts - 1.0) * o.write
        read, written = read + sums, written + sums + bytes_ * o.write
    return read, written
