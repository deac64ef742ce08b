"""Elasticities equal finite differences, and obey the scaling identity."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import for_chip
from torch_regflat.schedule.kernels import form_kernels
from torch_regflat.schedule.sensitivity import Sensitivity

from .test_run import cnn, decoder, priced

CHIPS = ("h100-sxm", "a100-sxm-80gb", "regflat-physical", "regflat-pessimistic", "tpu-v5e")
MODELS = {"decoder": decoder, "cnn": cnn}


@cache
def subject(model: str, name: str) -> Sensitivity:
    work, chip = MODELS[model](), load(name)
    return Sensitivity(work, form_kernels(work), chip, for_chip(chip))


@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize("model", MODELS)
def test_the_scaling_identity_holds(model: str, name: str) -> None:
    found = subject(model, name).elasticities()
    rates = sum(e.latency for e in found if e.kind == "rate")
    times = sum(e.latency for e in found if e.kind == "time")
    assert rates - times == pytest.approx(-1.0, abs=1e-9)
    assert all(e.latency == 0.0 for e in found if e.parameter == "static power")
    for elasticity in found:
        assert sum(elasticity.layers.values()) == pytest.approx(elasticity.latency, abs=1e-9)


@pytest.mark.parametrize("name", CHIPS)
def test_gradients_equal_finite_differences(name: str) -> None:
    model = subject("decoder", name)
    count = len(model.parameters)
    scales = torch.ones(count, dtype=torch.float64, requires_grad=True)
    latency, energy, _ = model.totals(scales)
    (d_latency,) = torch.autograd.grad(latency, scales, retain_graph=True)
    (d_energy,) = torch.autograd.grad(energy, scales)
    step = 1e-6
    off = 0
    for i in range(count):
        both = []
        for sign in (1.0, -1.0):
            moved = torch.ones(count, dtype=torch.float64)
            moved[i] += sign * step
            both.append([float(v) for v in model.totals(moved)[:2]])
        for column, (gradient, total) in enumerate(((d_latency, latency), (d_energy, energy))):
            numeric = (both[0][column] - both[1][column]) / (2 * step) / float(total.detach())
            off += abs(float(gradient[i] / total.detach()) - numeric) > 1e-4
    # A kernel that sits exactly on a kink (two resources tied) may differ on one side.
    assert off == 0


def test_totals_are_those_of_the_profile() -> None:
    for name in CHIPS:
        model = subject("decoder", name)
        latency, energy, _ = model.totals(torch.ones(len(model.parameters), dtype=torch.float64))
        total = priced(decoder(), name).total
        assert float(latency) == pytest.approx(total.latency_s, rel=1e-9)
        assert float(energy) == pytest.approx(total.energy_j, rel=1e-9)


def test_a_new_search_is_never_worse_than_the_fixed_mapping() -> None:
    found = subject("decoder", "h100-sxm").elasticities(remap=True)
    strong = [e for e in found if e.remapped is not None]
    assert strong
    for elasticity in strong:
        less, more = elasticity.remapped  # type: ignore[misc]
        if elasticity.kind == "rate":
            assert more <= 1e-9 and less <= 1e-9


@pytest.mark.parametrize("name", ["h100-sxm", "regflat-physical", "tpu-v4"])
def test_the_number_of_cores_is_counted_by_finite_differences(name: str) -> None:
    (cores,) = (e for e in subject("decoder", name).elasticities() if e.kind == "count")
    assert cores.parameter == f"number of {load(name).cores.name}s"
    assert -1.5 < cores.latency < 0.2
    assert sum(cores.layers.values()) == pytest.approx(cores.latency, abs=0.02)
