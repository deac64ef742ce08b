"""A discrete-event simulation of continuous batching, pass by pass, that shares nothing with `torch_regflat.serving`.

Each of `slots` users sends its next request as soon as its last one is answered. A pass gives tokens to all sequences
that decode, and reads prompts in the order of their arrival: one chunk of the first, or up to `together` whole ones.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    requests_per_s: float
    ttft_s: float
    tpot_s: float


def simulate(
    slots: int,
    chunks: int,
    output: int,
    pass_s: Callable[[int, int], float],
    *,
    together: int = 1,
    requests: int = 4000,
    seed: int = 0,
) -> Measured:
    """`pass_s(decoding, prompts)` is the time of a pass. Answers are of `output` tokens on average, from half to one
    and a half times as many, so that requests do not stay in step. The first fifth of them is not counted."""
    draw, now = random.Random(seed), 0.0
    waiting: deque[tuple[float, int]] = deque((0.0, chunks) for _ in range(slots))  # (arrived, chunks to read)
    decoding: list[list[float]] = []  # [tokens to come, tokens in all, when the first one came]
    first, each, started = [], [], None
    done = 0
    while done < requests:
        read = [waiting[i] for i in range(min(len(waiting), together))]
        now += pass_s(len(decoding), len(read))
        ended = []
        for sequence in decoding:
            sequence[0] -= 1
            if sequence[0] == 0:
                ended.append(sequence)
        for sequence in ended:
            decoding.remove(sequence)
            done += 1
            if done == requests // 5:
                started = (now, done)
            if started:
                each.append((now - sequence[2]) / sequence[1])
        for _ in read:
            arrived, left = waiting.popleft()
            if left > 1:
                waiting.appendleft((arrived, left - 1))
                continue
            if started:
                first.append(now - arrived)
            more = draw.randint((output - 1) // 2, output - 1 + (output - 1) // 2)
            decoding.append([more, more, now])
        waiting.extend((now, chunks) for _ in ended)
    assert started is not None
    return Measured((done - started[1]) / (now - started[0]), sum(first) / len(first), sum(each) / len(each))
