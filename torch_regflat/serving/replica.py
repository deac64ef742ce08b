"""One instance of a served model on the chips of a layout: its passes by how many sequences decode, and its memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..layout import Layout
from ..served import Drafting, StepCost, total
from .curve import Curve
from .drafts import Decoding
from .lane import Lane, Load, steady
from .steps import ONE, Step, Steps

CHUNKS = (512, 2048, 8192)
"""Tokens of prompts that a pass reads at most, where that is not given: the best of these is taken."""
MEMORY_USE = 0.9
"""Share of the memory that is used; the default of vLLM (gpu_memory_utilization)."""


@dataclass(frozen=True)
class Traffic:
    """What requests are like: tokens of the prompt, of these cached before, and tokens of the answer."""

    prompt: int
    output: int
    prefix: int = 0
    drafting: Drafting | None = None

    @property
    def new(self) -> int:
        """Tokens of a prompt that are read."""
        return self.prompt - self.prefix

    @property
    def context(self) -> int:
        """Tokens cached at a pass of decode, on average."""
        return self.prompt + (self.output - 1) // 2

    @property
    def longest(self) -> int:
        """Tokens cached at the last pass, its own not counted."""
        return self.prompt + self.output - 2


class Replica:
    """Passes of one instance. Sequences are those of a lane, of which there are `lanes`: its data-parallel groups, and
    as many sets of sequences that are under way in its pipeline at once.
    """

    def __init__(self, steps: Steps, traffic: Traffic, layout: Layout = ONE, memory_use: float = MEMORY_USE) -> None:
        self.steps, self.traffic, self.layout, self.memory_use = steps, traffic, layout, memory_use
        self.decoding = Decoding(steps, traffic.drafting, layout)
        self.decoded = Curve(self._decode)
        self.attention = Curve(self._attention)
        self.rest = Curve(self._rest)
        self.prompts = Curve(self._prompts)

    @property
    def lanes(self) -> int:
        return self.layout.dp * self.layout.pp

    @property
    def given(self) -> int:
        """Tokens that a sequence brings to a pass of decode."""
        return 1 if self.traffic.drafting is None else self.traffic.drafting.length + 1

    def load(self, chunk: int) -> Load:
        """What a request asks of a lane."""
        tokens = 1.0 if self.traffic.drafting is None else self.traffic.drafting.tokens
        new = self.traffic.new
        return Load(math.ceil(new / chunk), self.traffic.output, tokens, max(chunk // new, 1))

    def state(self, slots: int, chunk: int) -> Lane:
        """The steady state of a lane with so many slots."""
        return steady(slots, self.load(chunk), lambda decoding, prompts: self.passes(decoding, prompts, chunk))

    def passes(self, decoding: float, prompts: float, chunk: int) -> tuple[StepCost, StepCost]:
        """A pass in which so many sequences of a lane decode, without and with so many prompts beside them, or a chunk
        of one. Fewer than one sequence: so many of the passes have one."""
        alone = self.prompts.at(prompts) if chunk >= self.traffic.new else self.chunk(chunk)
        share, decoding = min(decoding, 1.0), max(decoding, 1.0)
        plain = self.decoded.at(decoding)
        read = self.traffic.new * prompts / self.load(chunk).chunks
        more = [(self.rest.at(read + decoding * self.given), share), (self.rest.at(read), -share)]
        mixed = total([(alone, 1.0), *more, (self.attention.at(decoding), share)])
        return plain, replace(mixed, **_memory(alone, plain))

    def chunk(self, chunk: int) -> StepCost:
        """A pass that reads one of the equal chunks of a prompt and nothing else, halfway through it."""
        size = math.ceil(self.traffic.new / self.load(chunk).chunks)
        cached = self.traffic.prefix + (self.traffic.new - size) // 2
        return self.steps.cost(Step(self.layout.dp, size, cached), self.layout)

    def reading(self, chunk: int) -> StepCost:
        """All passes that read one prompt of each data-parallel group, and nothing else."""
        load = self.load(chunk)
        one = self.prompts.at(1.0) if load.chunks == 1 else self.chunk(chunk)
        return total([(one, float(load.chunks))])

    def _prompts(self, numbers: Sequence[int]) -> list[StepCost]:
        """Passes that read so many whole prompts and nothing else."""
        traffic, dp = self.traffic, self.layout.dp
        return self.steps.costs([Step(dp * number, traffic.new, traffic.prefix) for number in numbers], self.layout)

    def _decode(self, numbers: Sequence[int]) -> list[StepCost]:
        found = []
        for number in numbers:
            found += self.decoding.costs(number * self.layout.dp, [self.traffic.context])
        tokens = 1.0 if self.traffic.drafting is None else self.traffic.drafting.tokens
        return [total([(cost, tokens)]) for cost in found]  # of a pass, not of a token

    def _attention(self, numbers: Sequence[int]) -> list[StepCost]:
        context, dp, given = self.traffic.context, self.layout.dp, self.given
        steps = [Step(number * dp, given, context, given) for number in numbers]
        return [attention for _, attention in self.steps.split(steps, self.layout)]

    def _rest(self, numbers: Sequence[int]) -> list[StepCost]:
        """Passes over so many tokens without attention, whichever sequences they are of."""
        steps = []
        for number in numbers:
            parts = math.ceil(number / self.traffic.new)
            steps.append(Step(self.layout.dp * parts, math.ceil(number / parts)))
        return [rest for rest, _ in self.steps.split(steps, self.layout)]

    # Memory

    def capacity(self, chunk: int) -> int:
        """Slots of a lane whose caches fit beside the weights, each with room for its longest context."""
        one = self.decoding.costs(self.layout.dp, [self.traffic.longest])[0]
        room = one.has_bytes * self.memory_use - one.weights_bytes
        room -= max(one.activations_bytes, self.chunk(chunk).activations_bytes)
        each = one.kv_cache_bytes * self.layout.pp
        return max(int(room / each), 0) if each else _MANY

    def memory(self, slots: int, chunk: int) -> StepCost:
        """Bytes on the fullest chip with so many slots of a lane taken."""
        one = self.decoding.costs(self.layout.dp, [self.traffic.longest])[0]
        return replace(
            one,
            kv_cache_bytes=one.kv_cache_bytes * self.layout.pp * slots,
            activations_bytes=max(one.activations_bytes, self.chunk(chunk).activations_bytes),
        )


def _memory(one: StepCost, other: StepCost) -> dict[str, Any]:
    names = ("weights_bytes", "kv_cache_bytes", "activations_bytes", "has_bytes")
    return {name: max(getattr(one, name), getattr(other, name)) for name in names}


_MANY = 1 << 20
"""Slots where a sequence needs no cache."""
