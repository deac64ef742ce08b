"""How fast mappings are priced and searched: product spaces, arbitrary mappings, a plain scalar program, real models.

Pricing is the whole of it: exact traffic at every level, capacities, time and energy, and the best kept. Making the
candidates is included, and shown apart. Two cores, float64. Figures of one run belong together.
"""

from __future__ import annotations

import itertools
import math
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from scalar_model import priced as scalar_priced
from tabulate import tabulate
from torch import Tensor

from torch_regflat.capture.huggingface import prepare
from torch_regflat.capture.record import capture
from torch_regflat.cost.chip_tensors import at_device, chip_tensors, rate_tensors
from torch_regflat.cost.kernel import combine
from torch_regflat.cost.shapes import KernelShape, pack
from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import for_chip
from torch_regflat.mapping import tile_sizes
from torch_regflat.memory.explicit import fixed, move
from torch_regflat.memory.quantities import ProblemTensors, Stages
from torch_regflat.memory.tiling import Product, listed
from torch_regflat.memory.traffic import Nesting
from torch_regflat.operators.lowering import workload
from torch_regflat.schedule import managed, search
from torch_regflat.schedule.kernels import form_kernels
from torch_regflat.schedule.mapper.search import Mapper
from torch_regflat.schedule.program import places_of
from torch_regflat.schedule.shape import shape_of, shape_of_nest
from torch_regflat.workload import LoopNest, Operand

SIX = ("h100-sxm", "a100-sxm-80gb", "regflat-ideal", "regflat-physical", "regflat-pessimistic", "tpu-v5e")
ORDER = tuple(range(8))
LEVELS = 3


def convolution() -> LoopNest:
    """Eight dimensions: images, groups, output and input channels of a group, pixels, filter."""
    sizes = (8, 2, 128, 128, 56, 56, 3, 3)
    n, g, k, c, p, q, r, s = (((d, 1),) for d in range(8))
    window = (((4, 1), (6, 1)), ((5, 1), (7, 1)))
    return LoopNest(
        "convolution",
        tuple(zip("ngkcpqrs", sizes, strict=True)),
        (
            Operand(0, (n, g, c, *window), 16),
            Operand(1, (g, k, c, r, s), 16, role="weight"),
            Operand(2, (n, g, k, p, q), 16, "write"),
        ),
        "bfloat16",
        flops=2 * math.prod(sizes),
    )


def three_levels() -> Chip:
    """A chip with three managed levels and external memory."""
    data = load("tpu-v5e").to_dict()
    inner = {**data["memory"][0], "scope": "chip"}
    sizes = (("L0", "64 KiB", "40 TB/s"), ("L1", "2 MiB", "20 TB/s"), ("L2", "48 MiB", "8 TB/s"))
    levels = [{**inner, "name": name} for name, *_ in sizes]
    chip = Chip.from_dict({**data, "name": "three-levels", "memory": [*levels, *data["memory"][1:]]})
    changes = {}
    for name, capacity, bandwidth in sizes:
        changes |= {f"memory.{name}.{field}": None for field in ("banks", "bank_bits")}
        changes |= {f"memory.{name}.capacity": capacity, f"memory.{name}.read_bandwidth": bandwidth}
        changes |= {f"memory.{name}.write_bandwidth": bandwidth}
    return chip.replace(**changes)


class Case:
    """The convolution on the chip, ready to price."""

    def __init__(self, device: str = "cpu") -> None:
        self.chip, self.shape = three_levels(), shape_of_nest(convolution())
        software = for_chip(self.chip)
        self.stages, self.nesting = Stages.of(self.chip), Nesting((ORDER,) * LEVELS)
        self.tensors = at_device(chip_tensors([self.chip], [software]), device)
        rates = rate_tensors([self.chip], [software], ["bf16"])
        # Arrays whose time does not depend on the tiles: what is measured is the pricing of memory.
        self.rates = at_device(replace(rates, arrays=torch.zeros_like(rates.arrays)), device)
        self.problems = ProblemTensors.of([self.shape], torch.device(device))
        self.device = device
        self.kernels, one = (
            pack([self.shape], torch.device(device)),
            torch.ones(1, 1, 1, 1, dtype=torch.float64, device=device),
        )
        self.fixed = fixed(self.kernels, one, self.stages, self.tensors, self.rates)

    def space(self, wanted: int) -> Product:
        """A product space of about so many candidates."""
        assert self.shape.problem is not None
        lists = [_chains(size) for size in self.shape.problem.sizes]
        share = 1.0
        for _ in range(200):
            cut = [some[: max(1, math.ceil(len(some) * share))] for some in lists]
            if math.prod(map(len, cut)) <= wanted:
                break
            share *= 0.97
        choices = [torch.tensor(c, dtype=torch.float64, device=self.device).T.unsqueeze(0) for c in cut]
        return Product(self.problems, self.stages, (self.nesting,), tuple(choices))

    def rank(self, space: Product) -> int:
        """Price a space; how many candidates it had."""
        mapper = Mapper(self.stages, self.tensors, "max")
        ((found,),) = mapper.rank([self.shape], self.rates, space)
        assert found.mappings
        return found.candidates


