"""Fused attention on a cache hierarchy, as FlashAttention and its relatives run it.

A thread block holds a tile of queries and streams keys and values past it. Query heads that share keys are packed into
one tile. Where tiles are fewer than cores, the keys are split over blocks (split-KV) and a second pass joins the parts.

A score is a product of the matrix engine, then an exponential and a few vector operations, which other products hide
in part where the engine takes its operands from memory, else not at all:

    score = max(product, softmax) + softmax_exposed x min(product, softmax)

A block's first step has no softmax and its last no product of scores to run beside them: together they take a step of
their own, for the rows that are not padding. Blocks of a causal triangle are unequal: a core sees the mean number of
keys a block, and idles for half of the longest block at the end. A block new on its core waits through a chain of
dependent accesses (addresses, queries, keys, values, result), which others on the core hide as far as several fit its
shared memory. See Dao, FlashAttention-2, arXiv:2307.08691, and Shah et al., FlashAttention-3, arXiv:2407.08608.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..cost.chip_tensors import ChipTensors, RateTensors
from ..cost.kernel import Movement
from ..cost.shapes import KernelTensors, OperandTensors, where_lacking
from ..mapping import MappingBatch

ROWS = (64, 128)
"""Queries a block holds where the software does not say."""
KEYS = 64.0
"""Keys a block handles in one step (published kernels: 32 to 176)."""
RESIDENT = 2.0
"""Blocks a core runs at once where they fit its shared memory; their registers fill it."""
ALONE = 2.0
"""Times as many where one query sees the keys: vector instructions do it, and no tile is held (estimate)."""
HEAD_STEPS = (32.0, 64.0, 128.0, 256.0)
"""Head sizes are padded to a multiple of the first; operands that go through registers to a power of two or, above the
third, to a multiple of the last."""
WIDE_HEAD = 192.0
"""Heads above this leave a core's registers too little room for scores beside the sums of the values."""
TINY = 1e-30
ACCUMULATOR_BYTES = 4.0
VECTOR_BYTES = 8.0
"""Register bytes of a vector operation: an intermediate of 4 bytes written and read once (estimate)."""


def move(kernels: KernelTensors, mapping: MappingBatch, chip: ChipTensors, rates: RateTensors) -> Movement:
    """Traffic and times of attention kernels. Of a mapping, m (rows of a tile) and split count."""
    blocks = _Blocks(kernels, mapping, chip, rates)
    macs = kernels.work / 2.0
    query, key = _bytes_an_element(kernels, _is_query), _bytes_an_element(kernels, _is_key)
    shared = macs * key / torch.clamp(rates.feed_rows, max=float(ROWS[-1]))
    fragments = (macs * (query / rates.columns + key / rates.rows)) * rates.feeds_registers
    sums = macs * ACCUMULATOR_BYTES / rates.depth
    vector = (kernels.vector_ops + kernels.special_ops) * (VECTOR_BYTES / 2.0)
    load, store = blocks.l2_bytes()
    streams_in, streams_out = kernels.read_near + kernels.read_far, kernels.write_near + kernels.write_far
    far_read, far_write, by_operand = _external(kernels)
    l2, bandwidth = chip.levels[2], chip.levels[3].read_bandwidth * chip.attention_memory
    external_s = (far_read + far_write) / bandwidth
    # Queries in more bits than are multiplied are narrowed by a kernel of their own, and then read back.
    narrowed = torch.where(rates.bits < 8.0 * query, _bytes_of(kernels, _is_query), torch.zeros_like(external_s))
    far_read, far_write = far_read + 0.5 * narrowed, far_write + 0.5 * narrowed
    narrow_s = 1.5 * narrowed / bandwidth + (chip.launch_gap + chip.prologue) * (narrowed > 0.0)
    return Movement(
        read_bytes=(fragments + sums + vector + streams_out, shared, load + streams_in, far_read),
        write_bytes=(
            sums + vector + streams_in + shared * rates.feeds_registers,
            load,
            store + streams_out,
            far_write,
        ),
        core_s={
            **blocks.busy_s(),
            "vector": blocks.convert_s(),
            "shared memory": (shared + load) / chip.levels[1].read_bandwidth,
            # Few blocks draw on few of the ports.
            "L2 bandwidth": (load + streams_in + store + streams_out)
            / (l2.read_bandwidth * chip.l2_efficiency)
            / torch.clamp(blocks.per_core, max=1.0),
        },
        external_s=external_s,
        # On an idle chip the first blocks wait as long as one of two that share a core.
        overhead_s=chip.launch_gap + chip.block_latency / RESIDENT + chip.split_cost * (mapping.split > 1.0) + narrow_s,
        operand_far_bytes=by_operand,
        fits={name: torch.ones_like(blocks.count, dtype=torch.bool) for name in chip.level_names[:2]},
    )


