"""Published times of racks and of several machines, which no constant was fitted to."""

import pytest

from torch_regflat.hardware import library
from torch_regflat.interconnect import price
from torch_regflat.workload import Collective


def bus(chip, ranks, size):
    """Bus bandwidth of an all-reduce as NCCL's tests count it, in GB/s."""
    seconds = price(library.load(chip), Collective("all_reduce", size, ranks)).seconds
    return 2 * (ranks - 1) / ranks * size / seconds / 1e9


@pytest.mark.parametrize(
    ("chip", "ranks", "size", "measured"),
    [
        # coreweave/nccl-tests, pull request 43: an NVL72 rack.
        ("gb200", 72, 2.0**31, 757.8),
        ("gb200", 72, 2.0**33, 834.6),
        # NVIDIA/nccl, issue 1218: 32 machines with 8 GPUs and 8 adapters of 400 Gbit/s.
        ("h100-sxm", 256, 2.0**31, 340.0),
        # NVIDIA/nccl-tests, issue 290: adapters at 46 to 48 GB/s in a ring over two machines, 8 each.
        ("h100-sxm", 16, 2.0**34, 8 * 47.0),
    ],
)
def test_long_messages_beyond_a_board_are_within_a_third(chip, ranks, size, measured):
    assert bus(chip, ranks, size) == pytest.approx(measured, rel=0.35)


def test_a_small_all_reduce_between_two_machines():
    """19 us on one A100 each (NVIDIA/nccl-tests, issue 150), which the latency of the network is taken from."""
    a100 = library.load("a100-sxm")
    exchange = price(a100, Collective("all_reduce", 8.0, 2, stride=8))
    assert exchange.level == "InfiniBand HDR"
    assert exchange.seconds + a100.launch_gap_graph_s == pytest.approx(19e-6, rel=0.25)
