"""A workload as it is run on one chip: its kernels, fused on chip where that pays, what they find there, and prices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..conditions import SCHEDULED, Conditions
from ..cost.chip_tensors import chip_tensors
from ..cost.shapes import KernelShape
from ..hardware.chip import Chip
from ..hardware.software import Software
from ..units import format_bytes
from ..workload import Workload
from .exchanges import waits_of
from .fused.decide import Options, Watts, with_chains
from .fused.nest import FusedNest
from .kernels import Kernel
from .mapper.found import Objective
from .residency import Residency, cached, graph_of, managed, preloaded, standing_bytes
from .search import choose
from .select import Choice, Shuffle
from .shape import shape_of
from .timeline.bounds import compulsory_bytes
from .timeline.chip import slots_of

STREAM_RESERVE = 0.25
"""Share of a register memory kept free of resident tensors, so that loads can run ahead (a choice of ours)."""


WORTH = 1.0 - 1e-3
"""What fusing must win of the whole run, in the objective or, that being equal, in the other measure."""


class Prices(dict[KernelShape, Choice]):
    """What distinct kernels cost on one chip, and the chains that were fused there, of each workload of the run."""

    chains: tuple[tuple[FusedNest, ...], ...] = ()

    def executed(self, *workloads: list[Kernel]) -> list[Kernel]:
        """The kernels of the run's workloads as they run, one workload after the other."""
        return [k for kernels, fused in zip(workloads, self.chains, strict=True) for k in with_chains(kernels, fused)]


@dataclass(frozen=True, slots=True)
class Program:
    """Kernels in the order in which they run, what each finds on chip, and its shape."""

    kernels: list[Kernel]
    places: list[Residency]
    shapes: list[KernelShape]
    chains: tuple[FusedNest, ...] = ()

    def choices(self, priced: dict[KernelShape, Choice]) -> list[Choice]:
        return [priced[shape] for shape in self.shapes]


@dataclass(frozen=True)
class Scheduler:
    """Makes programs for one chip."""

    chip: Chip
    software: Software
    conditions: Conditions = SCHEDULED
    objective: Objective = "latency"
    shuffle: Shuffle | None = None

    def program(self, kernels: list[Kernel], workload: Workload, chains: Sequence[FusedNest] = ()) -> Program:
        """The program with these chains fused."""
        run = with_chains(kernels, chains) if chains else kernels
        places = places_of(run, workload, self.chip, self.software, self.conditions)
        shapes = [shape_of(kernel, place, workload) for kernel, place in zip(run, places, strict=True)]
        return Program(run, places, shapes, tuple(chains))

    def price(self, programs: Sequence[Program], priced: dict[KernelShape, Choice]) -> None:
        """Add the prices that programs need and that are not known yet, all in one search."""
        self._price([shape for program in programs for shape in program.shapes], priced)

    def _price(self, shapes: Sequence[KernelShape], priced: dict[KernelShape, Choice]) -> None:
        missing = [shape for shape in dict.fromkeys(shapes) if shape not in priced]
        chosen = choose(
            missing, self.chip, self.software, self.objective, self.shuffle, conditions=self.conditions
        )
        priced.update(zip(missing, chosen, strict=True))

    def decided(
        self, jobs: Sequence[tuple[list[Kernel], Workload]], priced: dict[KernelShape, Choice]
    ) -> list[Program]:
        """The best program of each workload. Where software manages the memory, kernels are fused on chip if the whole
        run is better for it, and only then."""
        plain = [self.program(kernels, workload) for kernels, workload in jobs]
        self.price(plain, priced)
        if self.chip.memory_system == "cache":
            return plain
        tried = [self._fused(*job, program, priced) for job, program in zip(jobs, plain, strict=True)]
        self.price([program for some in tried for program in some], priced)
        return [self._best(program, some, priced) for program, some in zip(plain, tried, strict=True)]

    def _best(self, plain: Program, fused: Sequence[Program], priced: dict[KernelShape, Choice]) -> Program:
        """The best of the fused programs, where it is better than the plain one by enough to be worth it."""
        if not fused:
            return plain
        first, second = self.measure(plain, priced)
        measured = sorted(((*self.measure(one, priced), n) for n, one in enumerate(fused)))
        for mine, other, n in measured:
            if mine <= first and (mine < first * WORTH or other < second * WORTH):
                return fused[n]
        return plain

    def _fused(
        self, kernels: list[Kernel], workload: Workload, program: Program, priced: dict[KernelShape, Choice]
    ) -> list[Program]:
        """Programs with chains fused: all that seem worth it, and those of the kind that gains most alone."""
        choices = program.choices(priced)
        tensors = chip_tensors([self.chip], [self.software], self.conditions)
        external = tensors.levels[-1]
        watts = Watts(8.0 * float(external.read_energy + tensors.unattributed_bit), float(tensors.dynamic_power))
        if not self._could_win(program, workload, choices, watts):
            return []
        found = Options(kernels, workload, self.chip, program.places, choices, watts, self.objective)

        def price(shapes: list[KernelShape]) -> list[Choice]:
            self._price(shapes, priced)
            return [priced[shape] for shape in shapes]

        options = found.priced(price)
        gains: dict[object, float] = {}
        for option in options:
            gains[option.kind] = gains.get(option.kind, 0.0) + option.gain_s
        sets = [[option.nest for option in options]] if options else []
        if len(gains) > 1:
            most = max(gains, key=lambda kind: gains[kind])
            sets.append([option.nest for option in options if option.kind == most])
        return [self.program(kernels, workload, chains) for chains in sets]

    def _could_win(self, program: Program, workload: Workload, choices: Sequence[Choice], watts: Watts) -> bool:
        """Whether enough bytes cross the external boundary more than once for it to matter."""
        graph = graph_of(program.kernels, workload, self.chip.on_chip[-1].usable_bytes)
        moved = math.fsum(c.read_bytes[-1] + c.write_bytes[-1] for c in choices)
        more = moved - compulsory_bytes(graph)
        seconds = math.fsum(max(c.core_s, c.external_s) for c in choices)
        joules = math.fsum(math.fsum((*c.level_energy_j, c.compute_energy_j)) for c in choices)
        won = more / self.chip.external.read_bytes_per_s + more * watts.far_j_per_byte / watts.dynamic_w
        return won > (1.0 - WORTH) * seconds or more * watts.far_j_per_byte > (1.0 - WORTH) * joules

    def measure(self, program: Program, priced: dict[KernelShape, Choice]) -> tuple[float, float]:
        """What programs are compared by, and what decides between equals."""
        choices = program.choices(priced)
        seconds = math.fsum(slot.share_s for slot in slots_of(self.chip, choices, program.places))
        joules = math.fsum(
            math.fsum((*c.level_energy_j, c.compute_energy_j, c.unattributed_energy_j)) for c in choices
        ) + seconds * self.chip.power.static.value
        if self.objective == "latency":
            return float(f"{seconds:.12g}"), joules
        return (joules, seconds) if self.objective == "energy" else (joules * seconds, seconds)


