"""`regflat.serve`: how many tokens a second a model gives on chips of one kind, within targets, in the best layout."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..cost import MODEL_VERSION
from ..errors import CapacityError, InputError
from ..layout import Layout
from ..profiler import DEFAULT_CHIP, versions
from ..progress import counted
from ..served import Disaggregated, Serving, ServingPoint
from ..units import format_bytes, format_duration, parse, parse_duration
from .apart import apart
from .drafts import drafting
from .economics import Economics, costs_of
from .layouts import candidates
from .replica import CHUNKS, MEMORY_USE, Replica, Traffic
from .request import Ask, ChipLike, check_whole
from .search import Found, Search, Targets
from .shallow import steps_of
from .steps import Model, Step, Steps, model_of

Seconds = float | str
_LOOKED_AT = 3
"""Layouts that are searched in full."""


class ServingProfile(Serving):
    """A `Serving` that prints as a table."""

    def __str__(self) -> str:
        from ..report.serving import render

        return render(self)


def serve(
    model: str | nn.Module | Model,
    *,
    chip: ChipLike = DEFAULT_CHIP,
    prompt: int,
    output: int,
    ttft: Seconds | None = None,
    tpot: Seconds | None = None,
    tp: int | None = None,
    ep: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    chips: int | None = None,
    chunk: int | None = None,
    prefix_share: float = 0.0,
    draft_length: int | None = None,
    acceptance: float = 0.8,
    draft_model: str = "",
    draft_share: float | None = None,
    max_batch: int = 1024,
    memory_use: float = MEMORY_USE,
    economics: Economics | str | Path | Mapping[str, Any] | None = None,
    queries_per_s: float | None = None,
    power_budget: float | str | None = None,
    disaggregated: bool = False,
    progress: bool | None = None,
    **options: Any,
) -> ServingProfile:
    """The largest throughput a chip in steady state, over batch and layout, that meets targets.

    Requests have prompts of `prompt` tokens, of which `prefix_share` is cached already, and answers of `output`.
    `ttft` is the mean time to the first token and `tpot` the mean time of each later one, in seconds or as "50 ms".

    The layout is `tp`, `ep`, `pp`, `dp` (see `Layout`; what is not given is 1), or with `chips` the best on so many
    chips that has the given degrees, or with neither the best on a power of two of chips, from the fewest that hold the
    model to four times as many. Deep models are priced from two shallow ones where their layers repeat.

    Each of at most `max_batch` slots of a lane (a data-parallel group, or one of the groups of sequences that follow
    each other through the stages) takes its next request as soon as its last one is answered; caches take
    at most `memory_use` of the memory, and each has room for the longest context. `chunk` is the most tokens of prompts
    that a pass reads; without it the best of 512, 2048 and 8192. Drafts are as in `profile_request`, and `options`
    as there.

    With `disaggregated` the result also has prompts and answers on chips of their own, each in its best layout.

    Where the chip has a price or a rent the result has costs, with the assumptions in `economics`: a file that replaces
    some of those that ship, a mapping of names to values ("3 year", 1.1), or `Economics`. `queries_per_s` asks for the
    fleet that answers so many, `power_budget` (watts, or "20 MW") for what a building with that power can serve.

    Raises `InputError` where no batch meets the targets, with the nearest that can be had, or no layout has as many
    chips, and `CapacityError` where the model fits none of the layouts.
    """
    drafts = None if draft_length is None else drafting(draft_length, acceptance, draft_model, draft_share)
    ask = Ask.of(prompt, output, prefix_share=prefix_share, chunk=chunk, batch=max_batch)
    if output < 2:
        raise InputError("answers of one token are all prefill; profile that phase, or give output 2 or more")
    if not 0.0 < memory_use <= 1.0:
        raise InputError(f"memory_use is {memory_use:g}; it is the share of the memory that is used, above 0, up to 1")
    targets = Targets(_seconds("ttft", ttft), _seconds("tpot", tpot), max_batch)
    assumed = _economics(economics)
    budget = parse(power_budget, "power") if isinstance(power_budget, str) else power_budget
    steps = steps_of(model_of(model, options), chip)
    traffic = Traffic(prompt, output, ask.prefix, drafts)
    asked = _Asked(steps, traffic, targets, CHUNKS if chunk is None else (chunk,), memory_use)
    layouts = asked.layouts(chips, {"tp": tp, "ep": ep, "pp": pp, "dp": dp})
    found = asked.search(layouts, progress)
    if not found:
        raise asked.refusal()
    best, search = found[0], asked.searches[found[0][0]]
    served = ServingProfile(
        model=steps.model.name,
        chip=steps.chip.name,
        prompt=prompt,
        output=output,
        prefix=ask.prefix,
        best=search.limited(best[1].slots, best[1].chunk),
        ttft_target_s=None if ttft is None else targets.ttft_s,
        tpot_target_s=None if tpot is None else targets.tpot_s,
        curve=search.curve(best[1]),
        others=tuple(asked.searches[layout].point(one.slots, one.chunk) for layout, one in found[1:]),
        refused=asked.refused,
        passed_over=asked.passed_over,
        drafting=drafts,
        disaggregated=asked.apart(best[1].chunk) if disaggregated else None,
        chunk_given=chunk is not None,
        memory_use=memory_use,
        dtype=steps.dtype,
        mode=steps.execution.mode.name,
        interval=steps.interval,
        model_version=MODEL_VERSION,
        versions=versions(),
        notes=steps.notes,
    )
    if economics is None and queries_per_s is None and budget is None and assumed.prices(steps.chip) == (None, None):
        return served
    costs = costs_of(served, steps.chip, assumed, queries_per_s=queries_per_s, watts=budget)
    return replace(served, costs=costs)


class _Asked:
    """What is asked, looked for layout by layout; those that cannot do it are kept with the reason."""

    def __init__(
        self, steps: Steps, traffic: Traffic, targets: Targets, chunks: tuple[int, ...], memory_use: float
    ) -> None:
        self.steps, self.traffic, self.targets, self.chunks, self.use = steps, traffic, targets, chunks, memory_use
        self.searches: dict[Layout, Search] = {}
        self.refused: dict[str, str] = {}
        self.passed_over: dict[str, float] = {}

    def layouts(self, chips: int | None, degrees: Mapping[str, int | None]) -> list[Layout]:
        """The layouts to look at."""
        for name, value in {"chips": chips, **degrees}.items():
            if value is not None:
                check_whole(name, value)
        fewest = 1
        if chips is None and not any(degrees.values()):
            one = self.steps.cost(Step(1, 1, self.traffic.longest))
            fewest = max(math.ceil(one.needs_bytes / (one.has_bytes * self.use)), 1)
        return candidates(self.steps.model, chips, degrees, fewest)

    def search(self, layouts: Sequence[Layout], progress: bool | None) -> list[tuple[Layout, Found]]:
        """Those that do it, the best first."""
        found = []
        several = len(layouts) > 1
        with counted("layouts", len(layouts), progress if several else False) as step:
            for layout in self._likely(layouts, step) if several else layouts:
                one = self._one(layout, not several)
                if one is not None:
                    found.append((layout, one))
        return sorted(found, key=lambda pair: (-pair[1].requests_per_s / pair[0].chips, pair[0].chips, str(pair[0])))

    def _likely(self, layouts: Sequence[Layout], step: Callable[[int], None]) -> list[Layout]:
        """The layouts that seem best, by a rough estimate; the others are left out, and that is said."""
        rated: dict[Layout, float] = {}
        chunk = self.chunks[len(self.chunks) // 2]
        for layout in layouts:
            search = Search(Replica(self.steps, self.traffic, layout, self.use), self.targets)
            try:
                rated[layout] = search.estimate(chunk)
            except InputError as error:
                self.refused[str(layout)] = str(error)
            else:
                self.searches[layout] = search
            step(1)
        ordered = sorted(rated, key=lambda layout: (-rated[layout], layout.chips, str(layout)))
        self.passed_over = {str(layout): rated[layout] for layout in ordered[_LOOKED_AT:] if rated[layout]}
        return [layout for i, layout in enumerate(ordered) if i < _LOOKED_AT or not rated[layout]]

    def _one(self, layout: Layout, only: bool) -> Found | None:
        search = self.searches.pop(layout, None)
        try:
            search = search or Search(Replica(self.steps, self.traffic, layout, self.use), self.targets)
            if not search.replica.capacity(min(self.chunks)):
                self.refused[str(layout)] = self._too_large(search.replica)
                return None
            found = search.best(self.chunks)
        except InputError as error:
            if only:
                raise
            self.refused[str(layout)] = str(error)
            return None
        self.searches[layout] = search
        if not found.slots:
            self.refused[str(layout)] = f"alone, a request has {_times(search.alone(self.chunks))}"
            return None
        return found

    def _too_large(self, replica: Replica) -> str:
        needs = replica.memory(1, min(self.chunks))
        return (
            f"a request needs {format_bytes(needs.needs_bytes)} a chip, {format_bytes(needs.weights_bytes)} of it "
            f"weights, and {format_bytes(needs.has_bytes * self.use)} of {format_bytes(needs.has_bytes)} may be used"
        )

    def apart(self, chunk: int) -> Disaggregated:
        """Prompts and answers on chips of their own, in the best of the layouts that fit."""
        replicas = [s.replica for s in self.searches.values() if s.replica.capacity(min(self.chunks))]
        return apart(replicas, self.targets, chunk)

    def refusal(self) -> InputError | CapacityError:
        """No layout does it: none is large enough, or none fast enough."""
        name, chip, targets = self.steps.model.name, self.steps.chip.name, self.targets
        if not self.searches:
            layout, why = list(self.refused.items())[-1]
            return CapacityError(f"{name} does not fit {chip} in any layout; with {layout} {why}")
        asked = [
            f"{word} {format_duration(value)}"
            for word, value in (("ttft", targets.ttft_s), ("tpot", targets.tpot_s))
            if math.isfinite(value)
        ]
        alone = [search.alone(self.chunks) for search in self.searches.values()]
        nearest = min(alone, key=lambda point: max(point.ttft_s / targets.ttft_s, point.tpot_s / targets.tpot_s))
        return InputError(
            f"no batch of {name} on {chip} meets {' and '.join(asked)}; the nearest is one request at a time with "
            f"{nearest.layout}: {_times(nearest)}"
        )


def _economics(given: Economics | str | Path | Mapping[str, Any] | None) -> Economics:
    if isinstance(given, Economics):
        return given
    return Economics.of(given) if isinstance(given, (str, Path)) else Economics.of(changes=given)


def _times(point: ServingPoint) -> str:
    first, later = format_duration(point.ttft_s), format_duration(point.tpot_s)
    return f"its first token after {first} and {later} for each later one"


def _seconds(name: str, value: Seconds | None) -> float:
    if value is None:
        return math.inf
    seconds = parse_duration(value) if isinstance(value, str) else float(value)
    if not seconds > 0.0:
        raise InputError(f"{name} is {value}; it must be longer than 0")
    return seconds
