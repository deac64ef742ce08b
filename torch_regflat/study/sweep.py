"""`regflat.sweep`: chips or chip parameters x models x phases x batches x contexts, priced together, rows out."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..cost import MODEL_VERSION
from ..errors import CapacityError, InputError, RegflatError
from ..profiler import Captured, capture_model
from ..progress import counted
from ..report.files import check_writable
from ..schedule.run import run_all
from . import rows as tables
from .rows import Row
from .variants import ChipLike, SoftwareLike, Variant, variants

CHUNK = 16
"""Workloads priced at once: equal kernels of all are priced once, and rows are written after each chunk."""

ModelLike = str | nn.Module
DEFAULTS: dict[str, Any] = {"kv_dtype": None, "weights": None, "activations": None, "mode": "graph"}


@dataclass(frozen=True)
class Point:
    """One model in one phase and size: what is captured once, whatever it is priced on."""

    model: ModelLike
    phase: str | None
    batch: int
    context: int | None
    dtype: str | None
    options: tuple[tuple[str, Any], ...]

    @property
    def key(self) -> Row:
        """The columns that say which point a row is of; empty where the model decides."""
        chosen = dict(self.options)
        named = {name: chosen[name] or "" for name in ("kv_dtype", "weights", "activations", "mode")}
        first = {"model": _name(self.model), "phase": self.phase or "", "batch": self.batch, "context": self.context}
        return {**first, "dtype": self.dtype or "", **named, "model_version": MODEL_VERSION}

    def capture(self) -> Captured:
        """The model as kernels."""
        length = "context" if self.phase == "decode" else "seq_len"
        sizes: dict[str, Any] = {length: self.context, "batch": self.batch, "dtype": self.dtype}
        return capture_model(self.model, phase=self.phase, **sizes, **dict(self.options))


def sweep(
    models: ModelLike | Sequence[ModelLike],
    chips: ChipLike | Variant | Sequence[ChipLike | Variant] = "h100-sxm",
    *,
    phases: str | Sequence[str | None] | None = None,
    batches: int | Iterable[int] = 1,
    contexts: int | Iterable[int | None] | None = None,
    parameters: Mapping[str, Sequence[Any]] | None = None,
    software: SoftwareLike | Sequence[SoftwareLike | None] | None = None,
    dtypes: str | Sequence[str | None] | None = None,
    kv_dtype: str | None = None,
    weights: str | None = None,
    activations: str | None = None,
    mode: str = "graph",
    csv: str | Path | None = None,
    progress: bool | None = None,
) -> list[Row]:
    """Price every combination; a list of flat rows (SI units at the end of each name), chips varying fastest.

    `contexts` are the lengths: tokens in the cache of a decode step, tokens of a sequence in every other phase.
    `parameters` change numbers of every chip: `{"memory.registers.capacity": ["1 MiB", "2 MiB"]}`, the paths and values
    being those of `Chip.replace`; columns `set PATH` say which. Each model, phase and size is captured once, and all
    are priced together. What cannot be priced (no tile fits, a format that the chip does not have) is a row with the
    reason in `error` and no figures; unknown names are refused before anything is priced.

    With `csv` rows are kept in that file while it goes on; a sweep that finds it prices only what is not there.
    `progress` is a bar on stderr; by default where that is a terminal. Raises `InputError` for an axis without values
    or a CSV of another `model_version`, `ModelError` and `ChipError` for unknown names.
    """
    options = {"kv_dtype": kv_dtype, "weights": weights, "activations": activations, "mode": mode}
    hardware = variants(chips, parameters, software)
    points = points_of(models, phases, batches, contexts, dtypes, options)
    return fill({} if csv is None else known_rows(csv), points, hardware, csv, progress)


def fill(
    known: dict[tuple[Any, ...], Row],
    points: Sequence[Point],
    hardware: Sequence[Variant],
    csv: str | Path | None = None,
    progress: bool | None = None,
) -> list[Row]:
    """The rows of all points on all hardware; those that `known` lacks are priced and added to it, and to the CSV."""
    wanted = [(point, variant) for point in points for variant in hardware]
    missing = list({_key(p, v): (p, v) for p, v in wanted if _key(p, v) not in known}.values())
    with counted("prices", len(missing), progress) as step:
        for some in _chunks(missing):
            for row in _priced(some, step):
                known[tables.key(row)] = row
            if csv is not None:
                tables.save(csv, list(known.values()))
    return [known[_key(point, variant)] for point, variant in wanted]


def points_of(
    models: Any,
    phases: Any = None,
    batches: Any = 1,
    contexts: Any = None,
    dtypes: Any = None,
    options: Mapping[str, Any] | None = None,
) -> list[Point]:
    """Every combination of the axes as a point. Raises `InputError` for an axis without values, or a bad one."""
    axes = {"models": models, "phases": phases, "batches": batches, "contexts": contexts, "dtypes": dtypes}
    listed = {name: _listed(name, values) for name, values in axes.items()}
    for name in ("batches", "contexts"):
        for value in listed[name]:
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"{name} holds {value!r}; each must be a whole number from 1 on")
    if None in listed["batches"]:
        raise InputError("batches holds None; each must be a whole number from 1 on")
    order = itertools.product(*(listed[n] for n in ("models", "phases", "dtypes", "batches", "contexts")))
    some = tuple({**DEFAULTS, **(options or {})}.items())
    return [Point(model, phase, batch, context, dtype, some) for model, phase, dtype, batch, context in order]


def _listed(name: str, values: Any) -> list[Any]:
    single = isinstance(values, (str, int, nn.Module)) or values is None
    listed = [values] if single else list(dict.fromkeys(values))
    if not listed:
        raise InputError(f"{name} is empty; give at least one")
    return listed


def known_rows(csv: str | Path) -> dict[tuple[Any, ...], Row]:
    """The rows that a CSV holds already. Raises `InputError` for those of another version of the model."""
    check_writable(csv)
    found = tables.load(csv)
    for row in found:
        if row["model_version"] != MODEL_VERSION:
            raise InputError(
                f"{csv} holds rows of model {row['model_version']}, this is model {MODEL_VERSION}; name another file"
            )
    return {tables.key(row): row for row in found}


def _key(point: Point, variant: Variant) -> tuple[Any, ...]:
    return tables.key({**point.key, **variant.key})


def _chunks(missing: list[tuple[Point, Variant]]) -> Iterable[dict[Point, list[Variant]]]:
    """Points with what each is to be priced on, a chunk of points at a time."""
    todo: dict[Point, list[Variant]] = {}
    for point, variant in missing:
        todo.setdefault(point, []).append(variant)
    listed = list(todo.items())
    return (dict(listed[i : i + CHUNK]) for i in range(0, len(listed), CHUNK))


def _priced(some: dict[Point, list[Variant]], step: Callable[[int], None]) -> list[Row]:
    captured = {point: point.capture() for point in some}
    groups: dict[str, tuple[Variant, list[Point]]] = {}
    for point, hardware in some.items():
        for variant in hardware:
            groups.setdefault(str(variant.key), (variant, []))[1].append(point)
    found: list[Row] = []
    for variant, points in groups.values():
        found += _together({point: captured[point] for point in points}, variant)
        step(len(points))
    return found


def _together(works: dict[Point, Captured], variant: Variant) -> list[Row]:
    """Price workloads at once; where that fails one by one, so that one odd point does not take the others with it."""
    heads = [{**point.key, **variant.key} for point in works]
    try:
        jobs = [work.job(variant.chip) for work in works.values()]
        conditions = next(iter(works.values())).mode.conditions
        results = run_all(jobs, variant.chip, variant.software, conditions=conditions)
    except (CapacityError, InputError) as error:
        if len(works) == 1:
            return [{**heads[0], **dict.fromkeys(tables.FIGURES), "bound_by": "", "error": _reason(error)}]
        return [row for point, work in works.items() for row in _together({point: work}, variant)]
    some = zip(heads, results, works.values(), strict=True)
    return [{**head, **tables.figures(result, _tokens(work))} for head, result, work in some]


def _reason(error: RegflatError) -> str:
    return " ".join(str(error).split())


def _tokens(work: Captured) -> int:
    """Tokens (images, sequences) that one run gives: those of all sequences, one of each in a decode step."""
    labels = work.labels
    return (labels.batch or 1) * (1 if labels.phase == "decode" else labels.seq_len or 1)


def _name(model: ModelLike) -> str:
    """A model's name; of a module its class and what its parameters are."""
    if isinstance(model, str):
        return model
    text = ";".join(f"{name}{tuple(t.shape)}{t.dtype}" for name, t in model.state_dict().items())
    return f"{type(model).__name__}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
