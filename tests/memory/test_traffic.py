"""Traffic of explicit memories equals, to the element, what a walk over the loops with real buffers counts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_regflat.cost.problem import Pattern, Structure, Window
from torch_regflat.memory.diagonal import fetched_below
from torch_regflat.memory.traffic import Extents, Nesting, fetched

from .reference import Count, Stage, Tensor, Walk, whole_elements


@dataclass(frozen=True)
class Case:
    """The same nest for both sides, with its mapping."""

    structure: Structure
    tensors: tuple[Tensor, ...]
    sizes: tuple[int, ...]
    tiles: tuple[tuple[int, ...], ...]
    nesting: Nesting


def plain(*dims: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    return tuple(((d, 1),) for d in dims)


def nest(
    names: str, *operands: tuple[tuple[tuple[tuple[int, int], ...], ...], bool]
) -> tuple[Structure, tuple[Tensor, ...]]:
    patterns = []
    for axes, result in operands:
        windows = []
        for axis in axes:
            if len(axis) > 1:
                (first, step), (second, hole) = axis
                common = math.gcd(step, hole)
                windows.append(Window(first, second, hole // common, step // common))
        patterns.append(Pattern(frozenset(d for axis in axes for d, _ in axis), tuple(windows), result))
    return Structure(tuple(names), tuple(patterns)), tuple(Tensor(axes, result) for axes, result in operands)


PRODUCT = nest("bmnk", (plain(0, 1, 3), False), (plain(0, 3, 2), False), (plain(0, 1, 2), True))
SHARED = nest("bmnk", (plain(0, 1, 3), False), (plain(3, 2), False), (plain(0, 1, 2), True))
ATTENTION = nest("bgqs", (plain(0, 1, 2), False), (plain(0, 3), False), (plain(0, 3), False), (plain(0, 1, 2), True))
REDUCTION = nest("rc", (plain(0, 1), False), (plain(0), True))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Structure, tuple[Tensor, ...]]:
    step, hole, step2, hole2 = (draw(st.integers(1, 3)) for _ in range(4))
    groups = draw(st.booleans())
    n, k, p, q, c, r, s, g = range(8)
    group = (g,) if groups else ()
    image = (*plain(n, *group, c), ((p, step), (r, hole)), ((q, step2), (s, hole2)))
    names = "nkpqcrs" + ("g" if groups else "")
    return nest(names, (image, False), (plain(*group, k, c, r, s), False), (plain(n, *group, k, p, q), True))


@st.composite
def cases(draw: st.DrawFn, cores: bool) -> Case:
    kind = draw(st.sampled_from(["product", "shared", "reduction", "attention", "convolution"]))
    known = {"product": PRODUCT, "shared": SHARED, "reduction": REDUCTION, "attention": ATTENTION}
    structure, tensors = known[kind] if kind in known else draw(convolutions())
    dims = len(structure.names)
    largest = 4 if kind == "convolution" else 9
    sizes = tuple(draw(st.integers(1, largest)) for _ in range(dims))
    stages = draw(st.integers(1, 2 if kind == "convolution" else 3))
    above, tiles = sizes, []
    for _ in range(stages):
        above = tuple(draw(st.integers(1, size)) for size in above)
        tiles.append(above)
    orders = [tuple(draw(st.permutations(range(dims)))) for _ in range(stages)]
    spatial = None
    if cores:
        spatial = draw(st.integers(1, stages))
        share = tuple(draw(st.integers(1, size)) for size in tiles[spatial - 1])
        below = [tuple(map(min, tile, share)) for tile in tiles[spatial:]]
        tiles = [*tiles[:spatial], share, *below]
        orders = [*orders[:spatial], (), *orders[spatial:]]
    return Case(structure, tensors, sizes, tuple(tiles), Nesting(tuple(orders), spatial))


def walked(case: Case) -> list[Count]:
    stages = tuple(
        Stage(tile, None if block == case.nesting.spatial else order)
        for block, (tile, order) in enumerate(zip(case.tiles, case.nesting.orders, strict=True))
    )
    walk = Walk(case.sizes, case.tensors, stages, case.structure.diagonal)
    walk.run()
    return walk.counts


def extents(case: Case) -> list[Extents]:
    found = []
    for d, size in enumerate(case.sizes):
        tiles = [torch.tensor([float(tile[d])], dtype=torch.float64) for tile in case.tiles]
        found.append(Extents(torch.tensor([float(size)], dtype=torch.float64), tiles, case.nesting.spatial))
    return found


def check(case: Case) -> None:
    counts, along = walked(case), extents(case)
    moved = [fetched(case.structure, case.nesting, stage, along) for stage in range(len(case.tiles))]
    for stage in range(len(case.tiles)):
        # What leaves the level above the cores is what they hold together: the tile of the stage further out.
        above = stage - 1 if stage == case.nesting.spatial else stage
        for number, tensor in enumerate(case.tensors):
            count = counts[stage]
            assert moved[stage][number].item() == (count.written if tensor.is_result else count.filled)[number]
            seen = (count.seen_written if tensor.is_result else count.seen_above)[number]
            assert moved[above][number].item() == seen
            if tensor.is_result:
                assert count.returned[number] == seen - whole_elements(tensor, case.sizes)


@settings(max_examples=700, deadline=None)
@given(cases(cores=False))
def test_traffic_equals_a_walk_over_the_loops(case: Case) -> None:
    check(case)


@settings(max_examples=700, deadline=None)
@given(cases(cores=True))
def test_traffic_of_cores_that_share_a_tile_equals_a_walk(case: Case) -> None:
    check(case)


@st.composite
def causal(draw: st.DrawFn) -> Case:
    structure, tensors = ATTENTION
    sizes = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 12)))
    above, tiles, orders = sizes, [], []
    for _ in range(draw(st.integers(1, 3))):
        above = tuple(draw(st.integers(1, size)) for size in above)
        tiles.append(above)
        orders.append(tuple(draw(st.permutations(range(4)))))
    return Case(replace(structure, diagonal=(2, 3)), tensors, sizes, tuple(tiles), Nesting(tuple(orders)))


@settings(max_examples=700, deadline=None)
@given(st.lists(causal(), min_size=1, max_size=3))
def test_traffic_below_the_diagonal_equals_a_walk(some: list[Case]) -> None:
    """Candidates of one nesting are counted together, whatever their sizes."""
    lead = some[0]
    alike = [case for case in some if len(case.tiles) == len(lead.tiles)]
    alike = [replace(case, nesting=lead.nesting) for case in alike]
    along = []
    for d in range(4):
        tiles = [
            torch.tensor([[float(case.tiles[stage][d]) for case in alike]], dtype=torch.float64)
            for stage in range(len(lead.tiles))
        ]
        along.append(Extents(torch.tensor([[float(c.sizes[d]) for c in alike]], dtype=torch.float64), tiles))
    counted = [walked(case) for case in alike]
    for stage in range(len(lead.tiles)):
        moved = fetched_below(lead.structure, lead.nesting, stage, along)
        for i, case in enumerate(alike):
            count = counted[i][stage]
            for number, tensor in enumerate(case.tensors):
                assert moved[number][0, i].item() == (count.written if tensor.is_result else count.filled)[number]
                if tensor.is_result:
                    size = whole_elements(tensor, case.sizes)
                    assert count.returned[number] == count.seen_written[number] - size
