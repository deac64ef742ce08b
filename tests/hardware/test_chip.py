from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from hardware.chip_files import number, refused, small
from torch_regflat.errors import ChipError
from torch_regflat.hardware.chip import Chip, dtype_name


def test_numbers_are_si_for_the_whole_chip() -> None:
    chip = Chip.from_dict(small())
    scratch, dram = chip.memory
    assert chip.clock.value == 1e9
    assert (chip.clock.given, chip.clock.unit, chip.clock.source) == (1.0, "GHz", "made up for tests")
    assert scratch.capacity_bytes == 4 * 2**20
    assert scratch.usable_bytes_per_copy == 2**20
    assert scratch.read_bytes_per_s == 64 * 4 * 1e9
    assert scratch.write_bytes_per_s == scratch.read_bytes_per_s
    assert scratch.latency_s == 10e-9
    assert (dram.read_bandwidth.low, dram.read_bandwidth.high) == (80e9, 110e9)
    assert chip.launch_gap_graph_s == pytest.approx(1e-6)
    assert chip.launch_gap_stream_s == 2e-6
    assert chip.external is dram
    assert chip.on_chip == (scratch,)
    assert chip.capacity_bytes == 10e9
    assert chip.dynamic_power_w == 90.0
    assert chip.software == "cuda-libraries"
    assert chip.level("DRAM") is dram
    with pytest.raises(ChipError) as caught:
        chip.level("DRM")
    assert str(caught.value).startswith("small has no memory.DRM; ")


def test_engines() -> None:
    chip = Chip.from_dict(small())
    assert chip.peak_flops("bf16") == chip.peak_flops("torch.bfloat16") == 4e12
    assert chip.peak_flops("float32") == 4e11
    assert chip.engine_for("fp32").name == "lanes"  # type: ignore[union-attr]
    assert chip.engine_for("fp32", "matrix") is None
    assert chip.supports("bf16")
    assert not chip.supports("fp8")
    assert chip.dtypes == ("fp32", "bf16")
    with pytest.raises(ChipError) as caught:
        chip.peak_flops("fp8")
    assert str(caught.value) == "small has no engine for fp8; it does bf16, fp32"


@pytest.mark.parametrize(
    ("name", "short"),
    [("torch.float8_e4m3fn", "fp8"), ("float8_e5m2", "fp8"), ("half", "fp16"), ("bf16", "bf16"), ("bool", "int8")],
)
def test_dtype_names(name: str, short: str) -> None:
    assert dtype_name(name) == short


def test_energy_of_a_bit_follows_its_placement() -> None:
    level = {
        "memory.0.read_energy": number(0.1, "pJ/bit"),
        "memory.0.wire_energy": number(0.1, "pJ/bit/mm"),
        "memory.0.router_energy": number(0.05, "pJ/bit"),
        "memory.0.distance": number(1, "mm"),
        "memory.0.remote_distance": number(10, "mm"),
        "memory.0.remote_hops": number(4, "1"),
    }
    local = Chip.from_dict(small(**level)).memory[0]
    remote = Chip.from_dict(small(**level, **{"memory.0.placement": "interleaved"})).memory[0]
    assert local.read_j_per_bit == pytest.approx(0.2e-12)
    assert remote.read_j_per_bit == pytest.approx((0.1 + 1.0 + 0.2) * 1e-12)
    assert local.write_j_per_bit == pytest.approx(0.1e-12)
    far = Chip.from_dict(
        small(
            **level,
            **{
                "memory.0.placement": "interleaved",
                "memory.0.wire_delay": number(100, "ps/mm"),
                "memory.0.remote_bandwidth": number(16, "B/clk/core"),
            },
        )
    ).memory[0]
    assert far.placed_latency_s == pytest.approx(10e-9 + 1e-9 + 4e-9)
    assert far.placed_read_bytes_per_s == 16 * 4 * 1e9
    assert local.placed_latency_s == local.latency_s
    assert local.placed_read_bytes_per_s == local.read_bytes_per_s


