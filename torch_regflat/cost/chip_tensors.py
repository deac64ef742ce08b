"""A chip's numbers as tensors `[chip, 1, 1]`: hardware files stay free of torch, and gradients flow from here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..hardware.chip import dtype_name

if TYPE_CHECKING:
    from ..hardware.chip import Chip, EngineKind
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

    `levels` run from the engines outwards and the last is external memory. `matrix_rows`, `matrix_columns` and
    `matrix_depth` are the native tile of the matrix engine; `vector_rate` and `special_rate` count operations (an
    FMA is one) of the whole chip a second.
    """

    names: tuple[str, ...]
    level_names: tuple[str, ...]
    levels: tuple[LevelTensors, ...]
    clock: Tensor
    cores: Tensor
    matrix_rows: Tensor
    matrix_columns: Tensor
    matrix_depth: Tensor
    vector_rate: Tensor
    special_rate: Tensor
    vector_energy: Tensor
    dynamic_power: Tensor
    static_power: Tensor
    unattributed_flop: Tensor
    unattributed_vector_flop: Tensor
    unattributed_bit: Tensor
    launch_gap: Tensor
    issue_efficiency: Tensor
    memory_efficiency: Tensor
    prologue: Tensor
    split_cost: Tensor
    l2_efficiency: Tensor
    feed_cycles: Tensor
    feeds_registers: Tensor
    residency_share: Tensor
    wave_softness: Tensor


@dataclass(frozen=True)
class RateTensors:
    """What depends on a kernel's dtype: FLOP/s of the whole chip and J/FLOP, each `[kernel, chip, 1, 1]`."""

    rate: Tensor
    energy: Tensor


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
    tiles = [_matrix_tile(chip) for chip in chips]
    pairs = list(zip(chips, software, strict=True))
    return ChipTensors(
        names=tuple(chip.name for chip in chips),
        level_names=tuple(level.name for level in chips[0].memory),
        levels=tuple(levels),
        clock=column([chip.clock.value for chip in chips]),
        cores=column([chip.cores.count.value for chip in chips]),
        matrix_rows=column([float(tile[0]) for tile in tiles]),
        matrix_columns=column([float(tile[1]) for tile in tiles]),
        matrix_depth=column([float(tile[2]) for tile in tiles]),
        vector_rate=column([chip.peak_flops("fp32", "vector") / 2.0 for chip in chips]),
        special_rate=column([chip.peak_flops("fp32", "special") for chip in chips]),
        vector_energy=column([_energy(chip, "fp32", "vector") for chip in chips]),
        dynamic_power=column([s.dynamic_power_w(chip) for chip, s in pairs]),
        static_power=column([chip.power.static.value for chip in chips]),
        unattributed_flop=column([_value(chip.power.unattributed_flop) for chip in chips]),
        unattributed_vector_flop=column([_value(chip.power.unattributed_vector_flop) for chip in chips]),
        unattributed_bit=column([_value(chip.power.unattributed_bit) for chip in chips]),
        launch_gap=column([chip.launch_gap_graph_s * s.launch_ratio.value for chip, s in pairs]),
        issue_efficiency=column([s.issue_efficiency.value for s in software]),
        memory_efficiency=column([s.memory_efficiency.value for s in software]),
        prologue=column([chip.seconds(s.prologue) for chip, s in pairs]),
        split_cost=column([chip.seconds(s.split_cost) for chip, s in pairs]),
        l2_efficiency=column([s.l2_efficiency.value for s in software]),
        feed_cycles=column([s.feed_cycles_ratio.value * _feeds_registers(chip) for chip, s in pairs]),
        feeds_registers=column([_feeds_registers(chip) for chip in chips]),
        residency_share=column([s.residency_share.value for s in software]),
        wave_softness=column([s.wave_softness.value for s in software]),
    )


def rate_tensors(chips: list[Chip], dtypes: list[str]) -> RateTensors:
    """FLOP/s and J/FLOP of the engine that does each kernel's dtype (a matrix engine if it can)."""
    rate = [[chip.peak_flops(dtype) for chip in chips] for dtype in dtypes]
    energy = [[_energy(chip, dtype, None) for chip in chips] for dtype in dtypes]
    shape = (len(dtypes), len(chips), 1, 1)
    return RateTensors(
        torch.tensor(rate, dtype=torch.float64).reshape(shape), torch.tensor(energy, dtype=torch.float64).reshape(shape)
    )


def _matrix_tile(chip: Chip) -> tuple[int, int, int]:
    engine = next((e for e in chip.engines if e.kind == "matrix"), chip.engines[0])
    return engine.native_tile()


def _feeds_registers(chip: Chip) -> float:
    """1 if the matrix engine takes its operands from registers, 0 if it reads memory itself."""
    engine = next((e for e in chip.engines if e.kind == "matrix"), None)
    return float(engine is not None and engine.feed == "registers")


def _energy(chip: Chip, dtype: str, kind: EngineKind | None) -> float:
    engine = chip.engine_for(dtype, kind)
    return _value(engine.energy.get(dtype_name(dtype))) if engine else 0.0


def _value(quantity: Quantity | None) -> float:
    return 0.0 if quantity is None else quantity.value
