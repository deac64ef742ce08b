"""Continuous batching in steady state, of one lane: the sequences that are decoded, and prefilled, in the same passes.

Every pass gives tokens to each of `d` sequences that decode; as long as a prompt waits, it also reads a chunk of it, or
up to `g` whole prompts where they are short. A request takes K chunks and N = (o - 1) / E passes of decode (E tokens a
pass, 1 without drafts), so a = d / N requests start in a pass. With `t` and `m` the times of a pass without prompts and
with k of them (or a chunk of one):

    prompts a pass that has any     k = a / (1 - exp(-a)), at most g             (g > 1: as many as start in one pass)
    share of passes that have any   f = a K / k, at most 1
    mean pass                       T = (1 - f) t + f m
    requests a second               x = a / T
    time to first token             R = S + (S / g) (u r / 2) / (1 - u r),  S = K m,  u = a K / g
    pass of a sequence that decodes D = t + f r (m - t), a token every D / E
    slots                           b = x (R + N D)                                 (Little's law)

R is the mean value analysis of a first-come-first-served station with a constant service time in a closed network
(M. Reiser, A queueing network analysis of computer communication networks with window flow control, IEEE Trans. Comm.,
1979): each slot takes its next request as soon as its last one is done, and sees of the others r = (b - 1) / b of what
is there on average (P. Schweitzer, 1979).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..served import StepCost, total

Passes = Callable[[float, float], tuple[StepCost, StepCost]]
"""From the number of sequences that decode, and of prompts that are read, to a pass without and one with prompts."""

_NEAR = 1e-5


@dataclass(frozen=True, slots=True)
class Load:
    """What a request asks of a lane: passes that read its prompt, tokens of answer, tokens a pass of decode gives; and
    how many prompts a pass reads at most."""

    chunks: int
    output: int
    tokens: float = 1.0
    together: int = 1

    @property
    def passes(self) -> float:
        """Passes that give the tokens after the first."""
        return (self.output - 1) / self.tokens

    @property
    def most(self) -> float:
        """The most sequences that decode: with more, prompts would be read more slowly than answers end."""
        return self.passes * self.together / self.chunks


@dataclass(frozen=True, slots=True)
class Lane:
    """The steady state of one lane. Times in seconds, rates a second."""

    slots: float
    decoding: float
    requests_per_s: float
    ttft_s: float
    tpot_s: float
    mixed: float
    """Share of passes that read prompts."""
    cost: StepCost
    """Mean pass."""


def steady(slots: int, load: Load, passes: Passes) -> Lane:
    """The steady state of a lane with so many slots, all of them always taken."""
    low, high = 0.0, min(float(slots), load.most)
    found = _at(high, slots, load, passes)
    if found.slots <= slots:  # every pass reads prompts; further slots wait for theirs
        waiting, each = slots - found.decoding, found.cost.seconds / load.tokens
        return replace(found, slots=float(slots), ttft_s=waiting / found.requests_per_s, tpot_s=each)
    while high - low > _NEAR * high:
        middle = (low + high) / 2.0
        found = _at(middle, slots, load, passes)
        low, high = (middle, high) if found.slots < slots else (low, middle)
    return replace(found, slots=float(slots))


def _at(decoding: float, slots: int, load: Load, passes: Passes) -> Lane:
    """The state in which `decoding` sequences decode on average; its slots are what that takes."""
    others = (slots - 1.0) / slots
    starting = decoding / load.passes
    group = min(starting / -math.expm1(-starting), load.together) if load.together > 1 else 1.0
    share = min(starting * load.chunks / group, 1.0)
    plain, mixed = passes(decoding, group)
    seen = passes(decoding * others, min(1.0 + starting * others, load.together))[1]
    mean = total([(plain, 1.0 - share), (mixed, share)])
    rate = starting / mean.seconds
    service = load.chunks * seen.seconds
    busy = min(starting * load.chunks / load.together, 1.0) * others
    ttft = service * (1.0 + busy / 2.0 / max(1.0 - busy, 1e-12) / load.together)
    each = plain.seconds + share * others * (mixed.seconds - plain.seconds)
    return Lane(
        slots=rate * (ttft + load.passes * each),
        decoding=decoding,
        requests_per_s=rate,
        ttft_s=ttft,
        tpot_s=each / load.tokens,
        mixed=share,
        cost=mean,
    )
