"""One search of mappings under way: candidates priced chunk by chunk, and the best of them kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...cost.chip_tensors import RateTensors, at_chip
from ...cost.kernel import Movement, combine, evaluate
from ...cost.shapes import KernelShape, pack
from ...memory.explicit import fixed, move
from ...memory.quantities import ProblemTensors, quantities
from ...memory.resources import Resources, resources, slowest
from ...memory.tiling import VISITS, Part, Product, Tiling, listed_in
from ...memory.traffic import Nesting
from . import spaces
from .found import Found, Mapping, Pricing, objective_of, price
from .ranking import Ranking

if TYPE_CHECKING:
    from .search import Mapper

CHUNK = 2**16
"""Candidates priced at a time: the temporaries of so many lie in a processor's caches."""
_PROMISING = 1.3
"""How far from the best a loop order may be and still be looked at more closely."""
_IMPROVED = 1.0 - 1e-3
"""What must be won for another round to be worth it."""
_SLOWED = 1.0 + 1e-8
"""Slower than a bound by more than ties and rounding."""
_TIE = 1e-9
"""Weight of the other measure in the ranking: it decides between mappings equal in the first, and no others."""


class Task:
    """One search under way."""

    def __init__(
        self,
        mapper: Mapper,
        shapes: Sequence[KernelShape],
        rates: RateTensors,
        nestings: tuple[Nesting, ...] | None = None,
        with_limit: bool = False,
    ) -> None:
        """`with_limit`: latency is ranked, as its third power, with what the power limit makes of it."""
        self.mapper, self.rates, self.with_limit = mapper, rates, with_limit
        self.power = 3 if with_limit else 1
        device = mapper.chip.clock.device
        self.kernels = pack(list(shapes), device)
        self.problems = ProblemTensors.of(shapes, device)
        self.nestings = nestings or spaces.nestings(self.problems.structure, mapper.stages)
        self.position = {nesting: i for i, nesting in enumerate(self.nestings)}
        self.splits = torch.tensor(mapper.splits, dtype=torch.float64, device=device).reshape(1, 1, 1, -1)
        self.fixed = fixed(self.kernels, self.splits, mapper.stages, mapper.chip, rates)
        self.chips = mapper.chip.clock.shape[0]
        self.shape = (len(mapper.stages.levels), len(self.problems.sizes))
        numbers = self.shape[0] * self.shape[1] + 2
        rows = len(shapes) * self.chips
        self.ranking = Ranking.empty(rows, mapper.keep, numbers, device)
        self.outer = spaces.by_outer_order(self.nestings)
        self.by_order = Ranking.empty(rows * len(self.outer), 1, numbers, device)
        self.candidates = 0
        self.legal = torch.zeros(len(shapes), self.chips, dtype=torch.int64, device=device)
        self.rejected: dict[str, Tensor] = {}

    def look(self, space: Product) -> None:
        """Rank all candidates of a product space."""
        own = None
        simple = self.mapper.objective == "latency" and self.mapper.overlap == "max" and not self.with_limit
        if simple and not self.problems.structure.diagonal:
            counted = quantities(self.problems, self.mapper.stages, space.buffers)
            own = resources(counted, self.mapper.stages, self.fixed, self.mapper.chip)
        if own is not None:
            self._look_fast(space, own)
            return
        for part, tiling in space.chunks(CHUNK // self.splits.shape[-1], self.splits):

            def tiles(flat: Tensor, part: Part = part) -> Tensor:
                found = space.at(flat + part.numbers.start)
                return torch.stack([torch.stack(stage, 1) for stage in found], 1)

            self._rank(tiling, [space.nestings[i] for i in part.nestings], len(part.numbers), tiles)

    def _look_fast(self, space: Product, own: Resources) -> None:
        """The same, a matrix product a port."""
        tie = _TIE / float(self.mapper.chip.dynamic_power)
        others = torch.maximum(self.fixed.compute_s, self.fixed.vector_s)
        if self.fixed.network is not None:
            others = torch.maximum(others, self.fixed.network.seconds)
        others = others.expand_as(self.fixed.read[0])
        overhead = self.fixed.overhead_s.reshape(self.fixed.overhead_s.shape[0], 1, -1)
        sums, ports, splits = (*own.seconds, own.joules, *own.holds), len(own.seconds), self.splits.shape[-1]
        for part, values in space.values(CHUNK // splits, sums):
            seconds = slowest(values[:ports], own.fixed_s, others).add_(overhead)
            seconds.add_(values[ports].unsqueeze(-1), alpha=tie)
            lost = values[ports + 1] > 1.0
            for held in values[ports + 2 :]:
                lost |= held > 1.0
            seconds.masked_fill_(lost.unsqueeze(-1), torch.inf)
            self._count_fast(values[ports + 1 :], lost, splits)

            def tiles(flat: Tensor, part: Part = part) -> Tensor:
                found = space.at(flat + part.numbers.start)
                return torch.stack([torch.stack(stage, 1) for stage in found], 1)

            tried = [space.nestings[i] for i in part.nestings]
            self._offer(seconds.flatten(1), tried, len(part.numbers), tiles)

    def _count_fast(self, holds: Sequence[Tensor], lost: Tensor, splits: int) -> None:
        self.candidates += lost.shape[-1] * splits
        self.legal = self.legal + ((~lost).sum(-1) * splits).unsqueeze(-1)
        if bool(lost.any()):
            stages, names = self.mapper.stages, self.mapper.chip.level_names
            for share, stage in zip(holds, stages.stored, strict=True):
                name = names[stages.level(stage)]
                count = ((share > 1.0).sum(-1) * splits).unsqueeze(-1)
                self.rejected[name] = self.rejected.get(name, torch.zeros_like(self.legal)) + count

    def look_at(self, tiles: Tensor, tried: Sequence[Nesting]) -> None:
        """Rank candidates that are listed, `[kernel, stage, dimension, candidate]`, in some loop orders."""
        step = CHUNK // self.splits.shape[-1] // tiles.shape[0]
        if self.problems.structure.diagonal is not None:
            trips = torch.ceil(torch.stack(self.problems.sizes, 1) / tiles[:, 0]).prod(1)
            step = int(VISITS * step / float(trips.max()))
        for some in torch.split(tiles, max(step, 1), -1):
            by_stage = [list(stage.unbind(1)) for stage in some.unbind(1)]

            def at(flat: Tensor, some: Tensor = some) -> Tensor:
                index = flat.reshape(flat.shape[0], 1, 1, -1).expand(-1, some.shape[1], some.shape[2], -1)
                return some.gather(3, index)

            stages, buffers = self.mapper.stages, self.mapper.buffers
            for nesting, tiling in listed_in(tried, self.problems, stages, by_stage, self.splits, buffers):
                self._rank(tiling, [nesting], some.shape[-1], at)

    def _rank(self, tiling: Tiling, tried: Sequence[Nesting], count: int, tiles: Callable[[Tensor], Tensor]) -> None:
        """Rank a chunk: `count` candidates of each nesting. `tiles` turns their numbers `[kernel, n]` into tiles
        `[kernel, stage, dimension, n]`."""
        movement = move(self.kernels, tiling, self.fixed, self.mapper.chip)
        legal, rows, splits = movement.legal, self.ranking.value.shape[0], self.splits.shape[-1]
        wide = (rows // self.chips, self.chips, count * len(tried), splits)
        value = torch.where(legal, self._measure(movement), torch.inf).expand(wide).reshape(rows, -1)
        self._count(movement, legal, wide)
        self._offer(value, tried, count, tiles)

    def _offer(self, value: Tensor, tried: Sequence[Nesting], count: int, tiles: Callable[[Tensor], Tensor]) -> None:
        """Keep what is best of a chunk, `[row, nesting · candidate · split]`."""
        splits = self.splits.shape[-1]
        numbers = torch.tensor([self.position[n] for n in tried], dtype=torch.float64, device=value.device)

        def describe(at: Tensor) -> Tensor:
            split = self.splits.flatten()[at % splits]
            at = torch.div(at, splits, rounding_mode="floor")
            nesting = numbers[torch.div(at, count, rounding_mode="floor")]
            # Rows are (kernel, chip); tiles are chosen from the kernel's lists.
            found = tiles((at % count).reshape(-1, self.chips * at.shape[-1]))
            found = found.reshape(found.shape[0], -1, self.chips, at.shape[-1]).movedim(1, -1)
            return torch.cat([found.reshape(*at.shape, -1), nesting.unsqueeze(-1), split.unsqueeze(-1)], -1)

        self.ranking.offer(value, describe)
        self._keep_by_order(tried, value, describe)

    def _keep_by_order(self, tried: Sequence[Nesting], value: Tensor, describe: Callable[[Tensor], Tensor]) -> None:
        """The best candidate of every outermost loop order, to look around it."""
        each, orders = value.shape[-1] // len(tried), list(self.outer)
        for order, outer in enumerate(orders):
            places = [i for i, nesting in enumerate(tried) if nesting.orders[0] == outer]
            if places:
                first, last = places[0] * each, (places[-1] + 1) * each
                rows = slice(order, None, len(orders))
                best = Ranking(self.by_order.value[rows], self.by_order.what[rows])
                best.offer(value[:, first:last], lambda at, first=first: describe(at + first))  # type: ignore[misc]
                self.by_order.value[rows], self.by_order.what[rows] = best.value, best.what

    def _count(self, movement: Movement, legal: Tensor, wide: tuple[int, ...]) -> None:
        candidates = wide[-1] * wide[-2]
        repeats = candidates // (legal.shape[-1] * legal.shape[-2])
        self.candidates += candidates
        self.legal = self.legal + legal.sum((-1, -2)) * repeats
        for name, fits in movement.fits.items():
            lost = (~fits).sum((-1, -2)) * (candidates // (fits.shape[-1] * fits.shape[-2]))
            self.rejected[name] = self.rejected.get(name, torch.zeros_like(self.legal)) + lost

    def _measure(self, movement: Movement) -> Tensor:
        """What candidates are ranked by, the other measure deciding between equals."""
        chip, mapper = self.mapper.chip, self.mapper
        if mapper.objective != "latency":
            cost = evaluate(movement, self.kernels, chip, self.rates, mapper.overlap)
            if mapper.objective == "edp":
                return cost.energy_j * cost.latency_s
            return cost.energy_j + cost.latency_s * (_TIE * chip.dynamic_power)
        core = combine(list(movement.core_s.values()), mapper.overlap)
        seconds = combine([*movement.core_s.values(), movement.external_s], mapper.overlap) + movement.overhead_s
        far = (movement.read_bytes[-1] + movement.write_bytes[-1]) * (8.0 * chip.unattributed_bit)
        near = torch.zeros_like(seconds)
        for i, level in enumerate(chip.levels):
            to = far if i == len(chip.levels) - 1 else near
            _add(to, movement.read_bytes[i], 8.0 * level.read_energy)
            _add(to, movement.write_bytes[i], 8.0 * level.write_energy)
        if movement.network_bytes is not None:
            near = near + movement.network_bytes * (8.0 * chip.levels[0].network_energy)
        if self.with_limit:
            return self._cubed(core, movement.external_s, seconds, near, far)
        joules = near + far + seconds * chip.static_power
        return _add(seconds, joules, _TIE / chip.dynamic_power)

    def _cubed(self, core_s: Tensor, external_s: Tensor, seconds: Tensor, near_j: Tensor, far_j: Tensor) -> Tensor:
        """The third power of the latency under the power limit, without what all mappings have in common: the slower of
        external memory and of cores at a clock that falls with the third root of their power over what is left."""
        chip = self.mapper.chip
        vector = self.kernels.vector_ops + self.kernels.special_ops
        joules = near_j + self.kernels.work * (self.rates.energy + self.rates.unattributed)
        joules = joules + vector * (chip.vector_energy + chip.unattributed_vector_flop)
        allowed = chip.dynamic_power * seconds
        over = torch.clamp(joules / torch.clamp(allowed - far_j, min=0.05 * allowed), min=1.0)
        tie = 1.0 + (_TIE / chip.dynamic_power) * (joules + far_j) / seconds
        return torch.maximum(core_s * core_s * core_s * over, external_s * external_s * external_s) * tie

    def starts(self) -> list[tuple[tuple[Nesting, ...], Tensor, int]]:
        """Where to look on: for every chip and outermost loop order, the orders, the best tiles `[kernel, stage,
        dimension]`, and the chip."""
        best = self.by_order.what[:, 0, :-2].reshape(-1, self.chips, len(self.outer), *self.shape)
        value = self.by_order.value.reshape(-1, self.chips, len(self.outer))
        known = torch.isfinite(value) & (value <= _PROMISING**self.power * value.amin(-1, keepdim=True))
        return [
            (tried, torch.clamp(best[:, chip, order], min=1.0), chip)
            for chip in range(self.chips)
            for order, tried in enumerate(self.outer.values())
            if bool(known[:, chip, order].any())
        ]

    def trips(self) -> Iterator[int]:
        """The most tiles along each side of a causal triangle: more while nothing fits."""
        largest = max(int(size.max()) for size in self.problems.sizes)
        trips = largest if largest <= spaces.FEW_TRIPS else spaces.DIAGONAL_TRIPS
        yield trips
        while self.problems.structure.diagonal and trips < largest and not self.all_fit():
            trips *= 4
            yield trips

    def all_fit(self) -> bool:
        return bool(torch.isfinite(self.ranking.value[:, 0]).all())

    def improved(self, before: Tensor) -> bool:
        """Whether the best of any loop order is better than `before` by enough to go on."""
        return bool((self.by_order.value < before * _IMPROVED**self.power).any())

    def room(self, position: int) -> list[Tensor]:
        """Bytes free in a stored stage on each chip, `[kernel, 1]`."""
        free = self.fixed.room[position].expand(-1, self.chips, 1, 1)
        return [free[:, chip, :, 0] for chip in range(self.chips)]

    def found(self) -> list[list[Found]]:
        """Everything that was kept, priced again with the power limit."""
        count = self.kernels.work.shape[0]
        by_chip = [self._priced(chip) for chip in range(self.chips)]
        return [[by_chip[chip][kernel] for chip in range(self.chips)] for kernel in range(count)]

    def limited(self, found: Sequence[Sequence[Found]]) -> list[int]:
        """Kernels whose best the power limit slows below what was not kept: ranked without it, that bounds latency
        from below."""
        if self.with_limit or self.mapper.objective != "latency":
            return []
        floor = torch.maximum(self.ranking.value[:, -1].reshape(-1, self.chips), self.mapper.chip.host_floor.flatten())
        return [
            kernel
            for kernel, by_chip in enumerate(found)
            if any(
                f.measures and f.measures[0] > bound * _SLOWED
                for f, bound in zip(by_chip, floor[kernel].tolist(), strict=True)
            )
        ]

    def _priced(self, chip: int) -> list[Found]:
        """What was kept for one chip."""
        mapper, orders = self.mapper, len(self.outer)
        # The best of every outermost loop order are among them, so that those that lost can be told apart.
        value, what = (
            torch.cat([all_[chip :: self.chips], own.reshape(-1, self.chips, orders, *own.shape[2:])[:, chip]], 1)
            for all_, own in (
                (self.ranking.value, self.by_order.value),
                (self.ranking.what, self.by_order.what),
            )
        )
        kept = torch.isfinite(value)
        # Places that hold nothing repeat the best.
        what = torch.where(kept.unsqueeze(-1), what, what[:, :1])
        own = Pricing(mapper.stages, at_chip(mapper.chip, chip), mapper.overlap, mapper.buffers)
        rates = at_chip(self.rates, chip)
        stages, dims = self.shape
        tiles = [[what[..., s * dims + d].clamp(min=1.0) for d in range(dims)] for s in range(stages)]
        split, chosen = what[..., -1].clamp(min=1.0), what[..., -2]
        measure, energy = torch.full_like(split, torch.inf), torch.full_like(split, torch.inf)
        for nesting in torch.unique(chosen[kept]).to(torch.int64).tolist():
            _, cost, _ = price(self.kernels, self.problems, own, self.nestings[nesting], tiles, split, rates)
            here = kept & (chosen == nesting)
            of = objective_of(cost, mapper.objective)
            measure = torch.where(here, of.reshape(split.shape), measure)
            energy = torch.where(here, cost.energy_j.reshape(split.shape), energy)
        order = torch.argsort(energy, dim=1, stable=True)
        order = order.gather(1, torch.argsort(measure.gather(1, order), dim=1, stable=True))
        legal, rejected = self.legal[:, chip].tolist(), {n: r[:, chip].tolist() for n, r in self.rejected.items()}
        found = []
        for row, places in enumerate(order.tolist()):
            known: dict[Mapping, float] = {}
            for place in places:
                if kept[row, place]:
                    known.setdefault(self._mapping(what[row, place].tolist()), float(measure[row, place]))
            lost = {name: count[row] for name, count in rejected.items() if count[row]}
            found.append(Found(tuple(known), tuple(known.values()), self.candidates, legal[row], lost))
        return found

    def _mapping(self, numbers: list[float]) -> Mapping:
        stages, dims = self.shape
        *tiles, nesting, split = (int(number) for number in numbers)
        rows = tuple(tuple(tiles[s * dims : (s + 1) * dims]) for s in range(stages))
        return Mapping(rows, self.nestings[nesting], split)


def _add(total: Tensor, value: Tensor, weight: Tensor) -> Tensor:
    """total + weight · value, in place and in one pass where there is one chip."""
    if weight.numel() == 1 and value.dim() == total.dim():
        return total.add_(value, alpha=float(weight))
    return total.add_(value * weight)
