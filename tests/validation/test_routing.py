"""The rows of each expert as the benchmark deals them out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_regflat.validation.routing import rows_per_expert

SIZES = {
    "tokens": st.integers(1, 4096),
    "experts": st.sampled_from([8, 16, 64, 128]),
    "topk": st.integers(1, 8),
    "alpha": st.sampled_from([0.0, 1.01, 1.2, 2.0]),
}


@given(**SIZES)
def test_one_rank_gets_all_picks_and_no_expert_more_than_all_tokens(
    tokens: int, experts: int, topk: int, alpha: float
) -> None:
    rows = rows_per_expert(tokens, experts, topk, 1, alpha)
    assert sum(rows) == pytest.approx(tokens * topk, rel=0.01, abs=experts / 2)
    assert max(rows) <= tokens
    assert list(rows) == sorted(rows, reverse=True)
    assert len(rows) <= experts


@given(ranks=st.sampled_from([2, 4, 8]), **SIZES)
def test_the_measured_rank_has_at_least_its_share(
    ranks: int, tokens: int, experts: int, topk: int, alpha: float
) -> None:
    share = tokens * topk / ranks
    own = sum(rows_per_expert(tokens, experts, topk, ranks, alpha))
    assert own >= share * 0.9 - experts
    if alpha == 0.0 and tokens >= experts:
        assert own == pytest.approx(share, rel=0.2)


def test_balanced_routing_is_exact() -> None:
    assert rows_per_expert(16, 128, 8, 1, 0.0) == (1,) * 128
    assert rows_per_expert(4096, 128, 8, 64, 0.0) == (256, 256)
    assert rows_per_expert(1, 128, 8, 128, 0.0) == (1,)


def test_the_busiest_rank_of_a_power_law_has_several_shares() -> None:
    even, skewed = (sum(rows_per_expert(4096, 128, 8, 64, alpha)) for alpha in (0.0, 1.2))
    assert skewed > 4 * even


def test_a_row_always_means_the_same() -> None:
    first = rows_per_expert(1000, 64, 4, 4, 1.2)
    rows_per_expert.cache_clear()
    assert rows_per_expert(1000, 64, 4, 4, 1.2) == first
