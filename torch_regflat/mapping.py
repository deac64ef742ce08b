"""Legal mappings of a kernel, many at once, as tensors.

A mapping says how large a tile of each axis (b, m, n, k) is held at once, how many cores share one result tile by
splitting the sum (split-K), and the order of the loops over tiles. The operand that lacks the innermost axis stays
put while the others stream past it: it is the stationary one.

Candidates are the product of two lists: tilings (tile sizes and loop order, `[kernel or 1, 1, tile, 1]`) and splits
(`[1, 1, 1, split]`). What depends on one of them alone is computed once for it. All are float64 whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError

ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
"""Loop orders as axis numbers (0 = m, 1 = n, 2 = k), outermost first."""
STATIONARY = {2: "result", 1: "first factor", 0: "second factor"}
"""What stays put when this axis is innermost."""
_OUTPUT_STATIONARY = ORDERS.index((0, 1, 2))
_KEY_BASE = 4096.0


@dataclass(frozen=True)
class MappingBatch:
    """Candidate mappings. `split` counts cores that share a sum; `order` is a position in `ORDERS`."""

    m: Tensor
    n: Tensor
    k: Tensor
    split: Tensor
    order: Tensor

    @property
    def candidates(self) -> int:
        return self.m.shape[-2] * self.split.shape[-1]

    @property
    def key(self) -> Tensor:
        """A canonical order of candidates that does not depend on their position, `[kernel or 1, 1, tile, split]`."""
        key = torch.zeros_like(self.m)
        for part in (self.m, self.n, self.k, self.order, self.split):
            key = key * _KEY_BASE + part % _KEY_BASE
        return key

    def position(self, axis: int) -> Tensor:
        """How deep the loop over this axis (0 = m, 1 = n, 2 = k) lies, 0 outermost."""
        table = torch.tensor([order.index(axis) for order in ORDERS], dtype=torch.float64)
        return table[self.order.to(torch.int64)]

    def take(self, tiles: Tensor, splits: Tensor) -> MappingBatch:
        """Some of the tilings and splits, or all in another order."""
        m, n, k, order = (t[..., tiles, :] for t in (self.m, self.n, self.k, self.order))
        return MappingBatch(m, n, k, self.split[..., splits], order)


def library_menu(tiles: Sequence[tuple[int, int]], depths: Sequence[int], splits: Sequence[int]) -> MappingBatch:
    """The kernels a GEMM library ships: result tiles (m, n) x depths of a k step x split-K; results stay put."""
    if not (tiles and depths and splits):
        raise InputError(
            "a library's menu needs at least one tile, one depth and one split; none of the lists may be empty"
        )
    rows = torch.tensor([(m, n, k) for m, n in tiles for k in depths], dtype=torch.float64)
    m, n, k = (rows[:, i].reshape(1, 1, -1, 1) for i in range(3))
    return MappingBatch(m, n, k, _splits(splits), torch.full_like(m, float(_OUTPUT_STATIONARY)))


def tilings(m: Tensor, n: Tensor, k: Tensor, splits: Sequence[int], halvings: tuple[int, int, int]) -> MappingBatch:
    """All tilings by repeated halving, rounded up, so that sizes need not divide, x loop orders x splits.

    `m`, `n`, `k`: sizes `[kernel, 1, 1, 1]`. `halvings`: how often each of them is halved.
    """
    grid = torch.cartesian_prod(
        *(torch.arange(h + 1, dtype=torch.float64) for h in halvings),
        torch.arange(len(ORDERS), dtype=torch.float64),
    )
    parts = [torch.ceil(size / _power_of_two(grid[:, i]).reshape(-1, 1)) for i, size in enumerate((m, n, k))]
    order = grid[:, 3].reshape(-1, 1).expand(parts[0].shape)
    return MappingBatch(parts[0], parts[1], parts[2], _splits(splits), order)


def _splits(splits: Sequence[int]) -> Tensor:
    return torch.tensor(splits, dtype=torch.float64).reshape(1, 1, 1, -1)


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent exactly (torch.pow is not exact on every vector unit)."""
    return torch.bitwise_left_shift(torch.ones_like(exponent, dtype=torch.int64), exponent.to(torch.int64)).to(
        torch.float64
    )
