"""A chip's numbers as tensors `[chip, 1, 1]`: hardware files stay free of torch, and gradients flow from here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ..conditions import SCHEDULED, Conditions
from ..errors import ChipError
from ..hardware.chip import dtype_bits, dtype_name

if TYPE_CHECKING:
    from ..hardware.chip import Chip, Engine, EngineKind
    from ..hardware.quantity import Quantity
    from ..hardware.software import Software


_NODE, _CLOCK = 7e-9, 1.7e9
"""Where `Switching` states the energy of a product: 7 nm and 1.7 GHz."""
_PORT_BYTES = 64.0
"""Bytes a clock that one core takes from L2: two sectors (estimate, GPUs)."""
FEED_ROWS = 64.0
"""Rows of the result for which a core reads a column of the second factor once: m of wgmma, or what warps hold."""
_THREADS = 2048.0
"""Threads a core holds, where a chip's file does not say."""
_NO_LIMIT = 1e30
"""Bytes a second; finite, so that gradients are."""


@dataclass(frozen=True)
class LevelTensors:
    """One memory level of every chip: capacity in bytes, bandwidths in B/s (whole chip), energies in J/bit.

    `exchanges` is 1 where cores pass on what several of them work on, `remote` where all accesses go to other cores;
    the network between them then has a bandwidth (no limit elsewhere) and an energy.
    """

    capacity: Tensor
    read_bandwidth: Tensor
    write_bandwidth: Tensor
    shared_port: Tensor
    latency: Tensor
    read_energy: Tensor
    write_energy: Tensor
    exchanges: Tensor
    remote: Tensor
    network_bandwidth: Tensor
    network_energy: Tensor


@dataclass(frozen=True)
class ChipTensors:
    """Chips of one memory system, side by side; every tensor is `[chip, 1, 1]` float64 in SI units.

    `levels` run from the engines outwards and the last is external memory. `vector_rate` and `special_rate` count
    operations of the whole chip a second (an FMA is one).
    """

    names: tuple[str, ...]
    level_names: tuple[str, ...]
    levels: tuple[LevelTensors, ...]
    clock: Tensor
    cores: Tensor
    vector_rate: Tensor
    special_rate: Tensor
    vector_energy: Tensor
    dynamic_power: Tensor
    static_power: Tensor
    unattributed_vector_flop: Tensor
    unattributed_bit: Tensor
    launch_gap: Tensor
    bulk: Tensor
    host_floor: Tensor
    call_floor: Tensor
    convolution_host: Tensor
    issue_efficiency: Tensor
    memory_efficiency: Tensor
    stream_efficiency: Tensor
    prologue: Tensor
    split_cost: Tensor
    store_rate: Tensor
    stream_in_flight: Tensor
    l2_efficiency: Tensor
    l2_ports: Tensor
    repeats: Tensor
    settle_time: Tensor
    instant_share: Tensor
    residency_share: Tensor
    wave_softness: Tensor
    walks_lines: Tensor
    cluster: Tensor
    block_latency: Tensor
    softmax_exposed: Tensor
    attention_feed: Tensor
    wide_head: Tensor
    attention_memory: Tensor
    widening_ops: Tensor
    widening_exposed: Tensor
    threads: Tensor
    norm_threads: Tensor
    softmax_threads: Tensor
    softmax_held: Tensor
    vector_bytes: Tensor
    block_waits: Tensor
    reread_from: Tensor
    reread_range: Tensor


@dataclass(frozen=True)
class RateTensors:
    """What depends on a kernel's dtype, each `[kernel, chip, 1, 1]`.

    `rate` is FLOP/s of the whole chip, `energy` J/FLOP of the datapath, `unattributed` J/FLOP that boards are measured
    to spend beyond it. `board` is all that a board spends on a FLOP, in its cores, at the chip's clock; 0 where that is
    not known but the sum of the parts. `issue` is the share of the rate that a long product sustains.
    `runs_ahead` is 1 where the engine takes operands from memory, so that a core loads the next block early;
    `pipeline_depth` are the bytes of a row of a factor that a block has in flight. `rows`,
    `columns` and `depth` are the native tile of the engine, and `feeds_registers` is 1 where it takes its operands from
    registers. `feed_rows` are those of the result for which a core reads a column of the second factor once. `bits` are
    those of an operand as it is multiplied. `arrays` is the number of systolic arrays in a core (0: not systolic), of
    `array_rows` x `array_columns` cells that hold one factor where `weight_stationary` is 1.
    """

    rate: Tensor
    energy: Tensor
    unattributed: Tensor
    rows: Tensor
    columns: Tensor
    depth: Tensor
    feeds_registers: Tensor
    feed_rows: Tensor
    bits: Tensor
    board: Tensor
    issue: Tensor
    runs_ahead: Tensor
    pipeline_depth: Tensor
    arrays: Tensor
    array_rows: Tensor
    array_columns: Tensor
    weight_stationary: Tensor


