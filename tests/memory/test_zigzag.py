"""Access counts equal those of ZigZag (Mei et al., IEEE Trans. Computers 70(8), 2021), release 3.9.1.

`zigzag.json` holds what ZigZag prints for layers of known networks on two accelerators that ship with it, one like a
TPU and one like Eyeriss: the temporal mapping that its search chose and, for every memory and operand, the elements
(`data_elem_move_count`) and the words (`word_accesses`) that pass each way. Cases marked `raised` have the outermost
loop of every memory moved to the next, and were priced by ZigZag again. `benchmarks/zigzag_counts.py` writes the table.

In both models a memory holds one tile of an operand, and fetches it whole when a loop advances that indexes it, or one
outside such a loop; sliding windows overlap within a tile, and nothing is kept between tiles; what several units want
leaves the memory above once and arrives at each; sums that units share are added on their way up. ZigZag cuts the
loops into levels for each operand on its own, so each is counted in its own chain of stages. What differs:

- The array updates its sums in the innermost memory every cycle, where our stage keeps them as long as the loops that
  advance do not index the result. So results at the array are ours times the trips of those innermost loops.
- Words are accesses of a port: a tile is rounded up to the port's narrowest access, and counted in its widest. Partial
  sums have 16 bits, everything else 8.
- Elements read back as partial sums leave out the first visit, as ours do: written, less the size of the result. Words
  count the first visit too, wherever any sums come back.
- Where the windows of units overlap (rows of the image over OY and FY), ZigZag's elements count the union, as ours do;
  its words take a unit's tile times the rows that units with one row each would have, such as 4 x 16 for 58.
- ZigZag does not fetch padding. The layers are given without, on images as large as the padded ones.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch

from torch_regflat.cost.problem import Pattern, Structure, Window
from torch_regflat.memory.traffic import Extents, Nesting, fetched

TABLE = json.loads((Path(__file__).parent / "zigzag.json").read_text())
DIMS = ("B", "G", "K", "C", "OY", "OX", "FY", "FX")
ALL = tuple(range(len(DIMS)))
Loops: TypeAlias = list[tuple[int, int]]
Case: TypeAlias = dict[str, Any]
Level: TypeAlias = dict[str, Any]
Width: TypeAlias = tuple[int, int]


def loops(text: str) -> Loops:
    """ "C2 FX3" as (dimension, trips), innermost first."""
    found = [re.split(r"(?=\d)", word, maxsplit=1) for word in text.split()]
    return [(DIMS.index(dim), int(trips)) for dim, trips in found]


def tiled(found: Loops) -> tuple[int, ...]:
    """Sizes along all dimensions of what the loops cover."""
    sizes = [1] * len(DIMS)
    for d, size in found:
        sizes[d] *= size
    return tuple(sizes)


def pattern(operand: str, sizes: dict[str, int]) -> Pattern:
    if operand == "I":
        step, hole = sizes.get("stride", 1), sizes.get("dilation", 1)
        common = math.gcd(step, hole)
        sliding = tuple(
            Window(DIMS.index(out), DIMS.index(filter_), hole // common, step // common)
            for out, filter_ in (("OY", "FY"), ("OX", "FX"))
        )
        return Pattern(frozenset(ALL) - {DIMS.index("K")}, sliding)
    own = {"W": ("G", "K", "C", "FY", "FX"), "O": ("B", "G", "K", "OY", "OX")}[operand]
    return Pattern(frozenset(map(DIMS.index, own)), (), operand == "O")


@dataclass
class Chain:
    """One operand's memories as stages. Across the link below memory i, `together[i]` is the stage of what all units
    below it hold, `each[i]` that of one of them."""

    tiles: list[tuple[int, ...]]
    orders: list[tuple[int, ...]]
    together: list[int]
    each: list[int]
    spatial: int | None = None

    @classmethod
    def of(cls, sizes: tuple[int, ...], levels: list[Level]) -> Chain:
        chain = cls([sizes], [ALL], [], [])
        spread = [[], *(loops(level["units"]) for level in levels)]
        for level, units in reversed(list(zip(levels, spread[:-1], strict=True))):
            chain.descend(loops(level["loops"]))
            chain.together.insert(0, len(chain.tiles) - 1)
            if units:
                assert chain.spatial is None
                chain.spatial = len(chain.tiles)
                chain.add(units, ())
            chain.each.insert(0, len(chain.tiles) - 1)
        return chain

    def descend(self, inner_first: Loops) -> None:
        """Stages for the loops of one memory, as few as have no dimension twice."""
        run: Loops = []
        for loop in reversed(inner_first):
            if loop[0] in (d for d, _ in run):
                self.add(run)
                run = []
            run.append(loop)
        if run:
            self.add(run)

    def add(self, outer_first: Loops, order: tuple[int, ...] | None = None) -> None:
        trips, advancing = dict(outer_first), tuple(d for d, _ in outer_first)
        self.tiles.append(tuple(size // trips.get(d, 1) for d, size in enumerate(self.tiles[-1])))
        still = tuple(d for d in ALL if d not in advancing)
        self.orders.append(advancing + still if order is None else order)


def moved(chain: Chain, own: Pattern) -> dict[int, int]:
    """Elements fetched into each stage that ends at a link."""
    along = [
        Extents(sizes[0], list(sizes), chain.spatial)
        for sizes in torch.tensor(chain.tiles, dtype=torch.float64).T
    ]
    structure, nesting = Structure(DIMS, (own,)), Nesting(tuple(chain.orders), chain.spatial)
    ends = {*chain.together, *chain.each}
    return {stage: int(fetched(structure, nesting, stage, along)[0].item()) for stage in ends}


def cycles_kept(levels: list[Level], own: Pattern) -> int:
    """Trips of the innermost loops that do not index the operand."""
    inner_first = (loop for level in levels for loop in loops(level["loops"]))
    return math.prod(size for _, size in itertools.takewhile(lambda loop: loop[0] not in own.dims, inner_first))


@dataclass(frozen=True)
class End:
    """What passes one end of the link between two memories: elements down and up, the tile that passes in one visit,
    and that tile as ZigZag's words have it."""

    down: int
    up: int
    tile: int
    wide: int

    def words(self, operand: str, ports: list[Width]) -> list[int]:
        """Words down and up, through ports of these (narrowest, widest) accesses in bits."""
        bits, (down, up) = TABLE["bits"], ports
        if operand != "O":
            return [self._words(down, bits[operand]), 0]
        if self.down:
            return [self._words(down, bits["O"]), self._words(up, bits["O"])]
        return [0, self._words(up, bits["O_final"])]

    def _words(self, port: Width, bits: int) -> int:
        narrowest, widest = port
        visits = max(self.down, self.up) // self.tile
        return int(math.ceil(self.wide * bits / narrowest) * narrowest * visits / widest)


