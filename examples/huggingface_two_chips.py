"""Decode one token of Llama-3-8B on an H100 and on a register-flat chip, side by side.

A shipped name, a folder with a config.json or a hub id: only the configuration is read, never weights.
"""

import torch_regflat as regflat

prof = regflat.profile_model(
    "llama-3-8b",
    phase="decode",
    batch=1,
    context=4096,
    chips=["h100-sxm", "regflat-physical"],
)
print(prof)

gpu, flat = prof.result.chips
print(f"energy of a token: {gpu.total.energy_j:.3f} J against {flat.total.energy_j:.3f} J")
for row in sorted(gpu.rows(by="layer"), key=lambda row: -row.latency_s)[:3]:
    print(f"{row.path:32} {row.calls:3} x  {1e3 * row.latency_s:7.3f} ms, bound by {row.bound_by}")
