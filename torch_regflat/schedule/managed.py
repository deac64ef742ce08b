"""Choices of mappings on chips whose memories are managed explicitly: register-flat memories and scratchpads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..conditions import SCHEDULED, Conditions
from ..cost.chip_tensors import ChipTensors, RateTensors, chip_tensors, rate_tensors
from ..cost.kernel import Cost, Movement, evaluate
from ..cost.shapes import KernelShape, KernelTensors, pack
from ..errors import CapacityError
from ..hardware.chip import Chip
from ..hardware.software import Software
from ..memory.explicit import fixed, move
from ..memory.quantities import ProblemTensors, Stages, quantities
from ..memory.sums import Listed
from ..memory.tiling import Tiling, extents_of
from .fused.price import composed, distinct_steps
from .mapper.found import Found, Mapping, Objective, Pricing, price
from .mapper.search import KEEP, Effort, Mapper
from .mapper.spaces import nestings
from .select import Adjust, Choice, engine_dtype

_FULL_SIZE = 1.0 + 1e-12


@dataclass(frozen=True)
class Group:
    """Kernels that are priced together, by their positions, and what they move, cost and hold on chip,
    `[kernel, 1, 1, 1]`."""

    members: list[int]
    movement: Movement
    cost: Cost
    held: Tensor | None = None


def choose(
    shapes: Sequence[KernelShape],
    chip: Chip,
    software: Software,
    objective: Objective = "latency",
    adjust: Adjust | None = None,
    effort: Effort = "steps",
    conditions: Conditions = SCHEDULED,
) -> list[Choice]:
    """The best mapping of each shape. Raises `CapacityError` where none fits: which level and operand, what is missing.

    `adjust` changes the chip's numbers before they are used; `effort` says how much of the space is looked at.
    """
    tensors = chip_tensors([chip], [software], conditions)
    search = Search(chip, software, tensors, objective, adjust, effort, conditions=conditions)
    single = distinct_steps(shapes)
    found = search.found(single)
    mappings = [f.mappings[0] if f is not None else None for f in found]
    chosen = [choice for choice, _ in _priced(search, single, mappings, found)]
    priced = dict(zip(single, chosen, strict=True))
    return [composed(shape, priced, software.overlap) for shape in shapes]


def rechosen(
    choices: Sequence[Choice], chip: Chip, software: Software, conditions: Conditions = SCHEDULED
) -> list[Choice]:
    """The same mappings on a chip of other numbers; what does not fit it is searched again."""
    single = {c.shape: c for choice in choices for c in (choice.steps or (choice,))}
    shapes, mappings = list(single), [c.chosen for c in single.values()]
    search = Search(chip, software, chip_tensors([chip], [software], conditions), conditions=conditions)
    priced = _priced(search, shapes, mappings, [None] * len(shapes))
    lost = [shape for shape, (_, fits) in zip(shapes, priced, strict=True) if not fits]
    again = iter(choose(lost, chip, software, conditions=conditions) if lost else ())
    known = {
        shape: choice if fits else next(again) for shape, (choice, fits) in zip(shapes, priced, strict=True)
    }
    return [composed(choice.shape, known, software.overlap) for choice in choices]


def _priced(
    search: Search, shapes: Sequence[KernelShape], mappings: Sequence[Mapping | None], found: Sequence[Found | None]
) -> list[tuple[Choice, bool]]:
    """Each shape as its mapping runs it, and whether that fits the chip."""
    priced: dict[int, tuple[Choice, bool]] = {}
    for group in search.price(shapes, mappings):
        fits = group.movement.legal.expand(len(group.members), 1, 1, 1).flatten().tolist()
        for row, index in enumerate(group.members):
            choice = _choice(shapes[index], mappings[index], found[index], group, row, search.chip)
            priced[index] = choice, fits[row]
    return [priced[index] for index in range(len(shapes))]


@dataclass(frozen=True)
class Search:
    """The mapper on one chip, for kernels of any structure."""

    chip: Chip
    software: Software
    tensors: ChipTensors
    objective: Objective = "latency"
    adjust: Adjust | None = None
    effort: Effort = "steps"
    keep: int = KEEP
    conditions: Conditions = SCHEDULED

    @property
    def stages(self) -> Stages:
        return Stages.of(self.chip)

    def mapper(self, chip: ChipTensors) -> Mapper:
        splits = self.software.split_k if self.chip.memory_system == "register-flat" else (1,)
        return Mapper(
            self.stages, chip, self.software.overlap, splits, self.objective, effort=self.effort, keep=self.keep
        )

    def numbers(self, shapes: Sequence[KernelShape]) -> tuple[ChipTensors, RateTensors]:
        """The chip's numbers for these kernels, with what `adjust` makes of them."""
        dtypes = [engine_dtype(shape, self.chip, self.software) for shape in shapes]
        tensors, rates = self.tensors, rate_tensors([self.chip], [self.software], dtypes, self.conditions)
        return (tensors, rates) if self.adjust is None else self.adjust(tensors, rates, dtypes)

    def found(self, shapes: Sequence[KernelShape]) -> list[Found | None]:
        """What the mapper finds for each shape; None for kernels that only stream."""
        result: list[Found | None] = [None] * len(shapes)
        tiled = [i for i, shape in enumerate(shapes) if shape.problem is not None]
        last = self.chip.on_chip[-1].usable_bytes
        for members in _grouped(tiled, lambda i: _alike(shapes[i], last)):
            some = [shapes[i] for i in members]
            tensors, rates = self.numbers(some)
            for index, by_chip in zip(members, self.mapper(tensors).search(some, rates), strict=True):
                result[index] = by_chip[0]
                if not by_chip[0].mappings:
                    raise CapacityError(_nothing_fits(shapes[index], self.chip, self.software))
        return result

    def price(self, shapes: Sequence[KernelShape], mappings: Sequence[Mapping | None]) -> list[Group]:
        """What each shape costs with its mapping (None: it only streams), in groups that are evaluated together."""

        def key(index: int) -> object:
            chosen, problem = mappings[index], shapes[index].problem
            return None if chosen is None or problem is None else (problem.structure, chosen.nesting)

        return [self._group(members, shapes, mappings) for members in _grouped(range(len(shapes)), key)]

    def _group(self, members: list[int], shapes: Sequence[KernelShape], mappings: Sequence[Mapping | None]) -> Group:
        some = [shapes[i] for i in members]
        tensors, rates = self.numbers(some)
        kernels = pack(some, tensors.clock.device)
        chosen = [m for m in (mappings[i] for i in members) if m is not None]
        if chosen:
            movement, cost, held = price_mappings(self.mapper(tensors), kernels, some, chosen, rates)
            outermost = self.stages.stored[0]
            copies = self.chip.cores.count.value if self.stages.is_own(self.stages.level(outermost)) else 1.0
            return Group(members, movement, cost, held * copies)
        tiling = streaming(self.stages, kernels.work)
        own = fixed(kernels, tiling.split, self.stages, tensors, rates)
        movement = move(kernels, tiling, own, tensors)
        return Group(members, movement, evaluate(movement, kernels, tensors, rates, self.software.overlap))