class _Blocks:
    """The thread blocks of each mapping: how many, and what one does."""

    def __init__(self, kernels: KernelTensors, mapping: MappingBatch, chip: ChipTensors, rates: RateTensors) -> None:
        b, m, _, s = kernels.sizes
        self.kernels, self.mapping, self.chip, self.rates = kernels, mapping, chip, rates
        rows = torch.maximum(mapping.m, rates.rows)
        self.rows, self.tiles = rows, torch.ceil(m / rows)
        self.count = b * self.tiles * mapping.split
        self.per_core = self.count / chip.cores
        executed = kernels.domain_fraction
        # A tile on the diagonal of a triangle is computed whole.
        edge = torch.where(executed < 1.0, 0.5 * torch.minimum(rows, m) / kernels.group, torch.zeros_like(rows))
        self.keys = torch.clamp(torch.minimum(executed * s + edge, s) / mapping.split, min=KEYS)
        self.most_keys = torch.clamp(torch.minimum(2.0 * executed * s, s) / mapping.split, min=KEYS)

    def busy_s(self) -> dict[str, Tensor]:
        """Time of the busiest core: arithmetic and starts of blocks add up, under the name of the larger of them."""
        arithmetic, starts = self.arithmetic_s(), self.starts_s()
        total, mostly_starts = arithmetic + starts, starts > arithmetic
        nothing = torch.zeros_like(total)
        return {
            "compute": torch.where(mostly_starts, nothing, total),
            "block start": torch.where(mostly_starts, total, nothing),
        }

    def arithmetic_s(self) -> Tensor:
        """Matrix and softmax time of the busiest core."""
        kernels, chip = self.kernels, self.chip
        b, m, _, s = kernels.sizes
        scores = b * m * s * kernels.domain_fraction / chip.cores
        product = kernels.work / (self.rates.rate * chip.issue_efficiency * self._attained()) / scores
        vector = kernels.vector_ops / chip.vector_rate + kernels.special_ops / chip.special_rate
        softmax = vector / scores
        exposed = torch.where(self.rates.runs_ahead > 0, chip.softmax_exposed, torch.ones_like(self.rates.rate))
        key_s = self.rows * (torch.maximum(product, softmax) + exposed * torch.minimum(product, softmax))
        keys = self.keys + KEYS * torch.minimum(m, self.rows) / self.rows
        return (torch.clamp(self.per_core, min=1.0) * keys + 0.5 * self.most_keys) * key_s

    def _attained(self) -> Tensor:
        """Share of a long product's rate: less through registers, less where wide heads fill them, less for padding."""
        width, registers = self.kernels.width, self.rates.feeds_registers > 0
        fed = torch.where(registers, self.chip.attention_feed, torch.ones_like(self.rates.rate))
        wide = torch.where(width > WIDE_HEAD, self.chip.wide_head, torch.ones_like(fed))
        least, small, middle, large = HEAD_STEPS
        power = torch.where(width > middle, large, torch.where(width > small, middle, small))
        step = torch.where(registers, power, least)
        return fed * wide * width / (torch.ceil(width / step) * step)

    def convert_s(self) -> Tensor:
        """Vector time to widen keys and values that are stored in fewer bits than queries."""
        queries, keys = _bytes_an_element(self.kernels, _is_query), _bytes_an_element(self.kernels, _is_key)
        elements = self._loaded(_is_key) / torch.clamp(keys, min=TINY)
        widened = elements * self.chip.widening_ops / self.chip.vector_rate
        return torch.where((keys > 0) & (keys < queries), widened, torch.zeros_like(widened))

    def starts_s(self) -> Tensor:
        """Time in which blocks after a core's first wait for what they depend on."""
        chip = self.chip
        tile = torch.zeros_like(self.kernels.work)
        for o in self.kernels.operands:
            tile = tile + KEYS * o.point_bytes * _is_key(o)
        room = torch.floor(chip.levels[1].capacity / chip.cores / torch.clamp(tile, min=1.0))
        resident = torch.clamp(room, min=1.0, max=RESIDENT)
        alone = torch.where(self.kernels.sizes[1] > 1.0, torch.ones_like(tile), ALONE)
        return torch.clamp(self.per_core / (resident * alone) - 1.0, min=0.0) * chip.block_latency

    def l2_bytes(self) -> tuple[Tensor, Tensor]:
        """Bytes blocks load through L2 and store to it; with the keys split, sums of the parts as well."""
        loads, stores = self._loaded(_is_query) + self._loaded(_is_key), torch.zeros_like(self.count)
        parts = torch.where(self.mapping.split > 1.0, self.mapping.split, torch.zeros_like(self.mapping.split))
        for o in self.kernels.operands:
            sums = o.elements_of(self.kernels.sizes) * self.kernels.width * ACCUMULATOR_BYTES * parts * o.write
            stores = stores + o.bytes_of(self.kernels.sizes) * o.write * o.leaves + sums
            loads = loads + sums
        return loads, stores

    def _loaded(self, belongs: Callable[[OperandTensors], Tensor]) -> Tensor:
        """Bytes of operands that all blocks load: queries once a part of the keys, keys once a tile."""
        total = torch.zeros_like(self.count)
        for o in self.kernels.operands:
            again = where_lacking(o.m, self.tiles) * where_lacking(o.k, self.mapping.split)
            executed = torch.where(o.k > 0, self.kernels.domain_fraction, torch.ones_like(self.kernels.work))
            total = total + o.bytes_of(self.kernels.sizes) * again * executed * belongs(o)
        return total


