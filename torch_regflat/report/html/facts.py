"""What stands on the page however one looks at it: totals, the chips compared, sources, what is not modelled."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ...result import ChipFigure, ChipResult, Result
from ...units import format_bytes, format_si
from ..compare import lines_of, ratio, ratios_to_first
from ..rows import external_level
from ..text import coverage_line, fit_lines, percent, printable


@dataclass(frozen=True, slots=True)
class Span:
    """An interval, drawn on a scale from 0 to `end`: where it begins, its length and the value itself, in %."""

    text: str
    meaning: str
    begins: float
    length: float
    value: float


@dataclass(frozen=True, slots=True)
class Card:
    """One chip's totals, as texts."""

    chip: str
    title: str
    evidence: str
    latency: str
    versus: str
    span: Span | None
    figures: tuple[tuple[str, str], ...]
    warning: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Figures of all chips, and their ratios to the first chip."""

    chips: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Sources:
    """Every number of a chip's file, and how many there are of each kind."""

    chip: str
    summary: str
    figures: tuple[ChipFigure, ...]
    hash: str


@dataclass(frozen=True, slots=True)
class NotModelled:
    """What a chip's figures leave out or guess."""

    chip: str
    line: str
    operators: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Heading:
    """What was profiled, and with what."""

    model: str
    facts: tuple[str, ...]
    versions: str


def heading(result: Result) -> Heading:
    sizes = (("batch", result.batch), ("sequence", result.seq_len), ("context", result.context))
    facts = [result.phase, *(f"{word} {n}" for word, n in sizes if n is not None), result.dtype]
    facts += [f"{result.mode} mode" if result.mode else "", printable(result.inputs)]
    versions = {"cost model": result.model_version, **result.versions}
    return Heading(
        model=printable(result.model) or "(unnamed)",
        facts=tuple(fact for fact in facts if fact),
        versions=", ".join(f"{name} {value}" for name, value in versions.items() if value),
    )


def _of_all_chips(chip: ChipResult) -> tuple[tuple[str, str], ...]:
    """Of a model divided among chips, its layout and what a step takes on all of them."""
    p = chip.parallel
    if p is None:
        return ()
    return (
        ("layout", f"{p}, {p.chips} chips"),
        ("a step, all chips", format_si(p.step_s, "s")),
        ("its energy, all chips", format_si(p.energy_j, "J")),
    )


def card(chip: ChipResult, result: Result) -> Card:
    total, first = chip.total, result.chips[0]
    power = total.energy_j / total.latency_s if total.latency_s else 0.0
    far = chip.levels[-1].traffic_bytes if chip.levels else 0.0
    name = external_level(chip) or "external"
    longest = max((c.total.latency_high_s or c.total.latency_s for c in result.chips), default=0.0)
    return Card(
        chip=printable(chip.chip),
        title=printable(chip.title),
        evidence=printable(chip.evidence) or "not stated",
        latency=format_si(total.latency_s, "s"),
        versus="" if chip is first else f"{ratio(total.latency_s, first.total.latency_s)} of {first.chip}",
        span=_span(chip, longest),
        figures=(
            ("energy", format_si(total.energy_j, "J")),
            ("average power", format_si(power, "W")),
            (f"{name} traffic", format_bytes(far)),
            ("arithmetic utilization", f"{percent(total.utilization)} %"),
            (f"{name} utilization", f"{percent(total.bandwidth_utilization)} %"),
            ("bound by, mostly", total.bound_by),
            ("memory", f"{format_bytes(chip.fit.needs_bytes)} of {format_bytes(chip.fit.has_bytes)}"),
            ("kernels", f"{total.kernels}"),
            *_of_all_chips(chip),
            ("modelled by formula", f"{percent(chip.coverage.modelled_bytes_share)} % of bytes"),
        ),
        warning="" if chip.fit.fits else ". ".join(fit_lines(chip)),
    )


def _span(chip: ChipResult, longest: float) -> Span | None:
    low, high = chip.total.latency_low_s, chip.total.latency_high_s
    if low is None or high is None or not longest:
        return None
    return Span(
        text=f"{format_si(low, 's')} to {format_si(high, 's')}",
        meaning=str(chip.interval),
        begins=100.0 * low / longest,
        length=100.0 * (high - low) / longest,
        value=100.0 * chip.total.latency_s / longest,
    )


def comparison(result: Result) -> Comparison | None:
    """The chips side by side; None where there is one."""
    chips = result.chips
    if len(chips) < 2:
        return None
    lines = lines_of(chips)
    return Comparison(
        chips=tuple(printable(chip.chip) for chip in chips),
        rows=tuple((line.name, line.texts, tuple(ratios_to_first(line.values, len(chips)))) for line in lines),
    )


def sources(chip: ChipResult) -> Sources:
    kinds = Counter(figure.kind for figure in chip.figures).most_common()
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds)
    known = f"{len(chip.figures)} figures: {counted}" if kinds else "this profile was saved without them"
    return Sources(chip=printable(chip.chip), summary=known, figures=chip.figures, hash=chip.chip_hash)


def not_modelled(chip: ChipResult) -> NotModelled:
    ranked = sorted(chip.coverage.unmodelled.items(), key=lambda item: (-item[1], item[0]))
    return NotModelled(
        chip=printable(chip.chip),
        line=coverage_line(chip).split(";")[0],
        operators=tuple((printable(name), f"{percent(share)} %") for name, share in ranked),
        notes=chip.notes,
    )
