"""Elasticities as a table."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from ..result import Elasticity

LAYER_COLUMNS = 4
"""Numbers that are split by layer."""
LEAST = 0.0005
"""Elasticities below this round to 0.0 % of a percent and are left out."""


def render(chip: str, found: Sequence[Elasticity]) -> str:
    """What 1 % more of each number does, the strongest first; a star where a new search says something else."""
    rows = []
    for e in found:
        if max(abs(e.latency), abs(e.energy)) < LEAST:
            continue
        again = "" if e.remapped is None else " / ".join(f"{r:+.2f} %" for r in e.remapped)
        rows.append(
            (e.parameter, e.kind, f"{e.latency:+.2f} %", f"{e.energy:+.2f} %", again, "*" if e.misleads else "")
        )
    headings = ("1 % more", "kind", "latency", "energy", "latency, searched again at -10 % / +10 %", "")
    searched = any(e.remapped is not None for e in found)
    width = len(headings) if searched else 4
    table = tabulate([row[:width] for row in rows], headings[:width], disable_numparse=True)
    shown = [e for e in found if abs(e.latency) >= LEAST][:LAYER_COLUMNS]
    rates = sum(e.latency for e in found if e.kind == "rate")
    times = sum(e.latency for e in found if e.kind == "time")
    lines = [f"{chip}: what 1 % more of each number does, mappings held fixed", "", table, ""]
    lines.append(f"all rates {rates:+.2f} %, all time constants {times:+.2f} %")
    if shown:
        lines += ["", "of it, latency by layer", "", _by_layer(shown)]
    if any(e.misleads for e in found):
        lines.append("* a new search finds other mappings there: the fixed mapping misleads")
    return "\n".join(lines) + "\n"


def _by_layer(shown: Sequence[Elasticity]) -> str:
    layers = dict.fromkeys(layer for e in shown for layer in e.layers)
    rows = [
        (layer or "model", *(f"{e.layers.get(layer, 0.0):+.2f} %" for e in shown))
        for layer in layers
        if any(abs(e.layers.get(layer, 0.0)) >= LEAST for e in shown)
    ]
    totals = ("total", *(f"{e.latency:+.2f} %" for e in shown))
    return tabulate([*rows, totals], ("layer", *(e.parameter for e in shown)), disable_numparse=True)
