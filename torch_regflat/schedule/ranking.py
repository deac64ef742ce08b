"""The best few of very many candidates, chunk by chunk, with ties decided by the order in which candidates come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Ranking:
    """The best so far, best first: `value` `[row, place]`, and what they are, `what` `[row, place, number]`."""

    value: Tensor
    what: Tensor

    @classmethod
    def empty(cls, rows: int, keep: int, numbers: int, device: torch.device | None = None) -> Ranking:
        """Nothing yet: every place is at infinity."""
        return cls(
            torch.full((rows, keep), torch.inf, dtype=torch.float64, device=device),
            torch.zeros(rows, keep, numbers, dtype=torch.float64, device=device),
        )

    def offer(self, value: Tensor, describe: Callable[[Tensor], Tensor]) -> None:
        """Take what is better from candidates `[row, candidate]`; `describe` turns positions `[row, n]` into `what`."""
        worst = self.value[:, -1:]
        if not bool((value.amin(-1, keepdim=True) < worst).any()):
            return
        keep = min(self.value.shape[-1], value.shape[-1])
        limit = torch.topk(value, keep, largest=False).values[:, -1:]
        # Among equals at the limit, the first come first; topk itself does not say which it takes.
        below, equal = value < limit, value == limit
        chosen = below | (equal & (equal.cumsum(-1) <= keep - below.sum(-1, keepdim=True)))
        at = chosen.nonzero()[:, 1].reshape(value.shape[0], keep)
        together = torch.cat([self.value, value.gather(1, at)], 1)
        what = torch.cat([self.what, describe(at)], 1)
        self.value, order = torch.sort(together, dim=1, stable=True)
        places = self.what.shape[1]
        self.value, order = self.value[:, :places], order[:, :places]
        self.what = what.gather(1, order.unsqueeze(-1).expand(-1, -1, what.shape[-1]))
