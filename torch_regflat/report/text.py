"""Tables for people, made with tabulate: for each chip a row a layer and a total, then the chips side by side."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..result import ChipResult, GroupBy, Result, Row
from ..units import format_bytes, format_si
from .compare import comparison
from .grid import Column, grid, grid_width
from .rows import external_level, select
from .scale import Scale

WIDTH = 160
"""Columns of text that a table may take before its energy columns move to a table of their own."""

_FIRST_HEADING: dict[GroupBy, str] = {"op": "operation", "kernel": "kernel", "module": "module", "layer": "layer"}
_LONGEST_SHAPE = 40
_SHORTEST_SHAPE = 20
_TOP = "(top level)"


def render(
    result: Result,
    *,
    by: GroupBy = "layer",
    expand: bool = False,
    sort_by: str | None = None,
    row_limit: int | None = None,
    width: int = WIDTH,
    wide: bool = False,
) -> str:
    """The text report. `wide` keeps one table a chip and full shapes at any width, and adds tiles and versions."""
    tables = [_table(chip, by, select(chip, by, expand, sort_by, row_limit), wide) for chip in result.chips]
    joined = wide or all(table.width <= width for table in tables)
    if not wide:
        tables = [table.cut(width) for table in tables]
    sections = [_wrapped(_heading(result, wide), width)]
    for chip, table in zip(result.chips, tables, strict=True):
        sections.append(_wrapped(_header(chip, result.dtype), width))
        sections.extend(table.draw(joined))
        sections.append(_wrapped(_footer(chip), width))
    if len(result.chips) > 1:
        sections.append(comparison(result.chips))
    return "\n\n".join(sections) + "\n"


def _wrapped(lines: Iterable[str], width: int) -> str:
    """Lines of prose, broken where they are longer than a table may be."""
    return "\n".join(textwrap.fill(line, max(width, 60), subsequent_indent="  ") for line in lines)


@dataclass(frozen=True, slots=True)
class _Table:
    """The columns of one chip: those that name a row, those about time and traffic, those about energy."""

    names: list[Column]
    time: list[Column]
    energy: list[Column]

    @property
    def width(self) -> int:
        return grid_width(self.names + self.time + self.energy)

    def cut(self, width: int) -> _Table:
        """Shorten shapes, as far as they can be read, where the table about time would be too wide."""
        excess = grid_width(self.names + self.time) - width
        if excess <= 0:
            return self
        return replace(self, names=[_shorten(c, c.width - excess) if c.heading == "shapes" else c for c in self.names])

    def draw(self, joined: bool) -> list[str]:
        if joined:
            return [grid(self.names + self.time + self.energy)]
        return [grid(self.names + self.time), grid(self.names[:2] + self.energy)]


def _shorten(column: Column, width: int) -> Column:
    width = max(width, _SHORTEST_SHAPE)
    cells = tuple(cell if len(cell) <= width else cell[: width - 3] + "..." for cell in column.cells)
    return replace(column, cells=cells)


def _table(chip: ChipResult, by: GroupBy, rows: Sequence[Row], wide: bool) -> _Table:
    total = _total_row(chip)
    return _Table(_name_columns(chip, by, rows, wide), _time_columns(chip, rows, total), _energy_columns(rows, total))


def _name_columns(chip: ChipResult, by: GroupBy, rows: Sequence[Row], wide: bool) -> list[Column]:
    columns = [
        Column(
            _FIRST_HEADING[by] if chip.fit.fits else f"{_FIRST_HEADING[by]}\n(hypothetical)",
            tuple(printable(row.path) or _TOP for row in rows),
            "total" if chip.fit.fits else "total, hypothetical",
            "left",
        ),
        Column("calls", tuple(f"{row.calls}" for row in rows), ""),
    ]
    columns += _text_column("shapes", (row.shapes for row in rows), wide)
    if wide and by == "kernel":
        columns += _text_column("tiles", (row.mapping for row in rows), wide)
    return columns


def _text_column(heading: str, values: Iterable[str], wide: bool) -> list[Column]:
    """A column of text, cut to a readable length; left out where it is empty."""
    column = Column(heading, tuple(printable(value) for value in values), "", "left")
    if not any(column.cells):
        return []
    return [column if wide else _shorten(column, _LONGEST_SHAPE)]


def _time_columns(chip: ChipResult, rows: Sequence[Row], total: Row) -> list[Column]:
    external = external_level(chip) or "external"
    columns = [
        _amounts("latency", "s", rows, total, lambda row: row.latency_s, Scale.fit("s", [total.latency_s], more=1)),
        *_spread_column(rows, total),
        _percents("share", rows, total, lambda row: row.share),
        _amounts("model", "FLOP", rows, total, lambda row: float(row.flops)),
        _percents("arith.\nutil.", rows, total, lambda row: row.utilization),
        _percents(f"{external}\nutil.", rows, total, lambda row: row.bandwidth_utilization),
        Column("bound by", tuple(row.bound_by for row in rows), total.bound_by, "left"),
    ]
    for level in total.traffic_bytes:
        columns.append(_amounts(f"bytes\n{level}", "B", rows, total, _traffic(level)))
    return columns


def _energy_columns(rows: Sequence[Row], total: Row) -> list[Column]:
    # One unit for all energy columns of a chip, so that they can be compared and added across.
    scale = Scale.fit("J", [total.energy_j], more=1)

    def column(heading: str, value: Callable[[Row], float]) -> Column:
        return _amounts(f"energy\n{heading}", "J", rows, total, value, scale)

    columns = [column(level, _memory_energy(level)) for level in total.memory_energy_j]
    columns.append(column("compute", lambda row: row.compute_energy_j))
    columns.append(column("static", lambda row: row.static_energy_j))
    if total.unattributed_energy_j:
        columns.append(column("other", lambda row: row.unattributed_energy_j))
    columns.append(column("total", lambda row: row.energy_j))
    return columns


def _spread_column(rows: Sequence[Row], total: Row) -> list[Column]:
    """Half the width of each latency's interval; left out where none is stated."""
    cells = tuple(spread(row.latency_s, row.latency_low_s, row.latency_high_s) for row in (*rows, total))
    return [Column("±\n%", cells[:-1], cells[-1])] if any(cells) else []


