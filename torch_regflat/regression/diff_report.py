"""A `Diff` as a table for the terminal, as markdown for a pull request, or as JSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence

from ..report.grid import Column, grid
from ..report.text import printable
from .compare import relative
from .diff import ChipDiff, Diff, LayerDiff
from .metrics import DEFAULT, METRICS

_TOP = "(top level)"
_SHOWN_TOTALS = (*DEFAULT, "external_traffic_bytes", "kernels")
Table = Callable[[Sequence[Column]], str]


def render(found: Diff, format: str = "table", row_limit: int | None = 30) -> str:
    """`table`, `markdown` or `json`. Rows that are the same are left out, and of the others all but `row_limit`."""
    if format == "json":
        return json.dumps(_document(found), indent=2, allow_nan=False) + "\n"
    if format == "markdown":
        return _markdown(found, row_limit)
    parts = [f"{printable(found.before)} -> {printable(found.now)}, by {found.metric.words}"]
    parts += [f"note: {printable(note)}" for note in found.notes]
    for chip in found.chips:
        parts.append(f"{chip.chip}\n\n{grid(_totals(chip))}")
        rows, rest = _changed(chip, row_limit)
        parts.append("\n".join([grid(_columns(found, rows))] if rows else []) or "no layer changed")
        parts += [rest] if rest else []
    return "\n\n".join([*parts, printable(found.why)]) + "\n"


def _markdown(found: Diff, row_limit: int | None) -> str:
    parts = [f"### Modelled {found.metric.words}: {_code(found.before)} → {_code(found.now)}"]
    parts += [f"- {_escaped(note)}" for note in found.notes]
    for chip in found.chips:
        parts.append(f"**{_escaped(chip.chip)}**\n\n{_pipes(_totals(chip))}")
        rows, rest = _changed(chip, row_limit)
        if not rows:
            parts.append("No layer changed.")
            continue
        counts = Counter(item.status for item in chip.layers if item.status != "same")
        summary = ", ".join(f"{number} {status}" for status, number in counts.items())
        table = _pipes(_columns(found, rows), code=True)
        inner = f"{table}\n\n{rest}" if rest else table
        parts.append(f"<details open><summary>Layers: {summary}</summary>\n\n{inner}\n\n</details>")
    return "\n\n".join([*parts, _escaped(f"{found.why[0].upper()}{found.why[1:]}.")]) + "\n"


def _changed(chip: ChipDiff, row_limit: int | None) -> tuple[list[LayerDiff], str]:
    """The rows that changed, most first, and a line on those left out."""
    rows = [item for item in chip.layers if item.status != "same"]
    rows.sort(key=lambda item: -abs(item.change))
    if row_limit is None or len(rows) <= row_limit:
        return rows, ""
    return rows[:row_limit], f"({len(rows) - row_limit} more, each with a smaller change)"


def _totals(chip: ChipDiff) -> list[Column]:
    names = [name for name in METRICS if name in _SHOWN_TOTALS]
    pairs = [chip.totals[name] for name in names]
    return [
        Column("total", tuple(METRICS[name].words for name in names), align="left"),
        Column("before", tuple(METRICS[n].text(old) for n, (old, _) in zip(names, pairs, strict=True))),
        Column("now", tuple(METRICS[n].text(new) for n, (_, new) in zip(names, pairs, strict=True))),
        Column("change", tuple("" if old == new else relative(old, new) for old, new in pairs)),
    ]


def _columns(found: Diff, rows: Sequence[LayerDiff]) -> list[Column]:
    text = found.metric.text
    return [
        Column("layer", tuple(_path(item) for item in rows), align="left"),
        Column("", tuple(item.status for item in rows), align="left"),
        Column("before", tuple("-" if item.before is None else text(item.value_before) for item in rows)),
        Column("now", tuple("-" if item.now is None else text(item.value_now) for item in rows)),
        Column("change", tuple(_change(item) for item in rows)),
        Column("bound by", tuple(_bound(item) for item in rows), align="left"),
    ]


def _path(item: LayerDiff) -> str:
    path = printable(item.path) or _TOP
    return f"{printable(item.was) or _TOP} -> {path}" if item.status == "moved" else path


def _change(item: LayerDiff) -> str:
    if item.before is None or item.now is None:
        return ""
    return "" if item.value_before == item.value_now else relative(item.value_before, item.value_now)


def _bound(item: LayerDiff) -> str:
    old, new = (row.bound_by if row else "" for row in (item.before, item.now))
    return f"{old} -> {new}" if old and new and old != new else old or new


def _pipes(columns: Sequence[Column], code: bool = False) -> str:
    """A table of GitHub's markdown."""
    lines = [
        "| " + " | ".join(column.heading for column in columns) + " |",
        "|" + "|".join("---" if column.align == "left" else "---:" for column in columns) + "|",
    ]
    for row in zip(*(column.cells for column in columns), strict=True):
        first = _code(row[0]) if code else _escaped(row[0])
        lines.append("| " + " | ".join([first, *map(_escaped, row[1:])]) + " |")
    return "\n".join(lines)


def _code(text: str) -> str:
    """As code, whatever is in it: pipes would end a cell and backticks the code."""
    return f"`{printable(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#@])", r"\\\1", printable(text))


def _document(found: Diff) -> dict[str, object]:
    return {
        "schema": 1,
        "kind": "regflat diff",
        "before": found.before,
        "now": found.now,
        "metric": found.metric.name,
        "why": found.why,
        "notes": list(found.notes),
        "chips": [_chip_document(chip) for chip in found.chips],
    }


def _chip_document(chip: ChipDiff) -> dict[str, object]:
    layers = [
        {
            "path": item.path,
            "was": item.was or None,
            "status": item.status,
            "before": None if item.before is None else item.value_before,
            "now": None if item.now is None else item.value_now,
            "bound_by_before": item.before.bound_by if item.before else None,
            "bound_by_now": item.now.bound_by if item.now else None,
        }
        for item in chip.layers
    ]
    totals = {name: {"before": old, "now": new} for name, (old, new) in chip.totals.items()}
    return {"chip": chip.chip, "totals": totals, "layers": layers}
