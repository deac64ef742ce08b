"""Seconds to capture and price every legal layout of a model on so many chips; the figure to reach is 30 for Kimi-K2.

    python benchmarks/layouts.py [--model kimi-k2] [--chips 64] [--chip h200] [--batch 256] [--context 4096]
"""

from __future__ import annotations

import argparse
import time

from torch_regflat.study.layouts import layouts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="kimi-k2")
    parser.add_argument("--chips", type=int, default=64)
    parser.add_argument("--chip", default="h200")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--context", type=int, default=4096)
    asked = parser.parse_args()
    start, worked = time.perf_counter(), time.process_time()
    found = layouts(
        asked.model, asked.chip, chips=asked.chips, batch=asked.batch, phase="decode", context=asked.context,
        weights="fp8",
    )  # fmt: skip
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    fit = [cost for cost in found if cost.fits]
    took = f"in {seconds:.1f} s ({worked:.1f} s of one core)"
    print(f"{len(found)} layouts of {asked.model} on {asked.chips} {asked.chip} {took}; {len(fit)} fit")
    for cost in fit[:10]:
        rate = asked.batch / cost.step_s
        print(f"  {cost.layout!s:24} {cost.step_s * 1e3:8.2f} ms  {rate:9.0f} tokens/s  {cost.bound_by}")


if __name__ == "__main__":
    main()