def price_mappings(
    own: Mapper, kernels: KernelTensors, shapes: Sequence[KernelShape], mappings: Sequence[Mapping], rates: RateTensors
) -> tuple[Movement, Cost, Tensor]:
    """Kernels of one structure, each with a mapping of one nesting: see `found.price`."""
    problems = ProblemTensors.of(shapes, kernels.work.device)
    table = torch.tensor([m.tiles for m in mappings], dtype=torch.float64, device=kernels.work.device)
    tiles = [[table[:, stage, d : d + 1] for d in range(table.shape[2])] for stage in range(table.shape[1])]
    split = torch.tensor([[float(m.split)] for m in mappings], dtype=torch.float64, device=kernels.work.device)
    pricing = Pricing(own.stages, own.chip, own.overlap, own.buffers)
    return price(kernels, problems, pricing, mappings[0].nesting, tiles, split, rates)


def streaming(stages: Stages, like: Tensor) -> Tiling:
    """Nothing is tiled: all that moves, moves once."""
    zero, one = torch.zeros_like(like), torch.ones_like(like)
    return Tiling(
        stages=stages,
        boundaries=tuple((zero, zero, zero, zero) for _ in stages.stored),
        holds=tuple(zero for _ in stages.stored),
        tile=(one, one, one),
        split=one,
        shared=(one, one, one) if stages.spatial is not None else None,
    )


def _alike(shape: KernelShape, on_chip: float) -> object:
    """Kernels that are searched together: of one structure, with the same dimensions worth tiling, and alike in whether
    all they touch fits the chip, which makes the search short."""
    assert shape.problem is not None
    touched = sum(o.footprint_bytes * (1.0 - o.resident) * o.leaves for o in shape.operands)
    fits = touched <= on_chip * shape.available
    return shape.problem.structure, tuple(size > 1 for size in shape.problem.sizes), fits


def _grouped(members: Iterable[int], key: Callable[[int], object]) -> list[list[int]]:
    groups: dict[object, list[int]] = {}
    for index in members:
        groups.setdefault(key(index), []).append(index)
    return list(groups.values())


