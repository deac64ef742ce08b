"""Rows to predictions, through the ordinary pipeline: the operations of a row, its kernels, a chip, a price.

Rows are grouped by chip and conditions, and the kernels of a group are priced together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..conditions import Conditions
from ..errors import RegflatError
from ..hardware import library, software
from ..hardware.chip import Chip
from ..hardware.software import Software
from ..result import ChipResult
from ..schedule.fit import fit
from ..schedule.run import Job, check_dtypes, roofline_s, run_all
from .kernels import Work, work_of
from .protocols import protocol_of
from .rows import Row

CHUNK = 1024
"""Rows priced at once; bounds memory and the steps of a progress bar."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A row and what the model says of it, in the row's quantity (seconds, tokens a second, watts).

    `value` is None where nothing could be predicted, and `reason` says why. `low` and `high` are the ends of the
    stated interval. `roofline` is the plain datasheet roofline: the larger of FLOPs over dense peak and compulsory
    bytes over bandwidth, of each operation.
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


def predict(rows: Iterable[Row], progress: Callable[[int], None] | None = None) -> list[Prediction]:
    """A prediction for every row, in their order; `progress` is told how many more are done."""
    listed = list(rows)
    done: dict[int, Prediction] = {}
    groups: dict[tuple[str, str | None, Conditions], list[int]] = {}
    for index, row in enumerate(listed):
        protocol = protocol_of(row.source, row.is_consensus)
        groups.setdefault((row.gpu, protocol.software, protocol.conditions), []).append(index)
    for (gpu, variant, conditions), members in groups.items():
        for start in range(0, len(members), CHUNK):
            some = members[start : start + CHUNK]
            found = _group([listed[i] for i in some], gpu, variant, conditions)
            done.update(zip(some, found, strict=True))
            if progress is not None:
                progress(len(some))
    return [done[i] for i in range(len(listed))]


def _group(rows: list[Row], gpu: str, variant: str | None, conditions: Conditions) -> list[Prediction]:
    try:
        chip = library.load(gpu)
        chosen = software.for_chip(chip) if variant is None else software.load(variant)
    except RegflatError as error:
        return [Prediction(row, reason=str(error)) for row in rows]
    return _kernels(rows, _Setting(chip, chosen, conditions))


def _kernels(rows: list[Row], setting: _Setting) -> list[Prediction]:
    works: list[Work | str] = [_work(row, setting.chip) for row in rows]
    able = [work for work in works if isinstance(work, Work)]
    priced = iter(_price(able, setting))
    return [
        _read(row, work, next(priced) if isinstance(work, Work) else work, setting)
        for row, work in zip(rows, works, strict=True)
    ]


def _work(row: Row, chip: Chip) -> Work | str:
    """The operations of a row, or why there are none for this chip."""
    try:
        work = work_of(row)
        check_dtypes(work.kernels, chip)
    except RegflatError as error:
        return str(error)
    return work


def _price(works: Sequence[Work], setting: _Setting) -> list[ChipResult | str]:
    """Price all together; where that fails one by one, so that one odd row does not take the others with it."""
    jobs = [Job(work.workload, work.kernels, fit(work.workload, setting.chip)) for work in works]
    try:
        return list(run_all(jobs, setting.chip, setting.software))
    except RegflatError as error:
        if len(jobs) == 1:
            return [str(error)]
    return [found for work in works for found in _price([work], setting)]


def _read(row: Row, work: Work | str, result: ChipResult | str, setting: _Setting) -> Prediction:
    if isinstance(work, str) or isinstance(result, str):
        return Prediction(row, chip=setting.chip.name, reason=str(result))
    return Prediction(
        row,
        chip=setting.chip.name,
        value=result.total.latency_s,
        roofline=roofline_s(work.workload, setting.chip),
        bound_by=result.total.bound_by,
        mapping=result.kernels[0].mapping if result.kernels else "",
    )
