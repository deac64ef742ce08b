"""What the page's script is given: rows and kernels as columns of numbers, texts by their index, packed small."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ...result import ChipResult, GroupBy, KernelCost, Result, Row, collapse, different_members
from ...timeline import Timeline
from ..rows import external_level

GROUPINGS: tuple[GroupBy, ...] = ("layer", "module", "op")
_DIGITS = 4
"""Significant digits of a number on the page."""
_COARSE = 3
"""Of what a single kernel does, of ratios, and of parts of a row's energy."""
LINK = "exchange"
"""What a transfer to other chips is called, whatever it exchanges."""
_INVISIBLE = 2e-5
"""Share of the run that nobody sees on a time line."""


class Texts:
    """Every text once; columns hold indices."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.known.setdefault(text, len(self.known))


def document(result: Result, lines: Mapping[str, Timeline] = MappingProxyType({})) -> dict[str, Any]:
    """All that is drawn or listed by the script."""
    texts = Texts()
    chips = [_chip(chip, texts, lines.get(chip.chip)) for chip in result.chips]
    return {"model": result.model or "(unnamed)", "chips": chips, "texts": list(texts.known)}


def packed(document: dict[str, Any]) -> str:
    """The document as JSON, compressed, in base64: no text of it can end the element that holds it."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=9, mtime=0)).decode()


def _chip(chip: ChipResult, texts: Texts, line: Timeline | None) -> dict[str, Any]:
    lists = different_members(chip.kernels)
    levels = [level.name for level in chip.levels]
    return {
        "name": chip.chip,
        "hypothetical": not chip.fit.fits,
        "levels": levels,
        "links": [link.name for link in chip.links],
        "bandwidths": _numbers(level.bandwidth_bytes_per_s for level in chip.levels),
        "external": external_level(chip),
        "peaks": {name: _number(value) for name, value in chip.peaks_flops_per_s.items()},
        "latency": _number(chip.total.latency_s),
        "energy": _number(chip.total.energy_j),
        "rows": {by: _rows(chip, by, levels, texts) for by in GROUPINGS},
        "operands": _operands(chip, lists),
        "kernels": _kernels(chip, lists, levels, texts),
        "line": None if line is None else _line(line, external_level(chip), texts),
    }


def _rows(chip: ChipResult, by: GroupBy, levels: list[str], texts: Texts) -> dict[str, Any]:
    """Rows of one grouping; those of operators, of which the plots are made, also with their energy by part."""
    external = external_level(chip)
    rows = chip.rows(by)
    columns = {
        "path": [texts(row.path) for row in rows],
        "calls": [row.calls for row in rows],
        "kernels": [row.kernels for row in rows],
        "bound": [texts(row.bound_by) for row in rows],
        "shapes": [texts(row.shapes) for row in rows],
        "latency": _column(rows, lambda row: row.latency_s),
        "spread": [_spread(row) for row in rows],
        "flops": _column(rows, lambda row: row.flops),
        "utilization": _column(rows, lambda row: row.utilization, _COARSE),
        "bandwidth": _column(rows, lambda row: row.bandwidth_utilization, _COARSE),
        "bytes": _column(rows, lambda row: row.traffic_bytes.get(external, 0.0)),
        "energy": _column(rows, lambda row: row.energy_j),
    }
    if by != "op":
        return columns
    parts = {
        **{level.name: _column(rows, _of_level(level.name), _COARSE) for level in chip.everywhere},
        "compute": _column(rows, lambda row: row.compute_energy_j, _COARSE),
        "static": _column(rows, lambda row: row.static_energy_j, _COARSE),
        "other": _column(rows, lambda row: row.unattributed_energy_j, _COARSE),
    }
    return {**columns, "parts": parts}


def _spread(row: Row) -> float | None:
    """Half the width of the interval over the latency; None where there is none."""
    if row.latency_low_s is None or row.latency_high_s is None or not row.latency_s:
        return None
    return _number((row.latency_high_s - row.latency_low_s) / 2.0 / row.latency_s, _COARSE)


def _of_level(level: str) -> Callable[[Row], float]:
    return lambda row: row.memory_energy_j.get(level, 0.0)


