"""Profile a module of your own on an H100, without a GPU and without computing anything."""

import torch
from torch import nn

import torch_regflat as regflat


class Gated(nn.Module):
    """A gated feed-forward block."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


with torch.device("meta"):  # shapes only: no memory is taken
    model = nn.Sequential(*(Gated(4096, 14336) for _ in range(4))).bfloat16()
    tokens = torch.empty(1, 2048, 4096, dtype=torch.bfloat16)

prof = regflat.profile(model, (tokens,), chip="h100-sxm")
print(prof.table(sort_by="latency", row_limit=20))
print(f"latency {1e3 * prof.total.latency_s:.2f} ms, energy {prof.total.energy_j:.3f} J")
print(f"{100 * prof.coverage.modelled_bytes_share:.1f} % of the traffic has a formula of its own")
prof.save("run.json")