def program_of(
    workload: Workload,
    kernels: list[Kernel],
    chip: Chip,
    software: Software,
    conditions: Conditions = SCHEDULED,
    prices: Prices | None = None,
) -> tuple[Program, dict[KernelShape, Choice]]:
    """The program that a run of this workload decides for, and the prices of its kernels; `prices` spare a search."""
    scheduler, priced = Scheduler(chip, software, conditions), Prices(prices or {})
    if prices is None or len(prices.chains) != 1:
        return scheduler.decided([(kernels, workload)], priced)[0], priced
    program = scheduler.program(kernels, workload, prices.chains[0])
    scheduler.price([program], priced)
    return program, priced


def places_of(
    kernels: list[Kernel], workload: Workload, chip: Chip, software: Software, conditions: Conditions = SCHEDULED
) -> list[Residency]:
    """What each kernel finds on this chip, by its memory system's policy and the conditions at the start."""
    last = chip.on_chip[-1].usable_bytes
    if chip.memory_system == "cache":
        places = cached(kernels, workload, last * software.residency_share.value, conditions)
    elif chips_for_weights(kernels, workload, chip) == 1:
        places = preloaded(kernels, workload, last, STREAM_RESERVE)
    else:
        places = managed(kernels, workload, last, STREAM_RESERVE)
    if any(kernel.collective is not None for kernel in kernels):
        for kernel, place, after in zip(kernels, places, waits_of(kernels), strict=True):
            place.exchanges, place.after = kernel.collective is not None, after
    return places


def chips_for_weights(kernels: list[Kernel], workload: Workload, chip: Chip) -> int | None:
    """Chips that hold weights, caches and state together, beside what is kept free for the rest; None where they are
    streamed in every run anyway."""
    if chip.execution.weights != "preloaded":
        return None
    room = chip.on_chip[-1].usable_bytes * (1.0 - STREAM_RESERVE)
    return max(math.ceil(standing_bytes(kernels, workload) / room), 1)


def weights_note(kernels: list[Kernel], workload: Workload, chip: Chip) -> tuple[str, ...]:
    """How a chip that holds weights all along was priced, as a sentence for reports."""
    count, held = chips_for_weights(kernels, workload, chip), standing_bytes(kernels, workload)
    if count is None or not held:
        return ()
    level = chip.on_chip[-1]
    size, room = (format_bytes(value, binary=True) for value in (held, level.usable_bytes))
    about = f"{chip.name} has no DRAM" if chip.external.host else chip.name
    if count == 1:
        return (f"{about}: weights and caches ({size}) lie in its {level.name} before a run and after it",)
    return (
        f"{about}: weights and caches of {size} do not fit the {room} of {level.name} "
        f"with {STREAM_RESERVE:.0%} kept free, which takes {count} chips; priced as one chip that reads them from "
        f"{chip.external.name} in every run",
    )