def _chains(size: int) -> list[tuple[int, ...]]:
    """Tiles at three stages, with the largest innermost tiles last so that short lists still fit."""
    sizes = tile_sizes(size, 2)
    chains = [c for c in itertools.product(sizes, repeat=LEVELS) if c[0] >= c[1] >= c[2]]
    return sorted(chains, key=lambda c: (c[2], c[1], c[0]))


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def product_spaces() -> None:
    case = Case()
    case.rank(case.space(10**5))
    rows = []
    for wanted in (10**6, 10**7, 10**8, 2 * 10**8):
        making = timed(lambda wanted=wanted: case.space(wanted))  # type: ignore[misc]
        space = case.space(wanted)
        seconds = timed(lambda space=space: case.rank(space))  # type: ignore[misc]
        rows.append((f"{space.count:.3g}", f"{making:.3f}", f"{seconds:.2f}", f"{space.count / seconds / 1e6:.0f}"))
    print("product spaces: convolution, 8 dimensions, 3 operands, 3 managed levels and external memory")
    print(tabulate(rows, ("candidates", "s to make them", "s to price", "million/s")), "\n")


def arbitrary(count: int = 2**18) -> float:
    """Random tiles one by one; million mappings a second."""
    case = Case()
    assert case.shape.problem is not None
    generator = random.Random(1)
    chains = [_chains(size) for size in case.shape.problem.sizes]
    making = timed(lambda: _random_tiles(chains, count, generator))
    tiles = _random_tiles(chains, count, generator)
    eager = _rate(lambda part: _price(case, part), tiles, 2**14)
    rows = [("eager", f"{making:.2f}", f"{eager:.2f}")]
    try:
        compiled = torch.compile(lambda part: _price(case, part), dynamic=False)
        compiled(_part(tiles, 0, 2**14))
        rows.append(("compiled", f"{making:.2f}", f"{_rate(compiled, tiles, 2**14):.2f}"))
    except Exception as error:  # no compiler at hand
        rows.append(("compiled", "-", f"not possible here: {type(error).__name__}"))
    print("arbitrary mappings, the same nest, one by one")
    print(tabulate(rows, ("how", "s to make them", "million/s")), "\n")
    return eager


def _random_tiles(chains: Sequence[list[tuple[int, ...]]], count: int, generator: random.Random) -> list[list[Tensor]]:
    by_dim = []
    for some in chains:
        table = torch.tensor(some, dtype=torch.float64)
        picks = torch.tensor([generator.randrange(len(some)) for _ in range(count)])
        by_dim.append(table[picks])
    return [[dim[:, stage].unsqueeze(0) for dim in by_dim] for stage in range(LEVELS)]


def _part(tiles: list[list[Tensor]], first: int, size: int) -> list[list[Tensor]]:
    return [[t[:, first : first + size] for t in stage] for stage in tiles]


def _price(case: Case, tiles: list[list[Tensor]]) -> Tensor:
    split = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    kernels = case.kernels
    tiling = listed(case.problems, case.stages, case.nesting, tiles, split)
    movement = move(kernels, tiling, case.fixed, case.tensors)
    seconds = combine([*movement.core_s.values(), movement.external_s], "max") + movement.overhead_s
    return torch.where(movement.legal, seconds, torch.inf)


def _rate(run: Callable[[list[list[Tensor]]], Tensor], tiles: list[list[Tensor]], chunk: int) -> float:
    count = tiles[0][0].shape[-1]
    start = time.perf_counter()
    for first in range(0, count, chunk):
        run(_part(tiles, first, chunk))
    return count / (time.perf_counter() - start) / 1e6


