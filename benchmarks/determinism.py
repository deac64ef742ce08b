"""The same numbers, to the bit: in two processes, at one and two threads, with candidates shuffled."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

CODE = """
import sys, torch, hashlib, json
import torch_regflat as regflat
torch.set_num_threads(int(sys.argv[1]))
prof = regflat.profile_model(sys.argv[2], chips=["h100-sxm", "regflat-physical"])
print(hashlib.sha256(json.dumps(prof.to_dict(), sort_keys=True).encode()).hexdigest())
"""
MODELS = ("llama-3-8b", "mixtral-8x7b")


def main() -> None:
    for model in MODELS:
        found = {
            f"{threads} thread(s), process {run}": subprocess.check_output(
                [sys.executable, "-c", CODE, str(threads), model], text=True
            ).strip()
            for threads in (1, 2)
            for run in (1, 2)
        }
        same = len(set(found.values())) == 1
        print(model, "the same bits in 4 processes" if same else f"DIFFER: {json.dumps(found, indent=1)}")
        print("  sha256", hashlib.sha256("".join(sorted(set(found.values()))).encode()).hexdigest()[:16])
    print("shuffled candidates: tests/cost/test_kernel.py::test_shuffled_candidates_and_threads_change_no_bit")


if __name__ == "__main__":
    main()
