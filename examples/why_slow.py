"""Why is it slow? What bounds each layer, which number of the chip matters, and the tilings that lost."""

import torch
from torch import nn

import torch_regflat as regflat

with torch.device("meta"):  # shapes only: no memory is taken
    model = nn.Sequential(nn.LayerNorm(4096), nn.Linear(4096, 16384), nn.GELU(), nn.Linear(16384, 4096)).bfloat16()
    x = torch.empty(512, 4096, dtype=torch.bfloat16)

prof = regflat.profile(model, x, chip="h100-sxm")
for row in prof.chips[0].rows(by="kernel"):
    print(f"{row.path:4} {1e6 * row.latency_s:6.2f} us, bound by {row.bound_by}")

for found in prof.sensitivity()[:3]:
    print(f"1 % more {found.parameter}: {found.latency:+.2f} % latency, {found.energy:+.2f} % energy")

best = prof.explain("3")[0]
print(f"layer 3 runs as {best.mapping}, one of {best.legal} that are legal")
for lost in best.alternatives[:3]:
    print(f"  lost: {lost.mapping}, {1e6 * lost.latency_s:.2f} us, bound by {lost.bound_by}")
