"""`regflat measure` without the command line: rows to time, one after another, into a folder."""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import ChipError, InputError
from ..hardware import library
from ..models import plain
from ..validation.report import describe
from ..validation.rows import Row, WholeModel
from . import sampling
from .device import Calls, Device, Timing, full_precision
from .files import Folder
from .kernels import Networks, Work, nbytes, work_of

SOURCE = "regflat-measure"
"""Rows have the source `regflat-measure/graph-cold` and the like: how they were measured, for `protocols.toml`."""
MODES = ("eager", "compiled", "graph")
PAST_L2 = 2
"""Sets of operands together are so many times the last-level cache."""
MOST_SETS = 32768

Launch = Literal["graph", "eager"]
Cache = Literal["cold", "warm"]


@dataclass(frozen=True)
class Plan:
    """What to measure. `classes` and `models` name those wanted; `minutes` ends the run, `seconds` is for each row."""

    classes: tuple[str, ...] = ()
    rows: int = 640
    seed: int = 0
    launch: Launch = "graph"
    cache: Cache = "cold"
    models: tuple[str, ...] = plain.NAMES
    modes: tuple[str, ...] = MODES
    seconds: float = 1.0
    minutes: float = math.inf

    def listed(self, device: Device, gpu: str) -> list[Row]:
        """The rows of this plan on a device, kernels first."""
        classes = sampling.available(self.classes, device.features)
        found: list[Row] = []
        if self.rows and classes:
            source = f"{SOURCE}/{self.launch}-{self.cache}"
            found += sampling.kernels(classes, self.rows, self.seed, device.features, source=source, gpu=gpu)
        dtype = "bf16" if "bf16" in device.features else "fp16"
        return found + sampling.models(self.models, self.modes, dtype, source=SOURCE, gpu=gpu)


@dataclass
class Outcome:
    """What became of a run: rows measured now, and already there; those skipped with the reason; those left over."""

    measured: int = 0
    before: int = 0
    left: int = 0
    skipped: list[tuple[Row, str]] = field(default_factory=list)

    def lines(self, folder: Folder, device: Device, *, listed: bool) -> list[str]:
        """What to tell the user; `listed` names each skipped row. Raises `InputError` where the folder has no row."""
        if not folder.files():
            why = f": {describe(self.skipped[0][0])}: {self.skipped[0][1]}" if self.skipped else ""
            raise InputError(f"no row was measured{why}")
        found = [f"{self.measured} rows measured on {device.name}, {self.before} there before, in {folder.path}"]
        if self.left:
            found.append(f"{self.left} rows left when the time was up; --resume goes on")
        if self.skipped:
            found.append(f"{len(self.skipped)} rows skipped")
        if listed:
            found += [f"  {row.kind} {describe(row)}: {reason}" for row, reason in self.skipped]
        if not device.facts.get("driver"):
            found.append("no clocks, power or joules: NVML is not there; pip install 'torch_regflat[measure]'")
        return found


OPTIONS = tuple(item.name for item in fields(Plan))


def plan_of(**options: Any) -> Plan:
    """A plan from options of the command line, checked; what is None or empty is as by default."""
    for name, least in (("rows", 0), ("seconds", 0.01), ("minutes", 0)):
        value = options.get(name)
        if value is not None and not value >= least:
            raise InputError(f"--{name} is {value}; it must be {least} or more")
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if given.get("models") == ("none",):
        given["models"] = ()
    plan = Plan(**given)
    sampling.available(plan.classes, ())
    sampling.models(plan.models, (), "", source="", gpu="")
    if not plan.rows and not plan.models:
        raise InputError("nothing to measure: --rows is 0 and --model is none")
    return plan


def folder_of(output: str | None, gpu: str, *, resume: bool) -> Folder:
    """The folder of rows: `output`, or one called after the GPU."""
    return Folder(Path(output or f"measured-{re.sub(r'[^a-z0-9.-]+', '-', Path(gpu).stem.lower())}"), resume=resume)


def gpu_of(device: Device, chip: str) -> str:
    """What goes into the column `gpu`: the chip of this name, file or (`auto`) device; a device that no chip file
    describes keeps its own name.
    """
    if chip != "auto":
        loaded = library.load(chip)
        return chip if chip.endswith(".toml") else loaded.name
    with suppress(ChipError):
        return library.load(device.name).name
    return device.name


def measure(
    plan: Plan,
    device: Device,
    folder: Folder,
    gpu: str,
    *,
    progress: Callable[[int, int], None] | None = None,
    networks: Networks | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Time the rows of a plan that the folder does not have, each written as soon as it is known.

    A row that needs more memory than there is, or that PyTorch refuses on this GPU, is skipped. Raises `InputError`
    where the device has failed for good; the rows before are kept.
    """
    rows = plan.listed(device, gpu)
    todo = [row for row in rows if not folder.has(row)]
    outcome = Outcome(before=len(rows) - len(todo))
    nets = networks or Networks(device.device)
    begin = now()
    with full_precision():
        for index, row in enumerate(todo):
            if progress is not None:
                progress(outcome.before + index, len(rows))
            if now() - begin > plan.minutes * 60:
                outcome.left = len(todo) - index
                break
            reason = _one(row, plan, device, folder, nets)
            if reason:
                outcome.skipped.append((row, reason))
            else:
                outcome.measured += 1
    nets.clear()
    return outcome


def _one(row: Row, plan: Plan, device: Device, folder: Folder, networks: Networks) -> str:
    """Measure a row and write it, or say why not."""
    try:
        timing, sets = _timed(row, plan, device, networks)
    except torch.OutOfMemoryError:
        reason = "out of memory"
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    else:
        folder.add(row, timing, sets, device.facts)
        reason = ""
    try:
        device.release()
    except RuntimeError as error:
        raise InputError(f"the GPU has failed ({str(error).splitlines()[0]}); run again with --resume") from error
    return reason


def _timed(row: Row, plan: Plan, device: Device, networks: Networks) -> tuple[Timing, int]:
    if isinstance(row, WholeModel):
        mode = row.source.rpartition("/")[2]
        work = networks.work_of(row, compiled=mode != "eager")
        return device.time(_calls(work, 1), graph=mode == "graph", seconds=plan.seconds), 1
    networks.clear()
    work = work_of(row, device.device)
    sets = sets_of(work, device.l2_bytes) if plan.cache == "cold" else 1
    return device.time(_calls(work, sets), graph=plan.launch == "graph", seconds=plan.seconds), sets


def sets_of(work: Work, l2_bytes: int) -> int:
    """How many sets of operands take turns so that each has left the cache when its turn comes again."""
    with torch.inference_mode():
        operands = work.operands()
        one = nbytes((*operands, work.run(*operands)))
    if one >= 2 * PAST_L2 * l2_bytes:
        return 1
    sets = math.ceil(PAST_L2 * l2_bytes / one) + 1
    if sets > MOST_SETS:
        raise RuntimeError(f"it would take {sets} sets of its {one} bytes to exceed the cache")
    return sets


def _calls(work: Work, sets: int) -> Calls:
    return [functools.partial(work.run, *work.operands()) for _ in range(sets)]
