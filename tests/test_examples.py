"""The examples run as they are, are short, and say what they do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SHOWS = {
    "break_even_area.py": ["mm2 of registers", "times as fast"],
    "break_even_batch_context.py": ["context", "times less energy"],
    "break_even_capacity_energy.py": ["pJ/bit", "times as fast"],
    "huggingface_two_chips.py": ["side by side", "energy"],
    "own_chip.py": ["my-gpu", "HBM3 bandwidth", "% latency"],
    "own_module.py": ["1 MAC = 2 FLOPs", "latency"],
    "own_operator.py": ["without a formula: example.gated_sum", "100 % of the traffic"],
    "profiled_function.py": ["h100-sxm", "latency"],
    "serving_sweep.py": ["tokens/s", "h100-sxm     32     4096", "bandwidth"],
    "training_memory.py": ["J a sequence", "it fits", "it does not fit"],
    "trillion_parameters.py": ["tokens/s a chip", "limited by", "a query", "regflat-physical: ep8 pp8 dp8"],
    "why_slow.py": ["bound by", "% latency", "lost: "],
}


def test_all_examples_are_known() -> None:
    assert [path.name for path in EXAMPLES] == sorted(SHOWS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_short_and_documented(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 40
    assert text.startswith('"""')


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_runs(path: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for word in SHOWS[path.name]:
        assert word in done.stdout
