"""Tables as plain text or Markdown, and the comparison as such tables."""

from __future__ import annotations

from collections.abc import Sequence

from ..hardware.chip import Chip
from ..report.grid import Column, grid
from ..units import format_energy, format_si
from .compare import Comparison, distances, priced, verdict
from .rows import Row

_LINES = (
    ("on-chip memory", "on_chip_energy_j"),
    ("external memory", "external_energy_j"),
    ("compute", "compute_energy_j"),
    ("static", "static_energy_j"),
    ("unattributed", "unattributed_energy_j"),
    ("all", "energy_j"),
    ("all but unattributed", "energy_without_unattributed_j"),
)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    """A table with its first column to the left; the others are numbers, or words."""
    if markdown:
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
    return grid(
        [
            Column(name, tuple(row[i] for row in rows), align="left" if i == 0 else "right")
            for i, name in enumerate(header)
        ]
    )


def render(found: Sequence[Comparison], one: Chip, other: Chip, markdown: bool = False) -> str:
    """All tables of a comparison."""
    head = "# {}\n" if markdown else "{}\n"
    parts = [head.format(f"{found[0].point['model']}: {one.name} and {other.name}")]
    for comparison in found:
        parts += _point(comparison, one, other, markdown)
    parts += [_title("picojoules a bit, by distance", markdown), _distances([one, other], markdown)]
    parts.append(NOTES.strip())
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


NOTES = """
as shipped: each chip with its own software, so libraries' losses on one side and an ideal mapper's on the other.
same software: both with the launch costs and the losses of one side, the unattributed energies of the first.
only the on-chip memory differs: moreover with the dense peaks, board and external memory of the first. Only what is
left of a difference here is credited to the on-chip memory.
unattributed: what GPU boards are measured to spend beyond the sum of their parts, charged to both alike; without it, it
is charged to neither, and takes no power either. Under the same software the sum of parts takes the place of what a
board is measured to spend on a product, on both sides.
"""


def _title(text: str, markdown: bool) -> str:
    return f"## {text}" if markdown else text


def _point(found: Comparison, one: Chip, other: Chip, markdown: bool) -> list[str]:
    point = found.point
    words = [f"{key} {point[key]}" for key in ("batch", "context", "dtype") if point[key]]
    parts = [_title(", ".join([point["phase"] or "default phase", *words]), markdown)]
    parts.append(_pairs(found, one.name, other.name, markdown))
    parts.append(_credit(found, other.name))
    shipped = found.pairs[0]
    if priced(*shipped[1:]):
        parts.append(_energies(shipped[1], shipped[2], markdown))
    if found.loss is not None:
        parts.append(_loss(found, one.name, markdown))
    return parts


def _pairs(found: Comparison, one: str, other: str, markdown: bool) -> str:
    header = ["", "unattributed", f"latency {one}", other, "times faster"]
    header += [f"energy {one}", other, "times less", "the second is"]
    rows = []
    for pair, a, b in found.pairs:
        first = [pair.name, "with" if pair.unattributed else "without"]
        if not priced(a, b):
            rows.append([*first, "-", "-", "-", "-", "-", "-", a["error"] or b["error"]])
            continue
        latency = [format_si(row["latency_s"], "s") for row in (a, b)]
        energy = [format_energy(row["energy_j"]) for row in (a, b)]
        faster, saves = times(a["latency_s"], b["latency_s"]), times(a["energy_j"], b["energy_j"])
        rows.append([*first, *latency, faster, *energy, saves, verdict(a, b)])
    return table(header, rows, markdown)


def times(one: float, other: float) -> str:
    """A ratio in words: `1.50x`."""
    return f"{one / other:.2f}x" if other else "-"


def _credit(found: Comparison, other: str) -> str:
    """What the on-chip memory of the second chip is credited with."""
    words = []
    for unattributed in (True, False):
        faster, saves = found.gain("latency_s", unattributed), found.gain("energy_j", unattributed)
        if faster is None or saves is None:
            return f"credited to the on-chip memory of {other}: nothing, for like for like could not be priced"
        said = "with" if unattributed else "without"
        words.append(f"{_range(faster)} as fast, {_range(saves)} less energy {said} unattributed")
    return f"credited to the on-chip memory of {other}: {'; '.join(words)}"


def _range(ends: tuple[float, float]) -> str:
    low, high = (f"{end:.2f}" for end in ends)
    return f"{low}x" if low == high else f"{low} to {high}x"


def _energies(a: Row, b: Row, markdown: bool) -> str:
    header = ["as shipped, energy a token", a["chip"], "share", b["chip"], "share"]
    rows = []
    for name, field in _LINES:
        cells = [name]
        for row in (a, b):
            cells += [format_energy(row[field] / row["tokens"]), f"{100 * row[field] / row['energy_j']:.1f} %"]
        rows.append(cells)
    each = [format_energy(row["energy_j"] / row["batch"]) for row in (a, b)]
    rows.append(["all, a sequence of this run", each[0], "", each[1], ""])
    return table(header, rows, markdown)


def _loss(found: Comparison, one: str, markdown: bool) -> str:
    lost = found.loss
    assert lost is not None
    header = [f"where the time of {one} goes", "mean over orders", "share", "if it alone went", "if it went last"]
    rows = [
        [
            cause.name,
            format_si(cause.share_s, "s"),
            f"{100 * cause.share_s / lost.latency_s:.1f} %",
            format_si(cause.alone_s, "s"),
            format_si(cause.last_s, "s"),
        ]
        for cause in lost.causes
    ]
    left = f"{100 * lost.left_s / lost.latency_s:.1f} %"
    rows.append(["arithmetic and power", format_si(lost.left_s, "s"), left, "", ""])
    rows.append(["all", format_si(lost.latency_s, "s"), "100 %", "", ""])
    return table(header, rows, markdown)


def _distances(chips: Sequence[Chip], markdown: bool) -> str:
    rows = []
    for chip in chips:
        for level, where, read, written in distances(chip):
            rows.append([f"{chip.name}, {level}", where, _pico(read), "" if written is None else _pico(written)])
    return table(["memory", "from", "read", "write"], rows, markdown)


def _pico(joules: float) -> str:
    return f"{joules * 1e12:.3g}"
