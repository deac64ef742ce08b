"""Which chains are worth fusing: all are estimated, those picked are priced, and the time line has the last word."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ...cost.shapes import KernelShape
from ...hardware.chip import Chip
from ...workload import Workload
from ..kernels import Kernel
from ..mapper.found import Objective
from ..residency import Residency
from ..select import Choice
from ..shape import shape_of
from .chains import LONGEST, Chain, Chains
from .nest import FusedNest
from .tiles import Cut, best_cut, far_bytes, readers_of

_ENERGY_COUNTS = 0.01
"""What saved joules count, as seconds at the power limit, beside saved seconds: they decide between equals."""
ROUNDS = 4
"""How often at most chains are picked anew once the price of those picked is known."""


def with_chains(kernels: Sequence[Kernel], chains: Sequence[FusedNest]) -> list[Kernel]:
    """The kernels as run, where chains that do not overlap are one kernel each."""
    by_first = {nest.chain.first: nest for nest in chains}
    gone = {i for nest in chains for i in nest.chain.members}
    early = {i for nest in chains for i in nest.chain.before}
    found: list[Kernel] = []
    for kernel in kernels:
        nest = by_first.get(kernel.index)
        if nest is not None:
            found += [replace(kernels[i], index=len(found) + n) for n, i in enumerate(nest.chain.before)]
            found.append(nest.kernel(len(found)))
        elif kernel.index not in gone and kernel.index not in early:
            found.append(replace(kernel, index=len(found)))
    return found


def _near(distance: int) -> int:
    """How many kernels lie between, where they can be in one chain."""
    return max(min(distance, LONGEST), -1)


@dataclass(frozen=True)
class Watts:
    """What external traffic takes of the power that cores could have: joules a byte, and watts of both together."""

    far_j_per_byte: float
    dynamic_w: float


@dataclass(frozen=True)
class Option:
    """A chain that may be worth it."""

    nest: FusedNest
    gain_s: float

    @property
    def kind(self) -> object:
        """Equal for chains of equal kernels that are cut alike."""
        nests = tuple(id(n) for kernel in self.nest.members for op in kernel.operations for n in op.nests)
        return nests, str(self.nest)


@dataclass(frozen=True)
class _Known:
    """A chain by its number among those that start with the same kernel: how many kernels on it ends, and its gain."""

    number: int
    length: int
    gain_s: float


class Options:
    """The chains of one program on one chip that seem to be worth it."""

    def __init__(
        self,
        kernels: Sequence[Kernel],
        workload: Workload,
        chip: Chip,
        places: Sequence[Residency],
        choices: Sequence[Choice],
        watts: Watts,
        objective: Objective = "latency",
    ) -> None:
        self.kernels, self.workload, self.chip = kernels, workload, chip
        self.places, self.choices, self.watts, self.objective = places, choices, watts, objective
        self.capacity = chip.on_chip[-1].usable_bytes - (places[0].standing_bytes if places else 0.0)
        self.second_a_byte = 1.0 / chip.external.read_bytes_per_s
        self.chains = Chains(kernels, workload)
        self.codes = self._codes()
        self._known: dict[object, list[_Known]] = {}

    def priced(self, price: Callable[[list[KernelShape]], list[Choice]]) -> list[Option]:
        """The best chains, each of which gains by its own price."""
        priced: set[tuple[object, int]] = set()
        for _ in range(ROUNDS):
            fresh: dict[tuple[object, int], Option] = {}
            for first, one in self._best():
                if (key := (self._window(first), one.number)) not in priced:
                    fresh.setdefault(key, self._option(first, one))
            if not fresh:
                break
            shapes = [shape_of(o.nest.kernel(0), self._place(o.nest.chain), self.workload) for o in fresh.values()]
            for (window, number), choice in zip(fresh, price(shapes), strict=True):
                gain = self._saved(fresh[window, number].nest.chain, choice)
                self._known[window] = [
                    replace(one, gain_s=gain) if one.number == number else one for one in self._known[window]
                ]
            priced.update(fresh)
        else:
            self._known = {
                window: [one for one in some if (window, one.number) in priced] for window, some in self._known.items()
            }
        return [self._option(first, one) for first, one in self._best()]

    def _best(self) -> list[tuple[int, _Known]]:
        """Chains that do not overlap, with the largest gain in all, and the kernels they start with."""
        count = len(self.kernels)
        gains = [0.0] * (count + 1)
        taken: list[_Known | None] = [None] * count
        for i in range(count - 1, -1, -1):
            gains[i] = gains[i + 1]
            for one in self._starting(i):
                if one.gain_s > 0.0 and one.gain_s + gains[i + one.length] > gains[i]:
                    gains[i], taken[i] = one.gain_s + gains[i + one.length], one
        found, i = [], 0
        while i < count:
            choice = taken[i]
            if choice is not None:
                found.append((i, choice))
            i += 1 if choice is None else choice.length
        return found

    def _option(self, first: int, known: _Known) -> Option:
        """A chain like one that is known, with its own tensors."""
        chain = next(c for n, c in enumerate(self.chains.starting(first)) if n == known.number)
        cut = self._cut(chain)
        assert cut is not None
        nest = FusedNest(chain, tuple(self.kernels[m] for m in chain.members), cut)
        return Option(nest, known.gain_s)

    def _starting(self, first: int) -> list[_Known]:
        """The chains that start with a kernel and seem to gain anything."""
        if not self._spills(first):
            return []
        key = self._window(first)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = []
            for number, chain in enumerate(self.chains.starting(first)):
                cut = self._cut(chain)
                gain = self._gain(chain, cut) if cut is not None else 0.0
                if gain > 0.0:
                    known.append(_Known(number, chain.last - first + 1, gain))
        return known

    def _spills(self, first: int) -> bool:
        """Whether anything that is made in the next kernels leaves the chip, to be read again."""
        return any(self.spilled[first : first + LONGEST])

    def _codes(self) -> list[object]:
        """What makes kernels alike: their nests, what they cost, and which kernels they get their data from."""
        writer: dict[int, int] = {}
        self.spilled = []
        codes: list[object] = []
        for kernel, place, choice in zip(self.kernels, self.places, self.choices, strict=True):
            last = self.chains.last_read
            outside = [
                t for t in kernel.writes if place.write_share(t) < 1.0 and last.get(t, -1) > kernel.index
            ]
            self.spilled.append(bool(outside))
            reads = tuple(
                (_near(kernel.index - writer[t]) if t in writer else None, place.read_share(t), size)
                for t, size in kernel.reads.items()
            )
            writes = tuple(
                (_near(last.get(t, -1) - kernel.index), place.write_share(t), size)
                for t, size in kernel.writes.items()
            )
            nests = tuple(id(nest) for op in kernel.operations for nest in op.nests)
            codes.append((nests, reads, writes, id(choice)))
            writer.update(dict.fromkeys(kernel.writes, kernel.index))
        number: dict[object, int] = {}
        return [number.setdefault(code, len(number)) for code in codes]

    def _window(self, first: int) -> object:
        return tuple(self.codes[first : first + LONGEST])

    def _cut(self, chain: Chain) -> Cut | None:
        near = self._near(chain)
        members = [self.kernels[i] for i in chain.members]
        return best_cut(chain, members, self.capacity, near)

    def _near(self, chain: Chain) -> dict[int, float]:
        """The chain's tensors that lie on chip whole, before or after, as things are."""
        near: dict[int, float] = {}
        for i in chain.members:
            kernel, place = self.kernels[i], self.places[i]
            for t in kernel.reads:
                if t in chain.reads and place.read_share(t) == 1.0:
                    size = float(self.workload.tensors[t].nbytes)
                    near.setdefault(t, 0.0 if t in place.standing else size)
            for t in kernel.writes:
                if t in chain.writes and place.write_share(t) == 1.0:
                    near.setdefault(t, float(self.workload.tensors[t].nbytes))
        return near

    def _gain(self, chain: Chain, cut: Cut) -> float:
        """Seconds that fusing seems to save."""
        members = [self.kernels[i] for i in chain.members]
        choices = [self.choices[i] for i in chain.members]
        now = math.fsum(max(c.core_s, c.external_s) + c.overhead_s for c in choices)
        bytes_now = math.fsum(c.read_bytes[-1] + c.write_bytes[-1] for c in choices)
        moved = far_bytes(chain, cut, self._near(chain).keys(), readers_of(chain, members))
        tiles = cut.tiles(chain)
        dispatch = math.fsum(
            c.overhead_s * tiles * (cut.chunks if cut.chunked(n) else 1) for n, c in enumerate(choices)
        )
        core = math.fsum(c.core_s for c in choices)
        if any(c.stretch > 1.0 for c in choices):
            # Near the limit, time goes with the third root of what is left for the cores (docs/model.md, "Power").
            core += (moved - bytes_now) * self.watts.far_j_per_byte / (3.0 * self.watts.dynamic_w)
        then = max(core, moved * self.second_a_byte) + dispatch
        return self._worth(now - then, (bytes_now - moved) * self.watts.far_j_per_byte)

    def _saved(self, chain: Chain, choice: Choice) -> float:
        """The same by price."""
        now = [self.choices[i] for i in chain.members]
        seconds = math.fsum(max(c.core_s, c.external_s) + c.overhead_s for c in now)
        joules = math.fsum(_joules(c) for c in now)
        then = max(choice.core_s, choice.external_s) + choice.overhead_s
        return self._worth(seconds - then, joules - _joules(choice))

    def _worth(self, seconds: float, joules: float) -> float:
        if self.objective == "energy":
            return joules / self.watts.dynamic_w
        counts = 1.0 if self.objective == "edp" else _ENERGY_COUNTS
        return seconds + counts * joules / self.watts.dynamic_w

    def _place(self, chain: Chain) -> Residency:
        """What a chain finds and leaves on chip, as things are."""
        near = self._near(chain).keys()
        room = self.places[chain.first].room
        return Residency(found=set(near & chain.reads.keys()), kept=set(near & chain.writes.keys()), room=room)


def _joules(choice: Choice) -> float:
    """Energy but for what is spent in any case."""
    return math.fsum((*choice.level_energy_j, choice.compute_energy_j, choice.unattributed_energy_j))