def spread(latency_s: float, low_s: float | None, high_s: float | None) -> str:
    """Half the width of an interval in % of the latency, empty where there is none."""
    if low_s is None or high_s is None:
        return ""
    half = (high_s - low_s) / 2.0 / latency_s if latency_s else 0.0
    return f"{100.0 * half:.0f}" if half >= 0.095 else f"{100.0 * half:.1f}"


def _traffic(level: str) -> Callable[[Row], float]:
    return lambda row: row.traffic_bytes.get(level, 0.0)


def _memory_energy(level: str) -> Callable[[Row], float]:
    return lambda row: row.memory_energy_j.get(level, 0.0)


def _amounts(
    heading: str, unit: str, rows: Sequence[Row], total: Row, value: Callable[[Row], float], scale: Scale | None = None
) -> Column:
    values = [value(row) for row in rows]
    scale = scale or Scale.fit(unit, [*values, value(total)])
    return Column(f"{heading}\n{scale.unit}", tuple(map(scale.number, values)), scale.number(value(total)))


def _percents(heading: str, rows: Sequence[Row], total: Row, value: Callable[[Row], float]) -> Column:
    return Column(f"{heading}\n%", tuple(percent(value(row)) for row in rows), percent(value(total)))


def _total_row(chip: ChipResult) -> Row:
    """The totals of a chip as a row, from `Total` and the levels rather than from the rows above it."""
    total = chip.total
    return Row(
        path="total",
        calls=0,
        latency_s=total.latency_s,
        energy_j=total.energy_j,
        memory_energy_j={level.name: level.energy_j for level in chip.everywhere},
        compute_energy_j=total.compute_energy_j,
        static_energy_j=total.static_energy_j,
        unattributed_energy_j=total.unattributed_energy_j,
        flops=total.flops,
        executed_flops=total.executed_flops,
        traffic_bytes={level.name: level.traffic_bytes for level in chip.everywhere},
        utilization=total.utilization,
        bandwidth_utilization=total.bandwidth_utilization,
        bound_by=total.bound_by,
        share=1.0,
        kernels=total.kernels,
        latency_low_s=total.latency_low_s,
        latency_high_s=total.latency_high_s,
    )


def _heading(result: Result, wide: bool) -> list[str]:
    facts = [printable(result.model) or "(unnamed)", result.phase]
    facts += [f"{word} {n}" for word, n in _sizes(result) if n is not None]
    facts += [result.dtype, f"{result.mode} mode" if result.mode else "", printable(result.inputs)]
    lines = [", ".join(fact for fact in facts if fact)]
    if wide:
        versions = {"cost model": result.model_version, **result.versions}
        lines.append("versions: " + ", ".join(f"{name} {value}" for name, value in versions.items() if value))
    return lines + [f"note: {note}" for note in result.notes]


def _sizes(result: Result) -> list[tuple[str, int | None]]:
    return [("batch", result.batch), ("seq-len", result.seq_len), ("context", result.context)]


