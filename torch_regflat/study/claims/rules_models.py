"""Rules over models that were swept: utilization, bottlenecks, power, performance, training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...units import format_si
from ..causes import ideal_hierarchy
from ..rows import Row
from ..sweep import ModelLike
from ..variants import Variant
from .evidence import Evidence
from .rule import rule
from .verdict import Case, Finding, by_batch, crossing, judge, percent, ratio, series_of, span


def model_of(evidence: Evidence, numbers: dict[str, Any]) -> ModelLike:
    """The setup's model that a claim's numbers name: `moe` or `small`."""
    found: ModelLike = getattr(evidence.setup, numbers["model"])
    return found


@rule
def utilization(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """Executed FLOPs over the dense peak lie in the stated band; and would an ideal on-chip memory lift them?"""
    model, low, high = model_of(evidence, numbers), numbers["low"], numbers["high"]
    gpus = [Variant.of(gpu) for gpu in evidence.setup.gpus]
    decode, prefill = evidence.decode(model, gpus), evidence.prefill(model, gpus)
    rows = [*decode, *prefill]
    freed = evidence.decode(model, [ideal_hierarchy(gpu) for gpu in gpus])
    cases = by_batch(rows, lambda row: bool(low <= row["utilization"] <= high))
    gives = (
        f"decode {span([r['utilization'] for r in decode], percent)} over the batches, "
        f"prefill {span([r['utilization'] for r in prefill], percent)}; {_crossings(decode, low, high)}; "
        f"with an ideal on-chip memory decode reaches {span([r['utilization'] for r in freed], percent)}, for "
        f"{percent(max(r['external_bound_share'] for r in decode))} of its time is external bandwidth's at most"
    )
    said = judge(cases, gives, f"{_swept(evidence)}; dense peak of the model's number format; libraries' losses")
    return _with_band(said, decode, low, high)


def _with_band(found: Finding, decode: Sequence[Row], low: float, high: float) -> Finding:
    """A band that lies between two swept batches is met there, though at no swept point."""
    between = _crossings(decode, low, high)
    if found.verdict != "does not hold" or "nowhere" in between:
        return found
    return Finding("holds only if", found.gives, found.assumptions, f"{between} (between swept batches)")


def _crossings(rows: Sequence[Row], low: float, high: float) -> str:
    """At which batch the utilization enters and leaves the band, series by series."""
    by_series: dict[str, list[Row]] = {}
    for row in rows:
        by_series.setdefault(series_of(row), []).append(row)
    words = []
    for series, some in by_series.items():
        ends = [crossing(some, "utilization", value) for value in (low, high)]
        if any(end is not None for end in ends):
            first, last = ("outside" if end is None else f"{end:.0f}" for end in ends)
            words.append(f"{series}: {percent(low)} at batch {first}, {percent(high)} at {last}")
    return "; ".join(words) or f"{percent(low)} to {percent(high)} is nowhere among the swept batches"


def _swept(evidence: Evidence) -> str:
    setup = evidence.setup
    batches, contexts = _list(setup.batches), _list(setup.contexts)
    return f"decode at batch {batches} and context {contexts}, prefill of {_list(setup.prompts)} tokens"


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values)) if len(values) < 4 else f"{values[0]} to {values[-1]}"


@rule
def both_utilizations(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """At the same point the flat chip's utilization and the GPU's lie in their bands."""
    gpu, flats, model = evidence.setup.gpu, list(evidence.setup.flats), evidence.setup.small
    chips = [gpu, *flats]
    rows = [*evidence.decode(model, chips), *evidence.prefill(model, chips)]
    base = {_point(row): row for row in rows if row["chip"] == gpu.name}
    pairs = [(base[_point(row)], row) for row in rows if row["chip"] != gpu.name and _point(row) in base]

    def inside(row: Row, who: str) -> bool:
        return bool(numbers[f"{who}_low"] <= row["utilization"] <= numbers[f"{who}_high"])

    cases = [
        Case(inside(b, "flat") and inside(a, "gpu"), series_of(b), "batch", b["batch"]) for a, b in pairs
    ]
    gives = "; ".join(
        f"{phase}: {gpu.name} {span([a['utilization'] for a, _ in some], percent)}, "
        f"flat {span([b['utilization'] for _, b in some], percent)}"
        for phase in ("decode", "prefill")
        if (some := [pair for pair in pairs if pair[0]["phase"] == phase])
    )
    return judge(cases, gives, f"{_swept(evidence)} of the small model; each chip with its own software")


def _point(row: Row) -> tuple[Any, ...]:
    return row["model"], row["phase"], row["batch"], row["context"]


@rule
def no_bottleneck(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """The model fits one chip, and external bandwidth bounds less than the stated share of the time."""
    setup, most = evidence.setup, numbers["bound_share"]
    rows = evidence.decode(list(setup.trillion), setup.flats)
    cases = by_batch(rows, lambda row: bool(row["fits"] and row["external_bound_share"] < most), _model_name(setup))
    shares = [row["external_bound_share"] for row in rows]
    chips = [float(row["chips_needed"]) for row in rows]
    gives = (
        f"external bandwidth bounds {span(shares, percent)} of the time, "
        f"{sum(share < most for share in shares)} of {len(rows)} points less than {percent(most)} of it; "
        f"the weights and caches need {span(chips, lambda value: f'{value:.0f}')} chips' external memory"
    )
    assumed = "what does not fit is priced as if it did, and links between chips cost nothing"
    return judge(cases, gives, f"{_swept(evidence).split(', prefill')[0]}; {assumed}")


def _model_name(setup: Any) -> str:
    return "any of the models" if len(setup.trillion) > 1 else str(setup.trillion[0])


@rule
def lower_power(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """Mean power of the flat chip is below the GPU's where nothing but the on-chip memory differs."""
    found = evidence.alike()
    cases = [Case(b["power_w"] < a["power_w"], series_of(b, f"under {s}"), "batch", b["batch"]) for s, a, b in found]
    power = span([b["power_w"] / a["power_w"] for _, a, b in found], ratio) if found else "nothing"
    energy = span([b["energy_j"] / a["energy_j"] for _, a, b in found], ratio) if found else "nothing"
    gives = f"power {power} of the GPU's, energy a token {energy} of the GPU's (a faster chip draws more power)"
    return judge(cases, gives, _alike(evidence))


