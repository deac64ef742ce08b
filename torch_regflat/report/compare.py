"""Chips side by side, with ratios to the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..result import ChipResult
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
    lines = _lines(chips)
    ratios = [_ratios(line.values, len(chips)) for line in lines]
    columns = [Column("", tuple(line.name for line in lines), align="left")]
    columns += [Column(_label(chip), tuple(line.texts[i] for line in lines)) for i, chip in enumerate(chips)]
    columns += [Column(f"{chip.chip}\n/ {first}", tuple(r[i] for r in ratios)) for i, chip in enumerate(chips[1:])]
    return f"side by side, ratios to {first}\n\n{grid(columns)}"


def _label(chip: ChipResult) -> str:
    return chip.chip if chip.fit.fits else f"{chip.chip}\n(hypothetical)"


def _ratios(values: tuple[float | None, ...], chips: int) -> list[str]:
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


def _lines(chips: Sequence[ChipResult]) -> list[Line]:
    lines = [
        _amount(chips, "latency", "s", lambda c: c.total.latency_s),
        _amount(chips, "energy", "J", lambda c: c.total.energy_j),
        _amount(chips, "memory energy", "J", lambda c: c.total.memory_energy_j),
    ]
    names = dict.fromkeys(level.name for chip in chips for level in chip.levels)
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
        _amount(chips, "executed FLOPs", "FLOP", lambda c: c.total.executed_flops),
        _fraction(chips, "utilization of arithmetic", lambda c: c.total.utilization),
        _fraction(chips, "utilization of external bandwidth", lambda c: c.total.bandwidth_utilization),
        Line("external memory", tuple(external_level(chip) or "-" for chip in chips)),
        Line("bound by", tuple(chip.total.bound_by for chip in chips)),
        Line("kernels", tuple(f"{chip.total.kernels}" for chip in chips)),
        Line("fits", tuple(_fits(chip) for chip in chips)),
    ]
    return lines


def _amount(chips: Sequence[ChipResult], name: str, unit: str, value: Callable[[ChipResult], float | None]) -> Line:
    values = tuple(value(chip) for chip in chips)
    texts = tuple("-" if v is None else Scale.fit(unit, [v]).text(v) for v in values)
    return Line(name, texts, values)


def _fraction(chips: Sequence[ChipResult], name: str, value: Callable[[ChipResult], float]) -> Line:
    values = tuple(value(chip) for chip in chips)
    return Line(name, tuple(f"{100 * v:.3g} %" for v in values), values)


def _level_energy(name: str) -> Callable[[ChipResult], float | None]:
    return lambda chip: next((level.energy_j for level in chip.levels if level.name == name), None)


def _power(chip: ChipResult) -> float | None:
    return chip.total.energy_j / chip.total.latency_s if chip.total.latency_s else None


def _fits(chip: ChipResult) -> str:
    if chip.fit.fits:
        return f"yes, {format_bytes(chip.fit.needs_bytes)}"
    return f"no, needs {chip.fit.chips} chips"
