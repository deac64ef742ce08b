"""Chips whose memory is all SRAM: weights are there before a run if they fit, else a note says how many do."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import torch_regflat as regflat
from torch_regflat.errors import ChipError
from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.library import load

CHIPS = ("groq-lpu", "graphcore-ipu")


def layers(count: int, width: int = 1024) -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(count))).to(torch.float16)


def profiled(chip: Chip | str, count: int) -> regflat.Profile:
    return regflat.profile(layers(count), torch.empty(4, 1024, dtype=torch.float16, device="meta"), chip=chip)


@pytest.mark.parametrize("name", CHIPS)
def test_weights_that_fit_are_not_read_in_a_run(name: str) -> None:
    profile = profiled(name, 16)
    chip = profile.chips[0]
    assert chip.notes[0] == (
        f"{name} has no DRAM: weights and caches (32.0 MiB) lie in its {load(name).on_chip[-1].name} before a run and "
        "after it"
    )
    assert sum(kernel.operand_bytes.get("weight", 0.0) for kernel in chip.kernels) == 0
    line = profile.timeline()
    assert line.latency_s == pytest.approx(chip.total.latency_s)
    assert 32 * 2**20 <= min(size for _, size in line.on_chip) <= line.peak_bytes <= line.capacity_bytes
    streamed = load(name).replace(**{"execution.weights": "streamed"})
    assert profiled(streamed, 16).total.latency_s > 20 * chip.total.latency_s


@pytest.mark.parametrize("name", CHIPS)
def test_weights_that_do_not_fit_are_streamed_and_the_chips_it_takes_are_said(name: str) -> None:
    chip = load(name)
    room = 0.75 * chip.on_chip[-1].usable_bytes
    count = int(room // (2 * 2**20)) + 1
    assert "lie in its" in profiled(name, count - 1).chips[0].notes[0]
    found = profiled(name, 3 * count).chips[0]
    assert "which takes 4 chips; priced as one chip that reads them from host in every run" in found.notes[0]
    assert sum(kernel.operand_bytes.get("weight", 0.0) for kernel in found.kernels) == 3 * count * 2 * 2**20


def test_what_extends_a_cache_stays_on_chip() -> None:
    """New keys and values are not written to the host."""
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=128, n_head=2)).to(torch.float16)
    found = regflat.profile_model(model, phase="decode", context=64, chips="graphcore-ipu").chips[0]
    assert "lie in its SRAM" in found.notes[0]
    assert sum(kernel.operand_bytes.get("kv_cache", 0.0) for kernel in found.kernels) == 0


def test_caches_cannot_be_preloaded() -> None:
    with pytest.raises(ChipError, match='execution.weights: a cache holds what was touched last; "preloaded" is for'):
        load("h100-sxm").replace(**{"execution.weights": "preloaded"})
