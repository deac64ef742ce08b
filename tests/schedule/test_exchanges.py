"""Exchanges between chips on the time line, beside the engines, and what a result says of them."""

import dataclasses
import itertools
import json
import math

import pytest

from schedule.exchanging import Build, chained, gathered, parallel
from torch_regflat.errors import InputError
from torch_regflat.hardware import library
from torch_regflat.hardware.software import for_chip
from torch_regflat.interconnect import price
from torch_regflat.report import csv_, json_, text, trace
from torch_regflat.report import timeline as timeline_text
from torch_regflat.result import Result
from torch_regflat.schedule.explain import explain
from torch_regflat.schedule.fit import fit
from torch_regflat.schedule.kernels import form_kernels
from torch_regflat.schedule.run import roofline_s, run, timeline
from torch_regflat.schedule.sensitivity import Sensitivity
from torch_regflat.schedule.timeline.chip import shares
from torch_regflat.workload import Collective

CHIPS = ("h100-sxm", "regflat-physical")


def profile(work, name):
    chip = library.load(name) if isinstance(name, str) else name
    kernels = form_kernels(work)
    return run(work, kernels, chip, for_chip(chip), fit(work, chip))


def line_of(work, name):
    chip = library.load(name)
    return timeline(work, form_kernels(work), chip, for_chip(chip))


def exchanges(result):
    return [k for k in result.kernels if k.kind == "collective"]


@pytest.mark.parametrize("chip", CHIPS)
def test_what_the_next_kernel_reads_is_waited_for(chip):
    result = profile(chained(), chip)
    alone = price(library.load(chip), exchanges_of(chained())[0]).seconds
    for kernel in exchanges(result):
        assert kernel.name == "all_reduce" and kernel.bound_by == "network"
        assert kernel.latency_s >= alone
    assert result.total.latency_s == pytest.approx(math.fsum(k.latency_s for k in result.kernels))


def exchanges_of(work):
    return [op.collective for op in work if op.collective]


@pytest.mark.parametrize("chip", CHIPS)
def test_what_nothing_reads_hides_behind_the_kernels_after_it(chip):
    result = profile(parallel(), chip)
    *hidden, last = exchanges(result)
    assert [k.latency_s for k in hidden] == [0.0, 0.0] and last.latency_s > 0
    assert all(k.busy_s[result.links[0].name] > 0 for k in hidden)
    without = Build()
    x = without.tensor(16 * 8192 * 2)
    for _ in range(3):
        without.product(x)
    assert result.total.latency_s - last.latency_s == pytest.approx(
        profile(without.workload(), chip).total.latency_s, rel=1e-2
    )


def test_gathers_of_weights_run_two_layers_ahead_and_no_more():
    line = line_of(gathered(), "h100-sxm")
    gathers, products = line.kernels[::2], line.kernels[1::2]
    for i, gather in enumerate(gathers):
        assert gather.end_s <= products[i].start_s
        if i >= 2:
            # The engines have come to the layer two before.
            assert gather.start_s >= (products[i - 3].end_s if i >= 3 else 0.0)
    assert gathers[1].start_s <= products[0].start_s < gathers[1].end_s


@pytest.mark.parametrize("work", [chained, parallel, gathered])
@pytest.mark.parametrize("chip", CHIPS)
def test_the_time_line_adds_up_and_agrees_with_the_result(work, chip):
    line, result = line_of(work(), chip), profile(work(), chip)
    assert line.latency_s == pytest.approx(result.total.latency_s, rel=1e-12)
    assert line.computing_s + math.fsum(line.stalls_s.values()) == pytest.approx(line.latency_s, rel=1e-12)
    link = result.links[0].name
    moved = [t for t in line.transfers if t.resource == link]
    assert math.fsum(t.size_bytes for t in moved) == pytest.approx(result.links[0].traffic_bytes)
    # The links, as the engines, do one thing at a time.
    for one, next_ in itertools.pairwise(moved):
        assert next_.start_s >= one.end_s - 1e-12
    if work is chained:
        assert line.stalls_s["network"] > 0


def test_shares_are_exclusive_and_add_up():
    #      engines 0-2, exchange 1-4, engines 4-6, exchange 5-9 (nothing waits but the end)
    spans, links = [(0.0, 2.0), (1.0, 4.0), (4.0, 6.0), (5.0, 9.0)], [False, True, False, True]
    assert shares(spans, links, 9.0) == [2.0, 2.0, 2.0, 3.0]
    assert shares(spans[:2], links[:2], 4.0) == [2.0, 2.0]
    assert shares([(0.0, 3.0)], [True], 3.0) == [3.0]


