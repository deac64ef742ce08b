"""Rows to predictions, through the ordinary pipeline: the operations of a row, its kernels, a chip, a price.

Rows are grouped by chip and conditions, and the kernels of a group are priced together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..conditions import Conditions
from ..errors import RegflatError
from ..hardware import library, software
from ..hardware.chip import Chip
from ..hardware.software import Software
from ..result import ChipResult, Fit, KernelCost, ends, heaviest
from ..schedule.modes import Mode
from ..schedule.run import Job, check_dtypes, roofline_s, run_all
from ..schedule.uncertainty import Key, key_of
from .protocols import protocol_of
from .rows import Row, WholeModel
from .works import Part, Work, work_of

_NOT_ASKED = Fit(True, 0, 0, 0, 0, 0)
"""Whether a row fits its chip is not asked: it ran."""
CHUNK = 1024
MODEL_CHUNK = 16
"""Rows, and rows of whole models, priced at once; bounds memory and the steps of a progress bar."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A row and what the model says of it, in the row's quantity (seconds, tokens a second, watts).

    `value` is None where nothing could be predicted, and `reason` says why. `low` and `high` are the ends of the stated
    interval, None for power. `roofline` is the plain datasheet roofline: the larger of FLOPs over dense peak and
    compulsory bytes over bandwidth, of each kernel.
    """

    row: Row
    chip: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    roofline: float | None = None
    bound_by: str = ""
    mapping: str = ""
    reason: str = ""
    cell: Key | None = None
    share: float = 1.0
    """Class and regime of the kernel that takes longest, and the share of the time that kernels of its class have: for
    the spread of residuals."""

    @property
    def error(self) -> float:
        """Signed relative error; -1, so 100 %, for a row that was not predicted."""
        return -1.0 if self.value is None else self.value / self.row.measured - 1.0


@dataclass(frozen=True, slots=True)
class _Setting:
    """What rows that are priced together share."""

    chip: Chip
    software: Software
    conditions: Conditions
    mode: Mode

    def __hash__(self) -> int:
        return hash((self.chip.name, self.software.name, self.conditions, self.mode))


Change = Callable[[Chip, Software], tuple[Chip, Software]]
"""A chip and its software to others, for rows to be priced on."""


def predict(
    rows: Iterable[Row], progress: Callable[[int], None] | None = None, change: Change | None = None
) -> list[Prediction]:
    """A prediction for every row, in their order; `progress` is told how many more are done."""
    listed = list(rows)
    done: dict[int, Prediction] = {}
    groups: dict[_Setting, list[int]] = {}
    chips = {gpu: _chip(gpu) for gpu in dict.fromkeys(row.gpu for row in listed)}
    for index, row in enumerate(listed):
        chip = chips[row.gpu]
        if isinstance(chip, Chip):
            groups.setdefault(_setting(row, chip), []).append(index)
        else:
            done[index] = Prediction(row, reason=chip)
    if progress is not None:
        progress(len(done))
    for setting, members in groups.items():
        if change is not None:
            chip, software = change(setting.chip, setting.software)
            setting = replace(setting, chip=chip, software=software)
        size = CHUNK if not isinstance(listed[members[0]], WholeModel) else MODEL_CHUNK
        for start in range(0, len(members), size):
            some = members[start : start + size]
            done.update(zip(some, _group([listed[i] for i in some], setting), strict=True))
            if progress is not None:
                progress(len(some))
    return [done[i] for i in range(len(listed))]


def _chip(gpu: str) -> Chip | str:
    """The chip of this name, alias or file, or why there is none."""
    try:
        return library.load(gpu)
    except RegflatError as error:
        return str(error)


def _setting(row: Row, chip: Chip) -> _Setting:
    protocol = protocol_of(row)
    chosen = software.for_chip(chip) if protocol.software is None else software.load(protocol.software)
    return _Setting(chip, chosen, protocol.conditions_of(row, chip), protocol.mode)


def _group(rows: list[Row], setting: _Setting) -> list[Prediction]:
    works = [_work(row, setting) for row in rows]
    parts = {id(part): part for work in works if isinstance(work, Work) for part in work.parts}
    priced = dict(zip(parts, _price(list(parts.values()), setting), strict=True))
    return [_read(row, work, priced, setting) for row, work in zip(rows, works, strict=True)]


def _work(row: Row, setting: _Setting) -> Work | str:
    """What a row runs, or why nothing for this chip."""
    try:
        work = work_of(row, setting.chip, setting.mode)
        for part in work.parts:
            check_dtypes(part.kernels, setting.chip)
    except RegflatError as error:
        return str(error)
    return work


def _price(parts: Sequence[Part], setting: _Setting) -> list[ChipResult | str]:
    """Price all together; where that fails one by one, so that one odd row does not take the others with it."""
    jobs = [Job(part.workload, part.kernels, _NOT_ASKED) for part in parts]
    try:
        return list(run_all(jobs, setting.chip, setting.software, conditions=setting.conditions))
    except RegflatError as error:
        if len(jobs) == 1:
            return [str(error)]
    return [found for part in parts for found in _price([part], setting)]


def _read(row: Row, work: Work | str, priced: dict[int, ChipResult | str], setting: _Setting) -> Prediction:
    chip = setting.chip
    if isinstance(work, str):
        return Prediction(row, chip=chip.name, reason=work)
    results = [priced[id(part)] for part in work.parts]
    failed = [found for found in results if isinstance(found, str)]
    if failed:
        return Prediction(row, chip=chip.name, reason=failed[0])
    pairs = [(k, part.weight) for part, found in zip(work.parts, results, strict=True)
             if not isinstance(found, str) for k in found.kernels if work.phase in (None, k.phase)]  # fmt: skip
    seconds = work.seconds(math.fsum(k.latency_s * weight for k, weight in pairs))
    ideal = work.seconds(math.fsum(roofline_s(p.kernels, chip, work.phase) * p.weight for p in work.parts))
    interval = next(found.interval for found in results if not isinstance(found, str))
    low, high = (None if at is None else work.seconds(at) for at in ends(pairs, interval))
    return Prediction(
        row,
        chip=chip.name,
        value=_quantity(row, seconds, math.fsum(k.energy_j * weight for k, weight in pairs)),
        low=_end(row, high if row.quantity == "rate" else low),
        high=_end(row, low if row.quantity == "rate" else high),
        roofline=_roofline(row, ideal, chip),
        bound_by=heaviest((k.bound_by, k.latency_s) for k, _ in pairs),
        mapping=pairs[0][0].mapping if len(pairs) == 1 else "",
        **_cell([k for k, _ in pairs]),
    )


def _cell(kernels: list[KernelCost]) -> dict[str, Any]:
    """The cell of the longest kernel, by the duration of all, and the share of time of its class."""
    if not kernels:
        return {}
    longest = max(kernels, key=lambda k: k.latency_s)
    total = math.fsum(k.latency_s for k in kernels)
    alike = math.fsum(k.latency_s for k in kernels if k.kind == longest.kind)
    return {"cell": key_of(longest.kind, longest.dtype, total, longest.bound_by), "share": alike / total}


def _quantity(row: Row, seconds: float, joules: float) -> float:
    if row.quantity == "latency":
        return seconds
    if row.quantity == "power":
        return joules / seconds
    return getattr(row, "batch", 1) / seconds


def _end(row: Row, seconds: float | None) -> float | None:
    """An end of the interval; of power none is stated."""
    return None if seconds is None or row.quantity == "power" else _quantity(row, seconds, 0.0)


def _roofline(row: Row, seconds: float, chip: Chip) -> float:
    """What the datasheet says alone: of power its limit."""
    return chip.power.limit.value if row.quantity == "power" else _quantity(row, seconds, 0.0)
