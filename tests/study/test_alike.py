"""Like for like: what is made equal is equal, what stays is the on-chip memory, and a twin differs by nothing."""

from __future__ import annotations

import pytest

import torch_regflat as regflat
from torch_regflat.hardware.library import load
from torch_regflat.study.alike import UNATTRIBUTED, equal_but_on_chip, fair_pairs, pairs
from torch_regflat.study.causes import HIERARCHY, ideal_hierarchy, loss, remedied
from torch_regflat.study.variants import Variant

GPU, FLAT = "h100-sxm", "regflat-physical"


def test_only_the_on_chip_memory_differs() -> None:
    gpu, flat = load(GPU), load(FLAT)
    equal = equal_but_on_chip(flat, gpu)
    for dtype in ("bf16", "fp8", "int8", "fp32"):
        assert equal.peak_flops(dtype) == pytest.approx(gpu.peak_flops(dtype))
        ours, theirs = equal.engine_for(dtype), flat.engine_for(dtype)
        assert ours is not None and theirs is not None and ours.energy == theirs.energy
    assert equal.external.read_bytes_per_s == gpu.external.read_bytes_per_s
    assert equal.external.latency_s == pytest.approx(gpu.external.latency_s)
    assert equal.power.limit.value == gpu.power.limit.value
    assert equal.on_chip == flat.on_chip
    assert equal.clock.value == flat.clock.value


def test_a_twin_is_equal_already_and_keeps_the_energy_of_its_buffers() -> None:
    gpu, twin = load(GPU), load(f"{GPU}:flat")
    equal = equal_but_on_chip(twin, gpu)
    assert equal.peak_flops("bf16") == pytest.approx(twin.peak_flops("bf16"))
    assert equal.external.read_bytes_per_s == twin.external.read_bytes_per_s
    assert equal.power.static.value == pytest.approx(twin.power.static.value)
    ours, theirs = equal.engine_for("bf16"), gpu.engine_for("bf16")
    assert ours is not None and theirs is not None and ours.energy["bf16"].value > theirs.energy["bf16"].value


@pytest.mark.parametrize("other", ["regflat-physical", "regflat-pessimistic", "h100-sxm:flat", "l4", "a100-sxm-80gb"])
def test_pairs_are_charged_alike(other: str) -> None:
    for pair in pairs(Variant.of(GPU), Variant.of(other)):
        charged = [[getattr(v.chip.power, field) for field in UNATTRIBUTED] for v in pair.both]
        values = [[None if q is None else q.value for q in some] for some in charged]
        if pair.name != "as shipped":
            assert values[0] == values[1]
            assert pair.one.software == pair.other.software
            assert pair.one.chip.launch_gap_graph_s == pair.other.chip.launch_gap_graph_s
        if not pair.unattributed:
            assert values == [[None] * 3] * 2


def test_a_chip_and_its_twin_of_another_name_are_equal(llama: str) -> None:
    for name in (GPU, FLAT):
        twin = load(name).replace(name="twin")
        found = regflat.compare(llama, name, twin, phases="prefill", batches=2, contexts=256)[0]
        for pair, a, b in found.pairs:
            assert (a["latency_s"], a["energy_j"], a["external_bytes"]) == (
                b["latency_s"], b["energy_j"], b["external_bytes"],
            ), pair.name  # fmt: skip


def test_software_losses_cost_either_chip(llama: str) -> None:
    for phase in ("prefill", "decode"):
        software = ["cuda-libraries", "ideal-mapper"]
        rows = regflat.sweep(llama, [GPU, FLAT], phases=phase, batches=8, contexts=512, software=software)
        for real, ideal in zip(rows[::2], rows[1::2], strict=True):
            assert real["chip"] == ideal["chip"]
            assert real["latency_s"] > ideal["latency_s"]


def test_losses_of_a_flat_chip_follow_the_software(llama: str) -> None:
    from torch_regflat.hardware.software import load as software

    ideal = software("ideal-mapper")

    def seconds(phase: str, batch: int, **changes: object) -> float:
        chip = Variant(load(FLAT), ideal.replace(changes))
        return float(regflat.sweep(llama, chip, phases=phase, batches=batch, contexts=1024)[0]["latency_s"])

    halves = {"memory_efficiency": 0.5, "stream_efficiency": 0.5}
    assert seconds("decode", 1, **halves) == pytest.approx(2 * seconds("decode", 1), rel=0.1)
    assert seconds("prefill", 8, issue_efficiency=0.5) > 1.3 * seconds("prefill", 8)
    gap = load(FLAT).launch_gap_graph_s
    kernels = regflat.sweep(llama, FLAT, phases="decode", batches=1, contexts=1024)[0]["kernels"]
    # Loads run ahead behind short launches, so only long ones are seen in full.
    assert seconds("decode", 1, launch_ratio=300) == pytest.approx(300 * gap * kernels, rel=0.1)


def test_shares_of_a_loss_add_up(llama: str) -> None:
    for phase in ("prefill", "decode"):
        without = remedied(Variant.of(GPU))
        rows = regflat.sweep(llama, list(without.values()), phases=phase, batches=4, contexts=512)
        found = loss(rows, without)
        assert sum(cause.share_s for cause in found.causes) + found.left_s == pytest.approx(found.latency_s)
        assert found.latency_s == rows[0]["latency_s"]
        assert all(cause.alone_s >= -1e-9 and cause.last_s >= -1e-9 for cause in found.causes)


def test_an_ideal_hierarchy_loses_nothing_more(llama: str) -> None:
    without = remedied(ideal_hierarchy(Variant.of(GPU)))
    rows = regflat.sweep(llama, list(without.values()), phases="prefill", batches=4, contexts=512)
    found = loss(rows, without)
    share = next(cause for cause in found.causes if cause.name == HIERARCHY).share_s
    assert abs(share) < 0.001 * found.latency_s


def test_a_slower_hierarchy_loses_more(llama: str) -> None:
    def share(bandwidth: str) -> float:
        chip = load(GPU).replace(**{"memory.L2.read_bandwidth": bandwidth})
        without = remedied(Variant.of(chip))
        rows = regflat.sweep(llama, list(without.values()), phases="prefill", batches=4, contexts=512)
        found = loss(rows, without)
        return next(cause.share_s for cause in found.causes if cause.name == HIERARCHY) / found.latency_s

    assert share("1 TB/s") > share("3 TB/s") > share("9.8 TB/s")


def test_fair_pairs_are_those_of_the_comparison() -> None:
    every = [pair for pair in pairs(Variant.of(GPU), Variant.of(FLAT)) if pair.fair and pair.unattributed]
    assert fair_pairs(Variant.of(GPU), Variant.of(FLAT)) == every
    assert {pair.one.software.name for pair in every} == {"cuda-libraries", "ideal-mapper"}
