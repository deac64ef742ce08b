"""The arithmetic of timing, and what NVML says, with a clock and a library of our own."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from torch_regflat.measurement.device import SAMPLE_S, Meter, Timing, features, full_precision, repeat, rounds_of


class Clock:
    """Time that passes only while something runs."""

    def __init__(self, step_s: float, spread: tuple[float, ...] = (1.0,)) -> None:
        self.now, self.step_s, self.spread = 0.0, step_s, itertools.cycle(spread)
        self.asked: list[int] = []

    def run(self, times: int) -> tuple[float, float | None]:
        took = times * self.step_s * next(self.spread)
        self.now += took
        self.asked.append(times)
        return took, 1.5e9


def timed(clock: Clock, count: int, seconds: float, meter: Meter | None = None) -> Timing:
    return repeat(clock.run, count, seconds, meter or Meter(), lambda: clock.now)


def test_the_time_of_one_call_is_that_of_a_step_over_its_calls() -> None:
    clock = Clock(1e-3)
    found = timed(clock, 20, 0.5)
    assert found.seconds == pytest.approx(50e-6)
    assert found.p10 == pytest.approx(found.p90) == pytest.approx(50e-6)
    assert found.clock_hz == 1.5e9 and found.watts is None and found.joules is None
    assert all(times * 1e-3 >= SAMPLE_S for times in clock.asked[1:])
    assert 0.6 <= clock.now < 0.65  # a fifth more to warm up


def test_the_median_is_not_moved_by_a_slow_sample() -> None:
    found = timed(Clock(1e-3, (1.0, 1.0, 1.0, 1.0, 1.0, 3.0)), 1, 1.0)
    assert found.seconds == pytest.approx(1e-3)
    assert found.p90 > found.seconds >= found.p10


def test_long_calls_are_still_sampled_often_enough() -> None:
    found = timed(Clock(2.0), 1, 0.1)
    assert found.samples == 5
    assert found.seconds == pytest.approx(2.0)


class Nvml:
    """As the library answers: joules as they are spent at 300 W."""

    NVML_CLOCK_SM = 1
    NVMLError = KeyError

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:
        return round(self.clock.now * 300e3)

    def nvmlDeviceGetClockInfo(self, handle: Any, kind: int) -> int:
        raise KeyError("not supported")


def test_power_is_the_energy_counter_over_time() -> None:
    clock = Clock(1e-3)
    meter = Meter(Nvml(clock), "handle")
    found = timed(clock, 10, 1.0, meter)
    assert found.watts == pytest.approx(300, rel=0.01)
    assert found.joules == pytest.approx(300 * 1e-4, rel=0.01)
    assert timed(Clock(1e-3), 10, 0.1, meter).watts is None  # too short for the counter
    assert meter.clock_hz() is None  # what a board does not support


def test_without_the_library_the_meter_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    meter = Meter.of("GPU-1")
    assert (meter.clock_hz(), meter.joules(), meter.driver()) == (None, None, "")


def test_with_the_library_the_handle_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(
        nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=lambda uuid: uuid, nvmlSystemGetDriverVersion=lambda: b"580.1",
        nvmlDeviceGetClockInfo=lambda handle, kind: 1980, NVML_CLOCK_SM=1, NVMLError=RuntimeError,
    )  # fmt: skip
    monkeypatch.setitem(__import__("sys").modules, "pynvml", fake)
    meter = Meter.of("GPU-1")
    assert (meter.handle, meter.clock_hz(), meter.driver()) == ("GPU-1", 1.98e9, "580.1")


@pytest.mark.parametrize(
    ("capability", "known"),
    [
        ((7, 5), set()), ((8, 0), {"bf16"}), ((8, 9), {"bf16", "fp8"}), ((9, 0), {"bf16", "fp8", "grouped_mm"}),
        ((10, 0), {"bf16", "fp8", "grouped_mm"}),
    ],
)  # fmt: skip
def test_features_by_compute_capability(capability: tuple[int, int], known: set[str]) -> None:
    assert features(capability) == known


def test_a_graph_holds_twenty_short_calls_or_one_long_one() -> None:
    assert [rounds_of(1, 3e-6), rounds_of(8, 3e-6), rounds_of(64, 3e-6)] == [20, 3, 1]
    assert [rounds_of(1, 2e-3), rounds_of(1, 0.2)] == [5, 1]
    assert math.isfinite(rounds_of(1, 0.0))


def test_tf32_is_off_meanwhile() -> None:
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    with full_precision():
        assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
