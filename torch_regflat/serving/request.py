"""Requests: a prompt, then an answer token by token over a growing context, perhaps many turns of both.

A step of decode is priced at a few contexts and read off straight lines between them (`growth`). So are the chunks of
a prompt, whose cost grows with what is cached before them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..cost import MODEL_VERSION
from ..errors import InputError
from ..hardware.chip import Chip
from ..layout import Layout
from ..profiler import DEFAULT_CHIP, versions
from ..served import Drafting, RequestCost, Requests, StepCost, Turn, total
from .drafts import Decoding, drafting
from .growth import Growth
from .shallow import steps_of
from .steps import ONE, Model, Step, Steps, model_of

ChipLike = str | Path | Chip


@dataclass(frozen=True)
class Ask:
    """What is asked of a model, `turns` times: `prompt` tokens first, `turn_tokens` more each later turn, and `output`
    tokens of answer each. `prefix` tokens of the first prompt are cached already. `chunk` is the most tokens of a
    prompt that one pass reads; `kept`: the cache stays between turns.
    """

    prompt: int
    output: int
    batch: int = 1
    chunk: int | None = None
    prefix: int = 0
    turns: int = 1
    turn_tokens: int = 0
    kept: bool = True
    drafting: Drafting | None = None

    @classmethod
    def of(cls, prompt: int, output: int, *, prefix_share: float = 0.0, **options: Any) -> Ask:
        """Checked. `prefix_share` is the share of the first prompt that is cached already; its last token never is,
        for its logits are needed.
        """
        for name, value in {"prompt": prompt, "output": output, **options}.items():
            if name in ("batch", "turns", "prompt", "output") or (name == "chunk" and value is not None):
                check_whole(name, value)
        if not 0.0 <= prefix_share <= 1.0:
            raise InputError(f"prefix_share is {prefix_share:g}; it is a share of the prompt, 0 to 1")
        if options.get("turns", 1) > 1 and options.get("turn_tokens", 0) < 1:
            raise InputError("later turns read something new; give turn_tokens, 1 or more")
        return cls(prompt, output, prefix=min(round(prompt * prefix_share), prompt - 1), **options)

    def turn(self, index: int) -> tuple[int, int]:
        """(cached, new) tokens at the start of a turn. After an answer its last token is not in the cache yet."""
        before = self.prompt + index * self.output + max(index - 1, 0) * self.turn_tokens
        if not index:
            return self.prefix, self.prompt - self.prefix
        cached = before - 1 if self.kept else 0
        return cached, before + self.turn_tokens - cached

    @property
    def longest(self) -> int:
        """The context at the end, the last token of the answer included."""
        return sum(self.turn(self.turns - 1)) + self.output


def check_whole(name: str, value: Any) -> None:
    """Refuse what is no whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}; it must be a whole number of 1 or more")


class Prefill:
    """Costs of reading tokens on top of cached ones, in chunks."""

    def __init__(self, steps: Steps, batch: int, chunk: int | None, layout: Layout = ONE) -> None:
        self.steps, self.batch, self.chunk, self.layout = steps, batch, chunk, layout
        self._grown: dict[tuple[int, int], Growth] = {}

    def cost(self, cached: int, new: int) -> StepCost:
        """All chunks of `new` tokens on top of `cached` ones."""
        size = min(self.chunk or new, new)
        whole, rest = divmod(new, size)
        parts = [(self._full(size, cached, whole), 1.0)]
        if rest:
            parts.append((self.steps.cost(Step(self.batch, rest, cached + whole * size), self.layout), 1.0))
        return total(parts)

    def _full(self, size: int, cached: int, count: int) -> StepCost:
        """`count` chunks of one size. Those on top of a cache lie on a line, priced at few numbers of chunks."""
        first = self.steps.cost(Step(self.batch, size, cached), self.layout)
        if count == 1:
            return first

        def price(indices: Sequence[int]) -> list[StepCost]:
            return self.steps.costs([Step(self.batch, size, cached + i * size) for i in indices], self.layout)

        return total([(first, 1.0), (Growth(price, 1, max(count - 1, 2)).over(1, count), 1.0)])


