"""Every claim through its rule, with and without unattributed energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from . import rules_chips, rules_costs, rules_models, rules_served
from .book import Claim, chosen
from .evidence import Evidence, Setup
from .rule import RULES
from .verdict import Finding

assert rules_chips and rules_costs and rules_models and rules_served


@dataclass(frozen=True)
class Checked:
    """A claim with what the model gives: with unattributed energy charged to every chip, and without."""

    claim: Claim
    finding: Finding
    without: Finding


def claims(
    setup: Setup | None = None,
    *,
    ids: Sequence[str] = (),
    csv: str | Path | None = None,
    progress: bool | None = None,
) -> list[Checked]:
    """Check all claims, or those of `ids`. `csv` keeps the swept rows, as of `sweep`.

    Raises `InputError` for a claim that there is not, and whatever pricing the setup's models and chips raises.
    """
    wanted = chosen(tuple(ids))
    evidence = Evidence.of(setup or Setup(), csv, progress)
    return [_checked(claim, evidence) for claim in wanted]


def _checked(claim: Claim, evidence: Evidence) -> Checked:
    if not claim.rule:
        nothing = Finding("not checkable", claim.why, "")
        return Checked(claim, nothing, nothing)
    if claim.rule not in RULES:
        raise InputError(f"claims.toml: claim {claim.id} has the rule {claim.rule!r}; there are {', '.join(RULES)}")
    rule = RULES[claim.rule]
    return Checked(claim, rule(evidence, claim.numbers), rule(evidence.without(), claim.numbers))
