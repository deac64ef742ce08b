"""When each kernel runs: one after the other on a cache hierarchy, with loads ahead of time on a register-flat chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .residency import Residency
from .select import Choice


@dataclass(frozen=True, slots=True)
class Slot:
    """A kernel's place in time. `share_s` is its exclusive part of the makespan; `waited_for` what made it late."""

    start_s: float
    end_s: float
    share_s: float
    waited_for: str


def serial(choices: Sequence[Choice]) -> list[Slot]:
    """Kernels of one stream: each starts when the one before has ended. Overlap inside a kernel is in its latency."""
    slots = []
    now = 0.0
    for choice in choices:
        slots.append(Slot(now, now + choice.latency_s, choice.latency_s, ""))
        now += choice.latency_s
    return slots


def prefetched(choices: Sequence[Choice], places: Sequence[Residency], capacity: float) -> list[Slot]:
    """Two resources, the external channel and the engines, each in program order.

    The channel loads ahead while what is loaded and not yet used fits beside the resident tensors; a kernel whose
    loads are larger than that streams them while it computes. Results that leave follow their kernel on the channel.
    """
    slots: list[Slot] = []
    ends: list[float] = []
    ahead: list[tuple[int, float]] = []
    """Loads in flight or waiting to be used: (kernel, bytes)."""
    channel = engine = 0.0
    for i, (choice, place) in enumerate(zip(choices, places, strict=True)):
        read, write = choice.read_bytes[-1], choice.write_bytes[-1]
        moved = read + write
        load_s = choice.external_s * (read / moved) if moved else 0.0
        store_s = choice.external_s - load_s
        room = max(capacity - place.occupied_bytes, capacity / 16)
        start = channel
        while ahead and sum(size for _, size in ahead) + min(read, room) > room:
            start = max(start, ends[ahead.pop(0)[0]])
        loaded = start + load_s
        ahead.append((i, min(read, room)))
        begin = max(engine, start if read else engine)
        computed = begin + choice.core_s + choice.overhead_s
        end = max(computed, loaded)
        channel = max(loaded, end if write else loaded) + store_s if write else loaded
        slots.append(Slot(begin, end, end - engine, "external memory" if loaded > computed else ""))
        ends.append(end)
        engine = end
    if slots and channel > engine:
        last = slots[-1]
        slots[-1] = Slot(last.start_s, channel, last.share_s + channel - engine, "external memory")
    return slots
