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
    "alpha": st.sampled_from([0.0, 1.0, 1.01, 1.2, 2.0]),
}


@given(**SIZES)
def test_one_rank_gets_all_picks_and_no_expert_more_than_all_tokens(
    tokens: int, experts: int, topk: int, alpha: float
) -> None:
    rows = rows_per_expert(tokens, experts, topk, 1, alpha)
    assert sum(rows) == pytest.approx(tokens * topk, rel=0.01, abs=experts / 2)
    if alpha or experts % topk == 0:  # balanced picks of one token wrap around to the first where they do not divide
        assert max(rows) <= tokens
    assert list(rows) == sorted(rows, reverse=True)
    assert len(rows) <= experts


@given(ranks=st.sampled_from([2, 4, 8]), **SIZES)
def test_the_busiest_rank_has_at_least_its_share(
    ranks: int, tokens: int, experts: int, topk: int, alpha: float
) -> None:
    own = sum(rows_per_expert(tokens, experts, topk, ranks, alpha or 1.2))
    assert own >= tokens * topk / ranks * 0.9 - experts


@given(st.integers(1, 300), st.sampled_from([8, 16, 60]), st.integers(1, 4), st.sampled_from([1, 2, 4]))
def test_balanced_routing_is_that_of_the_benchmark(tokens: int, experts: int, topk: int, ranks: int) -> None:
    """Picked one by one, as balanced_logits does."""
    stride = -(-experts // topk)
    rows = [0] * experts
    for token in range(tokens):
        first = token if tokens >= stride else token * stride / tokens
        for pick in range(topk):
            rows[int((first + pick * stride) % experts)] += 1
    own = sorted((row for row in rows[: experts // ranks] if row), reverse=True)
    assert rows_per_expert(tokens, experts, topk, ranks, 0.0) == (tuple(own) or (1,))


def test_balanced_routing_is_exact() -> None:
    assert rows_per_expert(16, 128, 8, 1, 0.0) == (1,) * 128
    assert rows_per_expert(4096, 128, 8, 64, 0.0) == (256, 256)
    assert rows_per_expert(1, 128, 8, 128, 0.0) == (1,)
    assert rows_per_expert(10**9, 128, 8, 1, 0.0) == (10**9 * 8 // 128,) * 128


def test_the_busiest_rank_of_a_power_law_has_several_shares() -> None:
    even, skewed = (sum(rows_per_expert(4096, 128, 8, 64, alpha)) for alpha in (0.0, 1.2))
    assert skewed > 4 * even


def test_a_row_always_means_the_same() -> None:
    first = rows_per_expert(1000, 64, 4, 4, 1.2)
    rows_per_expert.cache_clear()
    assert rows_per_expert(1000, 64, 4, 4, 1.2) == first