def _alike(evidence: Evidence) -> str:
    setup = evidence.setup
    one = setup.gpu.name
    other = " and ".join([setup.physical.name, *(str(getattr(twin, "name", twin)) for twin in setup.twins)])
    same = "like for like (same arithmetic, board, external memory, software)"
    return f"{other} against {one}, {same}; {_swept(evidence)}"


@rule
def performance_at_power(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """So many times the performance at so little of the power, like for like."""
    found = evidence.alike()

    def holds(a: Row, b: Row) -> bool:
        faster, power = a["latency_s"] / b["latency_s"], b["power_w"] / a["power_w"]
        return bool(faster > numbers["times"] and power <= numbers["power"])

    cases = [Case(holds(a, b), series_of(b, f"under {s}"), "batch", b["batch"]) for s, a, b in found]
    faster = span([a["latency_s"] / b["latency_s"] for _, a, b in found], ratio) if found else "nothing"
    work = span([a["energy_j"] / b["energy_j"] for _, a, b in found], ratio) if found else "nothing"
    gives = f"{faster} as fast, {work} as much work a joule ({numbers['times'] / numbers['power']:g}x is claimed)"
    return judge(cases, gives, _alike(evidence))


@rule
def training(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """A training step is bound by something else, and uses more of the arithmetic, than a decode step."""
    setup = evidence.setup
    trained = evidence.sweep(setup.small, setup.gpus, "train", [1], setup.prompts)
    decode = evidence.decode(setup.small, setup.gpus)
    best = {chip: max(r["utilization"] for r in trained if r["chip"] == chip) for chip in {r["chip"] for r in trained}}


    def differ(row: Row) -> bool:
        return bool(row["utilization"] < best[row["chip"]] and row["external_bound_share"] > 0.5)

    cases = by_batch([row for row in decode if row["chip"] in best], differ)
    gives = (
        f"a training step uses {span([r['utilization'] for r in trained], percent)} of the arithmetic and waits for "
        f"external memory {span([r['external_bound_share'] for r in trained], percent)} of its time, decode "
        f"{span([r['utilization'] for r in decode], percent)} and "
        f"{span([r['external_bound_share'] for r in decode], percent)}; it needs "
        f"{ratio(max(r['needs_bytes'] for r in trained) / min(r['needs_bytes'] for r in decode))} as much memory"
        if trained and decode
        else "nothing could be priced"
    )
    assumed = f"step with AdamW, {_list(setup.prompts)} tokens, batch 1; {_swept(evidence)}"
    return judge(cases, gives, assumed)


@rule
def query_latency(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """A prompt and all tokens of an answer take less than the stated time."""
    cases, seconds = [], []
    for answer, row, total in queries(evidence, evidence.setup.small, [*evidence.setup.gpus, *evidence.setup.flats]):
        seconds.append(total)
        series = f"{row['chip']} {answer} tokens"
        cases.append(Case(total < numbers["seconds"], series, "batch", row["batch"]))
    gives = f"{span(seconds, lambda s: format_si(s, 's'))} a query" if seconds else "nothing could be priced"
    return judge(cases, gives, f"{_query(evidence)}; small model on one chip")


def queries(evidence: Evidence, model: ModelLike, chips: Sequence[Any]) -> list[tuple[int, Row, float]]:
    """Answers of all lengths at every decode batch: (tokens, the decode row, seconds from prompt to last token)."""
    setup = evidence.setup
    prompts = evidence.sweep(model, chips, "prefill", [1], [max(setup.prompts)])
    first = {row["chip"]: row["latency_s"] for row in prompts}
    rows = [row for row in evidence.decode(model, chips) if row["context"] == max(setup.contexts)]
    return [
        (answer, row, first[row["chip"]] + answer * row["latency_s"])
        for answer in setup.answers
        for row in rows
        if row["chip"] in first
    ]


def _query(evidence: Evidence) -> str:
    setup = evidence.setup
    return (
        f"prompt of {max(setup.prompts)} tokens alone, then answers of {_list(setup.answers)} tokens at context "
        f"{max(setup.contexts)} and batch {_list(setup.batches)}"
    )


query_words = _query
