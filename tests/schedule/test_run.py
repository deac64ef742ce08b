"""A whole workload on real chips: everything adds up, bounds hold, the three readings of the flat chip are ordered."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
import torch

from torch_regflat.errors import ChipError
from torch_regflat.hardware import evidence
from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import for_chip
from torch_regflat.models.plain import ResNet
from torch_regflat.result import ChipResult
from torch_regflat.schedule.fit import fit
from torch_regflat.schedule.kernels import form_kernels
from torch_regflat.schedule.run import run
from torch_regflat.schedule.select import check
from torch_regflat.workload import Workload

from .graphs import meta, work_of

CHIPS = ("h100-sxm", "a100-sxm-80gb", "regflat-ideal", "regflat-physical", "regflat-pessimistic")


@cache
def decoder() -> Workload:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=512, intermediate_size=1536, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2,
        vocab_size=4096,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    return work_of(model, meta(1, 256, dtype=torch.long))


@cache
def cnn() -> Workload:
    with torch.device("meta"):
        return work_of(ResNet((2, 2)).to(torch.bfloat16).eval(), meta(4, 3, 64, 64))


def priced(work: Workload, name: str) -> ChipResult:
    chip = load(name)
    kernels = form_kernels(work)
    return run(work, kernels, chip, for_chip(chip), fit(work, chip))


@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize("model", [decoder, cnn])
def test_everything_adds_up(model: object, name: str) -> None:
    work = model()  # type: ignore[operator]
    result = priced(work, name)
    total = result.total
    assert total.latency_s == pytest.approx(math.fsum(k.latency_s for k in result.kernels), rel=1e-12)
    parts = (total.memory_energy_j, total.compute_energy_j, total.static_energy_j, total.unattributed_energy_j)
    assert total.energy_j == pytest.approx(math.fsum(parts), rel=1e-12)
    assert total.memory_energy_j == pytest.approx(math.fsum(level.energy_j for level in result.levels), rel=1e-12)
    assert total.static_energy_j == pytest.approx(load(name).power.static.value * total.latency_s, rel=1e-9)
    assert total.flops == work.flops
    assert 0 < total.utilization <= 1 and 0 < total.bandwidth_utilization <= 1
    for kernel in result.kernels:
        assert kernel.latency_s > 0 and kernel.energy_j > 0, kernel
        assert 0 <= kernel.utilization <= 1 and 0 <= kernel.bandwidth_utilization <= 1
        external = result.levels[-1].name
        assert math.fsum(kernel.operand_bytes.values()) == pytest.approx(kernel.traffic_bytes[external], rel=1e-9)
    for by in ("op", "kernel", "module", "layer"):
        rows = result.rows(by)  # type: ignore[arg-type]
        assert math.fsum(r.latency_s for r in rows) == pytest.approx(total.latency_s, rel=1e-9)
        assert math.fsum(r.energy_j for r in rows) == pytest.approx(total.energy_j, rel=1e-9)
        assert sum(r.flops for r in rows) == total.flops


@pytest.mark.parametrize("name", CHIPS)
def test_latency_respects_the_bounds_of_the_whole_graph(name: str) -> None:
    work, chip = decoder(), load(name)
    result = priced(work, name)
    compute = result.total.executed_flops / chip.peak_flops("bf16")
    # Every weight that is read in full has to come from outside at least once.
    outside = sum(
        t.nbytes for t in work.tensors.values() if t.role == "weight" and "embed" not in t.name
    ) / chip.external.read_bytes_per_s  # fmt: skip
    assert result.total.latency_s >= max(compute, outside)


@pytest.mark.parametrize("model", [decoder, cnn])
def test_readings_of_the_flat_chip_are_ordered(model: object) -> None:
    work = model()  # type: ignore[operator]
    ideal, physical, pessimistic = (priced(work, f"regflat-{n}").total for n in ("ideal", "physical", "pessimistic"))
    assert ideal.latency_s <= physical.latency_s <= pessimistic.latency_s
    assert ideal.energy_j <= physical.energy_j <= pessimistic.energy_j


def test_repeated_layers_cost_the_same() -> None:
    result = priced(decoder(), "h100-sxm")
    middle = [k for k in result.kernels if k.path.startswith("model.layers.1.")]
    last = [k for k in result.kernels if k.path.startswith("model.layers.2.")]
    assert [k.name for k in middle][:-1] == [k.name for k in last][: len(middle) - 1]
    for one, other in zip(middle[:-1], last, strict=False):
        assert one.latency_s == other.latency_s


def test_a_hierarchy_of_another_depth_is_refused() -> None:
    data = load("h100-sxm").to_dict()
    shallow = Chip.from_dict({**data, "memory": [level for level in data["memory"] if level["name"] != "L2"]})
    with pytest.raises(ChipError, match=r"h100-sxm: a cache hierarchy is priced with three levels on chip .*, found "):
        check(shallow)


def test_results_carry_the_evidence_of_the_chip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "evidence.toml"
    path.write_text(evidence.render({"h100-sxm": evidence.Measured(rows=12, mape=0.1)}, "0.1"))
    monkeypatch.setattr(evidence, "EVIDENCE_FILE", path)
    assert priced(cnn(), "h100-sxm").evidence == "measured (12 rows, MAPE 10.0 %)"
