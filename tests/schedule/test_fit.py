"""Memory that has to be there: by hand, and against torch's own tracker."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torch_regflat.capture.record import capture
from torch_regflat.capture.training import capture_training
from torch_regflat.hardware.library import load
from torch_regflat.operators.lowering import workload
from torch_regflat.schedule.fit import fit, memory_of

SIZE = 64 * 64 * 4
ROWS = 16 * 64 * 4


def layers(count: int) -> nn.Sequential:
    return nn.Sequential(*[nn.Linear(64, 64, bias=False, device="meta") for _ in range(count)])


def test_inference_holds_one_input_and_one_output_beside_the_weights() -> None:
    memory = memory_of(workload(capture(layers(4), (torch.empty(16, 64, device="meta"),))))
    # The user still holds the input of the whole.
    assert (memory.weights, memory.peak) == (4 * SIZE, 3 * ROWS)


def test_training_holds_gradients_optimizer_state_and_what_the_backward_needs() -> None:
    memory = memory_of(workload(capture_training(layers(4), (torch.empty(16, 64, device="meta"),))))
    assert memory.weights == 4 * SIZE
    assert memory.optimizer == 2 * 4 * SIZE + 4 * 4
    assert memory.gradients == 4 * SIZE
    assert memory.peak - memory.optimizer - memory.gradients < 3 * ROWS


def test_the_parts_add_up_to_what_is_needed() -> None:
    work = workload(capture_training(layers(4), (torch.empty(4096, 64, device="meta"),)))
    found = fit(work, load("h100-sxm"))
    parts = (found.weights_bytes, found.kv_cache_bytes, found.gradients_bytes, found.optimizer_bytes)
    assert sum(parts) + found.activations_bytes == found.needs_bytes


def test_checkpointing_needs_less() -> None:
    class Layer(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=False)
            return out

    def deep(kind: Any) -> nn.Sequential:
        return nn.Sequential(
            *[kind(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 8)) for _ in range(6)]
        )

    x = torch.empty(1024, 8)
    plain, again = (memory_of(workload(capture_training(deep(kind), (x,)))) for kind in (nn.Sequential, Layer))
    assert again.peak < plain.peak / 2


@pytest.mark.parametrize("name", ["resnet, no optimizer", pytest.param("bert, AdamW", marks=pytest.mark.slow)])
def test_the_peak_is_that_of_torchs_tracker(name: str) -> None:
    pytest.importorskip("transformers")
    path = Path(__file__).parents[2] / "benchmarks" / "peak_memory.py"
    spec = importlib.util.spec_from_file_location("peak_memory", path)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    ours, theirs = benchmark.compare(name)
    assert ours == pytest.approx(theirs, rel=0.05)
