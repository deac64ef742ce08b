"""The mapper of explicitly managed memories: against the whole space, against lower bounds, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_regflat.cost.chip_tensors import at_device, chip_tensors, rate_tensors
from torch_regflat.cost.problem import problem_of
from torch_regflat.cost.shapes import KernelShape
from torch_regflat.errors import CapacityError
from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import for_chip
from torch_regflat.memory.quantities import ProblemTensors, Stages
from torch_regflat.memory.tiling import listed
from torch_regflat.schedule import managed
from torch_regflat.schedule.managed import Search
from torch_regflat.schedule.mapper import spaces, task
from torch_regflat.schedule.mapper.found import Mapping
from torch_regflat.schedule.mapper.search import Mapper
from torch_regflat.schedule.shape import shape_of_nest
from torch_regflat.workload import LoopNest, Operand

from ..cost.cases import matrix_product

OBJECTIVES = ("latency", "energy", "edp")


def small_flat(kib: float) -> Chip:
    """A register-flat chip with so little memory that tiling matters for small kernels."""
    return load("regflat-physical").replace(
        **{"cores.count": "1 1", "memory.registers.capacity": f"{kib:g} KiB", "memory.HBM3.read_bandwidth": "20 GB/s"}
    )


def small_scratchpad(inner_kib: float, outer_kib: float, cores: int) -> Chip:
    """A chip with two levels of scratchpad, the inner one in each core."""
    return load("tpu-v4").replace(
        **{
            "cores.count": f"{cores} 1",
            "memory.VMEM.capacity": f"{inner_kib:g} KiB",
            "memory.CMEM.capacity": f"{outer_kib:g} KiB",
            "memory.HBM2.read_bandwidth": "20 GB/s",
            "memory.CMEM.read_bandwidth": "256 B/clk",
        }
    )


def attention(g: int, q: int, s: int, causal: bool) -> LoopNest:
    """Two groups of `g` heads of size 16."""
    dims = (("b", 2), ("g", g), ("q", q), ("s", s), ("d", 16), ("e", 16))
    one = {d: ((d, 1),) for d in range(6)}
    return LoopNest(
        "attention",
        dims,
        (
            Operand(0, (one[0], one[1], one[2], one[4]), 16),
            Operand(1, (one[0], one[3], one[4]), 16, role="kv_cache"),
            Operand(2, (one[0], one[3], one[5]), 16, role="kv_cache"),
            Operand(3, (one[0], one[1], one[2], one[5]), 16, "write"),
        ),
        "bfloat16",
        flops=2 * 2 * g * q * s * 32,
        whole=frozenset("de"),
        domain_fraction=0.5 if causal else 1.0,
        causal=(2, 3) if causal else None,
    )


def convolution(k: int, c: int, pixels: int, step: int) -> LoopNest:
    p, q = 2, 3
    dims = (("n", 2), ("k", k), ("p", pixels), ("q", pixels), ("c", c), ("r", 3), ("s", 3))
    return LoopNest(
        "convolution",
        dims,
        (
            Operand(0, (((0, 1),), ((4, 1),), ((p, step), (5, 1)), ((q, step), (6, 1))), 16),
            Operand(1, (((1, 1),), ((4, 1),), ((5, 1),), ((6, 1),)), 16, role="weight"),
            Operand(2, (((0, 1),), ((1, 1),), ((p, 1),), ((q, 1),)), 16, "write"),
        ),
        "bfloat16",
        flops=2 * 2 * k * pixels**2 * c * 9,
    )


def measured(shape: KernelShape, chip: Chip, objective: str, effort: str) -> float:
    software = for_chip(chip)
    search = Search(chip, software, chip_tensors([chip], [software]), objective, effort=effort)  # type: ignore[arg-type]
    (found,) = search.found([shape])
    assert found is not None
    return found.measures[0]


sizes = st.integers(1, 300)
large = st.integers(1500, 12000)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(large, large, large, st.sampled_from([8, 64, 512, 4096]), st.sampled_from(OBJECTIVES))
def test_steps_of_sizes_lose_nothing_for_products(m: int, n: int, k: int, kib: float, objective: str) -> None:
    shape, chip = shape_of_nest(matrix_product(2, m, n, k)), small_flat(kib)
    refined, whole = (measured(shape, chip, objective, effort) for effort in ("steps", "whole"))
    assert refined <= whole * 1.01


@settings(max_examples=15, deadline=None)
@given(sizes, sizes, sizes, st.sampled_from([1, 4, 32]), st.sampled_from(OBJECTIVES))
def test_the_frontier_of_what_fits_holds_the_best(m: int, n: int, k: int, kib: float, objective: str) -> None:
    shape, chip = shape_of_nest(matrix_product(2, m, n, k)), small_flat(kib)
    assert measured(shape, chip, objective, "whole") == measured(shape, chip, objective, "every")


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.integers(5, 13), st.integers(5, 13), st.integers(5, 13), st.sampled_from([1, 2]), st.sampled_from(OBJECTIVES))
def test_the_same_with_two_levels_and_cores(m: int, n: int, k: int, cores: int, objective: str) -> None:
    shape, chip = shape_of_nest(matrix_product(1, m, n, k)), small_scratchpad(0.125, 0.5, cores)
    refined, whole = (measured(shape, chip, objective, effort) for effort in ("steps", "every"))
    assert refined <= whole * 1.01


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(2, 6), st.integers(1, 2), st.sampled_from([0.25, 1]))
def test_the_same_for_convolutions(k: int, c: int, pixels: int, step: int, kib: float) -> None:
    shape, chip = shape_of_nest(convolution(k, c, pixels, step)), small_flat(kib)
    assert measured(shape, chip, "latency", "steps") <= measured(shape, chip, "latency", "every") * 1.01


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(1, 2), st.integers(1, 40), st.booleans(), st.sampled_from([1, 4]))
def test_the_same_for_attention(g: int, q: int, causal: bool, kib: float) -> None:
    shape, chip = shape_of_nest(attention(g, q, q, causal)), small_flat(kib)
    assert measured(shape, chip, "latency", "steps") <= measured(shape, chip, "latency", "every") * 1.01


@settings(max_examples=15, deadline=None)
@given(st.integers(1024, 4096), st.data())
def test_traffic_comes_within_a_tenth_of_the_lower_bound(capacity: int, data: st.DataObject) -> None:
    """2MNK/√S + MN for products of sides from 8√S on, one level of S elements, without double buffers."""
    least = math.ceil(8 * math.sqrt(capacity))
    m, n, k = (data.draw(st.integers(least, 2 * least)) for _ in range(3))
    nest = matrix_product(1, m, n, k, bits=32)
    problems = ProblemTensors.of([shape_of_nest(nest)])
    stages = Stages((0,))
    space = spaces.whole(problems, stages, 1, buffers=1.0)
    best = math.inf
    for _, tiling in space.chunks(2**18, torch.ones(1, 1, 1, 1, dtype=torch.float64)):
        ((down, up, _, _),) = tiling.boundaries
        moved = torch.where(tiling.holds[0] <= 4.0 * capacity, down + up, math.inf)
        best = min(best, float(moved.min()) / 4.0)
    bound = 2 * m * n * k / math.sqrt(capacity) + m * n
    assert bound <= best * (1 + 1e-12)
    assert best <= 1.1 * bound


@pytest.mark.parametrize(("dataflow", "cycles"), [("output-stationary", 2039), ("weight-stationary", 2551)])
def test_a_systolic_array_takes_the_cycles_that_scale_sim_counts(dataflow: str, cycles: int) -> None:
    one = {"cores.count": "1 1", "engines.MXU.count": "1 1", "engines.MXU.dataflow": dataflow}
    chip = load("tpu-v5e").replace(**one, **{"engines.MXU.rate.bf16": "32768 FLOP/clk/core"})
    software, shape = for_chip(chip), shape_of_nest(matrix_product(1, 256, 256, 256))
    search = Search(chip, software, chip_tensors([chip], [software]))
    whole = Mapping(
        ((1, 256, 256, 256),) * len(search.stages.levels), spaces.nestings(shape.problem.structure, search.stages)[0]
    )  # type: ignore[union-attr]
    (group,) = search.price([shape], [whole])
    assert float(group.movement.core_s["compute"]) * chip.clock.value == pytest.approx(cycles, abs=1e-6)


def test_with_room_for_everything_traffic_is_compulsory() -> None:
    nests = (matrix_product(3, 70, 50, 30), convolution(8, 4, 9, 2), attention(2, 33, 33, True))
    for chip in (load("regflat-ideal"), load("tpu-v4")):
        for nest, choice in zip(
            nests, managed.choose([shape_of_nest(n) for n in nests], chip, for_chip(chip)), strict=True
        ):
            assert choice.read_bytes[-1] + choice.write_bytes[-1] == pytest.approx(nest.compulsory_bytes())


def test_what_does_not_fit_is_said_with_level_operand_and_bytes() -> None:
    chip = load("regflat-physical").replace(**{"cores.count": "1 1", "memory.registers.capacity": "3 B"})
    with pytest.raises(CapacityError) as error:
        managed.choose([shape_of_nest(matrix_product(1, 64, 64, 64))], chip, for_chip(chip))
    assert str(error.value) == (
        "no tiling of a product with b = 1, m = 64, n = 64, k = 64 fits registers of regflat-physical: even tiles of "
        "one element need 16 bytes twice buffered, 3 are free, so 13 are missing; the largest is the activation with 2 "
        "bytes an element"
    )


@pytest.mark.parametrize("name", ["regflat-physical", "tpu-v4"])
def test_the_size_of_chunks_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = load(name)
    shapes = [shape_of_nest(n) for n in (matrix_product(1, 64, 51, 99), convolution(6, 4, 8, 1))]
    monkeypatch.setattr(spaces, "FEW", 2**16)
    first = managed.choose(shapes, chip, for_chip(chip))
    monkeypatch.setattr(task, "CHUNK", 3000)
    assert managed.choose(shapes, chip, for_chip(chip)) == first


@pytest.mark.parametrize("inner", [1.0, 16.0])
def test_ports_as_sums_rank_as_the_whole_model_does(inner: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix product a port, or everything that moves and then arithmetic on it."""
    chip = small_scratchpad(inner, 64, 1)
    software, shapes = for_chip(chip), [shape_of_nest(matrix_product(1, m, 96, 80)) for m in (40, 77)]
    rates = rate_tensors([chip], [software], ["bf16"] * 2)
    rates = replace(rates, arrays=torch.zeros_like(rates.arrays))
    own = Mapper(Stages.of(chip), chip_tensors([chip], [software]), "max")
    space = spaces.coarse(ProblemTensors.of(shapes), own.stages, 1)
    fast = own.rank(shapes, rates, space)
    monkeypatch.setattr(task, "resources", lambda *_: None)
    for (plain,), (other,) in zip(own.rank(shapes, rates, space), fast, strict=True):
        assert other.measures[0] == pytest.approx(plain.measures[0], rel=1e-12)
        assert (other.candidates, other.legal, other.rejected) == (plain.candidates, plain.legal, plain.rejected)


