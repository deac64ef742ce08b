"""Fit constants of a software file to measured kernel rows: a coordinate search, always from the same seed.

A row becomes the operation that a traced model would make and goes through the ordinary pipeline; only the constants
change between evaluations. Held-out shapes and the permanent test set are never fitted to.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch

from torch_regflat.conditions import Conditions
from torch_regflat.cost.chip_tensors import chip_tensors, rate_tensors
from torch_regflat.cost.kernel import evaluate
from torch_regflat.cost.shapes import KernelShape, KernelTensors, pack
from torch_regflat.hardware import library, software
from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.software import Software
from torch_regflat.mapping import MappingBatch
from torch_regflat.memory import cache
from torch_regflat.schedule.narrowing import narrowed
from torch_regflat.schedule.program import places_of
from torch_regflat.schedule.select import candidates, engine_dtype
from torch_regflat.schedule.shape import shape_of
from torch_regflat.validation.protocols import protocol_of
from torch_regflat.validation.rows import Row
from torch_regflat.validation.works import work_of

FIRST_STEP, LEAST_STEP, MOST_STEP = 0.3, 0.01, 0.6
"""Steps of the search, in the logarithm of a constant."""


@dataclass(frozen=True)
class Constant:
    """A number of a software file, by dotted path, with its plausible range. `only` names the variant that has it."""

    path: str
    low: float
    high: float
    start: float
    only: str | None = None


@dataclass
class _Part:
    """Kernels of one menu, packed, and the row that each belongs to."""

    kernels: KernelTensors
    batch: MappingBatch
    dtypes: list[str]
    owners: torch.Tensor


@dataclass
class Group:
    """Rows on one chip with one software, measured in one way, ready to be priced again and again."""

    chip: Chip
    software: Software
    conditions: Conditions
    rows: list[Row]
    parts: list[_Part] = field(default_factory=list)

    def seconds(self, library_: Software) -> torch.Tensor:
        """Predicted seconds `[row]` with the constants of `library_`."""
        tensors = chip_tensors([self.chip], [library_], self.conditions)
        total = torch.zeros(len(self.rows), dtype=torch.float64)
        for part in self.parts:
            rates = rate_tensors([self.chip], [library_], part.dtypes, self.conditions)
            move = cache.move(part.kernels, part.batch, tensors, rates)
            cost = evaluate(move, part.kernels, tensors, rates, library_.overlap)
            latency = torch.where(move.legal, cost.latency_s, math.inf)
            total.index_add_(0, part.owners, latency.flatten(1).amin(1))
        return total


def groups_of(rows: Iterable[Row]) -> list[Group]:
    """Rows by chip, software and conditions, lowered once."""
    found: dict[tuple[str, str, Conditions], Group] = {}
    for row in rows:
        chip, protocol = library.load(row.gpu), protocol_of(row)
        chosen = software.for_chip(chip) if protocol.software is None else software.load(protocol.software)
        conditions = protocol.conditions_of(row, chip)
        found.setdefault((chip.name, chosen.name, conditions), Group(chip, chosen, conditions, [])).rows.append(row)
    for group in found.values():
        lower(group)
    return list(found.values())


def lower(group: Group) -> None:
    """Lower the rows of a group to packed kernels, with the menu of its software."""
    owned: dict[tuple[bool, bool], list[tuple[KernelShape, int]]] = {}
    for index, row in enumerate(group.rows):
        (work,) = work_of(row, group.chip, protocol_of(row).mode).parts
        places = places_of(work.kernels, work.workload, group.chip, group.software, group.conditions)
        for kernel, place in zip(work.kernels, places, strict=True):
            shape = narrowed(shape_of(kernel, place, work.workload), group.chip, group.software)
            owned.setdefault((shape.kind == "attention", shape.grouped), []).append((shape, index))
    for members in owned.values():
        kernels = pack([shape for shape, _ in members])
        dtypes = [engine_dtype(shape, group.chip, group.software) for shape, _ in members]
        owners = torch.tensor([index for _, index in members])
        batch = candidates(kernels, group.chip, group.software)
        group.parts.append(_Part(kernels, batch, dtypes, owners))


def changed(base: Software, constants: Sequence[Constant], values: Sequence[float]) -> Software:
    """The software with these constants; those of another variant are left alone."""
    result = base
    for constant, value in zip(constants, values, strict=True):
        if constant.only not in (None, base.name):
            continue
        if constant.only is None and any(c.path == constant.path and c.only == base.name for c in constants):
            continue
        result = _with(result, constant.path.split("."), value)
    return result


def _with(model: Software, steps: list[str], value: float) -> Software:
    old = getattr(model, steps[0])
    new = _with(old, steps[1:], value) if len(steps) > 1 else old.model_copy(update={"given": value})
    return model.model_copy(update={steps[0]: new})


@dataclass(frozen=True)
class Fitted:
    """Constants by the fit, and the loss it ended with."""

    values: tuple[float, ...]
    loss: float


def fit(
    groups: Sequence[Group],
    constants: Sequence[Constant],
    weight: Callable[[Row], float],
    evaluations: int,
    fixed: dict[str, float] | None = None,
    relative: bool = False,
) -> Fitted:
    """Least weighted mean of |log(predicted / measured)|, each class of rows and each GPU counting alike; or, if
    `relative`, of |predicted / measured - 1| up to 1, each row by its weight.

    `fixed` holds constants (by path; not those of a variant) at a value. Deterministic: one seed, one order.
    """
    generator = random.Random(20260101)
    held = {c: fixed[c.path] for c in constants if fixed and c.path in fixed and not c.only}
    values = [held.get(c, c.start) for c in constants]
    steps = [FIRST_STEP] * len(values)
    free = [i for i, c in enumerate(constants) if c not in held]
    plan = [_weights(group, weight, relative) for group in groups]
    best = _loss(groups, plan, constants, values, relative)
    for round_ in range(evaluations):
        i = free[round_ % len(free)]
        trial = list(values)
        moved = trial[i] * math.exp(generator.gauss(0.0, 1.0) * steps[i])
        trial[i] = min(max(moved, constants[i].low), constants[i].high)
        loss = _loss(groups, plan, constants, trial, relative)
        if loss < best:
            values, best, steps[i] = trial, loss, min(steps[i] * 1.5, MOST_STEP)
        else:
            steps[i] = max(steps[i] * 0.9, LEAST_STEP)
    return Fitted(tuple(values), best)


def _weights(
    group: Group, weight: Callable[[Row], float], relative: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights `[row]` and measured seconds `[row]`."""
    raw = [weight(row) for row in group.rows]
    kinds = ["" if relative else row.group for row in group.rows]
    sums = {kind: sum(w for w, k in zip(raw, kinds, strict=True) if k == kind) for kind in set(kinds)}
    shares = raw if relative else [w / sums[k] if sums[k] else 0.0 for w, k in zip(raw, kinds, strict=True)]
    measured = [row.measured for row in group.rows]
    return torch.tensor(shares, dtype=torch.float64), torch.tensor(measured, dtype=torch.float64)