def _is_query(o: OperandTensors) -> Tensor:
    return o.m * (1.0 - o.write)


def _is_key(o: OperandTensors) -> Tensor:
    return o.k * (1.0 - o.m) * (1.0 - o.write)


def _bytes_an_element(kernels: KernelTensors, belongs: Callable[[OperandTensors], Tensor]) -> Tensor:
    """Bytes of the widest element among these operands."""
    widest = torch.zeros_like(kernels.work)
    for o in kernels.operands:
        widest = torch.maximum(widest, o.point_bytes / kernels.width * belongs(o))
    return widest


def _bytes_of(kernels: KernelTensors, belongs: Callable[[OperandTensors], Tensor]) -> Tensor:
    """Bytes of these operands that do not lie on chip."""
    total = torch.zeros_like(kernels.work)
    for o in kernels.operands:
        total = total + o.footprint_bytes * (1.0 - o.resident) * belongs(o)
    return total


def _external(kernels: KernelTensors) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """External bytes read and written, and both by operand: blocks of one head run together and share its keys."""
    read, write = kernels.read_far, kernels.write_far
    by_operand = []
    for o in kernels.operands:
        by_operand.append(o.footprint_bytes * (1.0 - o.resident) * o.leaves)
        read = read + by_operand[-1] * (1.0 - o.write)
        write = write + by_operand[-1] * o.write
    return read, write, tuple(by_operand)
