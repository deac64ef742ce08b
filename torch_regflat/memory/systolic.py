"""Systolic arrays: how long they take and what they read, by dataflow.

An array of R x C cells holds either results (output-stationary) or one factor (weight-stationary) while the rest
streams through. One pass takes as many cycles as there are values to stream, plus those to fill and drain the array
(Samajdar et al., SCALE-Sim, 2018, section 3: 2R + C + T - 2 to load R rows, stream T values and drain; R + C + T - 2
where nothing is loaded first). SCALE-Sim counts cycles from zero, so a product takes one less than its passes together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cost.chip_tensors import ChipTensors, RateTensors
from ..cost.shapes import KernelTensors, where_lacking


@dataclass(frozen=True)
class Systolic:
    """Kernels on systolic arrays: what depends on the tiles, and what does not; `[kernel, chip, 1, 1]`.

    `where` such an array does a kernel's products. `read` and `written` are the bytes that the arrays take from the
    innermost level and write to it; of them, a held factor of `reloaded` bytes is loaded once here, and once for each
    tile of m.
    """

    where: Tensor
    read: Tensor
    written: Tensor
    reloaded: Tensor
    sizes: tuple[Tensor, Tensor, Tensor]
    whole_n: Tensor
    held: Tensor
    rows: Tensor
    columns: Tensor
    arrays: Tensor
    ideal_s: Tensor
    cycle_s: Tensor

    def passes(self, tile: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Bytes read again, and seconds at the nominal clock, for tiles of (m, n, k): all arrays of a core on one tile,
        partial tiles as well as whole ones."""
        m, n, k = self.sizes
        tile_m, tile_k = torch.minimum(tile[0], m), torch.minimum(tile[2], k)
        tile_n = torch.maximum(torch.minimum(tile[1], n), self.whole_n)
        held = self.held > 0
        along, stream = torch.where(held, tile_k, tile_m), torch.where(held, tile_m, tile_k)
        tasks = torch.ceil(along / self.rows) * torch.ceil(tile_n / self.columns)
        fill = torch.where(held, 2.0 * self.rows, self.rows) + self.columns - 2.0
        cycles = torch.ceil(tasks / self.arrays) * (stream + fill)
        ideal = tile_m * tile_n * tile_k / (self.rows * self.columns * self.arrays)
        seconds = self.ideal_s * (cycles / ideal) - self.cycle_s
        return self.reloaded * (torch.ceil(m / tile_m) - 1.0), torch.clamp(seconds, min=0.0)


def systolic(kernels: KernelTensors, chip: ChipTensors, rates: RateTensors, partial: float) -> Systolic | None:
    """What systolic arrays make of kernels; None where no chip has them. `partial` is the bytes of a partial sum."""
    if not bool((rates.arrays > 0).any()):
        return None
    _, m, n, k = kernels.sizes
    # Of attention, n is the head size, which values and keys have, and which is never tiled.
    n = torch.where(kernels.attention > 0, kernels.width, n)
    held = rates.weight_stationary > 0
    across = torch.ceil(n / rates.array_columns)
    again = torch.where(held, torch.ones_like(m), torch.ceil(m / rates.array_rows))
    parts = torch.where(held, torch.ceil(k / rates.array_rows), torch.ones_like(k))
    read, written, reloaded = (torch.zeros_like(across * again) for _ in range(3))
    for o in kernels.operands:
        executed = torch.where(o.k > 0, kernels.domain_fraction, torch.ones_like(o.k))
        bytes_ = o.bytes_of(kernels.sizes) * executed * where_lacking(o.b, kernels.sizes[0])
        repeats = where_lacking(o.m, again) * where_lacking(torch.maximum(o.n, kernels.attention), across)
        read = read + bytes_ * repeats * (1.0 - o.write)
        reloaded = reloaded + bytes_ * (1.0 - o.m) * (1.0 - o.write) * rates.weight_stationary
        sums = o.elements_of(kernels.sizes) * partial * (parts - 1.0) * o.write
        read, written = read + sums, written + sums + o.bytes_of(kernels.sizes) * o.write
    return Systolic(
        where=(rates.arrays > 0) & (kernels.tiled > 0),
        read=read,
        written=written,
        reloaded=reloaded,
        sizes=(m, n, k),
        whole_n=torch.where(kernels.attention > 0, n, torch.ones_like(n)),
        held=rates.weight_stationary,
        rows=rates.array_rows,
        columns=rates.array_columns,
        arrays=torch.clamp(rates.arrays, min=1.0),
        ideal_s=kernels.work / rates.rate,
        cycle_s=1.0 / chip.clock,
    )
