"""Rules over served models: many chips in one layout, continuous batching in steady state, and what a request costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import CapacityError, InputError
from ...hardware.chip import Chip
from ...serving.economics import Economics
from ...serving.serve import ServingProfile, serve
from ...serving.steps import Model
from ..alike import without_unattributed
from ..sweep import ModelLike
from ..variants import Variant
from .evidence import Evidence
from .rule import rule
from .verdict import Case, Finding, judge, percent, span


@rule
def served_bottleneck(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """External bandwidth takes less than the stated share of a mean pass on the flat chips that serve the model."""
    most, cases, shares = numbers["bound_share"], [], []
    for chip, found in _served(evidence, numbers):
        if chip.memory_system != "register-flat":
            continue
        if not isinstance(found, ServingProfile):
            cases.append(Case(False, f"{found} on {chip.name}"))
            continue
        share = next((limit.share for limit in found.best.limits if limit.name == "bandwidth"), 0.0)
        shares.append(share)
        cases.append(Case(share < most, f"{found.model} on {chip.name}"))
    gives = f"external bandwidth takes {span(shares, percent)} of a mean pass" if shares else "nothing fits"
    gives += _lost(len(cases) - len(shares))
    return judge(cases, gives, _assumed(evidence, numbers))


@rule
def served_cost(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """Dollars a request on chips that are owned; flat chips at the price of the GPU they are compared with."""
    cases, costs = [], []
    for chip, found in _served(evidence, numbers):
        if not isinstance(found, ServingProfile) or found.costs is None:
            cases.append(Case(False, f"{found} on {chip.name}"))
            continue
        usd = found.costs["owned"].usd_per_request
        costs.append(usd)
        cases.append(Case(usd <= numbers["high"], f"{found.model} on {chip.name}"))
    gives = f"{span(costs, lambda usd: f'${usd:.2g}')} a request" if costs else "nothing fits"
    gives += _lost(len(cases) - len(costs))
    assumed = f"flat chips cost what {evidence.setup.gpu.name} does; five years, 70 % used, servers, hosting, power"
    return judge(cases, gives, f"{_assumed(evidence, numbers)}; {assumed}")


def _lost(count: int) -> str:
    return f"; {count} do not fit or cannot meet the targets" if count else ""


def _served(evidence: Evidence, numbers: dict[str, Any]) -> Iterator[tuple[Chip, ServingProfile | ModelLike]]:
    """The trillion-parameter models on the flat chips and the GPU; the model alone where it does not fit there or no
    batch meets the targets."""
    setup, known = evidence.setup, evidence.served
    price = setup.gpu.price
    purchase = f"{price.purchase.value:g} USD" if price and price.purchase else "30000 USD"
    layout = setup.served
    for spec in setup.trillion:
        for name in (*setup.flats, setup.gpu):
            variant = Variant.of(name)
            chip = (variant if evidence.unattributed else without_unattributed(variant)).chip
            asked = {"prompt": numbers["prompt"], "output": numbers["answer"], "chunk": 2048}
            asked |= {"ttft": numbers["ttft_s"], "tpot": numbers["tpot_s"]}
            key = (str(spec), chip.hash, *asked.values())
            if key not in known:
                model = known.setdefault(("model", str(spec)), Model(spec, weights=setup.served_weights))
                degrees: dict[str, Any] = {"tp": layout.tp, "ep": layout.ep, "pp": layout.pp, "dp": layout.dp}
                economics = Economics.of(changes={"purchase": purchase})
                try:
                    known[key] = serve(model, chip=chip, economics=economics, progress=False, **asked, **degrees)
                except (CapacityError, InputError):
                    known[key] = spec
            yield chip, known[key]


def _assumed(evidence: Evidence, numbers: dict[str, Any]) -> str:
    layout, weights = evidence.setup.served, evidence.setup.served_weights
    stored = f", weights in {weights}" if weights else ""
    return (
        f"{layout.chips} chips as {layout}{stored}; prompts of {numbers['prompt']} tokens, answers of "
        f"{numbers['answer']}, first token within {numbers['ttft_s']:g} s, each later one within "
        f"{1e3 * numbers['tpot_s']:g} ms on average; links between chips priced"
    )
