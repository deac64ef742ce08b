"""Elasticities of latency and energy to every rate, time constant and energy of a chip, by autograd.

The chosen mappings are held fixed; a new search at -10 % and +10 % shows where that misleads. Scaling identity: with
all rates (the power limit included) times x and all time constants divided by x, everything takes 1/x of the time. So
the elasticities of latency to the rates less those to the time constants sum to -1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ..conditions import SCHEDULED, Conditions
from ..cost.chip_tensors import ChipTensors, LevelTensors, RateTensors, chip_tensors, rate_tensors
from ..cost.kernel import evaluate
from ..cost.shapes import KernelShape, pack
from ..hardware.chip import Chip, dtype_name
from ..hardware.software import Software
from ..mapping import MappingBatch
from ..memory import cache
from ..result import Elasticity, collapse, layer_of
from ..workload import Workload
from . import managed
from .kernels import Kernel
from .residency import Residency
from .run import places_of
from .search import choose
from .select import Choice, engine_dtype
from .shape import shape_of
from .timeline.chip import Slot, slots_of

Kind = Literal["rate", "time", "energy"]
STEP = 0.1

_CHIP: dict[str, tuple[str, Kind]] = {
    "vector_rate": ("vector rate", "rate"),
    "special_rate": ("special-function rate", "rate"),
    "dynamic_power": ("power limit", "rate"),
    "launch_gap": ("launch gap", "time"),
    "prologue": ("prologue", "time"),
    "split_cost": ("split cost", "time"),
    "store_rate": ("store rate", "rate"),
    "l2_ports": ("L2 port rate", "rate"),
    "block_latency": ("latency of an attention block", "time"),
    "vector_energy": ("vector energy", "energy"),
    "static_power": ("static power", "energy"),
    "unattributed_vector_flop": ("unattributed energy, vector", "energy"),
    "unattributed_bit": ("unattributed energy, external bits", "energy"),
}
_LEVEL: dict[str, tuple[str, Kind]] = {
    "read_bandwidth": ("read bandwidth", "rate"),
    "write_bandwidth": ("write bandwidth", "rate"),
    "latency": ("latency", "time"),
    "read_energy": ("read energy", "energy"),
    "write_energy": ("write energy", "energy"),
    "network_bandwidth": ("network bandwidth", "rate"),
    "network_energy": ("network energy", "energy"),
}
_LINK: dict[str, tuple[str, Kind]] = {
    "bandwidth": ("bandwidth of links", "rate"),
    "latency": ("latency of links", "time"),
    "start": ("start of exchanges", "time"),
    "energy": ("energy of links", "energy"),
}
_RATE: dict[str, tuple[str, Kind]] = {
    "rate": ("rate", "rate"),
    "energy": ("energy", "energy"),
    "unattributed": ("unattributed energy, products", "energy"),
    "board": ("energy of a board, products", "energy"),
}


@dataclass(frozen=True)
class Parameter:
    """One number of a chip: where it stands, and what people call it."""

    place: tuple[str, ...]
    name: str
    kind: Kind


class Sensitivity:
    """One workload on one chip with its mappings chosen, as a function of the chip's numbers."""

    def __init__(
        self,
        workload: Workload,
        kernels: Sequence[Kernel],
        chip: Chip,
        software: Software,
        conditions: Conditions = SCHEDULED,
    ) -> None:
        self.chip, self.software, self.kernels, self.conditions = chip, software, list(kernels), conditions
        self.workload = workload
        self.places: list[Residency] = places_of(self.kernels, workload, chip, software, conditions)
        shapes = [shape_of(k, p, workload) for k, p in zip(self.kernels, self.places, strict=True)]
        self.distinct: list[KernelShape] = list(dict.fromkeys(shapes))
        position = {shape: i for i, shape in enumerate(self.distinct)}
        self.rows = [position[shape] for shape in shapes]
        self.choices = choose(self.distinct, chip, software, conditions=conditions)
        self.priced = [choice.shape for choice in self.choices]
        self.dtypes = [engine_dtype(shape, chip, software) for shape in self.priced]
        self.tensors = chip_tensors([chip], [software], conditions)
        self.parameters = self._parameters()

    def _parameters(self) -> list[Parameter]:
        found = [Parameter((field,), name, kind) for field, (name, kind) in _CHIP.items()]
        for i, level in enumerate(self.tensors.level_names):
            for field, (name, kind) in _LEVEL.items():
                found.append(Parameter(("levels", str(i), field), f"{level} {name}", kind))
        for dtype in dict.fromkeys(self.dtypes):
            for field, (name, kind) in _RATE.items():
                found.append(Parameter(("rates", dtype, field), f"{dtype_name(dtype)} {name}", kind))
        if any(choice.exchange is not None for choice in self.choices):
            found += [Parameter(("links", field), name, kind) for field, (name, kind) in _LINK.items()]
        return found

    def scaled(
        self, tensors: ChipTensors, rates: RateTensors, dtypes: Sequence[str], scales: Tensor
    ) -> tuple[ChipTensors, RateTensors]:
        """The chip with each parameter times its entry of `scales` `[parameter]`."""
        at = {p.place: scales[i] for i, p in enumerate(self.parameters)}
        levels = tuple(
            LevelTensors(
                **{
                    f.name: getattr(level, f.name) * at.get(("levels", str(i), f.name), 1.0)
                    for f in fields(LevelTensors)
                }
            )
            for i, level in enumerate(tensors.levels)
        )
        changed: dict[str, Any] = {field: getattr(tensors, field) * at[(field,)] for field in _CHIP}
        columns: dict[str, Any] = {
            field: getattr(rates, field) * torch.stack([at[("rates", d, field)] for d in dtypes]).reshape(-1, 1, 1, 1)
            for field in _RATE
        }
        return replace(tensors, levels=levels, **changed), replace(rates, **columns)

    def totals(self, scales: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Seconds, joules, and each kernel's exclusive seconds, with the chosen mappings and scaled parameters."""
        timed: list[Any] = [None] * len(self.distinct)
        dynamic: list[Any] = [None] * len(self.distinct)
        static = self.scaled(self.tensors, self._rates(), self.dtypes, scales)[0].static_power
        for group in self._priced(scales):
            cost, count = group.cost, len(group.members)
            names = ("latency_s", "core_s", "external_s", "overhead_s")
            times = {name: getattr(cost, name).expand(count, 1, 1, 1).reshape(-1) for name in names}
            joules = (cost.energy_j - cost.static_energy_j).expand(count, 1, 1, 1).reshape(-1)
            for row, index in enumerate(group.members):
                # The time line only adds and compares, so it takes tensors where it is given them.
                seconds: dict[str, Any] = {name: t[row] for name, t in times.items()}
                own = seconds["latency_s"] - seconds["overhead_s"]
                timed[index], sent = self._linked(replace(self.choices[index], **seconds), own, scales)
                dynamic[index] = joules[row] + sent
        shares = [cast(Tensor, slot.share_s) for slot in self._slots([timed[row] for row in self.rows])]
        latency = torch.stack(shares).sum()
        energy = torch.stack(dynamic)[torch.tensor(self.rows)].sum() + latency * static.reshape(())
        return latency, energy, shares

    def _linked(self, choice: Choice, own: Any, scales: Tensor) -> tuple[Choice, Any]:
        """A kernel with what it exchanges on links whose parameters are scaled, and the joules of that; `own` seconds
        are what it needs in the chip's own memories."""
        exchange = choice.exchange
        if exchange is None:
            return choice, 0.0
        at = {p.place[1]: scales[i] for i, p in enumerate(self.parameters) if p.place[0] == "links"}
        seconds: Any = exchange.start_s * at["start"] + exchange.hops_s * at["latency"]
        seconds = seconds + exchange.moving_s / at["bandwidth"]
        longer = seconds if seconds > own else own
        return replace(choice, core_s=seconds, latency_s=choice.overhead_s + longer), exchange.joules * at["energy"]

    def _rates(self) -> RateTensors:
        return rate_tensors([self.chip], [self.software], self.dtypes, self.conditions)

    def _priced(self, scales: Tensor) -> list[managed.Group]:
        """The distinct kernels with their chosen mappings, on the chip with its parameters scaled."""

        def adjust(tensors: ChipTensors, rates: RateTensors, dtypes: list[str]) -> tuple[ChipTensors, RateTensors]:
            return self.scaled(tensors, rates, dtypes, scales)

        if self.chip.memory_system != "cache":
            search = managed.Search(
                self.chip, self.software, self.tensors, adjust=adjust, conditions=self.conditions
            )
            return search.price(self.priced, [choice.chosen for choice in self.choices])
        tensors, rates = adjust(self.tensors, self._rates(), self.dtypes)
        columns = [torch.tensor(c, dtype=torch.float64) for c in zip(*(c.tile for c in self.choices), strict=True)]
        packed, mapping = pack(self.priced), MappingBatch(*(c.reshape(-1, 1, 1, 1) for c in columns))
        move = cache.move(packed, mapping, tensors, rates)
        cost = evaluate(move, packed, tensors, rates, self.software.overlap)
        return [managed.Group(list(range(len(self.distinct))), move, cost)]

    def _slots(self, choices: list[Choice]) -> list[Slot]:
        return slots_of(self.chip, choices, self.places)

    def elasticities(self, remap: bool = False) -> list[Elasticity]:
        """Every parameter's elasticities, the strongest on latency first; `remap` searches again at +-10 %."""
        scales = torch.ones(len(self.parameters), dtype=torch.float64, requires_grad=True)
        latency, energy, shares = self.totals(scales)
        by_layer: dict[str, list[Tensor]] = {}
        for kernel, share in zip(self.kernels, shares, strict=True):
            by_layer.setdefault(layer_of(collapse(kernel.path)), []).append(share)
        (d_latency,) = torch.autograd.grad(latency, scales, retain_graph=True)
        (d_energy,) = torch.autograd.grad(energy, scales, retain_graph=True)
        layers = {
            name: torch.autograd.grad(torch.stack(parts).sum(), scales, retain_graph=True)[0] / latency.detach()
            for name, parts in by_layer.items()
        }
        found = []
        for i, parameter in enumerate(self.parameters):
            value = float(d_latency[i] / latency.detach())
            found.append(
                Elasticity(
                    parameter=parameter.name,
                    kind=parameter.kind,
                    latency=value,
                    energy=float(d_energy[i] / energy.detach()),
                    remapped=self._remapped(i, float(latency.detach())) if remap and abs(value) > 0.01 else None,
                    layers={name: float(grad[i]) for name, grad in layers.items()},
                )
            )
        return sorted([*found, self._cores()], key=lambda e: (-abs(e.latency), -abs(e.energy), e.parameter))

    def _cores(self) -> Elasticity:
        """The number of cores is whole: from a tenth fewer to a tenth more (at least one), each searched anew.

        Everything that each core has of its own goes with it; external memory and power stay.
        """
        count = int(self.chip.cores.count.value)
        step = max(1, round(count * STEP))
        few, many = max(count - step, 1), count + step
        latencies, energies, layers = [], [], []
        for cores in (few, many):
            chip = self.chip.replace(**{"cores.count": f"{cores} 1"})
            other = Sensitivity(self.workload, self.kernels, chip, self.software, self.conditions)
            latency, energy, shares = other.totals(torch.ones(len(other.parameters), dtype=torch.float64))
            latencies.append(float(latency))
            energies.append(float(energy))
            layers.append(other.by_layer([float(share) for share in shares]))
        grown = math.log(many / few)
        slope = (latencies[1] - latencies[0]) / grown / math.sqrt(latencies[0] * latencies[1])
        by_layer = {
            name: (layers[1][name] - layers[0][name]) / grown / math.sqrt(latencies[0] * latencies[1])
            for name in layers[0]
        }
        return Elasticity(
            parameter=f"number of {self.chip.cores.name}s",
            kind="count",
            latency=slope,
            energy=math.log(energies[1] / energies[0]) / grown,
            layers=by_layer,
        )

    def by_layer(self, values: Sequence[float]) -> dict[str, float]:
        """One value a kernel, summed by layer."""
        parts: dict[str, list[float]] = {}
        for kernel, value in zip(self.kernels, values, strict=True):
            parts.setdefault(layer_of(collapse(kernel.path)), []).append(value)
        return {name: math.fsum(some) for name, some in parts.items()}

    def _remapped(self, index: int, base: float) -> tuple[float, float]:
        """Latency elasticities between the chip as it is and with the parameter changed, each searched anew."""
        found = []
        for step in (-STEP, STEP):
            scales = torch.ones(len(self.parameters), dtype=torch.float64)
            scales[index] += step
            seconds = self._searched(lambda t, r, d, s=scales: self.scaled(t, r, d, s), scales)
            found.append(math.log(seconds / base) / math.log(1.0 + step))
        return found[0], found[1]

    def _searched(self, adjust: Callable[..., tuple[ChipTensors, RateTensors]], scales: Tensor) -> float:
        choices = choose(self.distinct, self.chip, self.software, adjust=adjust, conditions=self.conditions)
        choices = [self._linked(choice, choice.beside_s, scales)[0] for choice in choices]
        return math.fsum(float(slot.share_s) for slot in self._slots([choices[row] for row in self.rows]))