def _header(chip: ChipResult, dtype: str) -> list[str]:
    name = printable(chip.title)
    lines = [f"{chip.chip}: {name}" if name and name != chip.chip else chip.chip]
    peak = f"dense peak {format_si(chip.peak_flops_per_s, 'FLOP/s')}{f' in {dtype}' if dtype else ''}"
    evidence = chip.evidence or "not stated"
    lines.append(f"evidence: {evidence}; {peak}; 1 MAC = 2 FLOPs; model FLOPs as torch counts them")
    lines.append(
        "arith. util. = executed FLOPs / (peak x latency), so a causal mask counts half; "
        f"{external_level(chip) or 'external'} util. = its traffic / (its bandwidth x latency)"
    )
    return lines + fit_lines(chip) + parallel_lines(chip)


def fit_lines(chip: ChipResult) -> list[str]:
    """Does it fit? One line that says so, and one more that warns where it does not."""
    fit = chip.fit
    pieces = f"weights {format_bytes(fit.weights_bytes)}"
    if fit.kv_cache_bytes:
        pieces += f", KV cache {format_bytes(fit.kv_cache_bytes)}"
    if fit.gradients_bytes:
        pieces += f", gradients {format_bytes(fit.gradients_bytes)}"
    if fit.optimizer_bytes:
        pieces += f", optimizer state {format_bytes(fit.optimizer_bytes)}"
    pieces += f", activations {format_bytes(fit.activations_bytes)}"
    needs, has = f"needs {format_bytes(fit.needs_bytes)}", f"has {format_bytes(fit.has_bytes)}"
    if fit.fits:
        return [f"fits: {needs}, {has} ({pieces})"]
    plural = "chip" if fit.chips == 1 else "chips"
    return [
        f"does not fit: {needs}, {has}, at least {fit.chips} {plural} ({pieces})",
        "HYPOTHETICAL: every figure below for this chip is priced as if capacity sufficed",
    ]


def parallel_lines(chip: ChipResult) -> list[str]:
    """Of a model divided among chips: what is shown, and what a step is on all of them."""
    p = chip.parallel
    if p is None:
        return []
    shown = f"one chip of each of {p.pp} stages" if p.pp > 1 else "one chip"
    batches = f", {p.micro_batches} micro-batches" if p.micro_batches > 1 else ""
    lines = [
        f"layout: {p}, {p.chips} chips; the table shows {shown}{' and one micro-batch' if batches else ''}",
        f"all chips: step {format_si(p.step_s, 's')}{batches}, energy {format_si(p.energy_j, 'J')}",
    ]
    if p.pp > 1:
        stages = ", ".join(format_si(seconds, "s") for seconds in p.stages_s)
        lines.append(f"stages: {stages}; a chip waits {percent(p.bubble)} % of a step")
    return lines


def _footer(chip: ChipResult) -> list[str]:
    lines = [coverage_line(chip), f"kernels: {chip.total.kernels}", *_interval_lines(chip)]
    if chip.total.unattributed_energy_j:
        lines.append("energy, other: what the whole chip or board spends beyond the parts that are modelled one by one")
    for link in chip.links:
        rate = format_si(link.bandwidth_bytes_per_s, "B/s")
        lines.append(f"{link.name}: bytes that leave the chip for others, at {rate} in one direction")
    return lines + [f"note: {note}" for note in chip.notes]


def _interval_lines(chip: ChipResult) -> list[str]:
    """What the latency may be, and what the ± are."""
    low, high = chip.total.latency_low_s, chip.total.latency_high_s
    if low is None or high is None:
        return []
    return [f"±: latency between {format_si(low, 's')} and {format_si(high, 's')}; {chip.interval}"]


def coverage_line(chip: ChipResult) -> str:
    """The share of traffic that has formulas of its own, and the operators that have none."""
    coverage = chip.coverage
    line = f"coverage: {percent(coverage.modelled_bytes_share)} % of bytes modelled by a formula of the operator"
    ranked = sorted(coverage.unmodelled.items(), key=lambda item: (-item[1], item[0]))
    if not ranked:
        return line
    shown = ", ".join(f"{printable(name)} {percent(share)} %" for name, share in ranked[:8])
    more = f" and {len(ranked) - 8} more" if len(ranked) > 8 else ""
    return f"{line}; priced by their traffic alone: {shown}{more}"


def percent(fraction: float) -> str:
    """A fraction as percent; never 0 for what is not, never 100 for what falls short of it."""
    value = 100.0 if math.isclose(fraction, 1, rel_tol=1e-9) else 100 * fraction
    if 0 < value < 0.05:
        return "<0.1"
    if 99.95 <= value < 100:
        return ">99.9"
    return f"{value:.0f}" if value in (0, 100) else f"{value:.1f}"


def printable(text: str) -> str:
    """Names as they are, but with control characters and line breaks written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
