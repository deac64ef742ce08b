"""Costs of a served model as text, with every assumption."""

from __future__ import annotations

import textwrap

from ..served import Costs, Fleet
from ..units import format_si
from .grid import Column, grid


def render(found: Costs) -> str:
    """The text report."""
    parts = [_costs(found)]
    if found.fleet:
        parts.append(_fleet(f"for {found.fleet.queries_per_s:,.0f} requests/s", found.fleet))
    if found.budget and found.budget_w:
        parts.append(_fleet(f"with {format_si(found.budget_w, 'W')} for the building", found.budget))
    return "\n\n".join([*parts, _assumptions(found)]) + "\n"


def _costs(found: Costs) -> str:
    names = dict.fromkeys(part for cost in found.costs for part in cost.usd_per_hour)
    rows = [("a million tokens of answers", [_usd(cost.usd_per_million_tokens) for cost in found.costs])]
    rows.append(("a request", [_usd(cost.usd_per_request) for cost in found.costs]))
    hourly = [cost.usd_per_hour for cost in found.costs]
    rows += [(f"{name}, a chip and hour", [_usd(h[name]) if name in h else "" for h in hourly]) for name in names]
    shares = [f"{c.share('electricity'):.1%}" if "electricity" in c.usd_per_hour else "" for c in found.costs]
    rows.append(("share of electricity", shares))
    return grid(
        [Column(f"cost on {found.chip}", tuple(n for n, _ in rows), align="left")]
        + [Column(cost.basis, tuple(v[i] for _, v in rows)) for i, cost in enumerate(found.costs)]
    )


def _fleet(title: str, fleet: Fleet) -> str:
    rows = [
        ("requests/s", f"{fleet.queries_per_s:,.6g}"),
        ("instances", f"{fleet.instances:,}"),
        ("chips", f"{fleet.chips:,}"),
        ("racks", f"{fleet.racks:,}"),
        ("power to be provided", format_si(fleet.provided_w, "W")),
        ("power drawn on average", format_si(fleet.drawn_w, "W")),
        (f"a day, chips {fleet.basis}", _usd(fleet.usd_per_day)),
    ]
    return grid([Column(title, tuple(n for n, _ in rows), align="left"), Column("", tuple(v for _, v in rows))])


def _assumptions(found: Costs) -> str:
    lines = ["assumed"]
    for one in found.assumptions:
        ranged = f" ({one.range})" if one.range else ""
        said = f"{one.name} = {one.value}{ranged}, {one.kind}: {one.source}" + (f"; {one.note}" if one.note else "")
        lines.append(textwrap.fill(said, 118, initial_indent="  ", subsequent_indent="    "))
    return "\n".join(lines)


def _usd(value: float) -> str:
    if value >= 1000:
        return f"${value:,.0f}"
    return f"${value:.2f}" if value >= 1 else f"${value:.3g}"
