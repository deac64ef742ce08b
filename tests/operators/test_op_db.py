"""torch's own list of operators, `op_db`, with its own sample inputs: the first of each entry.

All samples, and the table: `python benchmarks/op_coverage.py`.
"""

from __future__ import annotations

import warnings
from collections import Counter

import op_coverage
import pytest

pytest.importorskip("expecttest")

REFUSED = {"sparse.sampled_addmm", "sparse.mm.reduce", "to_sparse"}
"""Entries that make or take sparse tensors, whose size depends on values."""


@pytest.fixture(scope="module")
def outcomes() -> list[op_coverage.Outcome]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        entries = op_coverage.op_entries()
        return [op_coverage.run(op_coverage.label(op), op_coverage.op_calls(op, 1)) for op in entries]


def _listed(outcomes: list[op_coverage.Outcome], *statuses: str) -> list[str]:
    return [f"{o.name}: {o.reason}" for o in outcomes if o.status in statuses]


@pytest.mark.slow
def test_nothing_raises_and_no_figure_is_negative_or_not_a_number(outcomes: list[op_coverage.Outcome]) -> None:
    assert len(outcomes) > 500
    assert _listed(outcomes, "failed", "figures") == []


@pytest.mark.slow
def test_flops_are_those_of_torchs_counter(outcomes: list[op_coverage.Outcome]) -> None:
    assert _listed(outcomes, "flops") == []
    assert sum(o.counter_flops > 0 for o in outcomes) >= 20


@pytest.mark.slow
def test_only_what_depends_on_values_is_refused(outcomes: list[op_coverage.Outcome]) -> None:
    assert {o.name for o in outcomes if o.status == "refused"} <= REFUSED


@pytest.mark.slow
def test_nearly_all_have_a_formula_of_their_family(outcomes: list[op_coverage.Outcome]) -> None:
    counts = Counter(o.status for o in outcomes)
    assert counts["priced"] / len(outcomes) >= 0.97  # the goal is 0.85
