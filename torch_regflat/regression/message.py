"""What a test that fails says, and a line for the summary of the run."""

from __future__ import annotations

from collections.abc import Sequence

from ..report.grid import Column, grid
from .believable import verdict
from .compare import Change, LayerChange, relative
from .metrics import METRICS
from .moved import moved, sentence
from .snapshot import Snapshot

SHOWN_LAYERS = 3
_BELIEVABLE = "believable: 95 % of measured pairs of such kernels went the way the model says from this change on"


def explain(changes: Sequence[Change], before: Snapshot, now: Snapshot, rtol: float) -> str:
    """All changes beyond the tolerance, the worst news first, and what moved."""
    ordered = sorted(changes, key=lambda change: change.status != "regression")
    parts = [_one(change, rtol) for change in ordered]
    parts.append(why(before, now, [change.chip for change in changes]))
    return "\n\n".join(parts)


def line(change: Change) -> str:
    """One line: `latency on h100-sxm 1.00 ms -> 1.10 ms (+10.0 %)`."""
    metric = METRICS[change.metric]
    return f"{metric.words} on {change.chip} {metric.text(change.before)} -> {metric.text(change.now)} ({change.ratio})"


def why(before: Snapshot, now: Snapshot, chips: Sequence[str]) -> str:
    """What moved since the baseline, and the versions of both."""
    hashes = {}
    for name in dict.fromkeys(chips):
        old, new = before.chips[name], now.chips[name]
        hashes[f"the chip file of {name}"] = (old.chip_hash, new.chip_hash)
        hashes[f"the software file of {name}"] = (old.software_hash, new.software_hash)
    return sentence(moved(before.provenance, now.provenance, hashes), before.provenance, now.provenance)


def _one(change: Change, rtol: float) -> str:
    metric = METRICS[change.metric]
    kind = "counted" if metric.counted else "modelled"
    head = f"{kind} {change.status} of {metric.name} on {change.chip}"
    lines = [
        f"{head}: baseline {metric.text(change.before)}, now {metric.text(change.now)}, "
        f"{change.ratio} (tolerance {100 * rtol:g} %)"
    ]
    if change.overflows:
        lines.append("it fitted the memory of the chip before, and no longer does")
    if change.layers:
        lines.append(_layers(change.layers[:SHOWN_LAYERS], change))
        lines += _more(len(change.layers) - SHOWN_LAYERS)
    if metric.name == "latency_s" and change.layers:
        lines.append(_BELIEVABLE)
    elif not metric.counted and metric.name != "latency_s":
        lines.append(f"changes of {metric.words} are not validated against measurements")
    return "\n".join(lines)


def _more(count: int) -> list[str]:
    return [f"  and {count} more"] if count > 0 else []


def _layers(layers: Sequence[LayerChange], change: Change) -> str:
    text = METRICS[change.metric].text
    whole = METRICS[change.metric].of_layer is not None
    columns = [
        Column("moved most", tuple(item.path or "(top level)" for item in layers), align="left"),
        Column("before", tuple("-" if item.before is None else text(item.before) for item in layers)),
        Column("now", tuple("gone" if item.now is None else text(item.now) for item in layers)),
        Column("change", tuple(_change(item) for item in layers)),
    ]
    if whole:
        columns.append(Column("bound by", tuple(_bound(item) for item in layers), align="left"))
    if change.metric == "latency_s":
        cells = tuple(verdict(item.kernels, item.before, item.now) for item in layers)
        columns.append(Column("believable", cells, align="left"))
        columns.append(Column("kernels", tuple(item.kernels or "-" for item in layers), align="left"))
    return "\n".join(f"  {row}" for row in grid(columns).split("\n"))


def _change(item: LayerChange) -> str:
    if item.before is None:
        return "new"
    return "gone" if item.now is None else relative(item.before, item.now)


def _bound(item: LayerChange) -> str:
    if item.bound_before == item.bound_now:
        return item.bound_now
    return f"{item.bound_before or '-'} -> {item.bound_now or '-'}"