def chip_tensors(chips: list[Chip], software: list[Software], conditions: Conditions = SCHEDULED) -> ChipTensors:
    """Pack chips of one memory system (equal level names) with the software each runs, and how kernels are launched."""

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1)

    levels = []
    for row in zip(*(chip.memory for chip in chips), strict=True):
        levels.append(
            LevelTensors(
                capacity=column([level.usable_bytes for level in row]),
                read_bandwidth=column([level.placed_read_bytes_per_s for level in row]),
                write_bandwidth=column([level.placed_write_bytes_per_s for level in row]),
                shared_port=column([float(level.shared_port) for level in row]),
                latency=column([level.placed_latency_s for level in row]),
                read_energy=column([level.read_j_per_bit for level in row]),
                write_energy=column([level.write_j_per_bit for level in row]),
                exchanges=column([float(level.exchanges) for level in row]),
                remote=column([float(level.scope == "core" and level.placement != "local") for level in row]),
                network_bandwidth=column([x.remote_bytes_per_s if x.exchanges else _NO_LIMIT for x in row]),
                network_energy=column([level.network_j_per_bit for level in row]),
            )
        )
    pairs = list(zip(chips, software, strict=True))
    return ChipTensors(
        names=tuple(chip.name for chip in chips),
        level_names=tuple(level.name for level in chips[0].memory),
        levels=tuple(levels),
        clock=column([chip.clock.value for chip in chips]),
        cores=column([chip.cores.count.value for chip in chips]),
        vector_rate=column([chip.peak_flops("fp32", "vector") / 2.0 for chip in chips]),
        special_rate=column([chip.peak_flops("fp32", "special") for chip in chips]),
        vector_energy=column([_energy(chip, "fp32", "vector") for chip in chips]),
        dynamic_power=column([chip.dynamic_power_w for chip in chips]),
        static_power=column([chip.power.static.value for chip in chips]),
        unattributed_vector_flop=column([_value(chip.power.unattributed_vector_flop) for chip in chips]),
        unattributed_bit=column([_value(chip.power.unattributed_bit) for chip in chips]),
        bulk=column([float(chip.execution.phases == "bulk-synchronous") for chip in chips]),
        launch_gap=column([_launch(chip, s, conditions)[0] for chip, s in pairs]),
        host_floor=column([_launch(chip, s, conditions)[1] for chip, s in pairs]),
        call_floor=column([_call_floor(chip, s, conditions) for chip, s in pairs]),
        convolution_host=column([_convolution_host(s, conditions) for s in software]),
        issue_efficiency=column([s.issue_efficiency.value for s in software]),
        memory_efficiency=column([_bandwidth_share(chip, s.memory_efficiency.value)[0] for chip, s in pairs]),
        stream_efficiency=column([_bandwidth_share(chip, s.stream_efficiency.value)[1] for chip, s in pairs]),
        prologue=column([chip.seconds(s.prologue) for chip, s in pairs]),
        split_cost=column([chip.seconds(s.split_cost) for chip, s in pairs]),
        store_rate=column([_store_rate(chip, s) for chip, s in pairs]),
        stream_in_flight=column([_value(s.stream_in_flight) or math.inf for s in software]),
        l2_efficiency=column([s.l2_efficiency.value for s in software]),
        l2_ports=column([_PORT_BYTES * chip.cores.count.value * chip.clock.value for chip in chips]),
        repeats=column([conditions.in_a_row for _ in chips]),
        settle_time=column([s.switching.settle_time.value if s.switching else 0.0 for s in software]),
        instant_share=column([s.switching.instant_share.value if s.switching else 1.0 for s in software]),
        residency_share=column([s.residency_share.value for s in software]),
        widening_exposed=column([s.widening_exposed.value if s.widening_exposed else 0.0 for s in software]),
        wave_softness=column([s.wave_softness.value for s in software]),
        cluster=column([float(s.menu.cluster) for s in software]),
        walks_lines=column([float(s.menu.order == "line") for s in software]),
        threads=column([chip.cores.threads.value if chip.cores.threads else _THREADS for chip in chips]),
        **{name: column(values) for name, values in (_attention(pairs) | _rows(software)).items()},
    )


