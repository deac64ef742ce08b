"""Message passing step by step, with real numbers in real buffers: what the closed forms of the algorithms must equal.

Every rank is a list of chunks. A step lets every rank send some chunks at once; what it sends is counted by the tier
that it crosses: 0 within a group of `group` ranks, 1 between groups.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Rank, Chunk = int, int


@dataclass
class Network:
    """`ranks` with a vector each; counts what they send."""

    values: list[list[float]]
    group: int = 0
    sent: list[list[int]] = field(init=False)
    steps: int = 0

    def __post_init__(self) -> None:
        self.sent = [[0, 0] for _ in self.values]

    def tier(self, a: Rank, b: Rank) -> int:
        return int(bool(self.group) and a // self.group != b // self.group)

    def step(self, messages: list[tuple[Rank, Rank, Chunk]], add: bool) -> None:
        """Deliver (from, to, chunk) at once; the receiver adds it up, or takes it as it is."""
        carried = [(b, chunk, self.values[a][chunk]) for a, b, chunk in messages]
        for (a, b, _), (to, chunk, value) in zip(messages, carried, strict=True):
            self.values[to][chunk] = self.values[to][chunk] + value if add else value
            self.sent[a][self.tier(a, b)] += 1
        self.steps += 1


def vectors(n: int, chunks: int) -> list[list[float]]:
    return [[float((7 * r + 3 * c) % 11) for c in range(chunks)] for r in range(n)]


def ring_all_reduce(net: Network, order: list[Rank], first: Chunk = 0) -> None:
    """Reduce-scatter, then all-gather, of n chunks from `first` on, around the ring `order`."""
    n = len(order)
    for add in (True, False):
        for t in range(n - 1):
            shift = t if add else t - 1
            net.step([(order[i], order[(i + 1) % n], first + (i - shift) % n) for i in range(n)], add)


def ring_all_gather(net: Network, order: list[Rank]) -> None:
    n = len(order)
    for t in range(n - 1):
        net.step([(order[i], order[(i + 1) % n], (i - t) % n) for i in range(n)], add=False)


def binary_trees(n: int) -> tuple[dict[Rank, Rank], dict[Rank, Rank]]:
    """Parent of each rank but the root in NCCL's two trees: what is a leaf in one (odd ranks) is inside the other."""
    parents: dict[Rank, Rank] = {}
    for rank in range(1, n):
        bit = rank & -rank
        up = (rank ^ bit) | (bit << 1)
        parents[rank] = up if up < n else rank ^ bit
    turn = (lambda r: n - 1 - r) if n % 2 == 0 else (lambda r: (r + 1) % n)
    return parents, {turn(r): turn(p) for r, p in parents.items()}


def depth(parents: dict[Rank, Rank]) -> int:
    def up(rank: Rank) -> int:
        return 1 + up(parents[rank]) if rank in parents else 0

    return max((up(rank) for rank in parents), default=0)


def tree_all_reduce(net: Network, parents: dict[Rank, Rank], chunk: Chunk) -> int:
    """Up to the root, then down again; how many steps a chunk takes."""

    def level(rank: Rank) -> int:
        return 1 + level(parents[rank]) if rank in parents else 0

    deepest = depth(parents)
    for d in range(deepest, 0, -1):
        net.step([(r, parents[r], chunk) for r in parents if level(r) == d], add=True)
    for d in range(1, deepest + 1):
        net.step([(parents[r], r, chunk) for r in parents if level(r) == d], add=False)
    return 2 * deepest