def test_chips_side_by_side_are_searched_as_if_alone() -> None:
    chips = [load("regflat-ideal"), small_flat(64), small_flat(512)]
    software = [for_chip(chip) for chip in chips]
    shapes = [shape_of_nest(matrix_product(1, m, 256, 384)) for m in (96, 200)]
    dtypes = ["bf16"] * len(shapes)
    together = Mapper(Stages.of(chips[0]), chip_tensors(chips, software), "max", (1, 2)).search(
        shapes, rate_tensors(chips, software, dtypes)
    )
    for i, chip in enumerate(chips):
        alone = Mapper(Stages.of(chip), chip_tensors([chip], [software[i]]), "max", (1, 2)).search(
            shapes, rate_tensors([chip], [software[i]], dtypes)
        )
        for kernel in range(len(shapes)):
            assert together[kernel][i].measures[0] == pytest.approx(alone[kernel][0].measures[0], rel=1e-3)


def test_what_lies_on_chip_is_neither_loaded_nor_held_twice() -> None:
    nest = matrix_product(1, 256, 256, 256)
    shape = shape_of_nest(nest)
    resident = replace(shape, operands=(replace(shape.operands[0], resident=1.0), *shape.operands[1:]))
    tiles = [[torch.tensor([[64.0]], dtype=torch.float64) for _ in range(4)]]
    tiles[0][0] = torch.ones(1, 1, dtype=torch.float64)
    stages, one = Stages((0,)), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    nesting = spaces.nestings(problem_of(nest).structure, stages)[0]
    cold, warm = (listed(ProblemTensors.of([s]), stages, nesting, tiles, one) for s in (shape, resident))
    assert float(warm.operands[0]) == 0 < float(cold.operands[0])
    assert float(cold.holds[0] - warm.holds[0]) == 2 * 64 * 64 * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_prices_the_same() -> None:
    chip, software = small_flat(64), for_chip(load("regflat-physical"))
    shape = shape_of_nest(matrix_product(2, 700, 300, 500))
    own = chip_tensors([chip], [software]), rate_tensors([chip], [software], ["bf16"])
    found = []
    for device in ("cpu", "cuda"):
        tensors, rates = (at_device(numbers, device) for numbers in own)
        mapper = Mapper(Stages.of(chip), tensors, software.overlap, software.split_k, effort="whole")
        ((best,),) = mapper.search([shape], rates)
        found.append(best)
    assert found[1].mappings[0] == found[0].mappings[0]
    assert found[1].measures[0] == pytest.approx(found[0].measures[0], rel=1e-12)
