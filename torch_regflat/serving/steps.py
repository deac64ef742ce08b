"""What one forward pass costs: the one place where requests and served models meet the profiler."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InputError
from ..hardware.chip import Chip
from ..hardware.library import load
from ..hardware.software import Software
from ..layout import Layout
from ..pipeline import round_s
from ..profiler import Captured, capture_model
from ..result import ChipResult, KernelCost, ends
from ..schedule.modes import Execution
from ..schedule.run import run_all
from ..schedule.select import check
from ..served import StepCost, total

ONE = Layout()


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass: each of `batch` sequences brings `new` tokens to the `cached` ones that it has.

    Logits are computed of the last `logits` of the new tokens.
    """

    batch: int
    new: int = 1
    cached: int = 0
    logits: int = 1

    @property
    def phase(self) -> str:
        if not self.cached:
            return "prefill"
        return "decode" if self.new == 1 else "extend"

    @property
    def lengths(self) -> dict[str, int]:
        """As `capture_model` takes them."""
        if self.phase == "prefill":
            return {"seq_len": self.new}
        return {"context": self.cached} if self.phase == "decode" else {"seq_len": self.new, "context": self.cached}


@dataclass(frozen=True)
class Model:
    """A model and how it is priced: the options of `profile_model` but for sizes and chips. Captures are kept."""

    spec: str | nn.Module
    dtype: str | None = None
    kv_dtype: str | None = None
    weights: str | None = None
    activations: str | None = None
    routing_skew: float = 0.0
    mode: str = "serving"
    software: str | Path | Software | None = None
    strict: bool = False
    trust_remote_code: bool = False
    hints: Any = None
    shared: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What was made of the model for one chip and serves for others too."""
    _captured: dict[tuple[Step, Layout], Captured] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        if isinstance(self.spec, str):
            return self.spec
        return getattr(getattr(self.spec, "config", None), "name_or_path", "") or type(self.spec).__name__

    def captured(self, step: Step, layout: Layout = ONE) -> Captured:
        """The pass as kernels, before any chip."""
        found = self._captured.get((step, layout))
        if found is None:
            while sum(len(one.kernels) for one in self._captured.values()) > _KEPT:
                del self._captured[next(iter(self._captured))]
            found = self._captured[step, layout] = self._capture(step, layout)
        return found

    def _capture(self, step: Step, layout: Layout) -> Captured:
        names = ("dtype", "kv_dtype", "weights", "activations", "routing_skew", "mode", "strict", "trust_remote_code")
        options = {name: getattr(self, name) for name in (*names, "hints")}
        sizes: dict[str, Any] = {"batch": step.batch, "logits": step.logits, **step.lengths}
        divided = None if layout == ONE else layout
        return capture_model(self.spec, phase=step.phase, layout=divided, **sizes, **options)


_KEPT = 100_000
"""Kernels in captures that are kept for the next chip; the oldest are dropped."""


def model_of(given: str | nn.Module | Model, options: dict[str, Any]) -> Model:
    """A model by name or module, with its options; or one whose captures are to be used again."""
    if not isinstance(given, Model):
        return Model(given, **options)
    if options:
        raise InputError(f"{', '.join(options)}: a Model has its own options; give them to it")
    return given


class Steps:
    """Prices passes of one model on chips of one kind, each of them once."""

    def __init__(self, model: Model, chip: str | Path | Chip) -> None:
        self.model, self.chip = model, load(chip)
        check(self.chip)
        self.execution = Execution.of(model.mode, model.software, [self.chip])
        self.interval = ""
        self.dtype = ""
        self.peak_flops = 0.0
        self.notes: tuple[str, ...] = ()
        self._whole: dict[tuple[Step, Layout], StepCost] = {}
        self._known: dict[tuple[Step, Layout], tuple[StepCost, StepCost]] = {}

    def cost(self, step: Step, layout: Layout = ONE) -> StepCost:
        """What a pass costs."""
        return self.costs([step], layout)[0]

    def costs(self, steps: Sequence[Step], layout: Layout = ONE) -> list[StepCost]:
        """What each of some passes costs; those that are new are priced together."""
        found = []
        for step, (rest, attention) in zip(steps, self.split(steps, layout), strict=True):
            if (step, layout) not in self._whole:
                self._whole[step, layout] = total([(rest, 1.0), (attention, 1.0)])
            found.append(self._whole[step, layout])
        return found

    def split(self, steps: Sequence[Step], layout: Layout = ONE) -> list[tuple[StepCost, StepCost]]:
        """The same in two: what does not depend on which tokens are in a sequence together, and attention."""
        new = [step for step in dict.fromkeys(steps) if (step, layout) not in self._known]
        for start in range(0, len(new), _TOGETHER):
            some = new[start : start + _TOGETHER]
            captured = [self.model.captured(step, layout) for step in some]
            results = self._price(captured)
            self.notes, self.dtype = captured[0].labels.notes, captured[0].labels.dtype
            for step, result in zip(some, results, strict=True):
                self.interval, self.peak_flops = str(result.interval), result.peak_flops_per_s
                self._known[step, layout] = step_cost(result, layout)
        return [self._known[step, layout] for step in steps]

    def _price(self, captured: Sequence[Captured]) -> list[ChipResult]:
        chip, mode = self.chip, self.execution.mode
        jobs = [one.jobs(chip) for one in captured]
        flat = [job for some in jobs for job in some]
        found = iter(run_all(flat, chip, self.execution.software_of(chip), conditions=mode.conditions))
        return [
            one.result(list(itertools.islice(found, len(some))), chip)
            for one, some in zip(captured, jobs, strict=True)
        ]


_TOGETHER = 16
"""Passes priced at once, which bounds memory."""


def step_cost(result: ChipResult, layout: Layout = ONE) -> tuple[StepCost, StepCost]:
    """The cost of a pass from the profile of one chip of each stage: without attention, and of attention.

    Both need the whole memory. With stages it is the pass of one of as many groups of sequences as there are stages,
    which follow one another: none is done before the slowest stage has had all of them (`pipeline.round_s`).
    """
    attention = [kernel.kind == "attention" for kernel in result.kernels]
    return _cost(result, layout, [not is_ for is_ in attention]), _cost(result, layout, attention)


def _cost(result: ChipResult, layout: Layout, chosen: Sequence[bool]) -> StepCost:
    kernels, fit = list(itertools.compress(result.kernels, chosen)), result.fit
    low, high = ends(((kernel, 1.0) for kernel in kernels), result.interval)
    bounds: dict[str, list[float]] = {}
    for kernel in kernels:
        bounds.setdefault(kernel.bound_by, []).append(kernel.latency_s)
    links = frozenset(link.name for link in result.links)
    energy = _energy(kernels, result.levels[-1].name, links)
    uneven = _uneven(result)
    return StepCost(
        seconds=math.fsum(kernel.latency_s for kernel in kernels) * uneven,
        low_s=None if low is None else low * uneven,
        high_s=None if high is None else high * uneven,
        energy_j={part: joules * layout.tp * layout.dp for part, joules in energy.items()},
        bound_s={name: math.fsum(times) * uneven for name, times in bounds.items()},
        executed_flops=math.fsum(kernel.executed_flops for kernel in kernels) * layout.tp * layout.dp,
        weights_bytes=fit.weights_bytes,
        kv_cache_bytes=fit.kv_cache_bytes,
        activations_bytes=fit.activations_bytes,
        has_bytes=fit.has_bytes,
    )


def _uneven(result: ChipResult) -> float:
    """How much longer a round takes than once through all stages, because one of them is slower than the others."""
    stages = () if result.parallel is None else result.parallel.stages_s
    whole = math.fsum(stages)
    return round_s(stages, len(stages)) / whole if whole else 1.0


def _energy(kernels: Sequence[KernelCost], external: str, links: frozenset[str]) -> dict[str, float]:
    """Joules of one chip of each stage by part; see `StepCost`."""
    parts: dict[str, list[float]] = {}
    for kernel in kernels:
        for part, joules in _parts(kernel, external, links):
            parts.setdefault(part, []).append(joules)
    return {part: math.fsum(joules) for part, joules in parts.items()}


def _parts(kernel: KernelCost, external: str, links: frozenset[str]) -> list[tuple[str, float]]:
    moved = kernel.operand_bytes if sum(kernel.operand_bytes.values()) > 0 else {"activation": 1.0}
    joules, everything = kernel.memory_energy_j.get(external, 0.0), math.fsum(moved.values())
    found = [(role, joules * bytes_ / everything) for role, bytes_ in moved.items()]
    found += [("network" if n in links else n, e) for n, e in kernel.memory_energy_j.items() if n != external]
    return [
        *found,
        ("arithmetic", kernel.compute_energy_j),
        ("static", kernel.static_energy_j),
        ("unattributed", kernel.unattributed_energy_j),
    ]
