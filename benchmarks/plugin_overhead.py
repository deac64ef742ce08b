"""What the pytest plugin costs: a run that does not use it, a checked Llama-3-8B, and 100,000 kernels.

    python benchmarks/plugin_overhead.py [RUNS]

The first is processor time of pytest on one empty test with and without the plugin, in turns: the median of the
differences of RUNS pairs (default 15). The second is the check alone, after imports. The third compares two results of
100,000 made-up kernels.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
EMPTY = "def test_nothing():\n    pass\n"
MODULE = "torch_regflat.pytest_plugin"
CHECKED = """
import time
import torch, transformers
import torch_regflat, torch_regflat.profiler, torch_regflat.capture.huggingface
from transformers import LlamaConfig, LlamaForCausalLM

def test_checked(regflat):
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
            num_attention_heads=32, num_key_value_heads=8, vocab_size=128256)).bfloat16()
        tokens = torch.zeros(1, 2048, dtype=torch.int64)
    start = time.perf_counter()
    regflat.check(model, (tokens,))
    print("seconds", time.perf_counter() - start)
"""


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_empty.py").write_text(EMPTY)
        _run(folder, "-p", MODULE)  # fills the caches of bytecode
        pairs = [(_run(folder, "-p", MODULE), _run(folder)) for _ in range(runs)]
        added = statistics.median(used - bare for used, bare in pairs)
        bare = statistics.median(bare for _, bare in pairs)
        print(f"added to a run that does not use it: {1e3 * added:.1f} ms of {1e3 * bare:.0f} ms (goal 20 ms)")
        (folder / "test_checked.py").write_text(CHECKED)
        for flag in ("--regflat-update", "-q"):
            text = _pytest(folder, "-p", MODULE, "-s", flag, "test_checked.py").stdout
            seconds = float(next(line for line in text.splitlines() if "seconds" in line).split()[-1])
            what = "written" if flag == "--regflat-update" else "compared"
            print(f"Llama-3-8B, 2048 tokens, {what}: {seconds:.2f} s after imports (goal 2 s)")
    _many()


def _run(folder: Path, *arguments: str) -> float:
    """Processor seconds of a run of pytest with autoloading off, so that only what is named is there."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _pytest(folder, "-q", *arguments, "test_empty.py")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done


def _many() -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from result_factory import chip_result, layers, result
    from torch_regflat.regression.compare import compare
    from torch_regflat.regression.diff import diff
    from torch_regflat.regression.snapshot import snapshot

    before, now = (result(chip_result(kernels=layers(50_000, scale=scale))) for scale in (1.0, 1.1))
    baseline = snapshot(before)
    start = time.perf_counter()
    compare(baseline, snapshot(now), ["latency_s"], 0.01)
    middle = time.perf_counter()
    diff(before, now)
    end = time.perf_counter()
    count = len(now.chips[0].kernels)
    print(f"two results of {count} kernels: check {middle - start:.1f} s, diff {end - middle:.1f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
