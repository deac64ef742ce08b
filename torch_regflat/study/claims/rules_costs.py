"""Rules over money, fleets and sizes: arithmetic over swept rows and the chips' prices."""

from __future__ import annotations

import itertools
from typing import Any

from ...models import describe, names
from ...units import format_si
from .evidence import Evidence
from .rule import rule
from .rules_models import model_of, queries, query_words
from .verdict import Case, Finding, by_batch, judge, percent, span

_HOUR = 3600.0


@rule
def query_cost(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """Dollars a query by rented chip-seconds: the prompt alone, the answer's tokens shared over the batch."""
    model, low, high = model_of(evidence, numbers), numbers.get("low", 0.0), numbers["high"]
    rents = {g.name: g.price.rent_per_hour for g in _loaded(evidence) if g.price and g.price.rent_per_hour}
    cases, costs = [], []
    chips = [chip for chip in _loaded(evidence) if chip.name in rents]
    for answer, row, total in queries(evidence, model, chips):
        decode = answer * row["latency_s"]
        seconds = total - decode + decode / row["batch"]
        for rent in sorted({rents[row["chip"]].low, rents[row["chip"]].value, rents[row["chip"]].high}):
            dollars = seconds * rent / _HOUR
            costs.append(dollars)
            series = f"{row['chip']} at ${rent:g}/h {answer} tokens"
            cases.append(Case(low <= dollars <= high, series, "batch", row["batch"]))
    gives = f"{span(costs, lambda usd: f'${usd:.2g}')} a query" if costs else "no chip of the setup has a rent"
    assumed = "chips rented by the hour, always busy; what does not fit pays for chip-seconds, links cost nothing"
    return judge(cases, gives, f"{query_words(evidence)}; {assumed}")


def _loaded(evidence: Evidence) -> list[Any]:
    from ...hardware.library import load

    return [load(gpu) for gpu in evidence.setup.gpus]


@rule
def fleet(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """The stated power is what that many systems draw, between their idle floor and their limit."""
    systems = numbers["queries_per_s"] / numbers["queries_per_system"]
    cases, watts = [], []
    for chip in _loaded(evidence):
        floor = (chip.power.idle or chip.power.static).value
        least, most = (systems * numbers["chips_per_system"] * w for w in (floor, chip.power.limit.value))
        watts += [least, most]
        cases.append(Case(least <= numbers["watts"] <= most, chip.name))
    gives = (
        f"{systems / 1e6:.2f} million systems; {span(watts, lambda w: format_si(w, 'W'))} from idle to the limit of "
        f"their chips; {format_si(numbers['watts'], 'W')} would be {numbers['watts'] / systems:.0f} W a system"
    )
    return judge(cases, gives, f"systems of {numbers['chips_per_system']} GPUs, nothing but the GPUs counted")


@rule
def energy_share(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """Electricity over electricity and the chip's price, an hour of work at the power that the model gives."""
    cases, shares, at = [], [], list[tuple[str, float]]()
    priced = {chip.name: chip.price.purchase for chip in _loaded(evidence) if chip.price and chip.price.purchase}
    rows = evidence.decode(evidence.setup.small, [chip for chip in _loaded(evidence) if chip.name in priced])
    combined = itertools.product(numbers["years"], numbers["used"], numbers["pue"], numbers["usd_per_kwh"])
    for years, used, pue, rate in combined:
        for row in rows:
            hourly = priced[row["chip"]].value / (years * 8766.0 * used)
            energy = row["power_w"] / 1000.0 * pue * rate
            share = energy / (energy + hourly)
            shares.append(share)
            good = numbers["low"] <= share <= numbers["high"]
            cases.append(Case(good, row["chip"], "batch", row["batch"]))
            if good:
                at += [("years", years), ("used", used), ("PUE", pue), ("$/kWh", rate)]
    gives = f"{span(shares, percent)} of chip and energy together" if shares else "no chip of the setup has a price"
    found = judge(cases, gives, f"{numbers['assumed']}; the chip alone, no servers, buildings or staff")
    if found.verdict != "holds only if":
        return found
    ends = {name: sorted({value for other, value in at if other == name}) for name, _ in at}
    words = ", ".join(f"{name} {' or '.join(f'{value:g}' for value in some)}" for name, some in ends.items())
    where = f"{sum(case.holds for case in cases)} of {len(cases)} combinations, all of them with {words}"
    return Finding(found.verdict, found.gives, found.assumptions, where)


@rule
def size(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """The model with the reported layers has as many parameters, within the tolerance."""
    model, assumed = evidence.setup.moe, "experts, attention, embeddings and norms counted"
    if not (isinstance(model, str) and model in names()):
        return judge([], "", assumed)
    count = describe(model)["parameters"]
    cases = [Case(_near(count, numbers["parameters"], numbers["tolerance"]), model)]
    return judge(cases, f"{count / 1e12:.2f} trillion parameters", assumed)


@rule
def arithmetic(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """A token takes as many FLOPs, within the tolerance."""
    rows = evidence.decode(evidence.setup.moe, [evidence.setup.gpu])
    wanted, tolerance = numbers["flops_per_token"], numbers["tolerance"]
    cases = by_batch(rows, lambda row: _near(row["flops"] / row["batch"], wanted, tolerance))
    per_token = span([row["flops"] / row["batch"] for row in rows], lambda flops: format_si(flops, "FLOP"))
    return judge(cases, f"{per_token} a token", "decode at all swept batches and contexts, attention included")


def _near(value: float, wanted: float, tolerance: float) -> bool:
    return abs(value / wanted - 1.0) <= tolerance