def test_without_exchanges_nothing_changes_and_one_rank_exchanges_nothing():
    build = Build()
    build.exchange("all_reduce", build.product(build.tensor(16 * 8192 * 2)), ranks=1)
    result = profile(build.workload(), "h100-sxm")
    assert result.links == () and exchanges(result)[0].traffic_bytes["HBM3"] >= 0.0


@pytest.mark.parametrize("chip", CHIPS)
def test_bytes_and_joules_of_links_are_a_level_of_their_own(chip):
    result, loaded = profile(chained(), chip), library.load(chip)
    (link,) = result.links
    one = price(loaded, exchanges_of(chained())[0])
    assert link.traffic_bytes == pytest.approx(3 * one.sent_bytes[link.name])
    assert link.energy_j == pytest.approx(3 * one.joules)
    total = math.fsum(level.energy_j for level in result.everywhere)
    assert total == pytest.approx(result.total.memory_energy_j)
    assert result.levels[-1].name == loaded.external.name


def test_reports_show_links():
    chip = "h100-sxm"
    result = Result("by hand", "forward", (profile(chained(), chip),))
    line = line_of(chained(), chip)
    shown = text.render(result, by="kernel", width=400)
    assert "bytes" in shown and "NVLink4" in shown and "network" in shown
    assert "NVLink4: bytes that leave the chip for others, at 450 GB/s in one direction" in shown
    assert "NVLink4_traffic_bytes" in csv_.render(result).splitlines()[0]
    assert json_.load(json_.render(result)).to_dict() == result.to_dict()
    events = json.loads(trace.render(result, timelines=(line,)))["traceEvents"]
    tracks = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert "NVLink4 all_reduce" in tracks
    assert any(e["name"] == "NVLink4 bandwidth (GB/s)" for e in events)
    assert "network" in timeline_text.render(line)


@pytest.mark.parametrize("chip", CHIPS)
def test_elasticities_of_links_and_of_all_else_scale_time(chip):
    loaded = library.load(chip)
    found = Sensitivity(chained(), form_kernels(chained()), loaded, for_chip(loaded)).elasticities()
    rates = math.fsum(e.latency for e in found if e.kind == "rate")
    assert rates - math.fsum(e.latency for e in found if e.kind == "time") == pytest.approx(-1.0)
    by_name = {e.parameter: e for e in found}
    assert by_name["bandwidth of links"].latency < 0 < by_name["latency of links"].latency
    assert by_name["energy of links"].energy > 0


@pytest.mark.parametrize("chip", CHIPS)
def test_an_exchange_is_explained_by_the_algorithms_that_lost(chip):
    loaded = library.load(chip)
    said = explain(chained(), form_kernels(chained()), loaded, for_chip(loaded), "layers.0.mlp")
    exchange = next(one for one in said if one.kernel == "all_reduce")
    assert exchange.bound_by == "network" and exchange.sizes == {"ranks": 8, "bytes": 16 * 8192 * 2}
    assert {a.mapping for a in exchange.alternatives} >= {"one-shot", "ring, LL128"}
    times = [exchange.latency_s, *(a.latency_s for a in exchange.alternatives)]
    assert times == sorted(times)


def test_a_roofline_counts_the_links():
    h100 = library.load("h100-sxm")
    kernels = form_kernels(chained(1))
    both, own = roofline_s(kernels, h100), roofline_s(kernels[:1], h100)
    moved = 16 * 8192 * 2
    # A switch that adds up takes the message and 1/8 of the sum.
    assert both - own == pytest.approx(moved * (1 + 1 / 8) / 450e9)


def test_a_chip_that_reaches_no_others_says_so():
    with pytest.raises(InputError, match="t4 reaches 8 chips"):
        profile(chained(1, ranks=16), "t4")


def test_the_order_of_priced_exchanges_does_not_matter():
    work = chained()
    other = dataclasses.replace(work.operations[1], collective=Collective("all_reduce", 1024.0, 8))
    mixed = dataclasses.replace(work, operations=(work.operations[0], other, *work.operations[2:]))
    first, *rest = exchanges(profile(mixed, "h100-sxm"))
    assert first.latency_s < rest[0].latency_s == pytest.approx(rest[1].latency_s, rel=1e-9)
