"""An explanation of one kernel as text."""

from __future__ import annotations

from tabulate import tabulate

from ..result import Explanation
from ..units import format_bytes, format_energy, format_si


def render(found: Explanation) -> str:
    """What runs, how, what bounds it, and what lost."""
    sizes = ", ".join(f"{axis} = {size}" for axis, size in found.sizes.items())
    lines = [f"{found.path}  {found.kernel} on {found.chip}", ""]
    lines += [f"  {operation}" for operation in found.operations]
    lines += ["", f"mapping: {found.mapping}" + (f"  ({sizes})" if sizes else "")]
    lines += ["  " * depth + loop for depth, loop in enumerate(found.loops, 1)]
    held = list(dict.fromkeys(level for o in found.operands for level in o.tile_bytes))
    crossed = list(dict.fromkeys(level for o in found.operands for level in o.traffic_bytes))
    operands = [
        (
            *(o.role, o.access, o.axes, format_bytes(o.footprint_bytes)),
            *(format_bytes(o.tile_bytes[level]) if level in o.tile_bytes else "-" for level in held),
            *(format_bytes(o.traffic_bytes[level]) if level in o.traffic_bytes else "-" for level in crossed),
        )
        for o in found.operands
    ]
    headers = (
        "operand",
        "access",
        "axes",
        "footprint",
        *(f"tile in {n}" for n in held),
        *(f"{n} traffic" for n in crossed),
    )
    lines += ["", tabulate(operands, headers)]
    busy = sorted(found.busy_s.items(), key=lambda item: -item[1])
    times = [(name, format_si(seconds, "s"), f"{seconds / found.latency_s:.0%}") for name, seconds in busy if seconds]
    lines += ["", tabulate(times, ("resource", "busy", "of latency"))]
    lines += [
        "",
        f"latency {format_si(found.latency_s, 's')}, energy {format_energy(found.energy_j)}, bound by {found.bound_by}",
    ]
    if found.alternatives:
        rows = [
            (
                a.mapping,
                f"{a.latency_s / found.latency_s - 1:+.1%}",
                f"{a.energy_j / found.energy_j - 1:+.1%}",
                a.bound_by,
            )
            for a in found.alternatives
        ]
        lines += ["", tabulate(rows, ("the best that lost", "latency", "energy", "bound by"))]
    lines += ["", f"{found.candidates} candidates, {found.legal} legal" + _rejected(found)]
    return "\n".join(lines) + "\n"


def _rejected(found: Explanation) -> str:
    if not found.rejected:
        return ""
    words = {"cores": "want more cores than there are"}
    lost = (f"{count} {words.get(level, f'did not fit {level}')}" for level, count in found.rejected.items())
    return "; " + ", ".join(lost)
