"""Intervals of latencies: their ends, how they add up, and what they come from."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import torch_regflat as regflat
from result_factory import kernel
from torch_regflat.hardware.ends import end
from torch_regflat.hardware.library import load, names
from torch_regflat.result import Interval, KernelCost, ends
from torch_regflat.schedule import intervals
from torch_regflat.schedule.uncertainty import ANY, Spread, Uncertainty, broader, key_of, uncertainty


def layer() -> nn.Module:
    return nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256)).to("meta", torch.bfloat16)


def profiled(chip: object) -> regflat.ChipResult:
    return regflat.profile(layer(), torch.empty(64, 256, dtype=torch.bfloat16, device="meta"), chip=chip).chips[0]  # type: ignore[arg-type]


def test_every_latency_has_ends() -> None:
    for name in ("h100-sxm", "regflat-physical"):
        found = profiled(name)
        for one in (*found.kernels, *found.rows(), found.total):
            assert one.latency_low_s is not None and one.latency_high_s is not None
            assert 0 < one.latency_low_s <= one.latency_s <= one.latency_high_s


def test_what_the_ends_mean_depends_on_the_evidence() -> None:
    assert profiled("regflat-physical").interval.basis == "parameter range"
    assert profiled("regflat-physical").interval.coverage == 0.0
    measured = profiled("h100-sxm").interval
    assert (measured.basis, measured.coverage) == ("rows of this chip", 0.8)
    changed = load("h100-sxm").replace(**{"memory.HBM3.read_bandwidth": "4.0 TB/s", "name": "changed"})
    assert profiled(changed).interval.basis == "rows of its relatives"


def test_relatives_are_less_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    only = Uncertainty(0.8, 0.5, 0.5, {(ANY,) * 4: Spread(0.9, 1.2, 0.7, 1.5)})  # type: ignore[dict-item]
    monkeypatch.setattr(intervals, "uncertainty", lambda: only)
    own = profiled("h100-sxm")
    relative = profiled(load("h100-sxm").replace(name="changed", **{"memory.HBM3.read_bandwidth": "3.3 TB/s"}))
    k, w = own.kernels[0], relative.kernels[0]
    assert (k.latency_low_s, k.latency_high_s) == pytest.approx((0.9 * k.latency_s, 1.2 * k.latency_s))
    assert (w.latency_low_s, w.latency_high_s) == pytest.approx((0.7 * w.latency_s, 1.5 * w.latency_s))


def test_an_interval_always_holds_the_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model is known to be biased, both ends of the measurements may lie on one side."""
    biased = Uncertainty(0.8, 1.0, 1.0, {(ANY,) * 4: Spread(1.1, 1.3, 1.05, 1.4)})  # type: ignore[dict-item]
    monkeypatch.setattr(intervals, "uncertainty", lambda: biased)
    total = profiled("h100-sxm").total
    assert total.latency_low_s == pytest.approx(total.latency_s)
    assert total.latency_high_s == pytest.approx(1.3 * total.latency_s)


WIDTHS = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6)
SHARES = st.floats(0.0, 1.0)


def some(widths: list[float], kind: str = "product") -> list[tuple[KernelCost, float]]:
    """Different kernels of one class that take a second each."""
    return [
        (kernel(name=f"{kind}{i}", kind=kind, latency_s=1.0, latency_low_s=1.0 - w, latency_high_s=1.0 + w), 1.0)
        for i, w in enumerate(widths)
    ]


@given(WIDTHS, SHARES)
def test_kernels_of_one_class_add_up_with_its_correlation(widths: list[float], correlation: float) -> None:
    low, high = ends(some(widths), Interval(class_correlation=correlation, correlation=0.0))
    expected = math.sqrt(correlation * sum(widths) ** 2 + (1 - correlation) * sum(w * w for w in widths))
    assert high == pytest.approx(len(widths) + expected)
    assert low == pytest.approx(max(len(widths) - expected, 0.0))


@given(WIDTHS, WIDTHS, SHARES)
def test_classes_add_up_with_the_other_correlation(first: list[float], second: list[float], correlation: float) -> None:
    """Within a class as one."""
    both = some(first) + some(second, "attention")
    _, high = ends(both, Interval(class_correlation=1.0, correlation=correlation))
    a, b = sum(first), sum(second)
    expected = math.sqrt(a * a + b * b + 2 * correlation * a * b)
    assert high == pytest.approx(len(both) + expected)


@given(WIDTHS, WIDTHS, SHARES, SHARES)
def test_a_sum_is_never_wider_than_its_parts_together(
    first: list[float], second: list[float], one: float, other: float
) -> None:
    both = some(first) + some(second, "attention")
    _, high = ends(both, Interval(class_correlation=max(one, other), correlation=min(one, other)))
    assert high is not None
    assert math.sqrt(sum(w * w for w in first + second)) - 1e-9 <= high - len(both) <= sum(first + second) + 1e-9


def test_equal_kernels_err_alike() -> None:
    same = [(kernel(latency_s=1.0, latency_low_s=0.9, latency_high_s=1.2), 1.0)] * 10
    assert ends(same, Interval(correlation=0.0, class_correlation=0.0)) == pytest.approx((9.0, 12.0))
    assert ends([(kernel(), 1.0)], Interval()) == (None, None)


def test_the_most_specific_cell_counts() -> None:
    key = key_of("product", "bfloat16", 50e-6, "HBM3 bandwidth")
    assert key == ("product", "16 bits", "10 to 100 us", "memory")
    cells = {k: Spread(1.0 - i / 10, 1.0 + i / 10, 0.5, 2.0) for i, k in enumerate(list(broader(key))[1:], 1)}
    known = Uncertainty(0.8, 1.0, 1.0, cells)
    assert known.spread("product", "bfloat16", 50e-6, "HBM3 bandwidth") == Spread(0.9, 1.1, 0.5, 2.0)
    assert known.spread("attention", "bfloat16", 1.0, "compute") == cells[(ANY,) * 4]  # type: ignore[index]
    assert Uncertainty(0.8, 1.0, 1.0, {}).spread("product", "bfloat16", 1.0, "compute") is None


def test_the_file_that_ships_is_sane() -> None:
    known = uncertainty()
    assert known.coverage == 0.8 and 0 <= known.correlation <= known.class_correlation < 1
    assert (ANY,) * 4 in known.cells
    for spread in known.cells.values():
        assert spread.wide_low <= spread.low <= spread.high <= spread.wide_high


@pytest.mark.parametrize("name", names())
def test_the_ends_of_a_chip_are_better_and_worse(name: str) -> None:
    chip = load(name)
    best, worst = end(chip, "best"), end(chip, "worst")
    assert worst.clock.value <= chip.clock.value <= best.clock.value
    assert worst.external.read_bytes_per_s <= chip.external.read_bytes_per_s <= best.external.read_bytes_per_s
    assert worst.launch_gap_graph_s >= chip.launch_gap_graph_s >= best.launch_gap_graph_s
    assert end(chip, "best") is best
