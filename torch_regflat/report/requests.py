"""Requests as text: a table of times and energies a chip, and the turns where there are several."""

from __future__ import annotations

from ..served import RequestCost, Requests, StepCost
from ..units import format_bytes, format_duration, format_energy, format_si
from .grid import Column, grid

PARTS = {
    "weight": "weights",
    "activation": "activations",
    "kv_cache": "KV cache",
    "state": "state",
    "network": "links between chips",
    "idle": "while idle",
}
"""Words for parts of the energy; memories on chip have their own names."""


def render(found: Requests) -> str:
    """The text report."""
    lines = [f"{found.model}: {_asked(found.chips[0])}"]
    if found.dtype:
        lines[0] += f", {found.dtype}, mode {found.mode}"
    parts = ["\n".join([*lines, *(f"note: {note}" for note in found.notes)]), _times(found), _energies(found)]
    parts += [_turns(chip) for chip in found.chips if len(chip.turns) > 1]
    parts += [line for chip in found.chips for line in _remarks(chip)]
    return "\n\n".join(parts) + "\n"


def _asked(one: RequestCost) -> str:
    many = "request" if one.batch == 1 else f"requests x {one.batch} side by side"
    words = [f"{many} of {one.prompt} tokens, answered with {one.output}"]
    if one.prefix:
        words.append(f"{one.prefix} of the prompt cached before")
    if one.chunk:
        words.append(f"read in chunks of {one.chunk}")
    if len(one.turns) > 1:
        later = one.turns[1].new - (1 if one.kept else 0)
        words.append(f"{len(one.turns)} turns, " + ("the cache kept" if one.kept else f"all {later} read anew"))
    if one.drafting:
        draft = one.drafting
        by = draft.model or f"something at {draft.share:g} of the cost of a token"
        words.append(f"{draft.length} tokens drafted by {by}, each accepted with {draft.acceptance:.0%}")
    return ", ".join(words)


def _times(found: Requests) -> str:
    rows = [
        ("time to first token", [_with_ends(chip.turns[0].prefill) for chip in found.chips]),
        ("time per output token, mean", [_si(chip.tpot_s, "s") for chip in found.chips]),
        ("time of the second token", [_si(chip.turns[0].first_token_s, "s") for chip in found.chips]),
        ("time of the last token", [_si(chip.turns[-1].last_token_s, "s") for chip in found.chips]),
        ("request, first to last token", [_with_ends(chip.total) for chip in found.chips]),
        ("tokens/s of the batch", [f"{chip.tokens_per_s:.4g}" for chip in found.chips]),
        ("prefill bound by", [chip.turns[0].prefill.bound_by for chip in found.chips]),
        ("decode bound by", [chip.turns[-1].decode.bound_by for chip in found.chips]),
        ("memory needed", [format_bytes(chip.total.needs_bytes) for chip in found.chips]),
        ("memory there is", [format_bytes(chip.total.has_bytes) for chip in found.chips]),
    ]
    if any(chip.undrafted_s for chip in found.chips):
        sped = [_speedup(chip) for chip in found.chips]
        rows.insert(4, ("decode, times as fast as without drafts", sped))
    return _table(found, "", rows)


def _speedup(chip: RequestCost) -> str:
    decode = sum(turn.decode.seconds for turn in chip.turns)
    return f"{chip.undrafted_s / decode:.2f}" if chip.undrafted_s and decode else ""


def _energies(found: Requests) -> str:
    energies = [chip.energy_j for chip in found.chips]
    parts = dict.fromkeys(part for some in energies for part in some)
    rows = [(PARTS.get(part, part), [format_energy(e.get(part, 0.0)) for e in energies]) for part in parts]
    rows.append(("a request", [format_energy(chip.j_per_request) for chip in found.chips]))
    rows.append(("a token of the answer", [format_energy(chip.j_per_token) for chip in found.chips]))
    return _table(found, "energy of a request", rows)


def _turns(chip: RequestCost) -> str:
    some = [
        Column("turn", tuple(str(i + 1) for i in range(len(chip.turns)))),
        Column("cached", tuple(str(turn.cached) for turn in chip.turns)),
        Column("read", tuple(str(turn.new) for turn in chip.turns)),
        Column("first token", tuple(_si(turn.prefill.seconds, "s") for turn in chip.turns)),
        Column("answer", tuple(format_duration(turn.decode.seconds) for turn in chip.turns)),
    ]
    return f"{chip.chip}\n{grid(some)}"


def _remarks(chip: RequestCost) -> list[str]:
    lines = [f"{chip.chip}: times from low to high are the {chip.interval}"] if chip.interval else []
    if not chip.total.fits:
        needs, has = format_bytes(chip.total.needs_bytes), format_bytes(chip.total.has_bytes)
        lines.append(f"HYPOTHETICAL on {chip.chip}: it needs {needs} and has {has}; priced as if that sufficed")
    return lines


def _table(found: Requests, corner: str, rows: list[tuple[str, list[str]]]) -> str:
    columns = [Column(corner, tuple(name for name, _ in rows), align="left")]
    columns += [Column(chip.chip, tuple(v[i] for _, v in rows)) for i, chip in enumerate(found.chips)]
    return grid(columns)


def _with_ends(cost: StepCost) -> str:
    shown = format_duration(cost.seconds)
    if cost.low_s is None or cost.high_s is None:
        return shown
    return f"{shown} ({format_duration(cost.low_s)} to {format_duration(cost.high_s)})"


def _si(value: float, unit: str) -> str:
    return format_si(value, unit) if value else "-"
