"""HTML reports: how long DeepSeek-V3 on two chips takes to write, and how large 10,000 kernels are.

    python benchmarks/html_size.py

Prints seconds, their ratio to profiling, bytes beside plotly's own, and, where Chromium is installed, how long the file
takes to open. No kernel of the 10,000 is like another: what real models repeat takes less.
"""

from __future__ import annotations

import dataclasses
import importlib
import random
import sys
import tempfile
import time
from pathlib import Path

import torch_regflat as regflat
from torch_regflat.report import html, trace
from torch_regflat.result import ChipResult, KernelCost

KERNELS = 10_000
CHIPS = ("h100-sxm", "regflat-physical")


def main() -> None:
    begin = time.perf_counter()
    prof = regflat.profile_model("deepseek-v3", phase="prefill", seq_len=2048, chips=CHIPS)
    profiled = time.perf_counter() - begin
    begin = time.perf_counter()
    page = html.render(prof.result, timelines=prof.timelines())
    written = time.perf_counter() - begin
    begin = time.perf_counter()
    traced = trace.render(prof.result, timelines=prof.timelines())
    trace_s = time.perf_counter() - begin
    kernels = prof.total.kernels
    print(f"DeepSeek-V3, {len(CHIPS)} chips, {kernels} kernels each: profiled in {profiled:.1f} s")
    share = written / profiled
    print(f"  HTML in {written:.2f} s ({share:.1%} of profiling), {own(page):,} bytes of its own")
    print(f"  trace in {trace_s:.2f} s, {len(traced):,} bytes")
    opened(page)
    many = dataclasses.replace(prof.result, chips=tuple(unlike(chip) for chip in prof.result.chips))
    page = html.render(many)
    size, total = own(page), len(page.encode())
    print(f"{KERNELS:,} kernels, none like another, {len(CHIPS)} chips: {size:,} bytes of its own, {total:,} in all")
    opened(page)


def own(page: str) -> int:
    """Bytes of the page without those of plotly."""
    plotly = len(html._plotly().encode()) if html.has_plotly() else 0
    return len(page.encode()) - plotly


def unlike(chip: ChipResult) -> ChipResult:
    """The chip's kernels, as often as needed, each with numbers and a name of its own."""
    rng = random.Random(chip.chip)
    kernels: list[KernelCost] = []
    start = 0.0
    for i in range(KERNELS):
        kernel = chip.kernels[i % len(chip.kernels)]
        factor = rng.uniform(0.5, 2.0)
        parts = tuple(dataclasses.replace(part, path=f"block{i // 40}.{part.path}") for part in kernel.parts)
        kernels.append(
            dataclasses.replace(
                kernel,
                path=f"block{i // 40}.{kernel.path}",
                parts=parts,
                start_s=start,
                latency_s=kernel.latency_s * factor,
                executed_flops=kernel.executed_flops * rng.uniform(0.5, 2.0),
                compute_energy_j=kernel.compute_energy_j * rng.uniform(0.5, 2.0),
                traffic_bytes={name: size * rng.uniform(0.5, 2.0) for name, size in kernel.traffic_bytes.items()},
                memory_energy_j={name: j * rng.uniform(0.5, 2.0) for name, j in kernel.memory_energy_j.items()},
            )
        )
        start += kernels[-1].latency_s
    return dataclasses.replace(chip, kernels=tuple(kernels), total=dataclasses.replace(chip.total, latency_s=start))


def opened(page: str) -> None:
    """Open it in Chromium, where there is one; a blank file first, so that only the page counts."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    browser = importlib.import_module("browser")
    if browser.chromium() is None or not html.has_plotly():
        print("  not opened: that takes Chromium and plotly")
        return
    with tempfile.TemporaryDirectory() as folder, browser.opened() as tab:
        blank, target = Path(folder, "blank.html"), Path(folder, "page.html")
        blank.write_text("<body data-ready=true>")
        target.write_text(page, encoding="utf-8")
        tab.open(blank)
        begin = time.perf_counter()
        tab.open(target)
        print(f"  opened in {time.perf_counter() - begin:.2f} s; the browser complained {len(tab.errors)} times")


if __name__ == "__main__":
    main()
