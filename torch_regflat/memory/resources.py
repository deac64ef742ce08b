"""Seconds of every port, and joules, as sums of products over dimensions too.

They are linear in the bytes that cross boundaries, so a whole product space needs one matrix product for each, instead
of one for each boundary and arithmetic on what comes out. Says the same as `explicit.move`, for one chip whose arrays
do not depend on the tiles (no systolic arrays, no memories of cores); a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cost.chip_tensors import ChipTensors
from .explicit import Fixed
from .quantities import Quantities, Stages
from .sums import Fetch, Sum
from .traffic import Term

Weighted = list[tuple[Sum, Tensor | float]]


@dataclass(frozen=True)
class Resources:
    """Of each port, the seconds that depend on the tiles and those that do not; `joules` that depend on them.

    `holds` are shares of what is free at each stored stage. Sums are per kernel; `fixed_s` are `[kernel, 1, 1, split]`,
    and nothing where they are in the sums already.
    """

    seconds: tuple[Sum, ...]
    fixed_s: tuple[Tensor, ...]
    holds: tuple[Sum, ...]
    joules: Sum


def resources(counted: Quantities, stages: Stages, own: Fixed, chip: ChipTensors) -> Resources | None:
    """The resources of one chip; None where they are not sums."""
    if own.systolic is not None or stages.spatial is not None or chip.clock.numel() > 1:
        return None
    count = len(chip.levels)
    read: list[list[Sum]] = [[] for _ in range(count)]
    written: list[list[Sum]] = [[] for _ in range(count)]
    above = count - 1
    for boundary, stage in zip(counted.boundaries, stages.stored, strict=True):
        inner = stages.level(stage)
        read[above].append(boundary.down)
        written[above].append(boundary.up)
        read[inner].append(boundary.own_up)
        written[inner].append(boundary.own_down)
        above = inner
    seconds: list[Sum] = []
    fixed: list[Tensor] = []
    joules: Weighted = []
    for i, level in enumerate(chip.levels):
        far = i == count - 1
        rate = level.read_bandwidth * own.far_share if far else level.read_bandwidth
        a_byte = _each(1.0 / rate)
        extra = 8.0 * chip.unattributed_bit if far else 0.0
        joules += [(total, float(8.0 * level.read_energy + extra)) for total in read[i]]
        joules += [(total, float(8.0 * level.write_energy + extra)) for total in written[i]]
        if far or bool(level.shared_port > 0):
            seconds.append(_scaled([(total, a_byte) for total in (*read[i], *written[i])]))
            fixed.append((own.read[i] + own.written[i]) / rate)
        else:
            seconds.append(_scaled([(total, a_byte) for total in read[i]]))
            seconds.append(_scaled([(total, float(1.0 / level.write_bandwidth)) for total in written[i]]))
            fixed += [own.read[i] / rate, own.written[i] / level.write_bandwidth]
    if fixed[0].shape[-1] == 1:
        # Nothing depends on a split: what is fixed is one more term.
        for total, always in zip(seconds, fixed, strict=True):
            total.constant = total.constant + always.reshape(-1, 1)
        fixed = []
    room = [free.reshape(-1, 1) for free in own.room]
    holds = tuple(_scaled([(held, 1.0 / free)]) for held, free in zip(counted.holds, room, strict=True))
    return Resources(tuple(seconds), tuple(fixed), holds, _scaled(joules))


def _each(value: Tensor) -> Tensor | float:
    """`[kernel, chip, 1, 1]` of one chip as `[kernel, 1]`; as a number where all kernels share it."""
    listed = value.reshape(-1, 1)
    return float(listed[0]) if bool((listed == listed[0]).all()) else listed


def _scaled(sums: Weighted) -> Sum:
    """The sum of sums times factors, equal parts taken together."""
    constant: Tensor | float = 0.0
    parts: dict[Term | Fetch, Tensor | float] = {}
    for total, factor in sums:
        constant = constant + total.constant * factor
        for weight, part in total.parts:
            parts[part] = parts.get(part, 0.0) + weight * factor
    return Sum(constant, [(weight, part) for part, weight in parts.items()])


def slowest(values: Sequence[Tensor], fixed: Sequence[Tensor], others: Tensor) -> Tensor:
    """Seconds of the busiest resource, `[kernel, candidate, split]`: `values` `[kernel, candidate]` and `fixed` of each
    port, and what does not depend on the tiles."""
    others = others.reshape(others.shape[0], 1, -1)
    if not fixed:
        result = values[0].unsqueeze(-1)
        for value in (*(v.unsqueeze(-1) for v in values[1:]), others):
            torch.maximum(result, value, out=result)
        return result
    result = values[0].unsqueeze(-1) + fixed[0].reshape(others.shape[0], 1, -1)
    for value, always in zip(values[1:], fixed[1:], strict=True):
        torch.maximum(result, value.unsqueeze(-1) + always.reshape(others.shape[0], 1, -1), out=result)
    return torch.maximum(result, others, out=result)