def test_wrong_unit() -> None:
    assert refused(clock=number(1, "GB")) == (
        "mine.toml: clock: unit 'GB' measures bytes; this field needs a frequency (Hz, kHz, MHz, GHz)"
    )
    assert refused(**{"memory.1.capacity": number(10, "Gb")}) == (
        "mine.toml: memory.DRAM.capacity: unknown unit 'Gb'; did you mean GB or GiB? needed is bytes "
        "(B, kB, MB, GB, TB, PB, EB, KiB, MiB, GiB, TiB, PiB)"
    )


def test_missing_unit_source_or_number() -> None:
    table = '{ value = 1.0, unit = "...", source = "...", kind = "estimate" }'
    assert refused(clock={"value": 1, "source": "x y", "kind": "fit"}) == (
        f"mine.toml: clock: no unit; every number is a table with value, unit, source and kind: {table}"
    )
    assert refused(clock={"value": 1, "unit": "GHz", "kind": "fit"}).startswith("mine.toml: clock: no source; every")
    assert refused(clock=1980) == (
        f"mine.toml: clock: found 1980; every number is a table with value, unit, source and kind: {table}"
    )
    assert refused(clock=number(1, "GHz", kind="guess")) == (
        "mine.toml: clock.kind: found 'guess'; it must be 'datasheet', 'measured', 'paper', 'fit' or 'estimate'"
    )
    assert refused(clock={**number(1, "GHz"), "value": "fast"}) == (
        "mine.toml: clock: value should be a number, found 'fast'"
    )
    assert "mine.toml: clock: missing; add it, numbers as {" in refused(clock=...)


