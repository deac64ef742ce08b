"""Chips side by side, with ratios to the first; phases of one model side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..result import ChipResult, Fit, KernelCost, Result
from ..units import format_bytes
from .grid import Column, grid
from .rows import external_level
from .scale import Scale


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the comparison: its words, the text a chip, and the values that ratios are taken of."""

    name: str
    texts: tuple[str, ...]
    values: tuple[float | None, ...] = ()


def comparison(chips: Sequence[ChipResult]) -> str:
    """A table of all chips: a line a figure, a column a chip, then the ratios of the others to the first."""
    first = chips[0].chip
    lines = lines_of(chips)
    ratios = [ratios_to_first(line.values, len(chips)) for line in lines]
    columns = [Column("", tuple(line.name for line in lines), align="left")]
    columns += [Column(_label(chip), tuple(line.texts[i] for line in lines)) for i, chip in enumerate(chips)]
    columns += [Column(f"{chip.chip}\n/ {first}", tuple(r[i] for r in ratios)) for i, chip in enumerate(chips[1:])]
    return f"side by side, ratios to {first}\n\n{grid(columns)}"


def _label(chip: ChipResult) -> str:
    return chip.chip if chip.fit.fits else f"{chip.chip}\n(hypothetical)"


def ratios_to_first(values: tuple[float | None, ...], chips: int) -> list[str]:
    """The values of all chips but the first over that of the first; empty where there are no values."""
    if not values:
        return [""] * (chips - 1)
    base = values[0]
    return [ratio(value, base) for value in values[1:]]


def ratio(value: float | None, base: float | None) -> str:
    """`0.53x` with three significant digits; a dash where there is nothing to divide by."""
    if value is None or not base:
        return "-"
    quotient = value / base
    if quotient == 0:
        return "0x"
    if 0.001 <= abs(quotient) < 999.5:
        decimals = 2 if abs(quotient) >= 9.995 else 3 if abs(quotient) < 0.9995 else 2
        decimals = 1 if abs(quotient) >= 99.95 else decimals
        return f"{quotient:.{decimals}f}x"
    return f"{quotient:.2e}x"


def phases_side_by_side(results: Sequence[Result]) -> str:
    """A table of several phases of one model on one chip: a line a figure, a column a phase."""
    chips = [result.chips[0] for result in results]
    lines = [
        Line("precision", tuple(result.dtype or "-" for result in results)),
        Line("inputs", tuple(_inputs(result) for result in results)),
        *_phase_lines(chips),
    ]
    columns = [Column("", tuple(line.name for line in lines), align="left")]
    columns += [Column(result.phase, tuple(line.texts[i] for line in lines)) for i, result in enumerate(results)]
    title = f"{results[0].model} on {chips[0].chip}, phases side by side"
    notes = list(dict.fromkeys(note for result in results for note in result.notes))
    return "\n\n".join([title, grid(columns), *(["\n".join(f"note: {n}" for n in notes)] if notes else [])]) + "\n"


def _inputs(result: Result) -> str:
    named = [("batch", result.batch), ("seq", result.seq_len), ("context", result.context)]
    return " ".join(f"{name} {n}" for name, n in named if n is not None) or "-"


def _phase_lines(chips: Sequence[ChipResult]) -> list[Line]:
    levels = dict.fromkeys(level.name for chip in chips for level in chip.everywhere)
    parts = [p for p in _PARTS if any(k.phase == p for chip in chips for k in chip.kernels)]
    lines = [_amount(chips, "latency", "s", lambda c: c.total.latency_s), *_ends(chips)]
    lines += [_amount(chips, f"latency, {part}", "s", _of_part(part, lambda k: k.latency_s)) for part in parts]
    lines.append(_amount(chips, "model FLOPs", "FLOP", lambda c: float(c.total.flops)))
    lines += [
        _amount(chips, f"model FLOPs, {part}", "FLOP", _of_part(part, lambda k: float(k.flops))) for part in parts
    ]
    lines += [
        _amount(chips, "executed FLOPs", "FLOP", lambda c: c.total.executed_flops),
        _fraction(chips, "utilization of arithmetic", lambda c: c.total.utilization),
    ]
    lines += [_amount(chips, f"bytes, {name}", "B", _level_traffic(name)) for name in levels]
    far = external_level(chips[0]) or ""
    lines += [_amount(chips, f"bytes, {far}, {part}", "B", _of_part(part, _far(far))) for part in parts]
    lines += [
        _amount(chips, "energy", "J", lambda c: c.total.energy_j),
        Line("bound by", tuple(chip.total.bound_by for chip in chips)),
        Line("memory needed", tuple(format_bytes(chip.fit.needs_bytes) for chip in chips)),
    ]
    for name, value in _MEMORY.items():
        lines.append(Line(f"memory, {name}", tuple(format_bytes(value(c.fit)) if value(c.fit) else "-" for c in chips)))
    lines.append(Line("fits", tuple(_fits(chip) for chip in chips)))
    return lines


