"""What fusing on chip gives: whole models as they are scheduled, beside the same kernels one by one.

Run with `python -m benchmarks.fusion [model:phase:tokens ...]`; without arguments, prefill of large models.
"""

from __future__ import annotations

import math
import sys
import time

from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import for_chip
from torch_regflat.profiler import capture_model
from torch_regflat.schedule.modes import named
from torch_regflat.schedule.program import Program, Scheduler
from torch_regflat.schedule.select import Choice

CHIPS = ("regflat-physical", "regflat-ideal", "h100-sxm:flat")
CASES = (
    *(f"llama-3-70b:prefill:{n}" for n in (1024, 2048, 3072, 4096, 8192)),
    *(f"qwen3-8b:prefill:{n}" for n in (2048, 8192, 32768)),
    *(f"llama-3.1-405b:prefill:{n}" for n in (2048, 32768)),
    *(f"mixtral-8x7b:prefill:{n}" for n in (2048, 8192, 32768)),
    *(f"kimi-k2:prefill:{n}" for n in (2048, 32768)),
    "llama-3-70b:decode:4096",
)


def figures(program: Program, priced: dict[object, Choice], scheduler: Scheduler) -> tuple[float, float, float]:
    """Seconds, joules, and external bytes."""
    seconds, joules = scheduler.measure(program, priced)  # type: ignore[arg-type]
    choices = [priced[shape] for shape in program.shapes]
    return seconds, joules, math.fsum(c.read_bytes[-1] + c.write_bytes[-1] for c in choices)


def compare(model: str, phase: str, tokens: int, mode: str = "serving") -> None:
    length = {"context": tokens} if phase == "decode" else {"seq_len": tokens}
    captured = capture_model(model, phase=phase, mode=mode, **length)  # type: ignore[arg-type]
    for name in CHIPS:
        chip = load(name)
        scheduler = Scheduler(chip, for_chip(chip), named(mode).conditions)
        priced: dict = {}
        plain = scheduler.program(captured.kernels, captured.workload)
        begin = time.perf_counter()
        scheduler.price([plain], priced)
        middle = time.perf_counter()
        (best,) = scheduler.decided([(captured.kernels, captured.workload)], priced)
        end = time.perf_counter()
        (s0, j0, b0), (s1, j1, b1) = (figures(p, priced, scheduler) for p in (plain, best))
        kinds = sorted({f"{len(n.members)} kernels, {str(n).partition(', ')[2]}" for n in best.chains})
        print(
            f"{model:>14} {phase} {tokens:>6} {name:>17}: {s0 * 1e3:9.3f} ms {s1 / s0 - 1:+7.2%}, "
            f"{j0:8.3f} J {j1 / j0 - 1:+7.2%}, {b0 / 1e9:8.2f} GB {b1 / b0 - 1:+7.2%}, {len(best.chains)} chains, "
            f"{middle - begin:.1f} + {end - middle:.1f} s; {'; '.join(kinds)}",
            flush=True,
        )


if __name__ == "__main__":
    for case in sys.argv[1:] or CASES:
        model, phase, tokens = case.split(":")
        compare(model, phase, int(tokens))