def test_unknown_key() -> None:
    message = refused(**{"memory.1.read_bandwith": number(1, "GB/s")})
    assert message.startswith("mine.toml: memory.DRAM.read_bandwith: unknown key; did you mean read_bandwidth")
    assert "mine.toml: clock.low_value: unknown key; did you mean" in refused(clock=number(1, "GHz", low_value=3))
    assert refused(colour="red").startswith("mine.toml: colour: unknown key; known are ") or "mean" in refused(colour=1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite(bad: float) -> None:
    assert refused(clock=number(bad, "GHz")).startswith("mine.toml: clock.value: input should be a finite number")


def test_negative_zero_and_order() -> None:
    assert refused(**{"memory.1.read_bandwidth": number(-3, "TB/s")}) == (
        "mine.toml: memory.DRAM.read_bandwidth: -3 TB/s is negative; it must be greater than 0"
    )
    assert refused(clock=number(0, "GHz")) == "mine.toml: clock: 0 GHz is zero; it must be greater than 0"
    assert refused(**{"power.static": number(-1, "W")}) == (
        "mine.toml: power.static: -1 W is negative; it must be 0 or more"
    )
    assert refused(clock=number(1, "GHz", low=2)) == (
        "mine.toml: clock: low = 2 is above value = 1; write low <= value <= high"
    )
    assert refused(clock=number(1, "GHz", high=0.5)).endswith(
        "high = 0.5 is below value = 1; write low <= value <= high"
    )
    assert refused(**{"cores.count": number(1.5, "1")}) == "mine.toml: cores.count: 1.5 is not a whole number"
    assert refused(**{"power.dynamic_share": number(120, "%")}) == (
        "mine.toml: power.dynamic_share: 120 % is too large; it must be at most 1"
    )


def test_levels() -> None:
    assert refused(**{"memory.1": ...}) == (
        "mine.toml: memory: no external level (DRAM/HBM); add a [[memory]] with external = true"
    )
    assert refused(**{"memory.0": ...}) == (
        "mine.toml: memory: no on-chip level; add a [[memory]] before the external one"
    )
    both = {"memory.0.external": True, "memory.0.scope": "chip"}
    assert refused(**both) == "mine.toml: memory: scratch and DRAM are all external; exactly one level may be"
    upside_down = small()["memory"][::-1]
    assert refused(memory=upside_down) == (
        "mine.toml: memory: DRAM is external but not last; order the levels from the engines outwards"
    )
    assert refused(**{"memory.0.name": "DRAM"}) == ("mine.toml: memory: two are named 'DRAM'; give each its own name")
    assert refused(**{"memory.0.read_bandwidth": ...}).startswith("mine.toml: memory.scratch.read_bandwidth: missing")
    assert refused(**{"memory.0.usable": number(2, "MiB")}) == (
        "mine.toml: memory.scratch: usable = 2 MiB is more than capacity = 1 MiB"
    )
    assert refused(**{"memory.1.scope": "core"}).endswith(
        'an external level serves the whole chip; write scope = "chip"'
    )


def test_register_flat() -> None:
    assert refused(memory_system="register-flat") == (
        "mine.toml: memory.scratch: no write_bandwidth; give that of the load port, or write shared_port = true"
    )
    flat = {"memory_system": "register-flat", "memory.0.shared_port": True}
    assert Chip.from_dict(small(**flat)).software == "ideal-mapper"
    assert refused(**flat, **{"memory.0.placement": "worst"}) == (
        'mine.toml: memory.scratch: placement = "worst" needs worst_distance'
    )
    levels = small()["memory"]
    second = {**levels[0], "name": "more"}
    assert refused(memory_system="register-flat", memory=[levels[0], second, levels[1]]) == (
        'mine.toml: memory: a register-flat chip has one on-chip level, found scratch, more; or is it a "cache" chip?'
    )


def scratchpad(**changes: object) -> dict[str, object]:
    array = {
        "memory_system": "scratchpad",
        "engines.0.rows": number(128, "1"),
        "engines.0.columns": number(64, "1"),
        "engines.0.count": number(2, "1"),
        "engines.0.dataflow": "weight-stationary",
    }
    return array | changes


def test_scratchpad() -> None:
    chip = Chip.from_dict(small(**scratchpad()))
    assert chip.software == "ideal-mapper"
    assert chip.engines[0].native_tile() == (1, 64, 128)
    held = Chip.from_dict(small(**scratchpad(**{"engines.0.dataflow": "output-stationary"})))
    assert held.engines[0].native_tile() == (128, 64, 1)
    assert chip.replace(**{"engines.array.dataflow": "output-stationary"}) == held
    levels = small()["memory"]
    shared = {**levels[0], "name": "more", "scope": "chip"}
    assert len(Chip.from_dict(small(**scratchpad(memory=[levels[0], shared, levels[1]]))).on_chip) == 2
    assert refused(**scratchpad(memory=[shared, levels[0], levels[1]])) == (
        "mine.toml: memory: scratch of a core comes after more of the chip; order them outwards"
    )


def test_scratchpad_arrays() -> None:
    assert refused(memory_system="scratchpad") == (
        "mine.toml: engines.array: a systolic array without rows, columns, dataflow; add what is missing"
    )
    assert refused(**scratchpad(**{"engines.0.dataflow": "row-stationary"})) == (
        "mine.toml: engines.array.dataflow: found 'row-stationary'; "
        "it must be 'output-stationary' or 'weight-stationary'"
    )
    assert refused(**{"engines.1.dataflow": "weight-stationary"}) == (
        'mine.toml: engines.lanes: dataflow = "weight-stationary" is for a matrix engine; this is a vector engine'
    )
    lanes = small()["engines"][1]
    assert refused(memory_system="scratchpad", engines=[lanes]) == (
        'mine.toml: engines: a scratchpad chip has systolic arrays, found none; add an engine of kind "matrix"'
    )


def test_engine_files() -> None:
    special = [{"name": "sfu", "kind": "special", "rate": {"fp32": number(1, "op/clk/core")}}]
    assert refused(engines=special) == (
        'mine.toml: engines: no matrix or vector engine; add an [[engines]] with kind = "matrix" or "vector"'
    )
    assert refused(**{"engines.0.rate": {"bf61": number(1, "FLOP/clk/core")}}).startswith(
        "mine.toml: engines.array.rate: unknown number format 'bf61'; did you mean bf16"
    )
    assert refused(**{"engines.0.energy": {"fp8": number(1, "pJ/FLOP")}}) == (
        "mine.toml: engines.array: energy.fp8 has no rate; add rate.fp8"
    )
    assert refused(**{"engines.0.kind": "tensor"}) == (
        "mine.toml: engines.array.kind: found 'tensor'; it must be 'matrix', 'vector' or 'special'"
    )
    assert refused(engines={"array": 1}) == "mine.toml: engines: this is a list; write [[double brackets]] in TOML"


def test_sources_are_keys_or_texts() -> None:
    assert refused(clock={**number(1, "GHz"), "source": "nvida"}, sources={"nvidia": "NVIDIA, 2022"}) == (
        "mine.toml: clock: source 'nvida' is not a key of [sources]; did you mean nvidia? "
        "add it there, or write the citation out"
    )
    assert Chip.from_dict(small(clock={**number(1, "GHz"), "source": "k"}, sources={"k": "A text"}))


def test_more_than_one_problem_is_counted() -> None:
    assert refused(clock=number(1, "GB"), cores=...).endswith("(and 1 more problem)")


def test_replace() -> None:
    chip = Chip.from_dict(small())
    faster = chip.replace(**{"memory.DRAM.read_bandwidth": "4.8 TB/s", "name": "faster", "cores.count": 8})
    assert faster.external.read_bytes_per_s == 4.8e12
    assert faster.external.read_bandwidth.source == "set by the caller"
    assert (faster.name, faster.cores.count.value) == ("faster", 8.0)
    assert faster.memory[0].read_bytes_per_s == 2 * chip.memory[0].read_bytes_per_s
    assert chip.external.read_bytes_per_s == 100e9
    assert chip.memory[0].copies == 4.0
    assert chip.replace() == chip
    assert chip.replace(**{"engines.array.clock": "2 GHz"}).peak_flops("bf16") == 8e12
    assert chip.replace(**{"memory.DRAM.latency": "500 ns"}).external.latency_s == pytest.approx(5e-7)
    assert chip.replace(**{"memory.scratch.latency": None}).memory[0].latency_s == 0.0
    assert chip.replace(clock=chip.clock).hash == chip.hash


def test_replace_refuses() -> None:
    chip = Chip.from_dict(small())
    cases = {
        "clock": ("1 GB", "small with changes: clock: unit 'GB' measures bytes; this field needs a frequency"),
        "memory.DRAM.read_bandwidth": (
            "-1 GB/s",
            "small with changes: memory.DRAM.read_bandwidth: -1 GB/s is negative",
        ),
        "memory.HBM.capacity": ("1 GB", "small: memory has no 'HBM'; it has scratch, DRAM"),
        "memory.DRAM.bandwidth": ("1 GB/s", "small with changes: memory.DRAM.bandwidth: unknown key"),
        "power.limit": ("700", "small with changes: power.limit: '700' has no unit; needed is"),
    }
    for path, (value, message) in cases.items():
        with pytest.raises(ChipError) as caught:
            chip.replace(**{path: value})
        assert str(caught.value).startswith(message)
    with pytest.raises(ChipError, match="power.limit: unit '1' measures a plain number; this field needs a power"):
        chip.replace(**{"power.limit": 700})


def test_hash_depends_on_contents_only() -> None:
    chip = Chip.from_dict(small())
    assert chip.hash == Chip.from_dict(small()).hash == Chip.from_dict(chip.to_dict()).hash
    assert len(chip.hash) == 16
    assert chip.replace(**{"power.limit": "101 W"}).hash != chip.hash
    code = (
        "import sys; sys.path.insert(0, 'tests'); from hardware.chip_files import small;"
        "from torch_regflat.hardware.chip import Chip; print(Chip.from_dict(small()).hash)"
    )
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        )
        assert run.stdout.strip() == chip.hash


def test_round_trips() -> None:
    chip = Chip.from_dict(small())
    assert Chip.from_dict(chip.to_dict()) == chip
    assert pickle.loads(pickle.dumps(chip)) == chip
    assert pickle.loads(pickle.dumps(chip)).memory[0].read_bytes_per_s == chip.memory[0].read_bytes_per_s


def test_frozen() -> None:
    chip = Chip.from_dict(small())
    with pytest.raises(ValueError, match="frozen"):
        chip.name = "other"
