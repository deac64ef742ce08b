"""Which batch still fits? Time, energy and memory of a training step, float32 parameters under bfloat16 autocast."""

import torch
from torch import nn

import torch_regflat as regflat

WIDTH, TOKENS = 2048, 1024

with torch.device("meta"):  # shapes only: no memory is taken
    block = nn.TransformerEncoderLayer(WIDTH, 16, 4 * WIDTH, batch_first=True, norm_first=True, dropout=0.0)
    model = nn.TransformerEncoder(block, 4, enable_nested_tensor=False)

for batch in (1, 16, 64, 128):
    x = torch.empty(batch, TOKENS, WIDTH, device="meta")
    prof = regflat.profile_training(model, (x,), optimizer="adamw", autocast="bf16", chip="l4")
    total, fit = prof.total, prof.chips[0].fit
    fits = "fits" if fit.fits else "does not fit"
    each = f"{1e3 * total.latency_s / batch:5.1f} ms and {total.energy_j / batch:.2f} J a sequence"
    needs = f"needs {fit.needs_bytes / 1e9:.1f} GB (activations {fit.activations_bytes / 1e9:.1f} GB)"
    print(f"batch {batch:3}: {each}, {needs}: it {fits}")
