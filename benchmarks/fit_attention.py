"""Fit the constants of attention kernels (`[attention]` of software files) to measured rows.

    python benchmarks/fit_attention.py FOLDER [--evaluations N] [--quick]

FOLDER holds attention_consensus.csv. Prints the constants, the errors of fitted and of held-out shapes, of each GPU
left out of the fit, and of the model without each term. Rows under 100 us count a fiftieth, rows on whose time the
sources differ by more than a factor of two a tenth; errors are those of rows of at least 100 us on which they agree.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from library_fit import Constant, Fitted, Group, errors, fit, groups_of, mape
from tabulate import tabulate

from torch_regflat.validation.reading import read
from torch_regflat.validation.rows import Row

CONSTANTS = (
    Constant("attention.block_latency", 5000, 30000, 14500),
    Constant("attention.softmax_exposed", 0.5, 0.9, 0.75),
    Constant("attention.register_feed", 0.5, 1.0, 0.8),
    Constant("attention.wide_head", 0.5, 1.0, 0.9),
    Constant("attention.widening_ops", 1.0, 30.0, 8.0),
    Constant("attention.memory_efficiency", 0.4, 0.97, 0.6, only="serving-2025"),
)
NEUTRAL = {
    "attention.block_latency": 1.0,
    "attention.softmax_exposed": 1.0,
    "attention.register_feed": 1.0,
    "attention.wide_head": 1.0,
    "attention.widening_ops": 1e-6,
}
"""What a constant is when its term is taken out: nothing lost, a softmax that nothing hides."""
LEAST_S = 100e-6
AGREE = 2.0


def scored(row: Row) -> bool:
    return row.measured >= LEAST_S and (row.high or 0.0) <= AGREE * (row.low or 0.0)


def weight(row: Row) -> float:
    agree = (row.high or 0.0) <= AGREE * (row.low or 0.0)
    return (1.0 if row.measured >= LEAST_S else 0.02) * (1.0 if agree else 0.1)


def table(groups: Sequence[Group], found: Fitted) -> str:
    """Errors of fitted and held-out rows by phase, format and GPU."""
    rows = errors(groups, CONSTANTS, found.values, scored)
    kinds = sorted({(r.group, r.dtype, r.gpu) for r, _ in rows})
    lines = []
    for kind in kinds:
        mine = [(r, e) for r, e in rows if (r.group, r.dtype, r.gpu) == kind]
        lines.append((*kind, *(mape((r, e) for r, e in mine if r.held_out == side) for side in (False, True))))
    for phase in sorted({kind[0] for kind in kinds}):
        mine = [(r, e) for r, e in rows if r.group == phase]
        lines.append((phase, "all", "all", *(mape((r, e) for r, e in mine if r.held_out == s) for s in (False, True))))
    return tabulate(lines, headers=("class", "dtype", "GPU", "fitted shapes", "held-out shapes"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--evaluations", type=int, default=700)
    parser.add_argument("--quick", action="store_true", help="only the fit: no GPU left out, no ablation")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = read(options.folder / "attention_consensus.csv").rows
    free, kept = ([row for row in rows if row.held_out == side] for side in (False, True))
    fitted, held = groups_of(free), groups_of(kept)
    found = fit(fitted, CONSTANTS, weight, options.evaluations)
    for constant, value in zip(CONSTANTS, found.values, strict=True):
        print(f"{constant.path:34} {value:10.4g}   {constant.only or ''}  range {constant.low:g} to {constant.high:g}")
    print(f"\nMAPE in % (rows), 100 us and longer, sources within a factor of {AGREE:g}\n")
    print(table([*fitted, *held], found))
    if not options.quick:
        _leave_one_out(fitted, held, options.evaluations)
        _ablate(fitted, held, found, options.evaluations)


def _leave_one_out(fitted: list[Group], held: list[Group], evaluations: int) -> None:
    lines = []
    for name in sorted({group.chip.name for group in fitted}):
        others = [group for group in fitted if group.chip.name != name]
        left = [group for group in [*fitted, *held] if group.chip.name == name]
        # A variant that was measured on this GPU alone keeps its constant: it is the software's, not the chip's.
        own = {c.path for c in CONSTANTS if c.only and all(g.software.name != c.only for g in others)}
        started = [c for c in CONSTANTS if not (c.only and c.path in own)]
        found = fit(others, started, weight, evaluations)
        rows = errors(left, started, found.values, scored)
        phases = ("attention decode", "attention prefill")
        lines.append((name, *(mape((r, e) for r, e in rows if r.group == phase) for phase in phases)))
    print("\nGPUs left out of the fit\n")
    print(tabulate(lines, headers=("GPU", "decode", "prefill")))


def _ablate(fitted: list[Group], held: list[Group], found: Fitted, evaluations: int) -> None:
    cases: dict[str, dict[str, float]] = {"nothing": {}}
    cases.update({path.split(".")[1]: {path: value} for path, value in NEUTRAL.items()})
    lines = []
    for name, fixed in cases.items():
        again = fit(fitted, CONSTANTS, weight, evaluations, fixed) if fixed else found
        rows = errors(held, CONSTANTS, again.values, scored)
        phases = ("attention decode", "attention prefill")
        lines.append((name, *(mape((r, e) for r, e in rows if r.group == phase) for phase in phases)))
    print("\nTaken out, the rest fitted again; held-out shapes\n")
    print(tabulate(lines, headers=("term", "decode", "prefill")))


if __name__ == "__main__":
    main()
