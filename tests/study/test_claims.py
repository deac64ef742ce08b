"""Claims: each is in the book with a source, verdicts follow from the swept rows, and change with the chips."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from torch_regflat.errors import InputError
from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.library import load
from torch_regflat.layout import Layout
from torch_regflat.study.claims import Checked, Setup, claims
from torch_regflat.study.claims.book import book
from torch_regflat.study.claims.render import markdown, text
from torch_regflat.study.claims.rule import RULES
from torch_regflat.study.claims.verdict import Case, Finding, crossing, judge
from torch_regflat.study.depth import DEPTHS, largest_product, spent, with_levels
from torch_regflat.study.sweep import points_of

FLAT, GPU = "regflat-physical", "h100-sxm"


def setup(llama: str, gpus: Sequence[str | Chip] = (GPU,), flats: Sequence[str | Chip] = (FLAT,), **more: Any) -> Setup:
    small: dict[str, Any] = {"batches": (1, 64), "contexts": (256,), "prompts": (512,), "prompt_batches": (1,)}
    small |= {"answers": (100,), "twins": (), "served": Layout(tp=2), "served_weights": None}
    return Setup(gpus=gpus, flats=flats, moe=llama, small=llama, trillion=(llama,), **{**small, **more})


def check(name: str, chosen: Setup) -> Checked:
    return claims(chosen, ids=[name])[0]


def test_every_claim_has_a_source_and_a_rule_or_a_reason() -> None:
    found = book()
    assert len({claim.id for claim in found}) == len(found)
    for claim in found:
        assert claim.text and all(claim.sources)
        assert bool(claim.rule) != bool(claim.why)
        assert not claim.rule or claim.rule in RULES
    assert {claim.rule for claim in found if claim.rule} == set(RULES)
    wanted = {
        "gpu-utilization-moe", "gpu-utilization-8b", "memory-energy", "deeper-hierarchy", "one-cycle",
        "loads-undisturbed", "less-area", "trillion-parameters", "lower-power", "memory-wall", "training-inference",
        "inference-dominates",
        "answer-quality",
    }  # fmt: skip
    assert wanted <= {claim.id for claim in found}


def test_an_unknown_claim_is_refused() -> None:
    with pytest.raises(InputError, match="there is no claim 'one-cycel'; did you mean one-cycle"):
        claims(ids=["one-cycel"])


def test_one_cycle_follows_distance_and_wires(llama: str) -> None:
    assert check("one-cycle", setup(llama)).finding.verdict == "holds only if"
    changes = {"memory.registers.wire_delay": None, "memory.registers.remote_hops": None}
    near = load(FLAT).replace(**changes)
    assert check("one-cycle", setup(llama, flats=[near])).finding.verdict == "holds"
    slow = load(FLAT).replace(**{"memory.registers.latency": "3 cycles"})
    assert check("one-cycle", setup(llama, flats=[slow])).finding.verdict == "does not hold"


def test_the_memory_wall_follows_the_generations(llama: str) -> None:
    growing = setup(llama, generations=("p100-pcie-16gb", "v100-sxm2", "a100-sxm-40gb"))
    assert check("memory-wall", growing).finding.verdict == "holds"
    shrinking = setup(llama, generations=("a100-sxm-40gb", "v100-sxm2", "p100-pcie-16gb"))
    assert check("memory-wall", shrinking).finding.verdict == "does not hold"


def test_the_fleet_follows_the_power_limit(llama: str) -> None:
    assert check("fleet-power", setup(llama)).finding.verdict == "does not hold"
    cool = load(GPU).replace(**{"power.limit": "60 W", "power.static": "20 W", "power.idle": "5 W"})
    assert check("fleet-power", setup(llama, gpus=[cool])).finding.verdict == "holds"


def test_utilization_follows_bandwidth(llama: str) -> None:
    name = "gpu-utilization-8b"
    starved = load(GPU).replace(**{"memory.HBM3.read_bandwidth": "20 GB/s"})
    low = check(name, setup(llama, gpus=[starved])).finding
    assert low.verdict == "does not hold"
    lean = load(GPU).replace(**{"engines.tensor.rate.bf16": "512 FLOP/clk/SM", "engines.tensor.datasheet_peak": None})
    found = check(name, setup(llama, gpus=[lean], batches=(1, 64, 256, 1024))).finding
    assert found.verdict == "holds only if"
    assert "25 % at batch" in found.gives


def test_memory_energy_is_shown_with_and_without_what_is_unattributed(llama: str) -> None:
    checked = check("memory-energy", setup(llama, flats=[]))
    assert (checked.finding.verdict, checked.without.verdict) == ("holds only if", "does not hold")
    cheap = load(GPU).replace(**{"engines.tensor.energy.bf16": "0.001 pJ/FLOP"})
    assert check("memory-energy", setup(llama, gpus=[cheap], flats=[])).without.verdict == "holds only if"


def test_power_follows_the_energy_of_the_registers(llama: str) -> None:
    chosen = setup(llama, batches=(1,))
    at = "memory.registers."
    costly = load(FLAT).replace(**{at + "read_energy": "20 pJ/bit", at + "write_energy": "20 pJ/bit"})
    good, bad = check("lower-power", chosen), check("lower-power", setup(llama, flats=[costly], batches=(1,)))
    assert good.finding.verdict != "does not hold"
    assert bad.without.verdict == "does not hold"


def test_loads_follow_the_ports(llama: str) -> None:
    wide = load(FLAT).replace(**{"memory.registers.write_bandwidth": "4096 B/clk/tile"})
    assert check("loads-undisturbed", setup(llama, flats=[wide])).finding.verdict == "holds"
    narrow = load(FLAT).replace(**{"memory.registers.write_bandwidth": "8 B/clk/tile"})
    assert check("loads-undisturbed", setup(llama, flats=[narrow])).finding.verdict == "does not hold"


def test_a_bottleneck_follows_capacity_and_bandwidth(llama: str) -> None:
    chosen = setup(llama, batches=(64,))
    assert check("trillion-parameters", chosen).finding.verdict == "does not hold"
    wide = load(FLAT).replace(**{"memory.HBM3.read_bandwidth": "900 TB/s"})
    assert check("trillion-parameters", setup(llama, flats=[wide], batches=(64,))).finding.verdict == "holds"
    small = wide.replace(**{"memory.HBM3.capacity": "1 MB"})
    assert check("trillion-parameters", setup(llama, flats=[small], batches=(64,))).finding.verdict == "does not hold"


def test_area_follows_the_cells(llama: str) -> None:
    tiny = load(FLAT).replace(**{"memory.registers.area": "5 mm2"})
    assert check("less-area", setup(llama, flats=[tiny])).finding.verdict == "holds"
    changes = {"memory.registers.area": "5000 mm2", "memory.registers.read_bandwidth": "1 B/clk/tile"}
    huge = load(FLAT).replace(**changes)
    assert check("less-area", setup(llama, flats=[huge])).finding.verdict == "does not hold"


def test_costs_follow_the_rent(llama: str) -> None:
    assert check("search-cost", setup(llama)).finding.verdict == "holds"
    rent = {"value": 1e6, "unit": "USD/h", "source": "set by the caller", "kind": "estimate"}
    dear = load(GPU).replace(**{"price.rent_per_hour": rent})
    assert check("search-cost", setup(llama, gpus=[dear])).finding.verdict == "does not hold"


def test_more_levels_cost_energy_and_cycles(llama: str) -> None:
    shape = largest_product(points_of(llama, "decode", 64, 256)[0].capture())
    chips = [with_levels(load(FLAT), depth) for depth in DEPTHS]
    assert [len(chip.on_chip) for chip in chips] == list(DEPTHS)
    costs = [spent(shape, chip) for chip in chips[:3]]
    assert [cost.energy_j for cost in costs] == sorted(cost.energy_j for cost in costs)
    area = [sum(m.capacity_bytes * (5 / 7 if m.scope == "chip" else 1) for m in chip.on_chip) for chip in chips]
    assert area == pytest.approx([area[0]] * len(DEPTHS), rel=1e-3)
    with pytest.raises(InputError, match="h100-sxm has cache memories; a register-flat chip is given more levels"):
        with_levels(load(GPU), 2)


def test_verdicts_of_points() -> None:
    def at(batch: int, holds: bool, series: str = "a") -> Case:
        return Case(holds, series, "batch", batch)

    assert judge([at(1, True), at(2, True)], "", "").verdict == "holds"
    assert judge([at(1, False)], "", "").verdict == "does not hold"
    assert judge([], "", "").verdict == "not checkable"
    some = [at(1, False), at(4, True), at(8, True), at(16, False), at(32, True), at(1, True, "b"), at(4, True, "b")]
    found = judge([*some, at(1, False, "c")], "", "")
    assert found.verdict == "holds only if"
    assert found.where == "a: batch 4 to 8 and 32; b: batch 1 to 4 (5 of 8 points)"


def test_where_a_figure_crosses_a_value() -> None:
    rows = [{"batch": batch, "utilization": batch / 1000} for batch in (1, 10, 100)]
    assert crossing(rows, "utilization", 0.03) == pytest.approx(30)
    assert crossing(rows, "utilization", 0.5) is None


def test_tables_show_every_claim_and_both_verdicts() -> None:
    one, other = Finding("holds", "1x", "as is", "all 2 points"), Finding("does not hold", "9x", "as is", "none")
    found = [Checked(claim, one, other) for claim in book()]
    shown, document = text(found), markdown(found, Setup())
    for claim in book():
        assert re.search(rf"^## {claim.id}$", document, re.MULTILINE)
        assert f"| [{claim.text}](#{claim.id}) | holds | does not hold |" in document
        assert all(source in document for source in claim.sources)
        assert claim.id[:12] in shown
    assert shown.count("holds;") == len(found)
    assert f"{len(found)} holds" in document


def test_the_document_has_the_claims_as_they_are() -> None:
    document = (Path(__file__).parents[2] / "docs" / "claims.md").read_text()
    assert re.findall(r"^## (\S+)$", document, re.MULTILINE) == [claim.id for claim in book()]
    for claim in book():
        assert f"> {claim.text}.\n" in document


def test_served_models_follow_bandwidth_and_price(llama: str) -> None:
    """A flat chip with an external memory too fast to matter serves without its bottleneck; a dear one costs more."""
    free = load(FLAT).replace(**{"memory.HBM3.read_bandwidth": "2000 TB/s", "name": "free"})
    slow = load(FLAT).replace(**{"memory.HBM3.read_bandwidth": "100 GB/s", "name": "slow"})
    found = check("trillion-served", setup(llama, flats=(free, slow)))
    assert found.finding.verdict == "holds only if"
    assert "on free" in found.finding.where and "on slow" not in found.finding.where
    assert check("trillion-cost", setup(llama)).finding.verdict == "holds"
    dear = load(GPU).replace(**{"price.purchase": "1e12 USD", "name": "dear"})
    assert check("trillion-cost", setup(llama, gpus=(dear,))).finding.verdict == "does not hold"
    tiny = load(FLAT).replace(**{"memory.HBM3.capacity": "10 MB", "name": "tiny"})
    lost = check("trillion-served", setup(llama, flats=(tiny,)))
    assert lost.finding.verdict == "does not hold" and "1 do not fit" in lost.finding.gives
