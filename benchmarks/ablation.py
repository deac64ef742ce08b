"""Errors of held-out rows with one physical term at a time taken out of the model, nothing fitted again.

    python benchmarks/ablation.py measured/*.csv [--each N] [--write]

Prints the change of MAPE by class of rows: positive where the term helps. `--each N` takes N rows of a class. `--write`
keeps the table for `accuracy.py`. What a fit makes of the remaining terms is another question: the scripts that fit
answer it for their classes.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.software import Software
from torch_regflat.validation.headline import FIGURES
from torch_regflat.validation.predict import Change, predict
from torch_regflat.validation.reading import read
from torch_regflat.validation.rows import Row

SEED = 20260101
FRAGMENT = Path(__file__).parent / "accuracy" / "ablation.md"
ANYWHERE = {"source": "ablation: without this term", "kind": "estimate", "low": None, "high": None}
NONE = {"value": 1.0, "unit": "1", **ANYWHERE}
FREE = {"value": 0.0, "unit": "cycles", **ANYWHERE}
TERMS: dict[str, dict[str, Any]] = {
    "losses inside a long product": {"issue_efficiency": NONE, "vector_issue_efficiency": NONE},
    "other instructions of fp32 products": {"other_instructions": None},
    "bandwidth below the datasheet's": {"memory_efficiency": NONE, "stream_efficiency": NONE},
    "bandwidth of the L2": {"l2_efficiency": {**NONE, "value": 1e6}},
    "whole waves of blocks": {"wave_softness": NONE},
    "products split along k": {"menu.split_k": [1]},
    "blocks that share loads": {"menu.cluster": 1},
    "prologue of a wave": {"prologue": FREE},
    "time to store results": {"store_rate": None},
    "latency of memory: bytes in flight": {"pipeline_depth": None, "deep_pipeline": None, "stream_in_flight": None},
    "imperfect overlap": {"overlap": "max"},
    "gap between kernels of a graph": {"launch_ratio": {**NONE, "value": 0.0}},
    "cost of launches without a graph": {"launches": None},
    "data that stays on the chip": {"residency_share": {**NONE, "value": 0.0}},
    "energy of a whole board": {"switching": None},
    "passes of norms and softmaxes": {"rows": None},
    "losses of fused attention": {"attention": None},
    "tiles of grouped products": {"experts": None},
    "kernels that narrow activations": {"narrowing": None},
    "Winograd": {"winograd": None},
}
"""Fields of a software file, and what they are without the term."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--each", type=int, default=600, metavar="N")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    held_out = [row for path in options.files for row in read(path).rows if row.held_out]
    chosen = {figure.title: _picked([r for r in held_out if figure.takes(r)], options.each) for figure in FIGURES}
    chosen = {title: rows for title, rows in chosen.items() if rows}
    rows = list({id(row): row for picked in chosen.values() for row in picked}.values())
    base = _errors(rows)
    lines = [("nothing: MAPE %", *(f"{_mape(base, picked):.1f}" for picked in chosen.values()))]
    cases: dict[str, Change]
    cases = {name: _without(changes) for name, changes in TERMS.items()}
    cases["power limit"] = _unlimited
    for name, change in tqdm(cases.items(), disable=None):
        found = _errors(rows, change)
        differences = (_mape(found, picked) - _mape(base, picked) for picked in chosen.values())
        lines.append((name, *(f"{d:+.1f}" if abs(d) >= 0.05 else "" for d in differences)))
    table = tabulate(lines, ["taken out", *chosen], tablefmt="github", disable_numparse=True)
    print(table)
    if options.write:
        FRAGMENT.parent.mkdir(exist_ok=True)
        FRAGMENT.write_text(_page(table, options.each), encoding="utf-8")


def _page(table: str, each: int) -> str:
    return (
        "## What each term is worth\n\nBy how many points the error of held-out rows grows when one term is taken out "
        f"and nothing is fitted again (`python benchmarks/ablation.py`; at most {each} rows of a class). A term that "
        "makes a class worse is one that another class needs, or that the fit of a neighbour leans on.\n\n" + table
    )


def _picked(rows: Sequence[Row], count: int) -> list[Row]:
    """Some of the rows, the same in every run."""
    return random.Random(SEED).sample(rows, min(count, len(rows)))


def _errors(
    rows: Sequence[Row], change: Change | None = None
) -> dict[int, float]:
    return {id(p.row): abs(p.error) for p in predict(rows, change=change)}


def _mape(errors: dict[int, float], rows: Sequence[Row]) -> float:
    return 100 * sum(errors[id(row)] for row in rows) / len(rows)


def _without(changes: dict[str, Any]) -> Change:
    return lambda chip, software: (chip, software.replace(_of(software, changes)))


def _of(software: Software, changes: dict[str, Any]) -> dict[str, Any]:
    """The changes to fields that this software has; a chip may be one of another kind."""
    present = software.model_dump(exclude_none=True)
    return {path: value for path, value in changes.items() if path.split(".")[0] in present}


def _unlimited(chip: Chip, software: Software) -> tuple[Chip, Software]:
    return chip.replace(**{"power.limit": "1 MW"}), software


if __name__ == "__main__":
    main()
