"""Kernels of a workload in time, on a chip: a schedule made of their prices and their residency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...hardware.chip import Chip
from .channel import Segment
from .graph import Machine
from .place import Placer
from .records import BANDWIDTH, DEPENDENCY, KERNEL, LAUNCH, STORES, Placed, Schedule, Timing, Transfer, number

if TYPE_CHECKING:
    from ..residency import Residency
    from ..select import Choice

_LATE = 1e-6
"""Share of a kernel's time from which on waiting counts as what bounds it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A kernel's place in time. `share_s` is its exclusive part of the makespan; `waited_for` what made it late."""

    start_s: float
    end_s: float
    share_s: float
    waited_for: str


def slots_of(chip: Chip, choices: Sequence[Choice], places: Sequence[Residency]) -> list[Slot]:
    """When kernels run, in program order; their shares add up to the makespan."""
    if chip.memory_system == "cache":
        return serial(choices)
    return _slots(placed(chip, choices, places))


def serial(choices: Sequence[Choice]) -> list[Slot]:
    """Kernels of one stream: each starts when the one before has ended. Overlap inside a kernel is in its latency."""
    slots = []
    now = 0.0
    for choice in choices:
        slots.append(Slot(now, now + choice.latency_s, choice.latency_s, ""))
        now += choice.latency_s
    return slots


def placed(
    chip: Chip, choices: Sequence[Choice], places: Sequence[Residency], *, prefetch: bool = True, overlap: bool = True
) -> Schedule:
    """The schedule of kernels on a chip whose memories are managed: loads ahead of time, in what room there is."""
    standing = places[0].standing_bytes if places else 0.0
    machine = Machine(chip.on_chip[-1].usable_bytes - standing, chip.external.read_bytes_per_s, prefetch, overlap)
    # All kernels share the engines, in program order, which is all that one kernel has to wait for of another.
    placer = Placer(places[0].data if places else {}, [()] * len(places), machine)
    shares: dict[int, tuple[float, float, float]] = {}
    for choice, place in zip(choices, places, strict=True):
        assert place.step is not None
        if id(choice) not in shares:
            shares[id(choice)] = port_shares(choice, chip)
        placer.place(place.step, _timing(choice, place, *shares[id(choice)]))
    return placer.finish()


def port_shares(choice: Choice, chip: Chip) -> tuple[float, float, float]:
    """As shares of a kernel's time on chip: all but the port through which loads come into the last memory there, what
    the kernel itself takes of that port, and what its loads take."""
    level, index = chip.on_chip[-1], len(chip.on_chip) - 1
    name = f"{level.name} ports"
    port, core = choice.resources_s.get(name, 0.0), max(choice.resources_s.values(), default=0.0)
    loads = choice.read_bytes[-1]
    own = choice.write_bytes[index] - loads
    through = level.placed_write_bytes_per_s
    across = choice.read_bytes[index] / level.placed_read_bytes_per_s
    if level.shared_port:
        own, across, through = own + choice.read_bytes[index], 0.0, level.placed_read_bytes_per_s
    nominal = max(across, (own + loads) / through)
    if not (port and core and nominal):
        return 1.0, 0.0, 0.0
    # Slower clocks, and cores that share unevenly, stretch all of it.
    stretch = port / nominal / core
    others = max((seconds for resource, seconds in choice.resources_s.items() if resource != name), default=0.0)
    return max(others / core, across * stretch), own / through * stretch, loads / through * stretch


def _timing(choice: Choice, place: Residency, rest: float, port: float, loads: float) -> Timing:
    """Seconds of a kernel's parts: the time its external traffic takes, divided by bytes."""
    assert place.step is not None
    read, write = choice.read_bytes[-1], choice.write_bytes[-1]
    moved = read + write
    evicted = min(sum(size for _, size in place.step.evicted), write)
    second = choice.external_s / moved if moved else 0.0 * choice.external_s
    return Timing(
        core_s=choice.core_s,
        launch_s=choice.overhead_s,
        load_s=second * read,
        store_s=second * (write - evicted),
        evict_s=second * evicted,
        load_bytes=read,
        store_bytes=write - evicted,
        workspace=choice.held_bytes,
        rest=rest,
        port=port,
        loads=loads,
    )


def _slots(schedule: Schedule) -> list[Slot]:
    slots: list[Slot] = []
    before = 0.0
    for one in schedule.tasks:
        waited = sum(s for cause, s in one.stalls.items() if cause not in (LAUNCH, DEPENDENCY))
        late = waited > number(one.end_s - one.start_s) * _LATE
        slots.append(Slot(one.start_s, one.end_s, one.end_s - before, "external memory" if late else ""))
        before = one.end_s
    if slots and schedule.end_s > before:
        last = slots[-1]
        slots[-1] = Slot(last.start_s, schedule.end_s, last.share_s + (schedule.end_s - before), "external memory")
    return slots


def schedule_of(chip: Chip, choices: Sequence[Choice], places: Sequence[Residency]) -> Schedule:
    """Every kernel and transfer in time, by the chip's kind of memory."""
    return streamed(choices) if chip.memory_system == "cache" else placed(chip, choices, places)


def streamed(choices: Sequence[Choice]) -> Schedule:
    """Kernels of one stream on a cache hierarchy: launched, then loading and storing while they compute."""
    result = Schedule()
    for index, (choice, slot) in enumerate(zip(choices, serial(choices), strict=True)):
        go = slot.start_s + choice.overhead_s
        exposed = max(slot.end_s - go - choice.core_s, 0.0)
        stalls = {LAUNCH: choice.overhead_s, BANDWIDTH: exposed}
        result.tasks.append(
            Placed(index, slot.start_s, go, slot.end_s, {c: s for c, s in stalls.items() if s > 0.0}, 0.0, 0.0)
        )
        moved = choice.read_bytes[-1] + choice.write_bytes[-1]
        busy = min(choice.external_s / (slot.end_s - go), 1.0) if slot.end_s > go else 0.0
        for what, size in (("load", choice.read_bytes[-1]), ("store", choice.write_bytes[-1])):
            if size and busy:
                result.transfers.append(
                    Transfer(index, what, (), size, [Segment(go, slot.end_s, busy * size / moved)], KERNEL)
                )
        result.end_s = slot.end_s
    return result


def stalls_of(schedule: Schedule) -> dict[str, float]:
    """Seconds in which the engines had nothing to do, by cause; with the computing time they add up to the makespan."""
    found: dict[str, float] = {}
    for one in schedule.tasks:
        for cause, seconds in one.stalls.items():
            found[cause] = found.get(cause, 0.0) + seconds
    last = max((float(one.end_s) for one in schedule.tasks), default=0.0)
    if float(schedule.end_s) > last:
        found[STORES] = float(schedule.end_s) - last
    return found
