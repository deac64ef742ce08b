"""Kernels of a workload in time, on a chip: a schedule made of their prices and their residency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...hardware.chip import Chip
from .channel import Segment
from .graph import Machine
from .place import Placer
from .records import (
    BANDWIDTH,
    DEPENDENCY,
    KERNEL,
    LAUNCH,
    NETWORK,
    PORTS,
    STORES,
    Placed,
    Schedule,
    Timing,
    Transfer,
    latest,
    number,
)

if TYPE_CHECKING:
    from ..residency import Residency
    from ..select import Choice

_NOT_EXTERNAL = (LAUNCH, DEPENDENCY, NETWORK, PORTS)
"""Causes of waiting that are not the external memory's."""
_LATE = 1e-6
"""Share of a kernel's time from which on waiting counts as what bounds it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A kernel's place in time. `share_s` is its exclusive part of the makespan; `waited_for` what made it late."""

    start_s: float
    end_s: float
    share_s: float
    waited_for: str


ENGINES, LINKS = 0, 1
"""What kernels run on: the engines of the chip one after the other, exchanges on its links likewise."""


def slots_of(chip: Chip, choices: Sequence[Choice], places: Sequence[Residency]) -> list[Slot]:
    """When kernels run, in program order; their shares add up to the makespan."""
    if chip.memory_system != "cache":
        return _slots(placed(chip, choices, places))
    return beside(choices, places) if any(place.exchanges for place in places) else serial(choices)


def serial(choices: Sequence[Choice]) -> list[Slot]:
    """Kernels of one stream: each starts when the one before has ended. Overlap inside a kernel is in its latency."""
    slots = []
    now = 0.0
    for choice in choices:
        slots.append(Slot(now, now + choice.latency_s, choice.latency_s, ""))
        now += choice.latency_s
    return slots


def beside(choices: Sequence[Choice], places: Sequence[Residency]) -> list[Slot]:
    """Kernels of one stream, and exchanges of another beside them: each also waits for those it comes `after`."""
    free = [0.0, 0.0]
    spans: list[tuple[float, float]] = []
    for choice, place in zip(choices, places, strict=True):
        engine = LINKS if place.exchanges else ENGINES
        start = latest([free[engine], *(spans[before][1] for before in place.after)])
        free[engine] = start + choice.latency_s
        spans.append((start, free[engine]))
    parts = shares(spans, [place.exchanges for place in places], latest(free))
    return [Slot(*span, share, "") for span, share in zip(spans, parts, strict=True)]


def shares(spans: Sequence[tuple[float, float]], exchanges: Sequence[bool], end: float) -> list[float]:
    """Each kernel's exclusive part of the time until `end`, from its start and end.

    A kernel on the engines has the time from the end of the one before it to its own, an exchange what it fills of the
    gaps in which the engines wait: nothing, where it is hidden. What is left at the end belongs to the last kernel.
    """
    found = [0.0 * stop for _, stop in spans]  # scalars of torch where the times are
    links = [i for i, is_exchange in enumerate(exchanges) if is_exchange]
    on_engines = [i for i, is_exchange in enumerate(exchanges) if not is_exchange]
    before, first = 0.0, 0

    def fill(until: float) -> float:
        """Seconds of a gap that exchanges fill."""
        nonlocal first
        filled = 0.0
        for place in range(first, len(links)):
            start, stop = spans[links[place]]
            if not start < until:
                break
            begin = start if start > before else before
            stop = stop if stop < until else until
            if stop > begin:
                found[links[place]] = found[links[place]] + (stop - begin)
                filled = filled + (stop - begin)
            if not spans[links[place]][1] > until:
                first = place + 1
        return filled

    for i in on_engines:
        start, stop = spans[i]
        filled = fill(start)
        found[i] = (stop - before) - filled
        before = stop
    rest = end - before - fill(end) if end > before else 0.0
    last = on_engines[-1] if on_engines else len(spans) - 1
    if rest > 0.0:
        found[last] = found[last] + rest
    return found


def placed(
    chip: Chip, choices: Sequence[Choice], places: Sequence[Residency], *, prefetch: bool = True, overlap: bool = True
) -> Schedule:
    """The schedule of kernels on a chip whose memories are managed: loads ahead of time, in what room there is."""
    standing = places[0].standing_bytes if places else 0.0
    machine = Machine(chip.on_chip[-1].usable_bytes - standing, chip.external.read_bytes_per_s, prefetch, overlap)
    # All kernels share the engines, in program order, which is all that one kernel has to wait for of another; but for
    # exchanges, which run beside them.
    placer = Placer(places[0].data if places else {}, [place.after for place in places], machine)
    parts: dict[int, tuple[float, float, float]] = {}
    for choice, place in zip(choices, places, strict=True):
        assert place.step is not None
        if id(choice) not in parts:
            parts[id(choice)] = port_shares(choice, chip)
        placer.place(place.step, _timing(choice, place, *parts[id(choice)]))
    return _with_links(placer.finish(), choices)


