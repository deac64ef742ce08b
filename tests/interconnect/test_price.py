"""What prices of collectives must obey, whatever the chip and the sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_regflat.errors import InputError
from torch_regflat.hardware import library
from torch_regflat.interconnect import bound_s, options, price
from torch_regflat.interconnect.tiers import tiers
from torch_regflat.workload import Collective

CHIPS = {name: library.load(name) for name in ("h100-sxm", "a100-sxm", "gb200", "mi300x", "l40s", "regflat-physical")}
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
chips, kinds = st.sampled_from(list(CHIPS.values())), st.sampled_from(KINDS)
sizes, ranks = st.floats(1.0, 1e9), st.sampled_from([2, 4, 8, 16, 32])


def reaching(chip, n):
    return min(n, int(max(way.reach.value for way in chip.ways)))


@given(chips, kinds, sizes, st.floats(1.0, 1e3), ranks)
def test_more_bytes_never_take_less_time_or_energy(chip, kind, size, more, n):
    less, greater = (price(chip, Collective(kind, s, reaching(chip, n))) for s in (size, size * more))
    assert less.seconds <= greater.seconds * (1 + 1e-12)


@given(chips, kinds, sizes, ranks)
def test_no_algorithm_beats_the_bytes_that_have_to_cross_the_links(chip, kind, size, n):
    collective = Collective(kind, size, reaching(chip, n))
    least = bound_s(chip, collective)
    for exchange in options(chip, collective):
        assert exchange.seconds >= least and exchange.joules > 0
    if kind == "all_reduce" and len(tiers(chip, collective)) == 1 and chip.ways[0].in_network is None:
        # 2 (n - 1) / n of the message leaves every rank, whatever the algorithm (Rabenseifner).
        k = collective.ranks
        assert least >= 2 * (k - 1) / k * size / chip.ways[0].bandwidth.value * (1 - 1e-12)


@given(st.sampled_from([CHIPS["h100-sxm"], CHIPS["a100-sxm"]]), st.sampled_from(KINDS[:4]), sizes, st.floats(1.0, 4.0))
def test_more_ranks_on_a_switch_never_take_less_time(chip, kind, size, more):
    n = int(2 * more)
    # The same message: of an all-gather, all shards together.
    per = [size / k if kind == "all_gather" else size for k in (2, n)]
    few, many = (
        next(e.seconds for e in sorted(options(chip, Collective(kind, p, k)), key=lambda e: e.seconds) if streamed(e))
        for p, k in zip(per, (2, n), strict=True)
    )
    assert few <= many * (1 + 1e-9)


def streamed(exchange):
    return exchange.algorithm.startswith(("ring", "pairwise", "chain", "tree"))


@given(chips, sizes, ranks)
def test_an_all_reduce_takes_no_longer_than_scattering_and_gathering(chip, size, n):
    n = reaching(chip, n)
    both = price(chip, Collective("reduce_scatter", size, n)).seconds
    both += price(chip, Collective("all_gather", size / n, n)).seconds
    assert price(chip, Collective("all_reduce", size, n)).seconds <= both


@given(chips, kinds, st.floats(1e6, 1e9), st.sampled_from([2, 4, 8]))
def test_faster_links_are_never_slower(chip, kind, size, n):
    name = chip.ways[0].name
    collective = Collective(kind, size, reaching(chip, n))
    slower = price(chip, collective)
    for field, value in (("bandwidth", "2 TB/s"), ("latency", "10 ns")):
        assert price(chip.replace(**{f"interconnect.{name}.{field}": value}), collective).seconds <= slower.seconds


def test_ranks_far_apart_meet_over_the_network_and_near_ones_over_the_board():
    h100 = CHIPS["h100-sxm"]

    def levels(n, stride):
        return [(t.level.name, t.ranks) for t in tiers(h100, Collective("all_reduce", 1.0, n, stride))]

    assert levels(8, 1) == [("NVLink4", 8)]
    assert levels(8, 8) == [("InfiniBand NDR", 8)]
    assert levels(16, 1) == [("NVLink4", 8), ("InfiniBand NDR", 2)]
    assert levels(4, 4) == [("NVLink4", 2), ("InfiniBand NDR", 2)]
    assert levels(12, 1) == [("NVLink4", 6), ("InfiniBand NDR", 2)]
    assert levels(1, 1) == []
    assert price(h100, Collective("all_reduce", 1e6, 1)).seconds == 0.0


def test_a_rack_of_links_beats_two_boards_and_a_network():
    big = Collective("all_reduce", 64e6, 16)
    assert price(CHIPS["gb200"], big).level == "NVLink5" and price(CHIPS["h100-sxm"], big).level == "InfiniBand NDR"
    assert price(CHIPS["gb200"], big).seconds < price(CHIPS["h100-sxm"], big).seconds / 2


def test_a_flat_chip_exchanges_as_the_gpu_whose_links_it_has():
    for kind in KINDS:
        for size in (1e4, 1e6, 1e8):
            flat, gpu = (price(CHIPS[name], Collective(kind, size, 8)) for name in ("regflat-physical", "h100-sxm"))
            assert flat.seconds == gpu.seconds and flat.joules == gpu.joules


def test_energy_is_that_of_the_bytes_on_every_link_they_cross():
    exchange = price(CHIPS["a100-sxm"], Collective("all_gather", 1e6, 8))
    # 7 shards leave the rank, each over a link up to the switch and one down, at 1.3 pJ/bit.
    assert exchange.sent_bytes == {"NVLink3": pytest.approx(7e6)}
    assert exchange.joules == pytest.approx(7e6 * 8 * 2 * 1.3e-12)


def refused(chip, collective):
    with pytest.raises(InputError) as caught:
        price(chip, collective)
    return str(caught.value)


def test_what_cannot_be_reached_is_refused_with_what_can():
    lonely = CHIPS["h100-sxm"].replace(interconnect=[])
    assert refused(lonely, Collective("all_reduce", 1.0, 70000)) == (
        "h100-sxm has no way to other chips, and 70000 were asked for; add an [[interconnect]] with a reach to its file"
    )
    assert refused(library.load("t4"), Collective("all_reduce", 1.0, 16)).startswith(
        "t4 reaches 8 chips (over PCIe3), and 16 were asked for; use at most 8, or add an [[interconnect]] that "
        "reaches further to its file; chips that reach so many: a100-pcie-40gb, a100-pcie-80gb, a100-sxm-40gb, "
        "a100-sxm-80gb, b200, b300 and "
    )


def test_sizes_that_make_no_sense_are_refused():
    h100 = CHIPS["h100-sxm"]
    assert refused(h100, Collective("send", 1.0, 3)) == "a send has 3 ranks; it has two"
    assert refused(h100, Collective("all_reduce", -1.0, 2)) == "an all_reduce has -1.0 bytes; it must be 0 or more"
    assert refused(h100, Collective("broadcast", 1.0, 0)) == "a broadcast has ranks = 0; it must be 1 or more"
