"""Ports and banks of the cost model against a memory that is simulated clock by clock."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch

from torch_regflat.cost.chip_tensors import chip_tensors
from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.contention import served
from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import for_chip
from torch_regflat.memory.explicit import port_s

ACCESSES = 6000


@dataclass(frozen=True)
class Pattern:
    """Words read and written through ports so many banks wide; at random, or each in the bank after the one before."""

    banks: int
    read_width: int
    write_width: int
    reads: int
    writes: int
    shared: bool
    at_random: bool


def patterns(count: int) -> list[Pattern]:
    draw = random.Random(2026)
    found = []
    for _ in range(count):
        banks = draw.choice((2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64))
        found.append(
            Pattern(
                banks=banks,
                read_width=draw.randint(1, banks),
                write_width=draw.randint(1, banks),
                reads=draw.randint(ACCESSES // 2, ACCESSES),
                writes=draw.randint(0, ACCESSES),
                shared=draw.random() < 0.5,
                at_random=draw.random() < 0.7,
            )
        )
    return found


def clocks(width: int, banks: int, accesses: int, at_random: bool, draw: random.Random) -> int:
    """Clocks until `width` requesters have made all accesses, each waiting for its own before it makes the next.

    A bank serves one access a clock; who of those that wait for it comes next is drawn.
    """
    made, clock = 0, 0

    def bank() -> int:
        nonlocal made
        made += 1
        return draw.randrange(banks) if at_random else made % banks

    waiting = [bank() for _ in range(min(width, accesses))]
    while waiting:
        clock += 1
        draw.shuffle(waiting)
        taken: set[int] = set()
        left = []
        for wanted in waiting:
            if wanted in taken:
                left.append(wanted)
            else:
                taken.add(wanted)
        waiting = left + [bank() for _ in range(min(len(taken), accesses - made))]
    return clock


def simulated(p: Pattern) -> int:
    """Banks with a port for reads and one for writes work on both at once; with one port they take turns."""
    draw = random.Random(7)
    if p.shared:
        return clocks(p.read_width, p.banks, p.reads + p.writes, p.at_random, draw)
    both = [(p.read_width, p.reads), (p.write_width, p.writes)]
    return max(clocks(width, p.banks, accesses, p.at_random, draw) for width, accesses in both)


def flat(p: Pattern) -> Chip:
    """A chip of one tile with this memory; a bank gives 16 bytes a clock."""
    return load("regflat-physical").replace(
        **{
            "cores.count": "1 1",
            "memory.registers.banks": f"{p.banks} 1",
            "memory.registers.read_bandwidth": f"{16 * p.read_width} B/clk/tile",
            "memory.registers.write_bandwidth": f"{16 * p.write_width} B/clk/tile",
            "memory.registers.shared_port": p.shared,
            "memory.registers.conflicts": "random" if p.at_random else "none",
        }
    )


def modelled(p: Pattern) -> float:
    """Clocks as the cost of a kernel has them."""
    chip = flat(p)
    numbers = chip_tensors([chip], [for_chip(chip)]).levels[0]
    read, written = (torch.tensor([[[16.0 * words]]], dtype=torch.float64) for words in (p.reads, p.writes))
    return float(port_s(read, written, numbers)) * chip.clock.value


def test_ports_and_banks_agree_with_a_simulator() -> None:
    """200 random access patterns within 5 %."""
    off = {p: modelled(p) / simulated(p) - 1.0 for p in patterns(200)}
    worst = max(off, key=lambda p: abs(off[p]))
    assert abs(off[worst]) < 0.05, (worst, off[worst])
    assert sum(map(abs, off.values())) / len(off) < 0.015
    assert {p.shared for p in off} == {p.at_random for p in off} == {True, False}


def test_known_cases() -> None:
    assert served(1, 8) == served(8, 1) == pytest.approx(1.0)
    assert served(1000, 1000) / 1000 == pytest.approx(2 - 2**0.5, rel=1e-3)
    assert served(0.5, 64) <= 0.5
    for p, m in ((1, 2), (3, 2), (8, 9)):
        assert served(p, m) <= min(served(p, m + 1), served(p + 1, m))


def test_placement_and_banks_act_in_the_cost() -> None:
    """More banks are faster; words that lie in other tiles are slower and cost more; a shared port is slower."""
    chip = load("regflat-physical")
    level = chip.on_chip[0]
    few = chip.replace(**{"memory.registers.banks": "16 1"}).on_chip[0]
    assert few.placed_read_bytes_per_s < level.placed_read_bytes_per_s < level.read_bytes_per_s
    free = chip.replace(**{"memory.registers.conflicts": "none"}).on_chip[0]
    assert free.placed_read_bytes_per_s == level.read_bytes_per_s
    mixed, worst = (chip.replace(**{"memory.registers.placement": p}).on_chip[0] for p in ("interleaved", "worst"))
    assert level.read_j_per_bit < mixed.read_j_per_bit < worst.read_j_per_bit
    assert level.placed_latency_s < mixed.placed_latency_s < worst.placed_latency_s
    assert mixed.placed_write_bytes_per_s < level.placed_write_bytes_per_s
    assert level.exchanges and not mixed.exchanges
    assert level.network_j_per_bit == pytest.approx((0.07 * 19 / 8 + 0.05) * 1e-12)
    assert not load("regflat-ideal").on_chip[0].exchanges