def scalar(count: int = 200) -> float:
    """The same formulas in plain Python, one mapping at a time; mappings a second."""
    case = Case()
    generator = random.Random(1)
    assert case.shape.problem is not None
    chains = [_chains(size) for size in case.shape.problem.sizes]
    some = [[generator.choice(c) for c in chains] for _ in range(count)]
    rate = count / timed(lambda: [scalar_priced(case.shape.problem, ORDER, tiles, case.chip) for tiles in some])
    tiles = [
        [torch.tensor([[float(t[d][s]) for t in some]], dtype=torch.float64) for d in range(8)] for s in range(LEVELS)
    ]
    split = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    tiling = listed(case.problems, case.stages, case.nesting, tiles, split)
    down = [sum(float(x[..., i, :]) for x in tiling.boundaries[0][:2]) for i in range(count)]
    plain = [scalar_priced(case.shape.problem, ORDER, t, case.chip)[0] for t in some]
    assert all(math.isclose(a, b, rel_tol=1e-12) for a, b in zip(down, plain, strict=True))
    return rate


def memory() -> None:
    """Peak memory of pricing 10^6 and 10^9 candidates, each in a process of its own."""
    rows = []
    for exponent in (6, 9):
        done = subprocess.run(
            [sys.executable, __file__, f"--peak={exponent}"], capture_output=True, text=True, check=True
        )
        rows.append((f"10^{exponent}", *done.stdout.split()))
    print("peak memory")
    print(tabulate(rows, ("candidates", "MiB resident", "s", "million/s")), "\n")


def peak(exponent: int) -> None:
    case = Case()
    space = case.space(10**exponent)
    seconds = timed(lambda: case.rank(space))
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{resident:.0f} {seconds:.1f} {space.count / seconds / 1e6:.0f}")


def llama() -> None:
    """All distinct kernels of Llama-3-8B, prefill and decode, on six chips: whole space, and in steps."""
    shapes: dict[str, list[KernelShape]] = {name: [] for name in SIX}
    for phase, lengths in (("prefill", {"seq_len": 2048}), ("decode", {"context": 2048})):
        ready = prepare("llama-3-8b", phase, **lengths)
        work = workload(capture(ready.model, ready.args, ready.kwargs, kv_cache=ready.kv_cache))
        kernels = form_kernels(work)
        for name in SIX:
            chip = load(name)
            places = places_of(kernels, work, chip, for_chip(chip))
            shapes[name] += [shape_of(k, p, work) for k, p in zip(kernels, places, strict=True)]
    rows, totals = [], {"whole": 0.0, "steps": 0.0}
    for name, some in shapes.items():
        chip, distinct = load(name), list(dict.fromkeys(some))
        best = {}
        row: list[object] = [name, len(distinct)]
        for effort in ("whole", "steps"):
            start = time.perf_counter()
            if chip.memory_system == "cache":
                best[effort] = search.choose(distinct, chip, for_chip(chip))
            else:
                best[effort] = managed.choose(distinct, chip, for_chip(chip), effort=effort)  # type: ignore[arg-type]
            seconds = time.perf_counter() - start
            totals[effort] += seconds
            row += [sum(c.candidates for c in best[effort]), f"{seconds:.2f}"]
        worst = max(s.latency_s / w.latency_s - 1 for s, w in zip(best["steps"], best["whole"], strict=True))
        rows.append((*row, f"{worst:.2%}"))
    rows.append(("all", "", "", f"{totals['whole']:.2f}", "", f"{totals['steps']:.2f}", ""))
    print("all distinct kernels of Llama-3-8B, prefill of 2048 and decode at 2048")
    print(tabulate(rows, ("chip", "kernels", "priced, whole", "s", "priced, steps", "s", "worst loss")), "\n")


def on_gpu() -> None:
    if not torch.cuda.is_available():
        print("no CUDA device: not measured on one")
        return
    case = Case("cuda")
    case.rank(case.space(10**7))
    space = case.space(10**10)
    seconds = timed(lambda: (case.rank(space), torch.cuda.synchronize()))
    print(f"{torch.cuda.get_device_name()}: {space.count / seconds / 1e6:.0f} million/s, product spaces")


def main() -> None:
    if sys.argv[1:] and sys.argv[1].startswith("--peak="):
        peak(int(sys.argv[1].partition("=")[2]))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float64\n")
    product_spaces()
    one_by_one = arbitrary()
    plain = scalar()
    case = Case()
    space = case.space(10**7)
    crossed = space.count / timed(lambda: case.rank(space))
    print(f"plain Python, one mapping at a time: {plain:.0f} mappings/s")
    print(
        f"product spaces are {crossed / plain:.0f} times as fast, "
        f"arbitrary mappings {one_by_one * 1e6 / plain:.0f} times\n"
    )
    memory()
    llama()
    on_gpu()


if __name__ == "__main__":
    main()
