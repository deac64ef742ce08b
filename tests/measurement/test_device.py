"""The arithmetic of timing, and what NVML says, with a clock and a library of our own."""

from __future__ import annotations

import contextlib
import itertools
import math
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from torch_regflat.measurement import device
from torch_regflat.measurement.device import (
    SAMPLE_S,
    CudaDevice,
    Meter,
    Timing,
    features,
    full_precision,
    repeat,
    rounds_of,
)  # fmt: skip


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


class FakeCuda:
    """As much of torch.cuda as timing calls: a call takes 5 us on the device, a replay 2 us to start, and a launch from
    the host 8 us.
    """

    CALL, REPLAY, HOST = 5e-6, 2e-6, 8e-6

    def __init__(self) -> None:
        self.now, self.capturing, self.warmed = 0.0, None, False
        outer = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = outer.now

            def synchronize(self) -> None:
                pass

            def elapsed_time(self, other: Any) -> float:
                return (other.at - self.at) * 1e3

        class CUDAGraph:
            calls = 0

            def replay(self) -> None:
                outer.now += self.calls * outer.CALL + outer.REPLAY

        self.Event, self.CUDAGraph = Event, CUDAGraph
        self.Stream = self.current_stream = lambda: SimpleNamespace(wait_stream=lambda other: None)
        self.synchronize = self.empty_cache = lambda: None
        self.current_device = lambda: 0

    def get_device_properties(self, index: Any) -> Any:
        return SimpleNamespace(L2_cache_size=50 * 2**20, major=9, minor=0, uuid="5d2a")

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.warmed = True
        yield

    @contextlib.contextmanager
    def graph(self, graph: Any) -> Iterator[None]:
        assert self.warmed  # a first call under capture would set up libraries
        self.capturing = graph
        yield
        self.capturing = None

    def call(self) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        if self.capturing is None:
            self.now += max(self.CALL, self.HOST)
        else:
            self.capturing.calls += 1
        return torch.zeros(())


@pytest.mark.parametrize("sets", [1, 7])
def test_a_cuda_device_times_graphs_and_launches(sets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    monkeypatch.setattr(device, "_cuda", cuda)
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    found = CudaDevice("NVIDIA H100 80GB HBM3")
    assert found.features == {"bf16", "fp8", "grouped_mm"} and found.l2_bytes == 50 * 2**20
    assert found.facts["driver"] == "" and found.facts["torch"] == torch.__version__
    held = 20 if sets == 1 else 21
    graph = found.time([cuda.call] * sets, graph=True, seconds=0.01)
    assert graph.seconds == pytest.approx(cuda.CALL + cuda.REPLAY / held)
    assert found.time([cuda.call] * sets, graph=False, seconds=0.01).seconds == pytest.approx(cuda.HOST)
    found.release()


def test_results_of_a_round_are_alive_together() -> None:
    """So that each call writes to memory of its own, and only until the next round."""
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def call() -> torch.Tensor:
        nonlocal most
        result = torch.zeros(4)
        alive.append(weakref.ref(result))
        most = max(most, sum(ref() is not None for ref in alive))
        return result

    step = device._each([call] * 3)
    step()
    step()
    assert most == 3 and all(ref() is None for ref in alive)
