"""Profiles of training steps, from Python to the table."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import torch_regflat as regflat
from torch_regflat.report.compare import phases_side_by_side


def _model() -> nn.Sequential:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256))


X = torch.empty(64, 256, device="meta")


def test_kernels_keep_to_one_part_of_the_step() -> None:
    profile = regflat.profile_training(_model(), X)
    parts = [kernel.phase for kernel in profile.chips[0].kernels]
    assert list(dict.fromkeys(parts)) == ["forward", "backward", "optimizer"]
    assert parts.count("optimizer") == 1
    assert {part.path for part in profile.chips[0].kernels[-1].parts} == {"0", "2"}


def test_backward_of_products_is_twice_the_forward() -> None:
    profile = regflat.profile_training(_model(), X, optimizer=None)
    flops = {p: sum(k.flops for k in profile.chips[0].kernels if k.phase == p) for p in ("forward", "backward")}
    forward = 2 * 64 * 256 * 512 * 2
    assert flops == {"forward": forward, "backward": 2 * forward - 2 * 64 * 256 * 512}  # none for the input


def test_what_does_not_fit_is_said() -> None:
    with torch.device("meta"):
        large = nn.Sequential(*[nn.Linear(40_000, 40_000, bias=False) for _ in range(4)])
    x = torch.empty(1, 40_000, device="meta")
    assert regflat.profile(large, x).chips[0].fit.fits
    trained = regflat.profile_training(large, x)
    fit = trained.chips[0].fit
    assert not fit.fits and fit.optimizer_bytes > 2 * fit.gradients_bytes - 100
    assert "does not fit" in trained.table() and "optimizer state 51.2 GB" in trained.table()
    with pytest.raises(regflat.CapacityError, match="does not fit h100-sxm"):
        regflat.profile_training(large, x, strict=True)


def test_a_training_profile_can_be_saved_and_read_back() -> None:
    result = regflat.profile_training(_model(), X).result
    assert regflat.Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_phases_side_by_side() -> None:
    results = [regflat.profile(_model(), X).result, regflat.profile_training(_model(), X, optimizer="sgd").result]
    text = phases_side_by_side(results)
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines() if line}
    assert rows["latency, backward"][-3] == "-"
    assert rows["memory, gradients"][-2:] == ["1.05", "MB"]
    assert rows["model FLOPs, optimizer"][-2:] == ["0", "FLOP"]
    assert "note: training step with sgd" in text


def test_only_modules_and_functions_are_trained() -> None:
    with pytest.raises(regflat.InputError, match="profile_training\\(\\) takes a module or a function, found int"):
        regflat.profile_training(3)  # type: ignore[arg-type]
