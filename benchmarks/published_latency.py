"""Llama-3-8B in bf16, batch 1, against times composed by others from measured kernels of a serving engine."""

from __future__ import annotations

from tabulate import tabulate

import torch_regflat as regflat

PUBLISHED_MS = {
    ("h100-sxm", "prefill"): 43.5,
    ("h100-sxm", "decode"): 6.24,
    ("a100-sxm-80gb", "prefill"): 125.2,
    ("a100-sxm-80gb", "decode"): 12.0,
}


def main() -> None:
    rows = []
    for (chip, phase), published in PUBLISHED_MS.items():
        length = {"seq_len": 2048} if phase == "prefill" else {"context": 2048}
        ours = regflat.profile_model("llama-3-8b", phase=phase, chips=chip, **length).total.latency_s * 1e3
        rows.append((chip, phase, published, ours, f"{ours / published - 1:+.1%}"))
    print(tabulate(rows, ("chip", "phase", "published ms", "model ms", "error (goal 25 %)"), floatfmt=".2f"))


if __name__ == "__main__":
    main()
