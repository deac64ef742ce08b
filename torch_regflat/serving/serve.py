"""`regflat.serve`: how many tokens a second a model gives on chips of one kind, within targets, in the best layout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..cost import MODEL_VERSION
from ..errors import CapacityError, InputError
from ..layout import Layout
from ..profiler import DEFAULT_CHIP, versions
from ..served import Serving, ServingPoint
from ..units import format_bytes, format_duration, parse, parse_duration
from .drafts import drafting
from .economics import Economics, costs_of
from .replica import CHUNKS, MEMORY_USE, Replica, Traffic
from .request import Ask, ChipLike
from .search import Found, Search, Targets
from .steps import ONE, Model, Steps, model_of

Seconds = float | str


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
    layouts: Sequence[Layout] = (ONE,),
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
    **options: Any,
) -> ServingProfile:
    """The largest throughput a chip in steady state, over batch and layout, that meets targets.

    Requests have prompts of `prompt` tokens, of which `prefix_share` is cached already, and answers of `output`.
    `ttft` is the mean time to the first token and `tpot` the mean time of each later one, in seconds or as "50 ms".
    Each of at most `max_batch` slots of a lane takes its next request as soon as its last one is answered; caches take
    at most `memory_use` of the memory, and each has room for the longest context. `chunk` is the most tokens of prompts
    that a pass reads; without it the best of 512, 2048 and 8192. Drafts are as in `profile_request`, and `options`
    as there.

    Where the chip has a price or a rent the result has costs, with the assumptions in `economics`: a file that replaces
    some of those that ship, a mapping of names to values ("3 year", 1.1), or `Economics`. `queries_per_s` asks for the
    fleet that answers so many, `power_budget` (watts, or "20 MW") for what a building with that power can serve.

    Raises `InputError` where no batch meets the targets, with the nearest that can be had, and `CapacityError` where
    the model fits none of the layouts.
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
    steps = Steps(model_of(model, options), chip)
    traffic = Traffic(prompt, output, ask.prefix, drafts)
    chunks = CHUNKS if chunk is None else (chunk,)
    found, refused = _searched(steps, traffic, targets, layouts, chunks, memory_use)
    good = sorted(
        (one for one in found.values() if one.point), key=lambda one: -one.point.tokens_per_s_chip if one.point else 0.0
    )
    if not good:
        raise _refusal(steps, targets, found, refused)
    best = good[0]
    assert best.point is not None
    served = ServingProfile(
        model=steps.model.name,
        chip=steps.chip.name,
        prompt=prompt,
        output=output,
        prefix=ask.prefix,
        best=best.point,
        ttft_target_s=None if ttft is None else targets.ttft_s,
        tpot_target_s=None if tpot is None else targets.tpot_s,
        curve=best.curve,
        others=tuple(one.point for one in good[1:] if one.point),
        refused=refused,
        drafting=drafts,
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


def _economics(given: Economics | str | Path | Mapping[str, Any] | None) -> Economics:
    if isinstance(given, Economics):
        return given
    return Economics.of(given) if isinstance(given, (str, Path)) else Economics.of(changes=given)


def _searched(
    steps: Steps,
    traffic: Traffic,
    targets: Targets,
    layouts: Sequence[Layout],
    chunks: tuple[int, ...],
    memory_use: float,
) -> tuple[dict[Layout, Found], dict[str, str]]:
    """The best of each layout, and why the others cannot do it."""
    found: dict[Layout, Found] = {}
    refused: dict[str, str] = {}
    for layout in layouts:
        replica = Replica(steps, traffic, layout, memory_use)
        if not replica.capacity(min(chunks)):
            refused[str(layout)] = _too_large(replica, min(chunks))
            continue
        found[layout] = Search(replica, targets).best(chunks)
        if found[layout].point is None:
            refused[str(layout)] = f"alone, a request has {_times(found[layout].alone)}"
    return found, refused


def _too_large(replica: Replica, chunk: int) -> str:
    needs = replica.memory(1, chunk)
    return (
        f"a request needs {format_bytes(needs.needs_bytes)} a chip, {format_bytes(needs.weights_bytes)} of it weights, "
        f"and {format_bytes(needs.has_bytes * replica.memory_use)} of {format_bytes(needs.has_bytes)} may be used"
    )


def _times(point: ServingPoint) -> str:
    first, later = format_duration(point.ttft_s), format_duration(point.tpot_s)
    return f"its first token after {first} and {later} for each later one"


def _refusal(
    steps: Steps, targets: Targets, found: dict[Layout, Found], refused: dict[str, str]
) -> InputError | CapacityError:
    """No layout does it: none is large enough, or none fast enough."""
    name, chip = steps.model.name, steps.chip.name
    if not found:
        layout, why = list(refused.items())[-1]
        return CapacityError(f"{name} does not fit {chip} in any layout; with {layout} {why}")
    asked = [
        f"{word} {format_duration(value)}"
        for word, value in (("ttft", targets.ttft_s), ("tpot", targets.tpot_s))
        if math.isfinite(value)
    ]
    nearest = min(found.values(), key=lambda one: _excess(one.alone, targets)).alone
    return InputError(
        f"no batch of {name} on {chip} meets {' and '.join(asked)}; the nearest is one request at a time with "
        f"{nearest.layout}: {_times(nearest)}"
    )


def _excess(point: ServingPoint, targets: Targets) -> float:
    return max(point.ttft_s / targets.ttft_s, point.tpot_s / targets.tpot_s)


def _seconds(name: str, value: Seconds | None) -> float:
    if value is None:
        return math.inf
    seconds = parse_duration(value) if isinstance(value, str) else float(value)
    if not seconds > 0.0:
        raise InputError(f"{name} is {value}; it must be longer than 0")
    return seconds


