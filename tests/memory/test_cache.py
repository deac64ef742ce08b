"""Products, streams and norms on GPUs: bounds that hold for any shape, and what published kernels are known to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cost.cases import matrix_product
from torch_regflat.conditions import SCHEDULED, Conditions
from torch_regflat.cost.shapes import KernelShape, Rows, Stream
from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import Software, for_chip
from torch_regflat.hardware.software import load as load_software
from torch_regflat.schedule.narrowing import narrowed
from torch_regflat.schedule.select import Choice, choose
from torch_regflat.schedule.shape import shape_of_nest

CHIPS = ("h100-sxm", "a100-sxm-80gb", "l40s", "v100-sxm2", "mi210", "arc-b60")
SPARE: dict[str, Any] = {"power.limit": "20 kW"}
"""With power to spare: what needs more of it may run at a lower clock."""

sizes = st.sampled_from([1, 3, 16, 64, 100, 128, 513, 1024, 4096, 16384])
products = st.tuples(st.sampled_from([1, 1, 8]), sizes, sizes, sizes)


def price(
    chip: Chip, shapes: Sequence[KernelShape], software: Software | None = None, conditions: Conditions = SCHEDULED
) -> list[Choice]:
    return choose(list(shapes), chip, software or for_chip(chip), conditions=conditions)


def product(b: int, m: int, n: int, k: int, bits: int = 16) -> KernelShape:
    return shape_of_nest(matrix_product(b, m, n, k, bits))


def rows(count: int, columns: int, sweeps: int, bits: int = 32) -> KernelShape:
    size = count * columns * bits / 8
    return KernelShape(
        kind="reduction",
        dtype="float32",
        sizes=(1, 1, 1, 1),
        operands=(),
        streams=(Stream("activation", read_far=size, write_far=size),),
        work=0.0,
        vector_ops=4.0 * count * columns,
        special_ops=float(count * columns),
        rows=Rows(count, columns, columns * bits / 8, sweeps),
    )


@pytest.mark.parametrize("name", CHIPS)
@settings(max_examples=40, deadline=None)
@given(size=products)
def test_no_product_is_faster_than_the_roofline(name: str, size: tuple[int, int, int, int]) -> None:
    chip, shape = load(name), product(*size)
    if not chip.supports("bf16"):
        chip = load("a100-sxm-80gb")
    (choice,) = price(chip, [shape])
    moved = sum(o.footprint_bytes for o in shape.operands)
    assert choice.latency_s >= shape.work / chip.peak_flops("bf16")
    assert choice.latency_s >= moved / chip.external.read_bytes_per_s
    assert choice.read_bytes[-1] + choice.write_bytes[-1] >= moved * (1 - 1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"clock": "3.96 GHz"},
        {"memory.HBM3.read_bandwidth": "5 TB/s"},
        {"memory.L2.read_bandwidth": "20 TB/s"},
        {"memory.L2.capacity": "200 MiB", "memory.L2.usable": "200 MiB"},
        {"memory.L2.latency": "50 cycles", "memory.HBM3.latency": "100 cycles"},
    ],
)
@settings(max_examples=25, deadline=None)
@given(size=products, columns=st.sampled_from([64, 768, 2000, 10240, 131072]), sweeps=st.sampled_from([2, 3]))
def test_a_faster_chip_is_never_slower(
    change: dict[str, str], size: tuple[int, int, int, int], columns: int, sweeps: int
) -> None:
    chip = load("h100-sxm").replace(**SPARE)
    shapes = [product(*size), rows(size[1] * size[2], columns, sweeps)]
    before, after = price(chip, shapes), price(chip.replace(**change), shapes)
    assert all(a.latency_s <= b.latency_s * (1 + 1e-9) for a, b in zip(after, before, strict=True))


@settings(max_examples=40, deadline=None)
@given(size=products)
def test_what_lies_on_chip_never_takes_longer(size: tuple[int, int, int, int]) -> None:
    cold = product(*size)
    first, *others = cold.operands
    warm = KernelShape(**{f: getattr(cold, f) for f in KernelShape.__slots__} | {"operands": (_near(first), *others)})
    a, b = price(load("a40").replace(**SPARE), [cold, warm])
    assert b.latency_s <= a.latency_s * (1 + 1e-12)
    assert a.read_bytes[-1] - b.read_bytes[-1] <= first.footprint_bytes * (1 + 1e-12)


def _near(operand: Any) -> Any:
    return type(operand)(**{f: getattr(operand, f) for f in type(operand).__slots__} | {"resident": 1.0})


def test_long_k_in_a_small_product_waits_for_its_loads() -> None:
    """One tile that nothing splits: time goes with k, far below what memory could deliver."""
    chip, whole = load("v100-sxm2"), for_chip(load("v100-sxm2")).replace({"menu.split_k": [1]})
    short, long_ = price(chip, [product(1, 16, 16, 8192), product(1, 16, 16, 65536)], whole)
    assert (long_.latency_s - short.latency_s) / 57344 * 1e9 == pytest.approx(10, rel=0.7)  # ns an element of k
    assert long_.latency_s > 20 * long_.external_s


def test_blocks_of_a_cluster_take_less_from_l2() -> None:
    chip = load("h100-sxm")
    alone = for_chip(chip).replace({"menu.cluster": 1, "menu.tiles": [[128, 128]], "menu.wide_tiles": []})
    two = alone.replace({"menu.cluster": 2})
    a, b = (price(chip, [product(1, 4096, 4096, 4096)], software)[0] for software in (alone, two))
    assert b.read_bytes[2] == pytest.approx(0.75 * a.read_bytes[2], rel=0.01)
    assert b.latency_s <= a.latency_s


def test_two_blackwell_cores_share_the_other_factor() -> None:
    """A tile of 128 x 256: a step along k reads 128 + 256 elements for 128 x 256 products, 128 + 128 in a pair."""
    chip, shape = load("b200"), product(1, 8192, 8192, 8192)
    software = for_chip(chip).replace({"menu.tiles": [[128, 256]], "menu.wide_tiles": [], "menu.split_k": [1]})
    (pair,) = price(chip, [shape], software)
    (alone,) = price(chip.replace(**{"engines.tensor.feed_rows": 128}), [shape], software)
    element = 2.0 * 8192**3
    assert pair.read_bytes[1] == pytest.approx(element * (1 / 256 + 1 / 256), rel=1e-6)
    assert alone.read_bytes[1] == pytest.approx(element * (1 / 256 + 1 / 128), rel=1e-6)
    assert pair.latency_s < alone.latency_s


def test_lines_of_tiles_read_a_long_side_again_and_again() -> None:
    """fp8, 128 x 128 tiles, 16384 x 65536 x 51200: published at 580 to 800 TFLOP/s on an H100 without swizzle, whose
    peak is 1979 (aiconfigurator 0.12.0, sglang 0.5.14 and vllm 0.24); cuBLASLt reaches 1280.
    """
    chip = load("h100-sxm")
    shape = product(1, 16384, 65536, 51200, 8)
    shape = KernelShape(**{f: getattr(shape, f) for f in KernelShape.__slots__} | {"dtype": "float8_e4m3fn"})
    lines, squares = (price(chip, [shape], load_software(name))[0] for name in ("cutlass-narrow", "cuda-libraries"))
    assert 580e12 * 0.8 < shape.work / lines.latency_s < 800e12 * 1.2
    assert shape.work / squares.latency_s == pytest.approx(1280e12, rel=0.15)


@pytest.mark.parametrize(
    ("name", "columns", "sweeps", "passes"),
    [
        ("v100-pcie", 1024, 3, 2.0), ("v100-pcie", 16384, 3, 4.2), ("a100-pcie-40gb", 1024, 3, 2.0),
        ("a100-pcie-40gb", 2048, 3, 2.1), ("a100-pcie-40gb", 16384, 3, 3.9), ("p100-pcie-16gb", 16384, 3, 3.9),
        ("a100-pcie-40gb", 2048, 2, 2.1), ("a100-pcie-40gb", 10240, 2, 3.0), ("v100-pcie", 10240, 2, 3.1),
        ("t4", 1024, 2, 2.1), ("t4", 10240, 2, 2.9),
    ],
)  # fmt: skip
def test_sweeps_over_long_rows_miss_the_l2(name: str, columns: int, sweeps: int, passes: float) -> None:
    """Passes over the rows, as fp32 softmaxes (3 sweeps) and layer norms (2) of PyTorch take of copy bandwidth:
    NeuSight (ASPLOS 2025), 65536 rows and more.
    """
    chip, count = load(name), 131072
    (choice,) = price(chip, [rows(count, columns, sweeps)])
    share = 1.0 if chip.external.sustained_bandwidth else for_chip(chip).stream_efficiency.value
    swept = choice.latency_s * chip.external.sustained_bytes_per_s * share / (count * columns * 4.0)
    assert swept == pytest.approx(passes, rel=0.2)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(CHIPS),
    count=st.sampled_from([1, 7, 100, 4096, 10**6]),
    columns=st.sampled_from([1, 33, 1024, 1025, 5000, 262144]),
    sweeps=st.sampled_from([2, 3]),
    bits=st.sampled_from([16, 32]),
)
def test_rows_are_swept_once_at_least_and_never_more_often_than_asked(
    name: str, count: int, columns: int, sweeps: int, bits: int
) -> None:
    (choice,) = price(load(name), [rows(count, columns, sweeps, bits)])
    size = count * columns * bits / 8
    assert size <= choice.read_bytes[-1] * (1 + 1e-12)
    assert choice.read_bytes[-1] <= sweeps * size * (1 + 1e-12)
    assert choice.write_bytes[-1] == pytest.approx(size)


def test_narrowing_costs_launches_and_saves_bytes() -> None:
    chip = load("h100-sxm")
    small, large = (_fp8(m) for m in (16, 65536))
    for name, kernels in (("cublas-narrow", 4), ("cutlass-narrow", 1)):
        software = load_software(name)
        made = narrowed(small, chip, software)
        assert made.apart_kernels == kernels
        assert made.operands[0].footprint_bytes == small.operands[0].footprint_bytes / 2
        assert price(chip, [small], software)[0].latency_s > price(chip, [small])[0].latency_s
    assert narrowed(small, chip, for_chip(chip)) is small
    assert narrowed(product(1, 16, 4096, 4096), chip, load_software("deep-gemm")).apart_kernels == 0
    fp8, bf16 = price(chip, [large, product(1, 65536, 4096, 4096)], load_software("cublas-narrow"))
    assert fp8.latency_s < 0.65 * bf16.latency_s


def _fp8(m: int) -> KernelShape:
    """bf16 rows by fp8 weights, multiplied in fp8."""
    nest = matrix_product(1, m, 4096, 4096)
    shape = shape_of_nest(nest)
    first, second, result = shape.operands
    half = type(second)(**{f: getattr(second, f) for f in type(second).__slots__}
                        | {"point_bytes": 1.0, "footprint_bytes": second.footprint_bytes / 2})  # fmt: skip
    fields = {f: getattr(shape, f) for f in KernelShape.__slots__}
    return KernelShape(**fields | {"operands": (first, half, result), "dtype": "float8_e4m3fn"})
