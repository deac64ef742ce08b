"""A cache hierarchy: registers and shared memory in each core, an L2 they share, external memory behind it.

This is a model on top of the exact tile counts, not itself exact. A kernel is a grid of thread blocks (CTAs), one
result tile each, run in waves over the cores. What a block loads passes through L2; what L2 does not hold comes from
external memory. Concurrent blocks of a wave form a rectangle of tiles that shares its rows and columns in L2.

A block whose operands go through registers loops over k, then writes its tile, and only then does the core start on
the next. Where the engine reads shared memory itself, blocks stay on their core and write one tile while they compute
the next.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...cost.chip_tensors import ChipTensors, RateTensors
from ...cost.kernel import Movement, merge
from ...cost.shapes import KernelTensors
from ...mapping import MappingBatch
from ...quantized import DEQUANTIZE_OPS
from .. import attention
from .grid import ACCUMULATOR_BYTES as ACCUMULATOR_BYTES
from .grid import Grid
from .rows import RowSweeps
from .traffic import engine_feed, external, factor_bytes, l2_to_core

VECTOR_BYTES = 8.0
"""Register bytes of a vector operation: an intermediate of 4 bytes written and read once (estimate, both systems)."""
_TINY = 1e-30


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
    grid, rows = Grid(kernels, mapping, chip, rates), RowSweeps(kernels, chip)
    sent, load, store, by_core = l2_to_core(kernels, mapping, grid)
    far_read, far_write, by_operand = external(kernels, mapping, grid, chip)
    macs = kernels.work / 2.0
    shared_read, fragments = engine_feed(kernels, grid, rates)
    register_read = fragments + macs * ACCUMULATOR_BYTES / rates.depth
    register_write = macs * ACCUMULATOR_BYTES / rates.depth
    vector = (kernels.vector_ops + kernels.special_ops) * (VECTOR_BYTES / 2.0)
    again, again_far = rows.again()
    far_read = far_read + again_far
    streams_in, streams_out = kernels.read_near + kernels.read_far + again, kernels.write_near + kernels.write_far
    reads = (register_read + vector + streams_out, shared_read, sent + streams_in, far_read)
    # A fragment is loaded once for a warp's tile and read by every instruction on it.
    loaded = shared_read * rates.feeds_registers
    writes = (register_write + vector + streams_in + loaded, load, store + streams_out, far_write)
    alone = (kernels.sizes[1] == 1.0) | (kernels.sizes[2] == 1.0)
    return Movement(
        read_bytes=reads,
        write_bytes=writes,
        core_s=_busy_s(grid, rows, sent + store, load, shared_read),
        external_s=_external_s(kernels, chip, far_read + far_write - kernels.apart_bytes),
        overhead_s=chip.launch_gap
        + (chip.launch_gap + chip.prologue) * kernels.apart_kernels
        + _external_s(kernels, chip, kernels.apart_bytes)
        + rows.wait_s() * kernels.tiled
        + chip.prologue * kernels.sequential * grid.starts()
        + chip.widening_exposed * DEQUANTIZE_OPS * kernels.widened / chip.vector_rate
        # Parts of a single row or column are summed in one block.
        + chip.split_cost * (mapping.split > 1.0) * kernels.tiled * ~alone,
        operand_far_bytes=by_operand,
        fits=_fits(kernels, mapping, chip),
        operand_core_bytes=by_core,
    )


def _busy_s(grid: Grid, rows: RowSweeps, through_l2: Tensor, load: Tensor, shared_read: Tensor) -> dict[str, Tensor]:
    """Seconds of each resource on chip, at its nominal clock."""
    chip, rates, kernels = grid.chip, grid.rates, grid.kernels
    first, second = factor_bytes(kernels)
    l2, streamed_in = chip.levels[2], kernels.read_near + kernels.read_far + rows.again()[0]
    streamed = streamed_in + kernels.write_near + kernels.write_far
    written = grid.store_s(_result_bytes(kernels))
    compute = grid.compute_s() + written * (1.0 - rates.runs_ahead)
    return {
        "compute": compute,
        "store": written * rates.runs_ahead,
        "vector": kernels.vector_ops / chip.vector_rate + kernels.special_ops / chip.special_rate,
        "shared memory": (shared_read + load) / chip.levels[1].read_bandwidth,
        "L2 bandwidth": (through_l2 + streamed) / (l2.read_bandwidth * chip.l2_efficiency),
        "L2 port": grid.port_s(load),
        "load latency": grid.chain_s(torch.maximum(first, second), _near_share(kernels))
        + streamed_in * chip.levels[3].latency / (chip.stream_in_flight * chip.cores) * (kernels.sweeps == 0.0)
        + rows.wait_s() * (1.0 - kernels.tiled),
    }


def _external_s(kernels: KernelTensors, chip: ChipTensors, moved: Tensor) -> Tensor:
    """Seconds of external memory; long streams reach more of its bandwidth than tiles do."""
    share = torch.where(kernels.tiled > 0, chip.memory_efficiency, chip.stream_efficiency)
    return moved / (chip.levels[3].read_bandwidth * share)


def _near_share(kernels: KernelTensors) -> Tensor:
    """Share of the factors that lies on chip when the kernel starts."""
    near, total = torch.zeros_like(kernels.work), torch.full_like(kernels.work, _TINY)
    for o in kernels.operands:
        near = near + o.footprint_bytes * o.resident * (1.0 - o.write)
        total = total + o.footprint_bytes * (1.0 - o.write)
    return near / total


def _result_bytes(kernels: KernelTensors) -> Tensor:
    """Bytes an element of the result has, 0 where it stays in the kernel."""
    widest = torch.zeros_like(kernels.work)
    for o in kernels.operands:
        widest = torch.maximum(widest, o.point_bytes * o.write * o.leaves)
    return widest


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
