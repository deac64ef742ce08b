"""Legal mappings of a kernel, many at once.

Two kinds of memory have two kinds of mappings. A GPU library has a menu: result tiles, depths of a step, split-K
(`library_menu`). An explicitly managed memory takes any tile at any level in any loop order; its space is a product:
for each dimension a list of chains of tile sizes, one size a stage, outermost first (`chains`), any of which goes with
any of the others, times the loop orders of each block (`orders`), times over how many cores a sum is split.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError

_KEY_BASE = 4096.0


@dataclass(frozen=True)
class MappingBatch:
    """Candidates of a library's menu, `[1, 1, tile, split]`: the tile (m, n), the depth k of a step, and how many
    blocks share a sum. Result tiles stay put while k runs.
    """

    m: Tensor
    n: Tensor
    k: Tensor
    split: Tensor

    @property
    def candidates(self) -> int:
        return self.m.shape[-2] * self.split.shape[-1]

    @property
    def key(self) -> Tensor:
        """A canonical order of candidates that does not depend on their position, `[kernel or 1, 1, tile, split]`."""
        key = torch.zeros_like(self.m)
        for part in (self.m, self.n, self.k, self.split):
            key = key * _KEY_BASE + part % _KEY_BASE
        return key

    def take(self, tiles: Tensor, splits: Tensor) -> MappingBatch:
        """Some of the tiles and splits, or all in another order."""
        m, n, k = (t[..., tiles, :] for t in (self.m, self.n, self.k))
        return MappingBatch(m, n, k, self.split[..., splits])


def library_menu(tiles: Sequence[tuple[int, int]], depths: Sequence[int], splits: Sequence[int]) -> MappingBatch:
    """The kernels a GEMM library ships: result tiles (m, n) x depths of a k step x split-K; results stay put."""
    if not (tiles and depths and splits):
        raise InputError(
            "a library's menu needs at least one tile, one depth and one split; none of the lists may be empty"
        )
    rows = torch.tensor([(m, n, k) for m, n in tiles for k in depths], dtype=torch.float64)
    m, n, k = (rows[:, i].reshape(1, 1, -1, 1) for i in range(3))
    return MappingBatch(m, n, k, torch.tensor(splits, dtype=torch.float64).reshape(1, 1, 1, -1))


@functools.cache
def tile_sizes(size: int, bits: int | None = None) -> tuple[int, ...]:
    """Tile sizes worth trying along a dimension, the largest first: the smallest that needs j trips, for every j.

    A larger tile with as many trips holds more and moves no less. `bits` keeps those j whose binary form has no more
    significant bits (-1: the powers of eight, 0: of four, 1: of two, 3: steps of an eighth to a quarter). With -1,
    sizes of up to 4 are not divided.
    """
    if bits is not None and bits < 0 and size <= 4:
        return (size,)
    found: dict[int, None] = {}
    j = 1
    while j <= size:
        tile = -(-size // j)
        found[tile] = None
        j = _rounded_up(max(-(-size // (tile - 1)) if tile > 1 else size + 1, j + 1), bits)
    if bits is not None:
        found[1] = None
    return tuple(found)


def _rounded_up(j: int, bits: int | None) -> int:
    """The next whole number from j on with at most so many significant bits."""
    if bits is None:
        return j
    if bits <= 0:
        digit = 2 - bits
        return int(2 ** (digit * -(-(j - 1).bit_length() // digit)))
    step = 1 << max(j.bit_length() - bits, 0)
    return -(-j // step) * step


def orders(kinds: Sequence[int], blocks: int) -> list[tuple[tuple[int, ...], ...]]:
    """Loop orders of every block, as dimension numbers, outermost first.

    `kinds[d]` numbers the set of operands that dimension d indexes, 0 for those that index all. Dimensions that
    index all lie outermost: there they make no operand move more often, and anywhere else they may. Those of one kind
    lie together. All orders of the kinds are tried in each block.
    """
    every = [d for d, kind in enumerate(kinds) if kind == 0]
    groups = [[d for d, kind in enumerate(kinds) if kind == wanted] for wanted in sorted({*kinds} - {0})]
    one = [tuple(every + [d for group in order for d in group]) for order in itertools.permutations(groups)]
    return list(itertools.product(one, repeat=blocks))
