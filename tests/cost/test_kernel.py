"""Invariants of the cost of one kernel, on shipped chips and random kernels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_regflat.conditions import Conditions
from torch_regflat.cost.chip_tensors import ChipTensors, RateTensors, chip_tensors, rate_tensors
from torch_regflat.cost.kernel import Cost, Movement, combine, cube_root, evaluate
from torch_regflat.cost.shapes import KernelShape, pack
from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import for_chip
from torch_regflat.mapping import MappingBatch
from torch_regflat.memory import cache, explicit
from torch_regflat.memory.quantities import ProblemTensors, Stages
from torch_regflat.schedule.managed import streaming
from torch_regflat.schedule.mapper import spaces
from torch_regflat.schedule.search import choose
from torch_regflat.schedule.select import candidates
from torch_regflat.schedule.shape import shape_of_nest

from .cases import kernels, matrix_product, products

CHIPS = ("h100-sxm", "a100-sxm-80gb", "regflat-ideal", "regflat-physical", "regflat-pessimistic")
chips = st.sampled_from(CHIPS)


def price_all(shape: KernelShape, chip: Chip) -> tuple[Movement, Cost]:
    """Movement and cost of every candidate of one kernel; of a coarse space where the memory is managed explicitly."""
    packed, software = pack([shape]), for_chip(chip)
    tensors, rates = chip_tensors([chip], [software]), rate_tensors([chip], [software], ["bf16"])
    if chip.memory_system == "cache":
        move = cache.move(packed, candidates(packed, chip, software), tensors, rates)
    else:
        move = explicit_move(shape, chip, tensors, rates)
    return move, evaluate(move, packed, tensors, rates, software.overlap)


def explicit_move(shape: KernelShape, chip: Chip, tensors: ChipTensors, rates: RateTensors) -> Movement:
    packed, stages = pack([shape]), Stages.of(chip)
    split = torch.tensor(for_chip(chip).split_k, dtype=torch.float64).reshape(1, 1, 1, -1)
    own = explicit.fixed(packed, split, stages, tensors, rates)
    if shape.problem is None:
        return explicit.move(packed, streaming(stages, packed.work), own, tensors)
    space = spaces.coarse(ProblemTensors.of([shape]), stages, int(chip.cores.count.value))
    ((_, tiling),) = space.chunks(10**9, split)
    return explicit.move(packed, tiling, own, tensors)


@settings(max_examples=40, deadline=None)
@given(products(), chips)
def test_external_traffic_lies_between_compulsory_and_no_reuse(shape: KernelShape, chip: str) -> None:
    move, _ = price_all(shape, load(chip))
    moved = move.read_bytes[-1] + move.write_bytes[-1]
    compulsory = sum(o.footprint_bytes for o in shape.operands)
    points = math.prod(shape.sizes)
    # Without reuse every multiply-accumulate fetches both factors and reads and writes its sum, in fp32.
    no_reuse = points * (sum(o.point_bytes for o in shape.operands[:-1]) + 2 * max(4.0, shape.operands[-1].point_bytes))
    assert (moved[move.legal.expand(moved.shape)] >= compulsory * (1 - 1e-12)).all()
    assert (moved <= no_reuse * (1 + 1e-12)).all()


@settings(max_examples=40, deadline=None)
@given(kernels, chips)
def test_latency_is_never_below_the_roofline(shape: KernelShape, chip: str) -> None:
    loaded = load(chip)
    choice = choose([shape], loaded, for_chip(loaded))[0]
    compulsory = sum(o.footprint_bytes for o in shape.operands) + sum(s.read_far + s.write_far for s in shape.streams)
    roofline = max(shape.work / loaded.peak_flops("bf16"), compulsory / loaded.external.read_bytes_per_s)
    assert choice.latency_s >= roofline * (1 - 1e-12)


@settings(max_examples=40, deadline=None)
@given(kernels, chips)
def test_the_choice_beats_every_other_legal_mapping(shape: KernelShape, chip: str) -> None:
    loaded = load(chip)
    move, cost = price_all(shape, loaded)
    legal = move.legal.expand(cost.latency_s.shape)
    for objective, measure in (
        ("latency", cost.latency_s),
        ("energy", cost.energy_j),
        ("edp", cost.energy_j * cost.latency_s),
    ):
        choice = choose([shape], loaded, for_chip(loaded), objective)[0]
        best = measure.expand(legal.shape)[legal].min().item()
        energy = sum(choice.level_energy_j) + choice.compute_energy_j + choice.unattributed_energy_j
        energy += loaded.power.static.value * choice.latency_s
        value = {"latency": choice.latency_s, "energy": energy, "edp": energy * choice.latency_s}[objective]
        # The mapper refines around the best of a coarse space, so it may find better.
        assert value <= best * (1 + 1e-9)
        if loaded.memory_system == "cache":
            assert value == pytest.approx(best, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(products(), st.sampled_from([("h100-sxm", "L2"), ("regflat-physical", "registers")]))
def test_more_capacity_never_means_more_traffic(shape: KernelShape, case: tuple[str, str]) -> None:
    name, level = case
    chip = load(name)
    bigger = chip.replace(**{f"memory.{level}.capacity": f"{chip.level(level).capacity.value * 2 / 2**20:g} MiB"})

    def least(c: Chip) -> float:
        move, _ = price_all(shape, c)
        moved = (move.read_bytes[-1] + move.write_bytes[-1]).expand(move.legal.expand(move.read_bytes[-1].shape).shape)
        return float(moved[move.legal.expand(moved.shape)].min())

    assert least(bigger) <= least(chip)


@settings(max_examples=40, deadline=None)
@given(kernels, chips, st.sampled_from(["bandwidth", "clock"]))
def test_a_faster_part_never_makes_a_mapping_slower(shape: KernelShape, name: str, part: str) -> None:
    chip = load(name)
    last = chip.external.name
    # Without a power limit: a faster clock may hit it.
    free = {"power.limit": "1000000 W"}
    base = chip.replace(**free)
    if part == "bandwidth":
        doubled = chip.external.read_bytes_per_s * 2 / 1e12
        faster = base.replace(**{f"memory.{last}.read_bandwidth": f"{doubled:g} TB/s"})
    else:
        faster = base.replace(clock=f"{chip.clock.value * 2 / 1e6:g} MHz")
    _, before = price_all(shape, base)
    _, after = price_all(shape, faster)
    assert (after.latency_s <= before.latency_s * (1 + 1e-12)).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(kernels, min_size=1, max_size=5), chips, st.integers(0, 2**31))
def test_shuffled_candidates_and_threads_change_no_bit(shapes: list[KernelShape], name: str, seed: int) -> None:
    chip = load(name)
    software = for_chip(chip)
    first = choose(shapes, chip, software)
    generator = torch.Generator().manual_seed(seed)

    def shuffle(batch: MappingBatch) -> MappingBatch:
        tiles, splits = (torch.randperm(n, generator=generator) for n in (batch.m.shape[-2], batch.split.shape[-1]))
        return batch.take(tiles, splits)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        again = choose(shapes, chip, software, shuffle=shuffle)
    finally:
        torch.set_num_threads(before)
    assert first == again


@given(st.floats(1.0, 1e6))
def test_cube_root(x: float) -> None:
    root = cube_root(torch.tensor([x], dtype=torch.float64)).item()
    assert root == pytest.approx(x ** (1 / 3), rel=1e-14)


@given(st.lists(st.floats(0.0, 1e3, allow_subnormal=False), min_size=1, max_size=5))
def test_overlap_lies_between_the_longest_and_the_sum(times: list[float]) -> None:
    tensors = [torch.tensor([t], dtype=torch.float64) for t in times]
    values = [combine(tensors, how).item() for how in ("max", "soft", "sum")]
    assert values[0] <= values[1] * (1 + 1e-12)
    assert values[1] <= values[2] * (1 + 1e-12)


def test_power_slows_a_chip_that_would_pass_its_limit() -> None:
    shape = shape_of_nest(matrix_product(1, 8192, 8192, 8192))
    chip = load("h100-sxm")
    software = for_chip(chip)
    normal = choose([shape], chip, software)[0]
    starved = choose([shape], chip.replace(**{"power.limit": "250 W"}), software)[0]
    assert starved.stretch > 1.2 > 1.0 <= normal.stretch
    assert starved.latency_s > normal.latency_s
    dynamic = sum(starved.level_energy_j) + starved.compute_energy_j + starved.unattributed_energy_j
    allowed = chip.replace(**{"power.limit": "250 W"}).dynamic_power_w
    assert dynamic / starved.latency_s == pytest.approx(allowed, rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(products(), chips, st.floats(0.05, 1.0), st.floats(1.0, 2.0))
def test_more_external_traffic_is_never_faster(shape: KernelShape, chip: str, share: float, factor: float) -> None:
    """Under any power limit, with the same work in the cores."""
    loaded = load(chip)
    limit = loaded.power.static.value + share * loaded.dynamic_power_w
    starved, software = loaded.replace(**{"power.limit": f"{limit} W"}), for_chip(loaded)
    move, cost = price_all(shape, starved)
    more = replace(
        move,
        external_s=move.external_s * factor,
        read_bytes=(*move.read_bytes[:-1], move.read_bytes[-1] * factor),
        write_bytes=(*move.write_bytes[:-1], move.write_bytes[-1] * factor),
    )
    tensors, rates = chip_tensors([starved], [software]), rate_tensors([starved], [software], ["bf16"])
    again = evaluate(more, pack([shape]), tensors, rates, software.overlap)
    assert (again.latency_s >= cost.latency_s * (1 - 1e-9)).all()


@pytest.mark.parametrize("name", ["h100-sxm", "a100-sxm-80gb", "a40", "l40s"])
def test_a_large_product_draws_what_the_board_allows(name: str) -> None:
    chip = load(name)
    dtype = "bfloat16" if chip.supports("bf16") else "float16"
    shape = shape_of_nest(replace(matrix_product(1, 8192, 8192, 8192), dtype=dtype))
    choice = choose([shape], chip, for_chip(chip))[0]
    joules = sum(choice.level_energy_j) + choice.compute_energy_j + choice.unattributed_energy_j
    watts = joules / choice.latency_s + chip.power.static.value
    assert watts == pytest.approx(chip.power.limit.value, rel=1e-3)


def test_zeros_and_bursts_are_slowed_less() -> None:
    shape = shape_of_nest(matrix_product(1, 8192, 8192, 8192))
    chip = load("h100-sxm")

    def seconds(**changes: Any) -> float:
        return choose([shape], chip, for_chip(chip), conditions=Conditions(**changes))[0].latency_s

    assert seconds(values="zero") < seconds(repeats=100) < seconds()
    assert seconds(repeats=10**6) == pytest.approx(seconds(), rel=1e-3)
