"""Arithmetic on spans of time: which can share a track, how modules nest, what adds up at each moment."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence


def lanes(name: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[str, list[int]]]:
    """As few tracks as hold all spans without overlaps, named `name`, `name 2`, ...; spans by their index, in time."""
    tracks: list[list[int]] = []
    free: list[tuple[int, int]] = []
    for index in sorted(range(len(spans)), key=lambda i: spans[i]):
        begin, end = spans[index]
        if free and free[0][0] <= begin:
            _, track = heapq.heappop(free)
        else:
            track = len(tracks)
            tracks.append([])
        tracks[track].append(index)
        heapq.heappush(free, (end, track))
    for number, members in enumerate(tracks, 1):
        yield (name if number == 1 else f"{name} {number}"), members


def nested(kernels: Iterable[tuple[str, int, int]]) -> Iterator[tuple[str, int, int]]:
    """Spans of modules from (path, begin, end) of kernels in time: outer ones first, closed where another begins.

    Kernels that overlap are taken as if the later one began where the earlier one ends.
    """
    stack: list[list[int]] = []
    names: list[str] = []
    done: list[tuple[str, int, int]] = []
    now = 0

    def close(depth: int) -> None:
        while len(stack) > depth:
            index, begin = stack.pop()
            done[index] = (done[index][0], begin, now)
            names.pop()

    for path, begin, end in sorted(kernels, key=lambda one: (one[1], one[2])):
        steps = path.split(".")
        pairs = enumerate(zip(names, steps, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), min(len(names), len(steps)))
        close(same)
        for depth in range(same, len(steps)):
            stack.append([len(done), max(begin, now)])
            names.append(steps[depth])
            done.append((".".join(steps[: depth + 1]), 0, 0))
        now = max(now, end)
    close(0)
    yield from done


def sweep(amounts: Iterable[tuple[int, int, float]]) -> list[tuple[int, float]]:
    """Rates a second, from each time (ns) on, of amounts that are spread evenly over (begin, end); ends with 0.

    An amount in no time is spread over one nanosecond.
    """
    changes: dict[int, list[float]] = {}
    for begin, end, amount in amounts:
        if amount:
            end = max(end, begin + 1)
            rate = amount / ((end - begin) * 1e-9)
            changes.setdefault(begin, []).append(rate)
            changes.setdefault(end, []).append(-rate)
    steps: list[tuple[int, float]] = []
    rate, most = 0.0, 0.0
    for time in sorted(changes):
        rate += sum(changes[time])
        most = max(most, rate)
        steps.append((time, rate if rate > 1e-9 * most else 0.0))
    return steps