def _loss(
    groups: Sequence[Group],
    plan: Sequence[tuple[torch.Tensor, torch.Tensor]],
    constants: Sequence[Constant],
    values: Sequence[float],
    relative: bool,
) -> float:
    total = count = 0.0
    for group, (weights, measured) in zip(groups, plan, strict=True):
        ratio = group.seconds(changed(group.software, constants, values)) / measured
        sizes = torch.clamp((ratio - 1.0).abs(), max=1.0) if relative else torch.log(ratio).abs()
        total += float((weights * sizes).sum())
        count += float(weights.sum())
    return total / count


def errors(
    groups: Iterable[Group], constants: Sequence[Constant], values: Sequence[float], keep: Callable[[Row], bool]
) -> list[tuple[Row, float]]:
    """Signed relative errors of the rows that `keep` takes."""
    found = []
    for group in groups:
        seconds = group.seconds(changed(group.software, constants, values)).tolist()
        found += [(row, s / row.measured - 1.0) for row, s in zip(group.rows, seconds, strict=True) if keep(row)]
    return found


def mape(found: Iterable[tuple[Row, float]]) -> str:
    """Mean absolute error in percent, and the number of rows."""
    sizes = [abs(error) for _, error in found]
    return f"{100 * statistics.fmean(sizes):.1f} ({len(sizes)})" if sizes else "-"
