"""Every chip file that ships: complete, sourced, and consistent with its maker's peaks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from torch_regflat.hardware import library, software
from torch_regflat.hardware.chip import Chip

SHIPPED = (
    "a10g", "a100-pcie-40gb", "a100-pcie-80gb", "a100-sxm-40gb", "a100-sxm-80gb", "a40", "arc-b60", "b200", "b300",
    "gb200", "gb300", "gtx-1080-ti", "h100-pcie", "h100-sxm", "h200", "l4", "l40s", "mi100", "mi210", "mi250", "mi300x",
    "p100-pcie-16gb", "p4", "rtx-4090", "rtx-pro-6000", "t4", "tpu-v4", "tpu-v5e", "tpu-v6e", "v100-pcie", "v100-sxm2",
    "regflat-dense", "regflat-ideal", "regflat-pessimistic", "regflat-physical", "graphcore-ipu", "groq-lpu",
    "vsora-jotunn8-estimate",
)  # fmt: skip
NEVER_FITTED = ("l4", "b200", "b300", "gb200", "gb300")
"""Chips whose measured times are only ever scored against: nothing in their files may come from them."""
CHIPS = sorted(path.stem for path in (Path(library.__file__).parent / "chips").glob("*.toml"))
ADDRESS = ("http", "doi:", "arXiv:", "IEDM", "Estimate", "Assumption", "Fit over", "Fit to")
SRAM_SCALE = {16.0: 2.5, 14.0: 2.2, 12.0: 1.8, 8.0: 1.35, 7.0: 1.0, 6.0: 1.0, 5.0: 0.7}
"""Energy of an access by process, 7 nm = 1, as the sources of the files state."""


def test_all_are_listed() -> None:
    assert set(SHIPPED) <= set(library.names())


@pytest.fixture(autouse=True)
def _no_private_chips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.CHIP_PATH, raising=False)


@pytest.mark.parametrize("name", CHIPS)
def test_every_figure_has_a_source(name: str) -> None:
    chip = library.load(name)
    assert chip.name == name
    assert software.for_chip(chip).name == chip.software
    cited = set()
    for path, quantity in chip.quantities():
        assert quantity.source, path
        cited.add(quantity.source)
        text = chip.sources.get(quantity.source, quantity.source)
        assert ("not checked" not in text and "not verified" not in text) or quantity.kind == "estimate", path
    for key, text in chip.sources.items():
        assert any(mark in text for mark in ADDRESS), f"[sources] {key} has no address and is no stated estimate"
        assert key in cited, f"[sources] {key} is not used"


@pytest.mark.parametrize("name", CHIPS)
def test_units_times_width_times_clock_is_the_dense_peak(name: str) -> None:
    chip = library.load(name)
    for engine in chip.engines:
        for dtype, peak in engine.datasheet_peak.items():
            assert chip.engine_rate(engine, dtype) == pytest.approx(peak.value, rel=0.01), (engine.name, dtype)


@pytest.mark.parametrize("name", CHIPS)
def test_arrays_times_their_size_is_the_rate(name: str) -> None:
    for engine in library.load(name).engines:
        if engine.dataflow is not None:
            rows, columns, count = engine.rows, engine.columns, engine.count
            assert rows is not None and columns is not None and count is not None
            assert engine.rate["bf16"].value == 2 * rows.value * columns.value * count.value


@pytest.mark.parametrize("name", CHIPS)
def test_the_model_finds_what_it_needs(name: str) -> None:
    chip = library.load(name)
    assert chip.peak_flops("fp32", "vector") > 0
    assert chip.peak_flops("fp32", "special") > 0
    if chip.memory_system == "cache":
        assert [level.scope for level in chip.on_chip] == ["core", "core", "chip"]
        assert chip.launch_gap_graph_s <= chip.launch_gap_stream_s


DENSE = {
    "a10g": {"fp32": 35, "bf16": 70},
    "a100-sxm-80gb": {"tf32": 156, "bf16": 312, "int8": 624},
    "a40": {"tf32": 74.8, "bf16": 149.7, "int8": 299.3},
    "arc-b60": {"bf16": 98.3, "int8": 197},
    "b200": {"bf16": 2250, "fp8": 4500, "fp4": 9000},
    "b300": {"bf16": 2250, "fp8": 4500},
    "gb200": {"bf16": 2500, "fp8": 5000, "fp4": 10000},
    "gb300": {"bf16": 2500, "fp8": 5000, "fp4": 15000},
    "h100-pcie": {"bf16": 756, "fp8": 1513},
    "h100-sxm": {"tf32": 495, "bf16": 989, "fp8": 1979, "int8": 1979},
    "h200": {"tf32": 495, "bf16": 989, "fp8": 1979, "int8": 1979},
    "l4": {"fp32": 30.3, "bf16": 121, "fp8": 242.5},
    "l40s": {"tf32": 183, "bf16": 366, "fp8": 733},
    "mi100": {"fp32": 46.1, "bf16": 92.3, "fp16": 184.6},
    "mi210": {"fp32": 45.3, "bf16": 181, "fp16": 181},
    "mi250": {"fp32": 45.3, "bf16": 181, "fp16": 181},
    "mi300x": {"fp32": 163.4, "bf16": 1307, "fp8": 2615},
    "p100-pcie-16gb": {"fp32": 9.3, "fp16": 18.7},
    "rtx-4090": {"fp32": 82.6, "bf16": 165},
    "rtx-pro-6000": {"bf16": 468, "fp8": 936, "fp4": 1871},
    "t4": {"fp32": 8.1, "fp16": 65, "int8": 130},
    "tpu-v4": {"bf16": 275, "int8": 275},
    "tpu-v5e": {"bf16": 197, "int8": 393},
    "tpu-v6e": {"bf16": 918, "int8": 1836},
    "v100-sxm2": {"fp32": 15.7, "fp16": 125},
}
"""Dense peaks in TFLOP/s as published, apart from the files: where a maker prints 2:4 sparsity, half of it."""


@pytest.mark.parametrize("name", DENSE)
def test_no_sparse_peak_slips_in(name: str) -> None:
    chip = library.load(name)
    for dtype, peak in DENSE[name].items():
        assert chip.peak_flops(dtype) == pytest.approx(peak * 1e12, rel=0.015), dtype


@pytest.mark.parametrize("name", NEVER_FITTED)
def test_nothing_is_fitted_to_the_chips_that_score_the_model(name: str) -> None:
    chip = library.load(name)
    named = rf"\b({'|'.join(NEVER_FITTED).upper()})\b"
    for path, quantity in chip.quantities():
        cited = chip.sources.get(quantity.source, quantity.source)
        assert quantity.kind != "fit", path
        if "Fit over" in cited:  # a number of other boards, carried over
            assert quantity.kind == "estimate" and not re.search(named, cited), path


@pytest.mark.parametrize("name", CHIPS)
def test_pins_times_data_rate_is_the_bandwidth(name: str) -> None:
    level = library.load(name).external
    assert (level.bus_width is None) == (level.data_rate is None)
    if level.bus_width is not None and level.data_rate is not None:
        pins = level.bus_width.value * level.data_rate.value / 8
        assert level.read_bytes_per_s == pytest.approx(pins, rel=0.005)


@pytest.mark.parametrize("name", CHIPS)
def test_energies_are_complete(name: str) -> None:
    chip = library.load(name)
    for engine in chip.engines:
        assert set(engine.energy) == set(engine.rate), engine.name
    for level in chip.memory:
        assert level.read_energy is not None, level.name
        assert level.write_energy is not None, level.name


@pytest.mark.parametrize("name", CHIPS)
def test_sram_energies_follow_the_stated_fit(name: str) -> None:
    chip = library.load(name)
    node = chip.die.node.given if chip.die and chip.die.node else 0.0
    scale = SRAM_SCALE[node] * (2.0 if name == "regflat-pessimistic" else 1.0)
    for level in chip.on_chip:
        assert level.bank_bits is not None
        assert level.read_energy is not None
        bits = level.bank_bits.value * (8 if level.bank_bits.dimension == "bytes" else 1)
        assert level.read_energy.value == pytest.approx(scale * (0.107 + 3.85e-5 * bits**0.5) * 1e-12, rel=0.01)


@pytest.mark.parametrize(("name", "board"), [("h100-sxm", 15.3e-12), ("h200", 15.3e-12), ("a100-sxm-80gb", 14.8e-12)])
def test_gpu_streams_cost_what_boards_are_measured_to_spend(name: str, board: float) -> None:
    chip = library.load(name)
    assert chip.power.unattributed_bit is not None
    assert chip.stream_j_per_bit + chip.power.unattributed_bit.value == pytest.approx(board, rel=0.01)


def test_known_figures() -> None:
    h100, a100 = library.load("h100-sxm"), library.load("a100-sxm-80gb")
    assert h100.peak_flops("bf16") == pytest.approx(989.4e12, rel=1e-3)
    assert h100.peak_flops("fp8") == pytest.approx(1978.9e12, rel=1e-3)
    assert h100.peak_flops("fp32") == pytest.approx(66.9e12, rel=1e-3)
    assert a100.peak_flops("bf16") == pytest.approx(312e12, rel=1e-3)
    assert h100.external.read_bytes_per_s == 3.35e12
    assert a100.external.read_bytes_per_s == 2.039e12
    assert not a100.supports("fp8")
    assert [level.name for level in h100.on_chip] == ["registers", "shared", "L2"]


def flat() -> tuple[Chip, Chip, Chip]:
    return library.load("regflat-ideal"), library.load("regflat-physical"), library.load("regflat-pessimistic")


def test_register_flat_chips_differ_from_the_gpu_in_the_memory_only() -> None:
    gpu = library.load("h100-sxm")
    for chip in flat():
        for field in ("capacity", "read_bandwidth", "read_energy", "write_energy", "interface_energy", "wire_energy"):
            assert getattr(chip.external, field).value == getattr(gpu.external, field).value, field
        assert chip.external.latency_s == pytest.approx(gpu.external.latency_s, rel=0.01)
        for field in set(type(chip.power).model_fields) - {"product_energy", "vector_product_energy", "static"}:
            assert getattr(chip.power, field).value == getattr(gpu.power, field).value, field
        # Of the static floor, what the memories on the chip leak differs, and nothing else.
        leaks, caches = chip.on_chip[0].leakage_w, sum(level.leakage_w for level in gpu.on_chip)
        assert chip.power.static.value - leaks == pytest.approx(gpu.power.static.value - caches)
        for engine in chip.engines:
            twin = next(e for e in gpu.engines if e.kind == engine.kind)
            for dtype, energy in engine.energy.items():
                assert energy.value == twin.energy[dtype].value, (engine.name, dtype)
        links = [(link.bandwidth.value, link.energy and link.energy.value) for link in chip.interconnect]
        assert links == [(link.bandwidth.value, link.energy and link.energy.value) for link in gpu.interconnect]
        assert all(quantity.kind in ("estimate", "paper") for _, quantity in chip.quantities())


def test_the_three_readings_share_engines_and_are_ordered() -> None:
    ideal, physical, pessimistic = flat()
    assert ideal.engines == physical.engines == pessimistic.engines
    assert ideal.clock == physical.clock == pessimistic.clock
    for better, worse in ((ideal, physical), (physical, pessimistic)):
        a, b = better.on_chip[0], worse.on_chip[0]
        assert a.capacity_bytes >= b.capacity_bytes
        assert a.read_bytes_per_s >= b.read_bytes_per_s
        assert a.write_bytes_per_s >= b.write_bytes_per_s
        assert a.remote_bytes_per_s >= b.remote_bytes_per_s
        assert a.latency_s <= b.latency_s
        assert a.read_j_per_bit < b.read_j_per_bit
        assert a.write_j_per_bit <= b.write_j_per_bit
        assert a.leakage_w <= b.leakage_w
        assert better.launch_gap_graph_s < worse.launch_gap_graph_s
    assert not physical.on_chip[0].shared_port
    assert pessimistic.on_chip[0].shared_port


def test_physical_is_what_the_area_and_the_formula_say() -> None:
    _, physical, pessimistic = flat()
    level = physical.on_chip[0]
    assert level.capacity_bytes == 256 * 2**20
    assert level.read_bytes_per_s == pytest.approx(92e12, rel=0.01)
    assert level.read_j_per_bit == pytest.approx(0.124e-12, rel=0.01)
    assert physical.peak_flops("fp8") == pytest.approx(2 * 1.05e6 * 1.4e9, rel=0.01)
    for chip in (physical, pessimistic):
        assert chip.die is not None
        assert sum(block.value for block in chip.die.blocks.values()) == pytest.approx(chip.die.area.value, rel=0.001)
        registers = chip.die.blocks["registers"].value
        assert chip.on_chip[0].area is not None and chip.on_chip[0].area.value == registers
