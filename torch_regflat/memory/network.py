"""What cores with parts of one memory pass on to each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cost.chip_tensors import ChipTensors, RateTensors
from ..cost.shapes import KernelTensors, where_lacking
from .cache import ACCUMULATOR_BYTES


@dataclass(frozen=True)
class Network:
    """Bytes that go from core to core, `[kernel, chip, 1, split]`: all that move, the copies among them that are
    written into the memory of another core, and the seconds of the busiest core's link."""

    moved: Tensor
    copies: Tensor
    seconds: Tensor


def network(
    kernels: KernelTensors, split: Tensor, results: Tensor, chip: ChipTensors, rates: RateTensors
) -> Network | None:
    """Traffic between cores of the innermost level; None where the chips have none.

    Where cores read only what lies with them, a factor that several cores need reaches the first of them with its load
    and is passed on to the others, from neighbour to neighbour. A product on P cores is cut into p_m x p_n blocks of
    the result (and over b and the parts of k), so that what is passed on,

        A (p_n - 1) + B (p_m - 1),   p_m p_n = P,

    is least: p_n = sqrt(P B / A), within the number of blocks the arrays can share. Partial sums are passed on too.
    Where all accesses go to other cores, reads pay their way in the level's own numbers, and here `results` do.
    """
    level = chip.levels[0]
    if not bool((level.exchanges + level.remote > 0).any()):
        return None
    copies, cores = _copies(kernels, split, chip, rates)
    copies = copies * level.exchanges
    moved = copies + results * level.remote
    seconds = copies / level.network_bandwidth * (chip.cores / cores)
    return Network(moved, copies, seconds)


def _copies(kernels: KernelTensors, split: Tensor, chip: ChipTensors, rates: RateTensors) -> tuple[Tensor, Tensor]:
    """Bytes that are passed on, and how many cores take part."""
    b, m, n, k = kernels.sizes
    attention = kernels.attention > 0
    blocks_m = torch.ceil(m / rates.rows)
    blocks_n = torch.where(attention, torch.ones_like(m), torch.ceil(n / rates.columns))
    split = torch.minimum(split, k)
    over_b = torch.minimum(b, chip.cores)
    over_k = torch.clamp(torch.minimum(split, torch.floor(chip.cores / over_b)), min=1.0)
    rest = torch.clamp(torch.floor(chip.cores / (over_b * over_k)), min=1.0)
    # Where blocks are fewer than cores, the others have nothing to do.
    rest = torch.minimum(rest, blocks_m * blocks_n)
    rows, columns = _sides(kernels)
    ratio = torch.sqrt(rest * torch.clamp(columns, min=1.0) / torch.clamp(rows, min=1.0))
    over_n = torch.minimum(torch.maximum(ratio, rest / blocks_m), torch.minimum(blocks_n, rest))
    over_n = torch.clamp(over_n, min=1.0)
    over_m = torch.clamp(rest / over_n, min=1.0)
    passed = torch.zeros_like(over_n)
    for o in kernels.operands:
        shared = where_lacking(o.m, over_m) * where_lacking(torch.maximum(o.n, kernels.attention), over_n)
        shared = shared * where_lacking(o.b, over_b)
        executed = torch.where(o.k > 0, kernels.domain_fraction, torch.ones_like(shared))
        passed = passed + o.footprint_bytes * executed * (shared - 1.0) * (1.0 - o.write)
        passed = passed + o.elements_of(kernels.sizes) * ACCUMULATOR_BYTES * (over_k - 1.0) * o.write
    passed = torch.where(kernels.tiled > 0, passed, torch.zeros_like(passed))
    return passed, over_b * over_k * over_n * over_m


def _sides(kernels: KernelTensors) -> tuple[Tensor, Tensor]:
    """Bytes of the factors that have rows of the result, and of those that have not."""
    rows, columns = torch.zeros_like(kernels.work), torch.zeros_like(kernels.work)
    for o in kernels.operands:
        size = o.footprint_bytes * (1.0 - o.write)
        rows, columns = rows + size * o.m, columns + size * (1.0 - o.m)
    return rows, columns
