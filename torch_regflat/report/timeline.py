"""A time line as text: what the engines waited for, what lay on chip, and the longest waits."""

from __future__ import annotations

from tabulate import tabulate

from ..timeline import Timeline
from ..units import format_bytes, format_si
from .text import percent, printable

LONGEST = 8


def render(line: Timeline, longest: int = LONGEST) -> str:
    """Stalls by cause, the occupancy on chip, and the kernels that waited longest."""
    parts = {"computing": line.computing_s, **dict(sorted(line.stalls_s.items(), key=lambda item: -item[1]))}
    rows = [(name, format_si(s, "s"), f"{percent(s / line.latency_s)} %") for name, s in parts.items() if s > 0]
    lines = [f"{line.chip}: time line of {len(line.kernels)} kernels and {len(line.transfers)} transfers", ""]
    lines += [tabulate([*rows, ("total", format_si(line.latency_s, "s"), "")], ["engines", "time", "share"])]
    if line.on_chip:
        peak, share = format_bytes(line.peak_bytes), percent(line.peak_bytes / line.capacity_bytes)
        lines += ["", f"on chip at most {peak} of {format_bytes(line.capacity_bytes)} ({share} %)"]
    waits = [(sum(k.waits_s.values()), k) for k in line.kernels if k.waits_s]
    waits.sort(key=lambda found: (-found[0], found[1].start_s))
    if waits:
        table = [
            (
                printable(k.path),
                k.name,
                format_si(k.start_s, "s"),
                format_si(seconds, "s"),
                max(k.waits_s, key=lambda cause: (k.waits_s[cause], cause)),
            )
            for seconds, k in waits[:longest]
        ]
        lines += ["", "longest waits:", tabulate(table, ["layer", "kernel", "at", "waited", "mostly for"])]
    return "\n".join(lines) + "\n"
