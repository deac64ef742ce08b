"""From an existing chip to one of your own: a file to fill in, numbers changed, and both on one layer.

`regflat chips new my-gpu --like h100-sxm` writes the same file; edit it by hand and give each number its source.
"""

from pathlib import Path

import torch

import torch_regflat as regflat
from torch_regflat.hardware.template import template

Path("my-gpu.toml").write_text(template("my-gpu", like="h100-sxm"))
mine = regflat.load_chip("my-gpu.toml").replace(
    **{"memory.HBM3.read_bandwidth": "4.8 TB/s", "memory.HBM3.capacity": "141 GB", "power.limit": "600 W"}
)

for tokens in (1, 4096):  # a decode step and a prompt
    layer = torch.nn.Linear(8192, 8192, bias=False, device="meta", dtype=torch.bfloat16)
    x = torch.empty(tokens, 8192, device="meta", dtype=torch.bfloat16)
    prof = regflat.profile(layer, x, chip=["h100-sxm", mine])
    for chip in prof.chips:
        print(f"{tokens:4} tokens, {chip.chip:8} {1e6 * chip.total.latency_s:7.1f} us, bound by {chip.total.bound_by}")
    top = prof.sensitivity("my-gpu")[0]
    print(f"     1 % more {top.parameter}: {top.latency:+.2f} % latency")