def ends(case: Case, operand: str) -> list[tuple[End, End]]:
    """For each memory, its end of the link to the one below it and of that to the one above it."""
    levels, own = case["operands"][operand]["levels"], pattern(operand, case["sizes"])
    chain = Chain.of(tuple(case["sizes"].get(d, 1) for d in DIMS), levels)
    assert chain.tiles[-1] == tiled(loops(case["operands"][operand]["array"]))
    counts = moved(chain, own)

    def end(stage: int, link: int, units: int) -> End:
        kept = cycles_kept(levels, own) if own.is_result and link == 0 else 1
        passing, back = counts[stage] * kept, counts[chain.together[link]] * kept - whole(case, operand)
        tile, unit = own.elements(chain.tiles[stage]), own.elements(chain.tiles[chain.each[link]])
        return End(*((back, passing) if own.is_result else (passing, 0)), tile, unit * units)

    found = []
    for i in range(len(levels)):
        units = own.elements(tiled(loops(levels[i - 1]["units"]))) if i else 1
        above = end(chain.each[i + 1], i + 1, 1) if i + 1 < len(levels) else End(0, 0, 1, 1)
        found.append((end(chain.together[i], i, units), above))
    return found


CASES = [(case, operand) for case in TABLE["cases"] for operand in case["operands"]]


NAMES = [f"{case['layer']}-{case['chip']}-{case['mapping']}-{operand}" for case, operand in CASES]


@pytest.mark.parametrize(("case", "operand"), CASES, ids=NAMES)
def test_counts_equal_those_of_zigzag(case: Case, operand: str) -> None:
    levels = case["operands"][operand]["levels"]
    for level, (below, above) in zip(levels, ends(case, operand), strict=True):
        assert [below.down, below.up, above.down, above.up] == level["elements"], level["memory"]
        ports = level["port_bits"]
        assert below.words(operand, ports[:2]) + above.words(operand, ports[2:]) == level["words"], level["memory"]


def test_the_table_covers_what_could_differ() -> None:
    """On each chip: images fetched again from DRAM for their halos, tiles that units share, and sums that come back."""
    chips = {case["chip"] for case in TABLE["cases"]}
    assert chips == {"tpu_like", "eyeriss_like"}
    for chip in chips:
        mine = [case for case in TABLE["cases"] if case["chip"] == chip]
        assert len({case["layer"] for case in mine}) >= 5
        images = [(ends(case, "I")[-1][0].down, whole(case, "I")) for case in mine]
        assert any(fetched_from_dram > size for fetched_from_dram, size in images)
        sums = [[above for _, above in ends(case, "O")] for case in mine]
        assert any(above.down > 0 for case in sums for above in case)
        shared = [ends(case, "O") for case in mine]
        assert any(inner[1].up > outer[0].up for case in shared for inner, outer in itertools.pairwise(case))


def whole(case: Case, operand: str) -> int:
    """Elements of an operand."""
    return pattern(operand, case["sizes"]).elements(tuple(case["sizes"].get(d, 1) for d in DIMS))
