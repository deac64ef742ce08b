"""How many tokens each expert of the measured rank gets: what the benchmark of `moe` rows does with its tokens.

NVIDIA's aiconfigurator times one rank. With `balanced` routing token t picks the experts t + j * stride, so that all
get alike; the rank is the first. With `power_law_a` the shares of the experts are drawn from a power law x^-a (between
1 and 0.8 tokens, or 0.01 and 2 where there are fewer picks than experts), no expert gets more than all tokens, and the
rank that is timed is the one with the most tokens (collector/helper.py of the project, balanced_logits and
power_law_logits_v3). Here the draws are replaced by the mean over seeded ones, so that a row always means the same.
"""

from __future__ import annotations

import functools
import math

import torch

DRAWS = 16
_SEED = 20240229


@functools.lru_cache(maxsize=8192)
def rows_per_expert(tokens: int, experts: int, topk: int, ranks: int, alpha: float) -> tuple[int, ...]:
    """Rows of each expert of the measured rank, most first, experts without any left out."""
    if alpha == 0.0:
        loads = _balanced(tokens, experts, topk)[: max(1, experts // ranks)]
    else:
        loads = _busiest(tokens, experts, topk, ranks, alpha)
    rounded = [round(float(load)) for load in loads]
    return tuple(sorted((load for load in rounded if load > 0), reverse=True)) or (1,)


def _balanced(tokens: int, experts: int, topk: int) -> torch.Tensor:
    """Rows of every expert, exactly."""
    stride = -(-experts // topk)
    # As many tokens as there are experts give each the same, whatever their number.
    rounds, rest = divmod(tokens, experts) if tokens >= stride else (0, tokens)
    token = torch.arange(rest, dtype=torch.float64).unsqueeze(1)
    if tokens < stride:
        token = token * stride / tokens
    picked = (token + torch.arange(topk, dtype=torch.float64) * stride).remainder(experts)
    return torch.bincount(picked.to(torch.int64).flatten(), minlength=experts) + rounds * topk


def _busiest(tokens: int, experts: int, topk: int, ranks: int, alpha: float) -> torch.Tensor:
    """Mean rows of each expert of the rank with the most, its experts in descending order."""
    generator = torch.Generator().manual_seed(_SEED)
    uniform = torch.rand(DRAWS, experts, generator=generator, dtype=torch.float64)
    low, high = (1.0, tokens * 0.8) if tokens * topk > experts else (0.01, 2.0)
    drawn = _power_law(uniform, alpha, low, high)
    loads = (drawn / drawn.sum(1, keepdim=True) * tokens * topk).round().clamp(max=float(tokens))
    by_rank = loads.reshape(DRAWS, ranks if experts % ranks == 0 else 1, -1)
    by_rank = _balanced_to(by_rank, tokens * topk)
    busiest = by_rank.sum(2).argmax(1)
    chosen = by_rank[torch.arange(DRAWS), busiest]
    return chosen.sort(1, descending=True).values.mean(0)


def _power_law(uniform: torch.Tensor, alpha: float, low: float, high: float) -> torch.Tensor:
    """Draws between low and high with a density of x^-alpha, from draws between 0 and 1."""
    exponent = 1.0 - alpha
    if abs(exponent) < 1e-6:
        return low * torch.exp(math.log(high / low) * uniform)
    scaled: torch.Tensor = (high**exponent - low**exponent) * uniform + low**exponent
    return scaled.pow(1.0 / exponent)


def _balanced_to(by_rank: torch.Tensor, total: int) -> torch.Tensor:
    """`[draw, rank, expert]` with sums of `total` a draw: what is missing (or too much) is given (or taken) one row a
    rank in turn, each to the expert of the rank that then has the fewest (or most).
    """
    missing = total - by_rank.sum((1, 2), keepdim=True)
    ranks = by_rank.shape[1]
    share = (missing.abs() / ranks).floor() + (torch.arange(ranks).reshape(1, -1, 1) < missing.abs() % ranks)
    sign = torch.where(missing < 0, -1.0, 1.0).to(by_rank.dtype)
    return sign * _filled(sign * by_rank, share)


def _filled(rows: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    """Rows `[draw, rank, expert]` with `amount` ones `[draw, rank, 1]` added, each to the entry that is then lowest."""
    ordered, places = rows.sort(dim=2)
    count = torch.arange(1, rows.shape[2] + 1, dtype=rows.dtype)
    sums = ordered.cumsum(2)
    lowest = (ordered * count - sums <= amount).sum(2, keepdim=True)
    spent = sums.gather(2, lowest - 1) + amount
    level = (spent / lowest).floor()
    raised = torch.where(count <= lowest, level, ordered) + (count <= spent - level * lowest)
    return torch.empty_like(rows).scatter_(2, places, raised)