def _launch(chip: Chip, software: Software, conditions: Conditions) -> tuple[float, float]:
    """Seconds a launch adds to a kernel, and the least that the host makes of both."""
    own = software.launches
    if conditions.launch == "graph" or own is None:
        return chip.launch_gap_graph_s * software.launch_ratio.value, 0.0
    if conditions.launch == "stream":
        return chip.launch_gap_stream_s * own.stream_ratio.value, own.host_time.value
    if conditions.launch == "single":
        return own.single_gap.value, own.single_floor.value
    return chip.launch_gap_graph_s * own.timer_ratio.value, 0.0


def _call_floor(chip: Chip, software: Software, conditions: Conditions) -> float:
    """The least that the host makes of a call into a library of products."""
    if conditions.launch == "single" and software.launches is not None:
        return software.launches.single_call.value
    return _launch(chip, software, conditions)[1]


def _convolution_host(software: Software, conditions: Conditions) -> float:
    """Seconds in which the device waits for the host to start a convolution."""
    own = software.launches
    if own is None or own.convolution_time is None or conditions.launch != "single":
        return 0.0
    return own.convolution_time.value


def _bandwidth_share(chip: Chip, reached: float) -> tuple[float, float]:
    """Share of datasheet external bandwidth that products and that streams get, of which copies are measured."""
    level = chip.external
    if level.sustained_bandwidth is None:
        return reached, reached
    measured = level.sustained_bytes_per_s / level.read_bytes_per_s
    return reached, measured


def _store_rate(chip: Chip, software: Software) -> float:
    if software.store_rate is None:
        return _NO_LIMIT
    return software.store_rate.value * chip.cores.count.value * chip.clock.value


def _attention(pairs: list[tuple[Chip, Software]]) -> dict[str, list[float]]:
    """What fused attention loses with each software; nothing where it says nothing."""
    found: dict[str, list[float]] = {}
    for chip, software in pairs:
        own = software.attention
        numbers = {
            "block_latency": chip.seconds(own.block_latency) if own else 0.0,
            "softmax_exposed": own.softmax_exposed.value if own else 0.0,
            "attention_feed": own.register_feed.value if own else 1.0,
            "wide_head": own.wide_head.value if own else 1.0,
            "attention_memory": ((own and own.memory_efficiency) or software.stream_efficiency).value,
            "widening_ops": own.widening_ops.value if own else 0.0,
        }
        for name, value in numbers.items():
            found.setdefault(name, []).append(value)
    return found


def _rows(softwares: list[Software]) -> dict[str, list[float]]:
    """The kernels of norms and softmaxes with each software; of one that says nothing, all rows are held."""
    found: dict[str, list[float]] = {}
    for software in softwares:
        own = software.rows
        numbers = {
            "norm_threads": float(own.norm_threads) if own else 1.0,
            "softmax_threads": float(own.softmax_threads) if own else 1.0,
            "softmax_held": float(own.softmax_held) if own else 0.0,
            "vector_bytes": float(own.vector_bytes) if own else 0.0,
            "block_waits": own.block_waits.value if own else 0.0,
            "reread_from": own.reread_from.value if own else 0.0,
            "reread_range": own.reread_range.value if own else 1.0,
        }
        for name, value in numbers.items():
            found.setdefault(name, []).append(value)
    return found


def rate_tensors(
    chips: list[Chip], software: list[Software], dtypes: list[str], conditions: Conditions = SCHEDULED
) -> RateTensors:
    """The engine that does each kernel's dtype on each chip: a matrix engine if one can, else a vector engine."""
    pairs = list(zip(chips, software, strict=True))
    rows = {dtype: [_engine_numbers(*pair, dtype, conditions) for pair in pairs] for dtype in dict.fromkeys(dtypes)}
    table = torch.tensor([rows[dtype] for dtype in dtypes], dtype=torch.float64)
    return RateTensors(*(table[..., i].unsqueeze(-1).unsqueeze(-1) for i in range(table.shape[-1])))