def _with_links(schedule: Schedule, choices: Sequence[Choice]) -> Schedule:
    """What goes over the links as transfers; engines that wait for another task wait for an exchange."""
    for one in schedule.tasks:
        if one.engine == LINKS:
            one.stalls = {}
            schedule.transfers += _sent(one, choices[one.task])
        elif DEPENDENCY in one.stalls:
            one.stalls[NETWORK] = one.stalls.pop(DEPENDENCY)
    return schedule


def _sent(one: Placed, choice: Choice) -> list[Transfer]:
    exchange, collective = choice.exchange, choice.shape.exchange
    assert exchange is not None and collective is not None
    return [
        Transfer(one.task, collective.kind, (), size, [Segment(one.go_s, one.end_s, 1.0)], KERNEL, level)
        for level, size in exchange.sent_bytes.items()
    ]


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
        engine=LINKS if place.exchanges else ENGINES,
    )


def _slots(schedule: Schedule) -> list[Slot]:
    spans = [(one.start_s, one.end_s) for one in schedule.tasks]
    parts = shares(spans, [one.engine == LINKS for one in schedule.tasks], schedule.end_s)
    slots: list[Slot] = []
    for one, share in zip(schedule.tasks, parts, strict=True):
        waited = sum(s for cause, s in one.stalls.items() if cause not in _NOT_EXTERNAL)
        late = waited > number(one.end_s - one.start_s) * _LATE
        slots.append(Slot(one.start_s, one.end_s, share, "external memory" if late else ""))
    if slots and schedule.end_s > latest([one.end_s for one in schedule.tasks]):
        last = max((i for i, one in enumerate(schedule.tasks) if one.engine == ENGINES), default=-1)
        slots[last] = Slot(slots[last].start_s, schedule.end_s, slots[last].share_s, "external memory")
    return slots


def schedule_of(chip: Chip, choices: Sequence[Choice], places: Sequence[Residency]) -> Schedule:
    """Every kernel and transfer in time, by the chip's kind of memory."""
    return streamed(choices, places) if chip.memory_system == "cache" else placed(chip, choices, places)


def streamed(choices: Sequence[Choice], places: Sequence[Residency]) -> Schedule:
    """Kernels on a cache hierarchy: launched, then loading and storing while they compute."""
    result = Schedule()
    exchanging = any(place.exchanges for place in places)
    slots = beside(choices, places) if exchanging else serial(choices)
    before = 0.0
    for index, (choice, place, slot) in enumerate(zip(choices, places, slots, strict=True)):
        go = slot.start_s + choice.overhead_s
        exposed = max(slot.end_s - go - choice.core_s, 0.0)
        stalls = {LAUNCH: choice.overhead_s, BANDWIDTH: exposed}
        if exchanging:
            stalls = {} if place.exchanges else {**stalls, NETWORK: max(slot.start_s - before, 0.0)}
        one = Placed(index, slot.start_s, go, slot.end_s, {c: s for c, s in stalls.items() if s > 0.0}, 0.0, 0.0)
        result.tasks.append(one)
        if place.exchanges:
            one.engine = LINKS
            result.transfers += _sent(one, choice)
        else:
            before = slot.end_s
        moved = choice.read_bytes[-1] + choice.write_bytes[-1]
        busy = min(choice.external_s / (slot.end_s - go), 1.0) if slot.end_s > go else 0.0
        for what, size in (("load", choice.read_bytes[-1]), ("store", choice.write_bytes[-1])):
            if size and busy:
                result.transfers.append(
                    Transfer(index, what, (), size, [Segment(go, slot.end_s, busy * size / moved)], KERNEL)
                )
        result.end_s = max(result.end_s, slot.end_s)
    return result


def stalls_of(schedule: Schedule) -> dict[str, float]:
    """Seconds in which the engines had nothing to do, by cause; with the computing time they add up to the makespan."""
    found: dict[str, float] = {}
    for one in schedule.tasks:
        for cause, seconds in one.stalls.items():
            found[cause] = found.get(cause, 0.0) + seconds
    ends = {engine: 0.0 for engine in (ENGINES, LINKS)}
    for one in schedule.tasks:
        ends[one.engine] = max(ends[one.engine], float(one.end_s))
    rest = {NETWORK: ends[LINKS] - ends[ENGINES], STORES: float(schedule.end_s) - max(ends.values())}
    for cause, seconds in rest.items():
        if seconds > 0.0:
            found[cause] = found.get(cause, 0.0) + seconds
    return found