_PARTS = ("forward", "recompute", "backward", "optimizer")
_MEMORY: dict[str, Callable[[Fit], int]] = {
    "weights": lambda fit: fit.weights_bytes,
    "KV cache": lambda fit: fit.kv_cache_bytes,
    "gradients": lambda fit: fit.gradients_bytes,
    "optimizer state": lambda fit: fit.optimizer_bytes,
    "activations": lambda fit: fit.activations_bytes,
}


def _of_part(part: str, value: Callable[[KernelCost], float]) -> Callable[[ChipResult], float | None]:
    """The sum over the kernels of one part of a training step; nothing for a phase that has no parts."""

    def total(chip: ChipResult) -> float | None:
        found = [value(kernel) for kernel in chip.kernels if kernel.phase == part]
        return math.fsum(found) if found else None

    return total


def _far(name: str) -> Callable[[KernelCost], float]:
    return lambda kernel: kernel.traffic_bytes.get(name, 0.0)


def _level_traffic(name: str) -> Callable[[ChipResult], float | None]:
    return lambda chip: next((level.traffic_bytes for level in chip.everywhere if level.name == name), None)


def lines_of(chips: Sequence[ChipResult]) -> list[Line]:
    """The figures that chips are compared by."""
    lines = [
        _amount(chips, "latency", "s", lambda c: c.total.latency_s),
        *_ends(chips),
        _amount(chips, "energy", "J", lambda c: c.total.energy_j),
        _amount(chips, "memory energy", "J", lambda c: c.total.memory_energy_j),
    ]
    names = dict.fromkeys(level.name for chip in chips for level in chip.everywhere)
    lines += [_amount(chips, f"memory energy, {name}", "J", _level_energy(name)) for name in names]
    lines += [
        _amount(chips, "compute energy", "J", lambda c: c.total.compute_energy_j),
        _amount(chips, "static energy", "J", lambda c: c.total.static_energy_j),
    ]
    if any(chip.total.unattributed_energy_j for chip in chips):
        lines.append(_amount(chips, "other energy", "J", lambda c: c.total.unattributed_energy_j))
    lines += [
        _amount(chips, "dense peak", "FLOP/s", lambda c: c.peak_flops_per_s or None),
        _amount(chips, "average power", "W", _power),
        _amount(chips, "external traffic", "B", lambda c: c.levels[-1].traffic_bytes if c.levels else None),
    ]
    if any(chip.parallel for chip in chips):
        lines.append(_amount(chips, "step, all chips", "s", lambda c: c.parallel.step_s if c.parallel else None))
        lines.append(_amount(chips, "energy, all chips", "J", lambda c: c.parallel.energy_j if c.parallel else None))
    if any(chip.links for chip in chips):
        lines.append(_amount(chips, "sent to other chips", "B", _sent))
    lines += [
        _amount(chips, "executed FLOPs", "FLOP", lambda c: c.total.executed_flops),
        _fraction(chips, "utilization of arithmetic", lambda c: c.total.utilization),
        _fraction(chips, "utilization of external bandwidth", lambda c: c.total.bandwidth_utilization),
        Line("external memory", tuple(external_level(chip) or "-" for chip in chips)),
        Line("bound by", tuple(chip.total.bound_by for chip in chips)),
        Line("kernels", tuple(f"{chip.total.kernels}" for chip in chips)),
        Line("fits", tuple(_fits(chip) for chip in chips)),
    ]
    return lines


def _ends(chips: Sequence[ChipResult]) -> list[Line]:
    """The interval of the latency, where any chip has one."""
    if all(chip.total.latency_low_s is None for chip in chips):
        return []
    return [
        _amount(chips, "latency, low end", "s", lambda c: c.total.latency_low_s),
        _amount(chips, "latency, high end", "s", lambda c: c.total.latency_high_s),
    ]


def _amount(chips: Sequence[ChipResult], name: str, unit: str, value: Callable[[ChipResult], float | None]) -> Line:
    values = tuple(value(chip) for chip in chips)
    texts = tuple("-" if v is None else Scale.fit(unit, [v]).text(v) for v in values)
    return Line(name, texts, values)


def _fraction(chips: Sequence[ChipResult], name: str, value: Callable[[ChipResult], float]) -> Line:
    values = tuple(value(chip) for chip in chips)
    return Line(name, tuple(f"{100 * v:.3g} %" for v in values), values)


def _level_energy(name: str) -> Callable[[ChipResult], float | None]:
    return lambda chip: next((level.energy_j for level in chip.everywhere if level.name == name), None)


def _sent(chip: ChipResult) -> float:
    return math.fsum(link.traffic_bytes for link in chip.links)


def _power(chip: ChipResult) -> float | None:
    return chip.total.energy_j / chip.total.latency_s if chip.total.latency_s else None


def _fits(chip: ChipResult) -> str:
    if chip.fit.fits:
        return f"yes, {format_bytes(chip.fit.needs_bytes)}"
    return f"no, needs {chip.fit.chips} chips"
