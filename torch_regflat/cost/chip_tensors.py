"""A chip's numbers as tensors `[chip, 1, 1]`: hardware files stay free of torch, and gradients flow from here."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ..errors import ChipError
from ..hardware.chip import dtype_bits, dtype_name

if TYPE_CHECKING:
    from ..hardware.chip import Chip, Engine, EngineKind
    from ..hardware.quantity import Quantity
    from ..hardware.software import Software


@dataclass(frozen=True)
class LevelTensors:
    """One memory level of every chip: capacity in bytes, bandwidths in B/s (whole chip), energies in J/bit."""

    capacity: Tensor
    read_bandwidth: Tensor
    write_bandwidth: Tensor
    shared_port: Tensor
    latency: Tensor
    read_energy: Tensor
    write_energy: Tensor


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
    issue_efficiency: Tensor
    memory_efficiency: Tensor
    prologue: Tensor
    split_cost: Tensor
    l2_efficiency: Tensor
    feed_cycles_ratio: Tensor
    residency_share: Tensor
    wave_softness: Tensor


@dataclass(frozen=True)
class RateTensors:
    """What depends on a kernel's dtype, each `[kernel, chip, 1, 1]`.

    `rate` is FLOP/s of the whole chip, `energy` J/FLOP of the datapath, `unattributed` J/FLOP that boards are measured
    to spend beyond it. `rows`, `columns` and `depth` are the native tile of the engine, and `feeds_registers` is 1
    where it takes its operands from registers. `arrays` is the number of systolic arrays in a core (0: not systolic),
    of `array_rows` x `array_columns` cells that hold one factor where `weight_stationary` is 1, else results.
    """

    rate: Tensor
    energy: Tensor
    unattributed: Tensor
    rows: Tensor
    columns: Tensor
    depth: Tensor
    feeds_registers: Tensor
    arrays: Tensor
    array_rows: Tensor
    array_columns: Tensor
    weight_stationary: Tensor


def chip_tensors(chips: list[Chip], software: list[Software]) -> ChipTensors:
    """Pack chips of one memory system (equal level names) with the software each runs."""

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1)

    levels = []
    for row in zip(*(chip.memory for chip in chips), strict=True):
        levels.append(
            LevelTensors(
                capacity=column([level.usable_bytes for level in row]),
                read_bandwidth=column([level.placed_read_bytes_per_s for level in row]),
                write_bandwidth=column([level.write_bytes_per_s for level in row]),
                shared_port=column([float(level.shared_port) for level in row]),
                latency=column([level.placed_latency_s for level in row]),
                read_energy=column([level.read_j_per_bit for level in row]),
                write_energy=column([level.write_j_per_bit for level in row]),
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
        dynamic_power=column([s.dynamic_power_w(chip) for chip, s in pairs]),
        static_power=column([chip.power.static.value for chip in chips]),
        unattributed_vector_flop=column([_value(chip.power.unattributed_vector_flop) for chip in chips]),
        unattributed_bit=column([_value(chip.power.unattributed_bit) for chip in chips]),
        launch_gap=column([chip.launch_gap_graph_s * s.launch_ratio.value for chip, s in pairs]),
        issue_efficiency=column([s.issue_efficiency.value for s in software]),
        memory_efficiency=column([s.memory_efficiency.value for s in software]),
        prologue=column([chip.seconds(s.prologue) for chip, s in pairs]),
        split_cost=column([chip.seconds(s.split_cost) for chip, s in pairs]),
        l2_efficiency=column([s.l2_efficiency.value for s in software]),
        feed_cycles_ratio=column([s.feed_cycles_ratio.value for s in software]),
        residency_share=column([s.residency_share.value for s in software]),
        wave_softness=column([s.wave_softness.value for s in software]),
    )


def rate_tensors(chips: list[Chip], dtypes: list[str]) -> RateTensors:
    """The engine that does each kernel's dtype on each chip: a matrix engine if one can, else a vector engine."""
    rows = {dtype: [_engine_numbers(chip, dtype) for chip in chips] for dtype in dict.fromkeys(dtypes)}
    table = torch.tensor([rows[dtype] for dtype in dtypes], dtype=torch.float64)
    return RateTensors(*(table[..., i].unsqueeze(-1).unsqueeze(-1) for i in range(table.shape[-1])))


def _engine_numbers(chip: Chip, dtype: str) -> tuple[float, ...]:
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
    feeds = float(engine.feed == "registers")
    rate, energy = chip.engine_rate(engine, dtype), _energy(chip, dtype, None)
    return rate, energy, extra, float(m), float(n), float(k), feeds, *_systolic(engine)


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

    def one(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[..., chip : chip + 1, :, :] if value.dim() == 4 else value[chip : chip + 1]
        if isinstance(value, LevelTensors):
            return at_chip(value, chip)
        return tuple(one(item) for item in value) if isinstance(value, tuple) else value

    changed = {field.name: one(getattr(numbers, field.name)) for field in fields(numbers)}
    if isinstance(numbers, ChipTensors):
        changed["names"], changed["level_names"] = (numbers.names[chip],), numbers.level_names
    return replace(numbers, **changed)
