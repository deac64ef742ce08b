"""How long profiling takes: against FlopCounterMode on the same model in the same run, and for the largest models."""

from __future__ import annotations

import gc
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

import torch_regflat as regflat
from torch_regflat.capture.huggingface import prepare, resolve
from torch_regflat.capture.training import capture_training

RUNS = 5
CHIPS = ["h100-sxm", "regflat-physical"]
LARGE = ("deepseek-v3", "kimi-k2", "llama-3.1-405b", "gpt4-moe-estimate")


def count_flops() -> float:
    """Seconds FlopCounterMode takes under fake tensors on a fresh Llama-3-8B."""
    config = resolve("llama-3-8b").config
    with FakeTensorMode(), torch.no_grad():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
        ids = torch.zeros(1, 2048, dtype=torch.long)
        start = time.perf_counter()
        # On CPU tensors the counter misses attention; that does not change what it takes to run.
        with FlopCounterMode(display=False):
            model(ids)
        return time.perf_counter() - start


def profile_llama() -> float:
    """Seconds profile() takes on a fresh Llama-3-8B and two chips, its caches cleared."""
    ready = prepare("llama-3-8b", "prefill", seq_len=2048)
    clear_caches()
    start = time.perf_counter()
    regflat.profile(ready.model, ready.args, ready.kwargs, chip=CHIPS)
    return time.perf_counter() - start


def clear_caches() -> None:
    """Forget everything memoised by functools in the package."""
    for module in [m for name, m in sys.modules.items() if name.startswith("torch_regflat")]:
        for value in vars(module).values():
            if callable(getattr(value, "cache_clear", None)):
                value.cache_clear()


def largest(name: str) -> float:
    """Seconds to build a model on meta tensors and profile its prefill of 2048 tokens on two chips."""
    clear_caches()
    start = time.perf_counter()
    regflat.profile_model(name, phase="prefill", seq_len=2048, chips=CHIPS)
    return time.perf_counter() - start


def training() -> float:
    """Seconds to capture a training step of DeepSeek-V3 (2048 tokens, AdamW) on meta tensors."""
    ready = prepare("deepseek-v3", "train")
    start = time.perf_counter()
    capture_training(ready.model, (), ready.kwargs, train_mode=True)
    return time.perf_counter() - start


def median(measure: Callable[[], float], runs: int = RUNS) -> tuple[float, float, float]:
    times = []
    for _ in range(runs):
        gc.collect()
        times.append(measure())
    return statistics.median(times), min(times), max(times)


def import_ms() -> float:
    """What `import torch_regflat` adds to a bare interpreter, and that it brings no torch."""
    code = "import sys, time; t = time.perf_counter(); import torch_regflat; "
    code += "print(time.perf_counter() - t); assert 'torch' not in sys.modules"
    times = [float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(RUNS)]
    return statistics.median(times) * 1e3


def main() -> None:
    print(f"import torch_regflat: {import_ms():.1f} ms, no torch loaded (goal: under 50 ms)")
    profile_llama()
    rows = []
    pairs = [(profile_llama(), count_flops()) for _ in range(RUNS)]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    rows.append(("profile(llama-3-8b, 2 chips)", ours, min(p[0] for p in pairs), max(p[0] for p in pairs)))
    rows.append(("FlopCounterMode under FakeTensor", theirs, min(p[1] for p in pairs), max(p[1] for p in pairs)))
    for name in LARGE:
        largest(name)
        rows.append((f"build and profile {name}, 2 chips", *median(lambda name=name: largest(name), 3)))
    rows.append(("capture a training step of deepseek-v3", *median(training, 3)))
    print(tabulate(rows, ("", "median s", "min s", "max s"), floatfmt=".3f"))
    print(f"profile / FlopCounterMode: {ours / theirs:.2f} (goal: at most 0.5)")
    print("goal for the training step: at most 5 s")
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak resident memory: {resident:.2f} GiB (goal: under 1 GB)")


if __name__ == "__main__":
    main()
