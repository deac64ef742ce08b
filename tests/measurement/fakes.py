"""A GPU that times nothing: each call takes as long as a test says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from torch_regflat.measurement.device import Calls, Timing

META = torch.device("meta")
ALL = frozenset({"bf16", "fp8", "grouped_mm"})


@dataclass
class FakeDevice:
    """On meta tensors nothing is computed; on the CPU with `runs` every call really runs."""

    device: torch.device = META
    name: str = "NVIDIA H100 80GB HBM3"
    l2_bytes: int = 50 * 2**20
    features: frozenset[str] = ALL
    facts: dict[str, str] = field(
        default_factory=lambda: {"device": "NVIDIA H100 80GB HBM3", "torch": "2", "cuda": "13.0", "driver": "580"}
    )
    runs: bool = False
    before: Callable[[], Any] = lambda: None
    timed: list[tuple[int, bool]] = field(default_factory=list)
    """How many calls took turns, and whether as a graph."""

    def time(self, calls: Calls, *, graph: bool, seconds: float) -> Timing:
        self.before()
        for call in calls if self.runs else ():
            call()
        self.timed.append((len(calls), graph))
        return Timing(100e-6, 90e-6, 110e-6, 9, clock_hz=1.98e9, watts=500.0)

    def release(self) -> None:
        pass