def _operands(chip: ChipResult, lists: frozenset[str]) -> dict[str, dict[str, float]]:
    """Energy of the external memory by collapsed module path and operand role: as the operand's share of the bytes."""
    external = external_level(chip)
    found: dict[str, dict[str, list[float]]] = {}
    for kernel in chip.kernels:
        moved = math.fsum(kernel.operand_bytes.values())
        joules = kernel.memory_energy_j.get(external, 0.0)
        if not moved:
            continue
        for path, share in _shares(kernel, lists):
            roles = found.setdefault(path, {})
            for role, size in kernel.operand_bytes.items():
                roles.setdefault(role, []).append(joules * share * size / moved)
    return {path: {role: _number(math.fsum(terms)) for role, terms in roles.items()} for path, roles in found.items()}


def _kernels(chip: ChipResult, lists: frozenset[str], levels: list[str], texts: Texts) -> dict[str, Any]:
    kernels = chip.kernels
    modules: dict[tuple[int, ...], int] = {}
    members = [tuple(dict.fromkeys(texts(path) for path, _ in _shares(kernel, lists))) for kernel in kernels]
    return {
        "path": [texts(kernel.path) for kernel in kernels],
        "name": [texts(kernel.name) for kernel in kernels],
        "bound": [texts(kernel.bound_by) for kernel in kernels],
        "dtype": [texts(kernel.dtype) for kernel in kernels],
        "modules": [modules.setdefault(paths, len(modules)) for paths in members],
        "sets": [list(paths) for paths in modules],
        "gap": _gaps(kernels, chip.total.latency_s),
        "latency": _column(kernels, lambda kernel: kernel.latency_s),
        "work": _column(kernels, lambda kernel: kernel.executed_flops + kernel.vector_ops, _COARSE),
        "energy": _column(kernels, lambda kernel: kernel.energy_j, _COARSE),
        "utilization": _column(kernels, lambda kernel: kernel.utilization, _COARSE),
        "bytes": [_column(kernels, _traffic(level), _COARSE) for level in levels],
    }


def _gaps(kernels: Sequence[KernelCost], total_s: float) -> list[float]:
    """Seconds from the end of one kernel, as the page adds up rounded latencies, to the start of the next."""
    gaps, now = [], 0.0
    for kernel in kernels:
        gap = kernel.start_s - now
        gaps.append(_number(gap) if abs(gap) > _INVISIBLE * total_s else 0)
        now += gaps[-1] + _number(kernel.latency_s)
    return gaps


def _line(line: Timeline, external: str, texts: Texts) -> dict[str, Any]:
    """Kernels, waits and transfers in time."""
    waits = [max(kernel.waits_s, key=kernel.waits_s.__getitem__, default="") for kernel in line.kernels]
    return {
        "computing": _number(line.computing_s),
        "stalls": {cause: _number(seconds) for cause, seconds in line.stalls_s.items() if seconds},
        "wait": _column(line.kernels, lambda kernel: math.fsum(kernel.waits_s.values()), _COARSE),
        "cause": [texts(cause) for cause in waits],
        "moved": {
            "kernel": [one.kernel for one in line.transfers],
            "what": [texts(one.what if one.resource == external else LINK) for one in line.transfers],
            "cause": [texts(one.waited_for) for one in line.transfers],
            "after": _column(line.transfers, lambda one: one.start_s - line.kernels[one.kernel].start_s),
            "lasts": _column(line.transfers, lambda one: one.end_s - one.start_s),
            "bytes": _column(line.transfers, lambda one: one.size_bytes, _COARSE),
        },
    }


def _traffic(level: str) -> Callable[[KernelCost], float]:
    return lambda kernel: kernel.traffic_bytes.get(level, 0.0)


def _shares(kernel: KernelCost, lists: frozenset[str]) -> list[tuple[str, float]]:
    """(collapsed module path, share) of each part of a kernel."""
    if not kernel.parts:
        return [(collapse(kernel.path, lists), 1.0)]
    return [(collapse(part.path, lists), part.share) for part in kernel.parts]


def _column(items: Iterable[Any], value: Callable[[Any], float], digits: int = _DIGITS) -> list[float]:
    return [_number(value(item), digits) for item in items]


def _numbers(values: Iterable[float]) -> list[float]:
    return [_number(value) for value in values]


def _number(value: float, digits: int = _DIGITS) -> float:
    """Rounded, and whole numbers without a point."""
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