class Pricer:
    """Prices what is asked of one model on one chip."""

    def __init__(self, steps: Steps, ask: Ask, layout: Layout = ONE) -> None:
        self.steps, self.ask, self.layout = steps, ask, layout
        self.prefill = Prefill(steps, ask.batch, ask.chunk, layout)
        self.decoding = Decoding(steps, ask.drafting, layout)

    def request(self) -> RequestCost:
        """All turns."""
        ask = self.ask
        starts = [sum(ask.turn(index)) for index in range(ask.turns)]
        grown = self._grown(self.decoding.costs, starts)
        plain = self._grown(self.decoding.plain, starts) if ask.drafting else None
        turns = tuple(self._turn(index, grown) for index in range(ask.turns))
        undrafted = [self._decode(plain, start).seconds for start in starts] if plain is not None else None
        return RequestCost(
            chip=self.steps.chip.name,
            layout=self.layout,
            batch=ask.batch,
            prompt=ask.prompt,
            output=ask.output,
            chunk=ask.chunk,
            prefix=ask.prefix,
            turns=turns,
            kept=ask.kept,
            drafting=ask.drafting,
            undrafted_s=None if undrafted is None else math.fsum(undrafted),
            interval=self.steps.interval,
        )

    def _grown(self, price: Any, starts: list[int]) -> Growth | None:
        """Decode over all contexts that occur; nothing where each answer is the one token that prefill gives."""
        if self.ask.output == 1:
            return None
        low, high = starts[0], starts[-1] + self.ask.output - 2
        return Growth(lambda contexts: price(self.ask.batch, contexts), low, max(high, low + 1))

    def _turn(self, index: int, grown: Growth | None) -> Turn:
        cached, new = self.ask.turn(index)
        start = cached + new
        prefill = self.prefill.cost(cached, new)
        last = start + self.ask.output - 2
        return Turn(
            cached=cached,
            new=new,
            prefill=prefill,
            decode=self._decode(grown, start),
            first_token_s=grown.at(start).seconds if grown else 0.0,
            last_token_s=grown.at(last).seconds if grown else 0.0,
        )

    def _decode(self, grown: Growth | None, start: int) -> StepCost:
        """The tokens after the first: each is read on top of one more than the one before."""
        return total([]) if grown is None else grown.over(start, start + self.ask.output - 1)


class RequestProfile(Requests):
    """`Requests` that print as a table."""

    def __str__(self) -> str:
        from ..report.requests import render

        return render(self)


def profile_request(
    model: str | nn.Module | Model,
    *,
    prompt: int,
    output: int,
    batch: int = 1,
    chips: ChipLike | Sequence[ChipLike] = DEFAULT_CHIP,
    chunk: int | None = None,
    prefix_share: float = 0.0,
    turns: int = 1,
    turn_tokens: int = 0,
    keep_cache: bool = True,
    draft_length: int | None = None,
    acceptance: float = 0.8,
    draft_model: str = "",
    draft_share: float | None = None,
    layout: Layout = ONE,
    **options: Any,
) -> RequestProfile:
    """Price whole requests: a prompt of `prompt` tokens and an answer of `output`, `batch` of them side by side.

    `chunk` splits prompts into passes of so many tokens; `prefix_share` of the first prompt is cached already. With
    `turns`, each later turn reads `turn_tokens` more and answers again, over the cache kept from before, or (with
    `keep_cache` False) reading all anew. With `draft_length`, tokens are drafted by `draft_model`, or at `draft_share`
    of a decoded token's cost, and accepted with probability `acceptance` each.

    `options` are `dtype`, `kv_dtype`, `weights`, `activations`, `routing_skew`, `mode` ("serving" unless given),
    `software`, `strict`, `trust_remote_code` and `hints` of `profile_model`. Raises `InputError` for a length that
    makes no sense or is beyond the model's positions.
    """
    drafts = None
    if draft_length is not None:
        drafts = drafting(draft_length, acceptance, draft_model, draft_share)
    elif draft_model or draft_share is not None:
        raise InputError("a draft model or draft_share drafts nothing without draft_length")
    more = {"turns": turns, "turn_tokens": turn_tokens, "kept": keep_cache, "drafting": drafts}
    ask = Ask.of(prompt, output, batch=batch, chunk=chunk, prefix_share=prefix_share, **more)
    priced = model_of(model, options)
    listed = [chips] if isinstance(chips, (str, Path, Chip)) else list(chips)
    all_steps = [steps_of(priced, chip) for chip in listed]
    found = tuple(Pricer(steps, ask, layout).request() for steps in all_steps)
    return RequestProfile(
        model=priced.name,
        chips=found,
        dtype=all_steps[0].dtype,
        mode=all_steps[0].execution.mode.name,
        model_version=MODEL_VERSION,
        versions=versions(),
        notes=all_steps[0].notes,
    )
