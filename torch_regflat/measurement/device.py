"""The GPU: what it can do, how long a call takes on it, and its clocks and joules. Tests put another `Device` here."""

from __future__ import annotations

import contextlib
import gc
import importlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from ..local import gpu_name

SAMPLE_S = 0.01
"""A sample is so long at least: events resolve half a microsecond, and a replay's start is not to count."""
LEAST_SAMPLES = 5
LEAST_KERNELS = 20
"""Calls in a captured graph, unless they are long."""
LEAST_POWER_S = 0.5
"""NVML's energy counter moves every 20 to 100 ms: over less than this it says nothing."""

_cuda: Any = torch.cuda
"""Some of its constructors have no types, and tests put another here."""
Calls = Sequence[Callable[[], Any]]


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median of `samples` means, with the 10th and 90th percentile. Clock in hertz, watts and
    joules of one call are None where NVML does not give them.
    """

    seconds: float
    p10: float
    p90: float
    samples: int
    clock_hz: float | None = None
    watts: float | None = None

    @property
    def joules(self) -> float | None:
        return None if self.watts is None else self.watts * self.seconds


class Device(Protocol):
    """What measuring needs of a GPU."""

    name: str
    device: torch.device
    l2_bytes: int
    features: frozenset[str]
    facts: dict[str, str]

    def time(self, calls: Calls, *, graph: bool, seconds: float) -> Timing:
        """Time calls that take turns, one after another for about so long, as a replayed graph or from the host."""

    def release(self) -> None:
        """Give back memory that no tensor uses. Raises where the device has failed for good."""


@dataclass
class Meter:
    """NVML's view of a GPU; without the library, or where a board has no counter, it says None."""

    nvml: Any = None
    handle: Any = None

    @classmethod
    def of(cls, uuid: str) -> Meter:
        with contextlib.suppress(Exception):  # no library, no driver, no permission: times are taken without it
            nvml: Any = importlib.import_module("pynvml")
            nvml.nvmlInit()
            return cls(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
        return cls()

    def _ask(self, question: Callable[[Any], float], scale: float) -> float | None:
        if self.handle is None:
            return None
        with contextlib.suppress(self.nvml.NVMLError):
            return question(self.handle) * scale
        return None

    def clock_hz(self) -> float | None:
        return self._ask(lambda handle: self.nvml.nvmlDeviceGetClockInfo(handle, self.nvml.NVML_CLOCK_SM), 1e6)

    def joules(self) -> float | None:
        return self._ask(lambda handle: self.nvml.nvmlDeviceGetTotalEnergyConsumption(handle), 1e-3)

    def driver(self) -> str:
        return "" if self.handle is None else _text(self.nvml.nvmlSystemGetDriverVersion())


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


@dataclass
class CudaDevice:
    """The current CUDA device. Raises `InputError` where there is none."""

    name: str = field(default_factory=lambda: gpu_name("measuring"))

    def __post_init__(self) -> None:
        self.device = torch.device("cuda", _cuda.current_device())
        properties = _cuda.get_device_properties(self.device)
        self.l2_bytes = int(properties.L2_cache_size)
        self.features = features((properties.major, properties.minor), bool(torch.version.hip))
        self.meter = Meter.of(f"GPU-{properties.uuid}")
        self.facts = {
            "device": self.name,
            "torch": torch.__version__,
            "cuda": str(torch.version.cuda or torch.version.hip),
            "driver": self.meter.driver(),
        }

    def time(self, calls: Calls, *, graph: bool, seconds: float) -> Timing:
        with torch.inference_mode():
            _warm(calls)
            rounds = rounds_of(len(calls), self._run(_each(calls[:1]), 1)[0])
            step, count = _captured(calls, rounds) if graph else (_each(calls), len(calls))
            return repeat(lambda times: self._run(step, times), count, seconds, self.meter)

    def _run(self, step: Callable[[], None], times: int) -> tuple[float, float | None]:
        """Seconds of so many steps, and the clock while they run."""
        start, end = (_cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            step()
        end.record()
        clock = self.meter.clock_hz()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3, clock

    def release(self) -> None:
        gc.collect()
        _cuda.synchronize()
        _cuda.empty_cache()


def features(capability: tuple[int, int], hip: bool = False) -> frozenset[str]:
    """Which of the number formats and operators that not all GPUs have this one has in PyTorch.

    On CUDA fp8 products start with Ada (8.9) and grouped ones that a graph can hold with Hopper (9.0).
    """
    if hip:
        return frozenset({"bf16"})
    known = {"bf16": (8, 0), "fp8": (8, 9), "grouped_mm": (9, 0)}
    return frozenset(name for name, least in known.items() if capability >= least)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """fp32 in fp32, and PyTorch's own choice of convolution algorithms."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _warm(calls: Calls) -> None:
    """Run everything on a side stream, as capture asks for: libraries then have their handles and workspaces."""
    stream = _cuda.Stream()
    stream.wait_stream(_cuda.current_stream())
    with _cuda.stream(stream):
        for call in (*calls[:3], calls[0], calls[0]):
            call()
    _cuda.current_stream().wait_stream(stream)
    _cuda.synchronize()


def rounds_of(calls: int, seconds: float) -> int:
    """How often a graph holds all calls, of about so many seconds each: the start of a replay is shared by
    `LEAST_KERNELS` calls or a whole sample.
    """
    wanted = min(LEAST_KERNELS, SAMPLE_S / max(seconds, 1e-7))
    return max(1, math.ceil(wanted / calls))


def _captured(calls: Calls, rounds: int) -> tuple[Callable[[], None], int]:
    """A graph of rounds of the calls, as a step, and how many calls it has. Results of a round are alive until its end,
    so that each call has memory of its own to write to.
    """
    graph = _cuda.CUDAGraph()
    with _cuda.graph(graph):
        for _ in range(rounds):
            held = [call() for call in calls]
            del held
    return graph.replay, rounds * len(calls)


def _each(calls: Calls) -> Callable[[], None]:
    """One round of the calls from the host, results alive until its end."""

    def step() -> None:
        held = [call() for call in calls]
        del held

    return step


def repeat(
    run: Callable[[int], tuple[float, float | None]],
    count: int,
    seconds: float,
    meter: Meter,
    now: Callable[[], float] = time.monotonic,
) -> Timing:
    """Run steps of `count` calls for about `seconds` in samples, after a fifth of that as warm-up.

    `run(times)` gives the seconds that so many steps took, and the clock meanwhile.
    """
    begin, once = now(), run(1)[0]
    times = max(1, math.ceil(SAMPLE_S / max(once, 1e-7)))
    while now() - begin < seconds / 5:
        run(times)
    means: list[float] = []
    clocks: list[float] = []
    begin, spent = now(), meter.joules()
    while now() - begin < seconds or len(means) < LEAST_SAMPLES:
        took, clock = run(times)
        means.append(took / (times * count))
        clocks += [] if clock is None else [clock]
    after, lasted = meter.joules(), now() - begin
    watts = None if spent is None or after is None or lasted < LEAST_POWER_S else (after - spent) / lasted
    tenths = statistics.quantiles(means, n=10)
    middle = statistics.median(means)
    clock_hz = statistics.median(clocks) if clocks else None
    return Timing(middle, min(tenths[0], middle), max(tenths[-1], middle), len(means), clock_hz, watts)