def _choice(
    shape: KernelShape, mapping: Mapping | None, found: Found | None, group: Group, row: int, chip: Chip
) -> Choice:
    move, cost = group.movement, group.cost
    count = len(group.members)

    def at(tensor: Tensor) -> float:
        return float(tensor.expand(count, 1, 1, 1)[row, 0, 0, 0])

    stretch = at(cost.stretch)
    return Choice(
        latency_s=at(cost.latency_s),
        core_s=at(cost.core_s),
        external_s=at(cost.external_s),
        overhead_s=at(cost.overhead_s),
        resources_s={name: at(seconds) * stretch for name, seconds in move.core_s.items()},
        stretch=stretch,
        read_bytes=tuple(map(at, move.read_bytes)),
        write_bytes=tuple(map(at, move.write_bytes)),
        level_energy_j=tuple(map(at, cost.level_energy_j)),
        compute_energy_j=at(cost.compute_energy_j),
        unattributed_energy_j=at(cost.unattributed_energy_j),
        static_energy_j=at(cost.static_energy_j),
        operand_far_bytes=tuple(map(at, move.operand_far_bytes)),
        tile=(1.0, 1.0, 1.0, 1.0),
        shape=shape,
        mapping="streamed" if mapping is None else describe(shape, mapping, chip),
        candidates=1 if found is None else found.candidates,
        legal=1 if found is None else found.legal,
        reason="only one way" if found is None else _reason(found),
        chosen=mapping,
        held_bytes=0.0 if group.held is None else at(group.held),
    )


def describe(shape: KernelShape, mapping: Mapping, chip: Chip) -> str:
    """A mapping in words: the tile each level holds, cores that share a sum, and what stays put."""
    assert shape.problem is not None
    names = shape.problem.structure.names
    stages, parts = Stages.of(chip), []
    for stage in stages.stored:
        tile = " ".join(
            f"{name}{size}"
            for name, size, whole in zip(names, mapping.tiles[stage], shape.problem.sizes, strict=True)
            if whole > 1
        )
        level = chip.memory[stages.level(stage)].name
        parts.append(f"tile {tile}" if len(stages.stored) == 1 else f"{level} {tile}")
    if stages.spatial is not None:
        around, own = mapping.tiles[stages.spatial - 1], mapping.tiles[stages.spatial]
        shares = [(name, -(-a // o)) for name, a, o in zip(names, around, own, strict=True) if a > o]
        if shares:
            parts.append("cores share " + " ".join(f"{name}/{count}" for name, count in shares))
    if mapping.split > 1:
        parts.append(f"k split over {mapping.split}")
    still = stationary(shape, mapping)
    return ", ".join([*parts, *([f"{still} stationary"] if still else [])])


ROLES = ("first factor", "second factor", "result")


def stationary(shape: KernelShape, mapping: Mapping) -> str:
    """The operand that stays put in the outermost tile while the others stream past: the one that lacks the innermost
    loop with more than one trip."""
    assert shape.problem is not None
    structure = shape.problem.structure
    if shape.kind == "attention":
        return ""
    for d in reversed(mapping.nesting.orders[0]):
        if mapping.tiles[0][d] < shape.problem.sizes[d]:
            lacking = [o for o, pattern in enumerate(structure.patterns) if d not in pattern.dims]
            return ROLES[lacking[0]] if len(lacking) == 1 and len(structure.patterns) == 3 else ""
    return ""


def _reason(found: Found) -> str:
    second = next((m for m in found.measures[1:] if m > found.measures[0] * _FULL_SIZE), None)
    margin = (
        ""
        if second is None or found.measures[0] <= 0
        else f", next best +{(second / found.measures[0] - 1) * 100:.2g} %"
    )
    return f"best of {found.legal} legal of {found.candidates}{margin}"


def _nothing_fits(shape: KernelShape, chip: Chip, software: Software) -> str:
    """Which level, which operand, how many bytes are missing, with tiles as small as they get."""
    assert shape.problem is not None
    stages, problems = Stages.of(chip), ProblemTensors.of([replace(shape, available=1.0)])
    ones = [[torch.ones(1, 1, dtype=torch.float64) for _ in problems.sizes] for _ in stages.levels]
    along = extents_of(problems, stages, [list(dim) for dim in zip(*ones, strict=True)])
    values = Listed(problems.structure, nestings(problems.structure, stages)[0], along)
    for position, (held, stage) in enumerate(zip(quantities(problems, stages).holds, stages.stored, strict=True)):
        level = chip.memory[stages.level(stage)]
        free = level.usable_bytes_per_copy if stages.is_own(stages.level(stage)) else level.usable_bytes
        free *= shape.available if position == 0 else 1.0
        needed = float(values.value(held))
        if needed > free:
            largest = max(range(len(shape.operands)), key=lambda o: shape.problem.element_bytes[o])  # type: ignore[union-attr]
            role = shape.operands[largest].role.replace("_", " ")
            return (
                f"no tiling of a {shape.kind} with {_sizes(shape)} fits {level.name} of {chip.name}: even tiles of one "
                f"element need {needed:.0f} bytes twice buffered, {free:.0f} are free, "
                f"so {needed - free:.0f} are missing; "
                f"the largest is the {role} with {shape.problem.element_bytes[largest]:.0f} bytes an element"
            )
    return f"no tiling of a {shape.kind} with {_sizes(shape)} fits {chip.name}"


def _sizes(shape: KernelShape) -> str:
    assert shape.problem is not None
    return ", ".join(f"{n} = {s}" for n, s in zip(shape.problem.structure.names, shape.problem.sizes, strict=True))