def _engine_numbers(chip: Chip, software: Software, dtype: str, conditions: Conditions) -> tuple[float, ...]:
    """The fields of `RateTensors` for one chip and dtype."""
    engine = chip.engine_for(dtype)
    if engine is None:
        raise ChipError(f"{chip.name} has no engine for {dtype}; it does {', '.join(chip.dtypes)}")
    if engine.kind == "matrix":
        # Switching goes with the width of the operands; the measured figure is for 16 bits.
        extra = _value(chip.power.unattributed_flop) * dtype_bits(dtype) / 16.0
    else:
        extra = _value(chip.power.unattributed_vector_flop)
    m, n, k = engine.native_tile()
    feeds, ahead = float(engine.feed == "registers"), float(engine.feed == "memory")
    rate, bits = chip.engine_rate(engine, dtype), float(dtype_bits(dtype))
    board, issue = _board_energy(chip, software, engine, bits, conditions), software.issue_efficiency.value
    depth = _value(software.deep_pipeline if ahead else software.pipeline_depth) or math.inf
    if engine.kind != "matrix":
        issue = software.vector_issue_efficiency.value * _issued(chip, software, engine, dtype)
    tile, reused = (float(m), float(n), float(k)), _value(engine.feed_rows) or FEED_ROWS
    energy = _energy(chip, dtype, None)
    return rate, energy, extra, *tile, feeds, reused, bits, board, issue, ahead, depth, *_systolic(engine)


def _issued(chip: Chip, software: Software, engine: Engine, dtype: str) -> float:
    """Share of a vector engine's peak that its core can start instructions for, beside those that only serve it."""
    slots, others = chip.cores.issue, software.other_instructions
    if slots is None or others is None:
        return 1.0
    lanes = engine.rate[dtype_name(dtype)].value / 2.0 * min(1.0, dtype_bits(dtype) / 32.0)
    return min(1.0, slots.value / (lanes * (1.0 + others.value)))


def _board_energy(chip: Chip, software: Software, engine: Engine, bits: float, conditions: Conditions) -> float:
    """J/FLOP that a board spends in its cores on a product at its engine's clock; 0 where nothing is known."""
    own, node = software.switching, chip.die.node if chip.die else None
    if own is None:
        return 0.0
    matrix = engine.kind == "matrix"
    law = own.product_energy if matrix else own.vector_product_energy
    measured = chip.power.product_energy if matrix else chip.power.vector_product_energy
    if measured is None and node is None:
        return 0.0
    clock = (engine.clock or chip.clock).value
    scale = (node.value / _NODE) ** 0.75 * math.sqrt(clock / _CLOCK) if node else 1.0
    energy = law.value * scale if measured is None else measured.value
    left = own.zero_share.value if conditions.values == "zero" else 1.0
    return energy * bits / (16.0 if matrix else 32.0) * left


def _systolic(engine: Engine) -> tuple[float, float, float, float]:
    """Arrays of a core, their rows and columns, and whether they hold a factor."""
    if engine.dataflow is None:
        return 0.0, 1.0, 1.0, 0.0
    count, rows, columns = (1.0 if q is None else q.value for q in (engine.count, engine.rows, engine.columns))
    return count, rows, columns, float(engine.dataflow == "weight-stationary")


def _energy(chip: Chip, dtype: str, kind: EngineKind | None) -> float:
    engine = chip.engine_for(dtype, kind)
    return _value(engine.energy.get(dtype_name(dtype))) if engine else 0.0


def _value(quantity: Quantity | None) -> float:
    return 0.0 if quantity is None else quantity.value


Numbers = TypeVar("Numbers", ChipTensors, RateTensors, LevelTensors)


def at_chip(numbers: Numbers, chip: int) -> Numbers:
    """The numbers of one of the chips."""
    own: dict[str, Any] = {"names": (numbers.names[chip],)} if isinstance(numbers, ChipTensors) else {}
    found = _each(numbers, lambda t: t[..., chip : chip + 1, :, :] if t.dim() == 4 else t[chip : chip + 1])
    return replace(found, **own)


def at_device(numbers: Numbers, device: torch.device | str) -> Numbers:
    """The same numbers on a device, where kernels are then priced."""
    return _each(numbers, lambda t: t.to(device))


def _each(numbers: Numbers, change: Callable[[Tensor], Tensor]) -> Numbers:
    def one(value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(value)
        if isinstance(value, LevelTensors):
            return _each(value, change)
        return tuple(map(one, value)) if isinstance(value, tuple) else value

    return replace(numbers, **{field.name: one(getattr(numbers, field.name)) for field in fields(numbers)})


def at_kernels(rates: RateTensors, kernels: Sequence[int]) -> RateTensors:
    """The rates of some of the kernels."""
    index = torch.tensor(kernels, device=rates.rate.device)
    count = max(getattr(rates, field.name).shape[0] for field in fields(rates))
    found = {field.name: getattr(rates, field.name) for field in fields(rates)}
    return replace(rates, **{name: v.expand(count, -1, -1, -1)[index] for name, v in found.items()})
