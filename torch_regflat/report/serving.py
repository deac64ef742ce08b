"""A served model as text: the best point, what limits it, the batches around it, and other layouts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ..served import Disaggregated, Limit, Serving, ServingPoint
from ..units import format_bytes, format_duration, format_energy, format_si
from . import costs
from .grid import Column, grid
from .requests import PARTS


def render(found: Serving) -> str:
    """The text report."""
    best = found.best
    parts = ["\n".join([_asked(found), *(f"note: {note}" for note in found.notes)]), _best(found)]
    parts.append("\n".join(_limits(best)))
    parts.append(_energy(best))
    parts.append(f"by requests at once, with {best.layout}\n{_points(found.curve, found)}")
    if found.others:
        parts.append(f"other layouts at their best\n{_points(found.others, found)}")
    if found.refused:
        parts.append("\n".join(["layouts that cannot do it", *(f"  {k}: {why}" for k, why in found.refused.items())]))
    if found.passed_over:
        listed = ", ".join(f"{layout} {_rate(rate * found.output)}" for layout, rate in found.passed_over.items())
        parts.append(textwrap.fill(f"not looked at closely (tokens/s a chip, an estimate): {listed}", 118))
    if found.disaggregated:
        parts.append(_pools(found.disaggregated))
    if found.costs:
        parts.append(costs.render(found.costs).rstrip())
    parts.append(_assumptions(found))
    return "\n\n".join(parts) + "\n"


def _asked(found: Serving) -> str:
    words = [f"{found.model} on {found.chip}: prompts of {found.prompt} tokens, answers of {found.output}"]
    if found.prefix:
        words.append(f"{found.prefix} of each prompt cached before")
    if found.ttft_target_s is not None:
        words.append(f"first token within {format_duration(found.ttft_target_s)}")
    if found.tpot_target_s is not None:
        words.append(f"each later one within {format_duration(found.tpot_target_s)}")
    if found.drafting:
        words.append(f"{found.drafting.length} tokens drafted, each accepted with {found.drafting.acceptance:.0%}")
    return ", ".join([*words, found.dtype, f"mode {found.mode}"])


def _best(found: Serving) -> str:
    best = found.best
    rows = [
        ("layout", f"{best.layout}, {best.chips} chip{'s' if best.chips > 1 else ''}"),
        ("tokens/s of the answers", _ends(best)),
        ("tokens/s a chip", _rate(best.tokens_per_s_chip)),
        ("requests/s", _rate(best.requests_per_s)),
        ("requests at once", f"{best.slots}, of which {best.decoding:.1f} decode"),
        ("time to first token, mean", format_duration(best.ttft_s)),
        ("time per output token, mean", format_duration(best.tpot_s)),
        ("passes that read prompts", f"{best.mixed:.0%}, up to {best.chunk} tokens each"),
        ("utilization", f"{best.utilization:.1%}"),
        ("power of a chip", format_si(best.power_w, "W")),
        ("memory of a chip", f"{format_bytes(best.needs_bytes)} of {format_bytes(best.has_bytes)}"),
        ("weights", format_bytes(best.weights_bytes)),
        ("KV cache", format_bytes(best.kv_cache_bytes)),
        ("activations", format_bytes(best.activations_bytes)),
    ]
    return grid([Column("", tuple(n for n, _ in rows), align="left"), Column("", tuple(v for _, v in rows))])


def _limits(best: ServingPoint) -> list[str]:
    if not best.limits:
        return []
    lines = [f"limited by {_limit(best.limits[0])}"]
    if len(best.limits) > 1:
        lines.append("then by " + "; ".join(map(_limit, best.limits[1:])))
    return lines


def _limit(limit: Limit) -> str:
    said = f"{limit.name} ({limit.what})"
    if limit.tokens_per_s is not None:
        return f"{said}: without it {_rate(limit.tokens_per_s)} tokens/s"
    return f"{said}, {limit.share:.0%} of the time" if limit.share else said


def _energy(best: ServingPoint) -> str:
    listed = sorted(best.energy_j.items(), key=lambda item: -item[1])
    rows = [(PARTS.get(part, part), format_energy(joules)) for part, joules in listed if joules > 0.0]
    rows.append(("a request", format_energy(best.j_per_request)))
    return grid(
        [Column("energy of a request", tuple(n for n, _ in rows), align="left"), Column("", tuple(v for _, v in rows))]
    )


def _points(points: Sequence[ServingPoint], found: Serving) -> str:
    columns = [
        Column("layout", tuple(str(p.layout) for p in points), align="left"),
        Column("at once", tuple(str(p.slots) for p in points)),
        Column("tokens/s", tuple(_rate(p.tokens_per_s) for p in points)),
        Column("a chip", tuple(_rate(p.tokens_per_s_chip) for p in points)),
        Column("first token", tuple(format_duration(p.ttft_s) for p in points)),
        Column("later ones", tuple(format_duration(p.tpot_s) for p in points)),
        Column("J a request", tuple(format_energy(p.j_per_request) for p in points)),
        Column("W a chip", tuple(f"{p.power_w:.0f}" for p in points)),
        Column("targets", tuple("met" if _met(p, found) else "-" for p in points)),
    ]
    return grid(columns if len({p.layout for p in points}) > 1 else columns[1:])


def _met(point: ServingPoint, found: Serving) -> bool:
    pairs = ((point.ttft_s, found.ttft_target_s), (point.tpot_s, found.tpot_target_s))
    return all(target is None or value <= target for value, target in pairs)


def _pools(apart: Disaggregated) -> str:
    pools = (apart.prefill, apart.decode)
    columns = [
        Column("", tuple(pool.role for pool in pools), align="left"),
        Column("share of chips", tuple(f"{pool.share:.0%}" for pool in pools)),
        Column("layout", tuple(str(pool.point.layout) for pool in pools)),
        Column("at once", tuple(str(pool.point.slots) for pool in pools)),
        Column("busy", tuple(f"{pool.busy:.0%}" for pool in pools)),
        Column("requests/s", tuple(_rate(pool.point.requests_per_s) for pool in pools)),
        Column("W a chip", tuple(f"{pool.point.power_w:.0f}" for pool in pools)),
    ]
    last = (
        f"{_rate(apart.tokens_per_s_chip)} tokens/s a chip of both; first token after {format_duration(apart.ttft_s)}, "
        f"{format_duration(apart.handover_s)} of it to hand the cache over; "
        f"{format_energy(apart.j_per_request)} a request"
    )
    return f"prompts and answers on chips of their own\n{grid(columns)}\n{last}"


def _assumptions(found: Serving) -> str:
    how = "" if found.chunk_given else ", the best of 512, 2048 and 8192"
    return (
        f"Each slot takes its next request as soon as its last one is answered. Passes read up to {found.best.chunk} "
        f"tokens of prompts{how}. Caches and weights take at most {found.memory_use:.0%} of the memory; every slot has "
        f"room for its longest context. Times are means. Intervals: {found.interval or 'none stated'}."
    )


def _ends(best: ServingPoint) -> str:
    if best.tokens_per_s_low is None or best.tokens_per_s_high is None:
        return _rate(best.tokens_per_s)
    low, high = _rate(best.tokens_per_s_low), _rate(best.tokens_per_s_high)
    return f"{_rate(best.tokens_per_s)} ({low} to {high})"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
