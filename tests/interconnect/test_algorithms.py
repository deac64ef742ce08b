"""The closed forms against message passing, step by step."""

import pytest

from interconnect.message_passing import (
    Network,
    binary_trees,
    depth,
    ring_all_gather,
    ring_all_reduce,
    tree_all_reduce,
    vectors,
)
from torch_regflat.hardware import library
from torch_regflat.interconnect.algorithms import ways
from torch_regflat.interconnect.tiers import Tier, tiers
from torch_regflat.workload import Collective

H100 = library.load("h100-sxm")
NVLINK, NIC = H100.ways


def way(collective, name, found=None):
    return next(w for w in ways(collective, found or tiers(H100, collective)) if w.name == name)


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_a_ring_all_reduce_moves_and_waits_as_its_messages_do(n):
    net = Network(vectors(n, n))
    sums = [sum(column) for column in zip(*net.values, strict=True)]
    ring_all_reduce(net, list(range(n)))
    assert net.values == [sums] * n
    (leg,) = way(Collective("all_reduce", float(n), n), "ring", (Tier(NVLINK, n),)).legs
    assert leg.size == pytest.approx(net.sent[0][0]) and all(sent == net.sent[0] for sent in net.sent)
    assert leg.hops == pytest.approx(net.steps)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_a_ring_all_gather_and_its_mirror_the_reduce_scatter_are_half_an_all_reduce(n):
    net = Network([[float(r == c) for c in range(n)] for r in range(n)])
    ring_all_gather(net, list(range(n)))
    assert net.values == [[1.0] * n] * n
    gather = way(Collective("all_gather", 1.0, n), "ring", (Tier(NVLINK, n),))
    scatter = way(Collective("reduce_scatter", float(n), n), "ring", (Tier(NVLINK, n),))
    assert gather.legs[0].size == pytest.approx(net.sent[0][0]) and gather.legs[0].hops == pytest.approx(net.steps)
    assert gather.legs == scatter.legs
    both = way(Collective("all_reduce", float(n), n), "ring", (Tier(NVLINK, n),)).legs[0]
    assert both.size == pytest.approx(2 * gather.legs[0].size) and both.hops == pytest.approx(2 * gather.legs[0].hops)


@pytest.mark.parametrize(("groups", "size"), [(2, 4), (4, 2), (3, 3)])
def test_rings_over_groups_leave_each_group_once_a_round_and_share_the_ranks_that_do(groups, size):
    n = groups * size
    net = Network(vectors(n, n * size), group=size)
    sums = [sum(column) for column in zip(*net.values, strict=True)]
    for ring in range(size):
        # Ring number `ring` leaves each group at another rank, with its own part of the message.
        order = [g * size + (i + ring) % size for g in range(groups) for i in range(size)]
        ring_all_reduce(net, order, first=ring * n)
    assert net.values == [sums] * n
    near, far = way(Collective("all_reduce", float(n * size), n), "ring", (Tier(NVLINK, size), Tier(NIC, groups))).legs
    for sent in net.sent:
        assert near.size == pytest.approx(sent[0]) and far.size == pytest.approx(sent[1])
    # A chunk goes around twice but for one step each: over every link of a ring with the same chance.
    assert near.hops + far.hops == pytest.approx(2 * (n - 1))
    assert far.hops == pytest.approx(2 * (n - 1) * groups / n)


@pytest.mark.parametrize("groups", [2, 3, 4, 7, 8])
def test_two_trees_send_a_message_up_and_down_over_every_network_link(groups):
    net = Network(vectors(groups, 2))
    sums = [sum(column) for column in zip(*net.values, strict=True)]
    trees = binary_trees(groups)
    steps = [tree_all_reduce(net, parents, chunk) for chunk, parents in enumerate(trees)]
    assert net.values == [sums] * groups
    found = way(Collective("all_reduce", 2.0 * 8, 8 * groups), "tree", (Tier(NVLINK, 8), Tier(NIC, groups)))
    far = found.legs[1]
    # Of a message of 2 chunks for each of 8 rings: a rank sends at most 2 up and 2 down.
    assert max(sum(sent) for sent in net.sent) <= far.size == pytest.approx(4.0)
    assert max(steps) == 2 * max(map(depth, trees)) and far.hops - 2 <= max(steps) <= far.hops


def test_pairs_send_all_blocks_but_the_own_one_and_only_those_of_other_groups_leave_theirs():
    near, far = way(Collective("all_to_all", 64.0, 16), "pairwise").legs
    assert near.size == pytest.approx(64 * 7 / 16) and far.size == pytest.approx(64 * 8 / 16)


def test_direct_kernels_read_what_they_add_up():
    n, size = 8, 64.0
    assert way(Collective("all_reduce", size, n), "one-shot").legs[0].size == (n - 1) * size
    assert way(Collective("all_reduce", size, n), "two-shot").legs[0].size == pytest.approx(2 * (n - 1) / n * size)


def test_a_switch_that_adds_takes_the_message_once_and_a_share_of_the_sum():
    (leg,) = way(Collective("all_reduce", 64.0, 8), "in-network").legs
    assert leg.size == 64 + 8
    names = {w.name for w in ways(Collective("all_reduce", 1.0, 8), (Tier(library.load("a100-sxm").ways[0], 8),))}
    assert "in-network" not in names
