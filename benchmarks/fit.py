"""Fit what products, memory-bound kernels and boards share across GPUs to measured rows.

    python benchmarks/fit.py FOLDER [STUDY ...] [--evaluations N] [--quick]
    python benchmarks/fit.py FOLDER --boards | --memory

FOLDER holds gemm.csv, elementwise.csv and norm_softmax.csv. For each study (products, vector, narrow, streams, rows,
amd, intel) prints its constants as shipped and as fitted, errors of fitted and of held-out shapes by GPU, of each GPU
left out of the fit, and of the model without each term, the other constants fitted anew. A GPU that is left out has
neither rows in the fit nor energies of its board. `--boards` solves each board's energy of a product, `--memory` prints
the bandwidth that its element-wise kernels reach. Nothing is fitted to held-out shapes or to the test GPUs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from library_fit import Constant, Group, errors, fit, groups_of, lower
from tabulate import tabulate

from torch_regflat.cost.chip_tensors import rate_tensors
from torch_regflat.hardware.chip import Chip
from torch_regflat.validation.protocols import protocol_of
from torch_regflat.validation.reading import read
from torch_regflat.validation.rows import Gemm, Row, Streaming
from torch_regflat.validation.split import fit_only, is_test_gpu

VECTOR_DTYPE = "fp32"
LONG_S, HOT_S = 30e-6, 300e-6
"""Rows whose errors count; rows long enough for the power limit to act."""
Changes = dict[str, object]


def _nvidia(row: Row) -> bool:
    return not row.gpu.startswith(("MI", "ARC"))


@dataclass(frozen=True)
class Study:
    """Rows of one kind, the constants they decide, and the terms to do without: changes of the software."""

    name: str
    file: str
    takes: Callable[[Row], bool]
    constants: tuple[Constant, ...]
    without: dict[str, Changes] = field(default_factory=dict)
    least_s: float = LONG_S


def _dtype(*names: str) -> Callable[[Row], bool]:
    return lambda row: isinstance(row, Gemm) and row.dtype in names and _nvidia(row) and row.source != "llmcompass"


def _number(value: float, unit: str = "1") -> dict[str, object]:
    return {"value": value, "unit": unit, "low": value, "high": value}


_NO_STORE: Changes = {"store_rate": _number(1e6, "B/clk/SM")}
_NO_CHAIN: Changes = {"pipeline_depth": _number(1e9, "B"), "deep_pipeline": _number(1e9, "B")}
_FREE: Changes = {
    "switching.product_energy": _number(1e-6, "pJ/FLOP"),
    "switching.vector_product_energy": _number(1e-6, "pJ/FLOP"),
}
STUDIES = (
    Study(
        "products",
        "gemm.csv",
        _dtype("bf16", "fp16"),
        (
            Constant("memory_efficiency", 0.7, 0.97, 0.815),
            Constant("prologue", 600, 3000, 1430),
            Constant("split_cost", 2000, 8000, 5000),
            Constant("launch_ratio", 1.0, 2.0, 1.48),
            Constant("store_rate", 5, 40, 10.5),
        ),
        {
            "no serial store": _NO_STORE,
            "no load latency": _NO_CHAIN,
            "no prologue": {"prologue": _number(0, "cycles")},
            "no cost of a split": {"split_cost": _number(0, "cycles")},
            "no split along k": {"menu.split_k": [1]},
            "whole waves": {"wave_softness": _number(0)},
            "4-norm": {"overlap": "soft"},
            "maximum": {"overlap": "max"},
            "no clusters": {"menu.cluster": 1},
            "lines of tiles": {"menu.order": "line"},
            "nothing stays in L2": {"residency_share": _number(0)},
            "no zeros": {"switching.zero_share": _number(1)},
            "limit acts at once": {"switching.settle_time": _number(0, "ms")},
        },
    ),
    Study(
        "vector",
        "gemm.csv",
        _dtype(VECTOR_DTYPE),
        (Constant("vector_issue_efficiency", 0.8, 1.0, 0.95), Constant("launches.single_call", 25, 80, 46)),
        {
            "no serial store": _NO_STORE,
            "no load latency": _NO_CHAIN,
            "no floor of calls": {"launches.single_call": _number(0, "us")},
        },
    ),
    Study(
        "narrow",
        "gemm.csv",
        _dtype("fp8", "fp8_block", "nvfp4"),
        (
            Constant("narrowing.kernels", 1.0, 6.0, 4.0, only="cublas-narrow"),
            Constant("narrowing.rate", 0.3, 1.0, 0.5, only="trtllm-1.3-blocks"),
            Constant("narrowing.rate", 0.3, 1.0, 0.55, only="triton-narrow"),
            Constant("launches.host_time", 40, 120, 70, only="vllm-0.24-eager"),
            Constant("launches.host_time", 120, 400, 220, only="triton-narrow"),
        ),
        {"squares of tiles": {"menu.order": "square"}, "split along k": {"menu.split_k": [1, 2, 4, 8, 16]}},
    ),
    Study(
        "streams",
        "elementwise.csv",
        lambda row: isinstance(row, Streaming) and _nvidia(row),
        (
            Constant("stream_efficiency", 0.75, 0.95, 0.88),
            Constant("launches.single_gap", 5, 30, 17),
            Constant("launches.single_floor", 15, 60, 31),
            Constant("launches.timer_ratio", 1.0, 3.0, 1.74),
            Constant("stream_in_flight", 1500, 6000, 2900, only="vllm-2023"),
        ),
        {"no floor of the host": {"launches.single_floor": _number(0, "us")}},
        least_s=100e-6,
    ),
    Study(
        "rows",
        "norm_softmax.csv",
        lambda row: isinstance(row, Streaming) and _nvidia(row),
        (
            Constant("rows.block_waits", 4, 40, 14),
            Constant("rows.reread_from", 0.2, 1.5, 0.68),
            Constant("rows.reread_range", 0.3, 4.0, 1.7),
        ),
        {
            "rows always in L2": {"rows.reread_from": _number(1e6)},
            "no waits of a block": {"rows.block_waits": _number(0)},
        },
        least_s=100e-6,
    ),
    Study(
        "amd",
        "gemm.csv",
        lambda row: isinstance(row, Gemm) and row.gpu.startswith("MI") and row.dtype == VECTOR_DTYPE,
        (
            Constant("issue_efficiency", 0.5, 0.95, 0.66),
            Constant("memory_efficiency", 0.4, 0.95, 0.6),
            Constant("pipeline_depth", 10, 200, 35),
            Constant("launches.single_call", 15, 60, 32),
        ),
    ),
    Study(
        "intel",
        "gemm.csv",
        lambda row: isinstance(row, Gemm) and row.gpu.startswith("ARC"),
        (
            Constant("issue_efficiency", 0.7, 1.0, 0.97),
            Constant("memory_efficiency", 0.6, 0.98, 0.94),
            Constant("store_rate", 5, 100, 60),
            Constant("launches.host_time", 10, 60, 32),
        ),
    ),
)


def weight(row: Row) -> float:
    return 2.0 if row.measured >= LONG_S else 1.0


def rows_of(study: Study, folder: Path) -> list[Row]:
    return [row for row in read(str(folder / study.file)).rows if study.takes(row) and not is_test_gpu(row.gpu)]


def to_fit(rows: Iterable[Row]) -> list[Row]:
    """Rows that may be fitted to."""
    return list(fit_only((row for row in rows if not row.held_out), lambda row: row))


def _bare(chip: Chip) -> Chip:
    """A chip without what was fitted to its own rows."""
    power = chip.power.model_copy(update={"product_energy": None, "vector_product_energy": None})
    return chip.model_copy(update={"power": power})


def bare(groups: Iterable[Group]) -> list[Group]:
    return [replace(group, chip=_bare(group.chip)) for group in groups]


def relative(
    groups: Sequence[Group], study: Study, values: Sequence[float], least_s: float
) -> dict[str, list[float]]:
    """Signed errors by GPU of rows that take as long at least."""
    found: dict[str, list[float]] = {}
    for row, error in errors(groups, study.constants, values, lambda row: row.measured >= least_s):
        found.setdefault(row.gpu, []).append(error)
    return found


def said(found: Iterable[float]) -> str:
    """Mean and median of the absolute errors in percent, and their number."""
    sizes = [100 * abs(error) for error in found]
    return f"{statistics.fmean(sizes):.1f} / {statistics.median(sizes):.1f} ({len(sizes)})" if sizes else "-"


def _all(found: dict[str, list[float]]) -> list[float]:
    return [error for errors_ in found.values() for error in errors_]


def report(study: Study, folder: Path, evaluations: int, quick: bool) -> None:
    rows = rows_of(study, folder)
    known, held = groups_of(to_fit(rows)), groups_of(row for row in rows if row.held_out)
    start = [constant.start for constant in study.constants]
    found = fit(known, study.constants, weight, evaluations, relative=True)
    lines = [[c.path + (f" ({c.only})" if c.only else ""), c.start, v, c.low, c.high]
             for c, v in zip(study.constants, found.values, strict=True)]  # fmt: skip
    print(f"\n== {study.name}: {len(rows)} rows of {study.file}")
    print(tabulate(lines, headers=["constant", "shipped", "fitted", "low", "high"], floatfmt=".4g"))
    out = {} if quick else _left_out(study, rows, evaluations)
    columns = [relative(known, study, start, study.least_s), relative(held, study, start, study.least_s), out]
    gpus = sorted({row.gpu for row in rows})
    table = [[gpu, *(said(column.get(gpu, [])) for column in columns)] for gpu in gpus]
    table.append(["all", *(said(_all(column)) for column in columns)])
    table.append(["all sizes", *(said(_all(relative(g, study, start, 0.0))) for g in (known, held)), ""])
    headers = [f"from {study.least_s * 1e6:.0f} us", "fitted shapes", "held out", "GPU left out"]
    print("\nabsolute errors in percent, constants as shipped: mean / median (rows)")
    print(tabulate(table, headers=headers))
    if not quick:
        lines = _ablation(study, known, held, evaluations)
        print(f"\n{tabulate(lines, headers=['without', 'fitted shapes', 'held out'])}")


def _left_out(study: Study, rows: Sequence[Row], evaluations: int) -> dict[str, list[float]]:
    """Errors of each GPU with constants fitted to the others alone."""
    found = {}
    for gpu in sorted({row.gpu for row in rows}):
        others = to_fit(row for row in rows if row.gpu != gpu)
        if others:
            values = fit(groups_of(others), study.constants, weight, evaluations, relative=True).values
            own = bare(groups_of(row for row in rows if row.gpu == gpu))
            found.update(relative(own, study, values, study.least_s))
    return found


def _ablation(study: Study, known: Sequence[Group], held: Sequence[Group], evaluations: int) -> list[list[str]]:
    lines = []
    for name, changes in study.without.items():
        fixed = {path: 1.0 for path in changes}
        constants = tuple(c for c in study.constants if c.path not in fixed)
        less = replace(study, constants=constants)
        some, others = ([_changed(group, changes) for group in groups] for groups in (known, held))
        values = fit(some, constants, weight, evaluations // 2, relative=True).values if constants else ()
        lines.append([name, *(said(_all(relative(g, less, values, study.least_s))) for g in (some, others))])
    boards = [bare(groups) for groups in (known, held)]
    start = [constant.start for constant in study.constants]
    lines.append(["energies of boards", *(said(_all(relative(g, study, start, study.least_s))) for g in boards)])
    free = [[_changed(group, _FREE) for group in groups] for groups in boards]
    lines.append(["the power limit", *(said(_all(relative(g, study, start, study.least_s))) for g in free)])
    return lines


def _changed(group: Group, changes: Changes) -> Group:
    """The group with other software, its rows lowered anew where the menu or what stays in L2 is another."""
    software = group.software.replace(changes)
    if not any(path.startswith(("menu", "residency")) for path in changes):
        return replace(group, software=software)
    again = Group(group.chip, software, group.conditions, group.rows)
    lower(again)
    return again


def boards(folder: Path) -> None:
    """Energy of a product that leaves the long products of each board without bias, its clock and limit as they are."""
    for title, path, takes in (
        ("16-bit factors", "product_energy", _dtype("bf16", "fp16")),
        ("fp32 factors", "vector_product_energy", _dtype(VECTOR_DTYPE)),
    ):
        rows = [row for row in read(str(folder / "gemm.csv")).rows if takes(row) and row.measured >= HOT_S]
        rows = [row for row in rows if isinstance(row, Gemm) and row.batch == 1 and "train" not in row.source]
        usable = to_fit(row for row in rows if not is_test_gpu(row.gpu))
        lines = [_board(groups_of(row for row in usable if row.gpu == gpu), path)
                 for gpu in sorted({row.gpu for row in usable})]  # fmt: skip
        headers = [title, "pJ/FLOP", "error", "law", "error with it", "rows"]
        print(f"\n{tabulate(lines, headers=headers, floatfmt='.3g')}")


def _board(groups: list[Group], path: str) -> list[object]:
    law = _law(groups[0], path)
    steps = [law * 1.04**step for step in range(-40, 41)]
    best = min(steps, key=lambda value: _hot_error(groups, path, value))
    count = sum(len(group.rows) for group in groups)
    own, by_law = (100 * _hot_error(groups, path, value) for value in (best, law))
    return [groups[0].chip.name, best * 1e12, own, law * 1e12, by_law, count]


def _law(group: Group, path: str) -> float:
    """What the software's law says of this chip, in J/FLOP."""
    conditions = replace(group.conditions, values="random")
    return float(rate_tensors([_bare(group.chip)], [group.software], group.parts[0].dtypes[:1], conditions).board)


def _hot_error(groups: Iterable[Group], path: str, joules: float) -> float:
    text = f"{joules * 1e12:.6g} pJ/FLOP"
    sizes: list[float] = []
    for group in groups:
        own = replace(group, chip=group.chip.replace(**{f"power.{path}": text}))
        sizes += [min(abs(s / row.measured - 1.0), 1.0)
                  for s, row in zip(own.seconds(own.software).tolist(), own.rows, strict=True)]  # fmt: skip
    return statistics.fmean(sizes)


def memory(folder: Path, least_s: float = 1e-3) -> None:
    """Bandwidth that element-wise kernels of over a millisecond reach."""
    rows = to_fit(r for r in read(str(folder / "elementwise.csv")).rows if not is_test_gpu(r.gpu))
    found: dict[str, list[float]] = {}
    for group in groups_of(row for row in rows if row.measured >= least_s and protocol_of(row).software is None):
        gap = group.software.launches.single_gap.value if group.software.launches else 0.0
        for part in group.parts:
            moved = part.kernels.stream_bytes.flatten().tolist()
            for size, owner in zip(moved, part.owners.tolist(), strict=True):
                found.setdefault(group.chip.name, []).append(size / (group.rows[owner].measured - gap))
    lines = [[name, statistics.median(v) / 1e9, len(v)] for name, v in sorted(found.items())]
    print(tabulate(lines, headers=["chip", "GB/s", "rows"], floatfmt=".4g"))


def main(argv: Sequence[str] | None = None) -> None:
    names = [study.name for study in STUDIES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("study", nargs="*", help=f"of {', '.join(names)}; all where none is given")
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="no GPU left out, no ablation")
    parser.add_argument("--boards", action="store_true")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args(argv)
    for name in options.study:
        if name not in names:
            parser.error(f"there is no study {name!r}; there are {', '.join(names)}")
    torch.set_num_threads(1)
    if options.boards:
        boards(options.folder)
    if options.memory:
        memory(options.folder)
    if options.boards or options.memory:
        return
    for study in STUDIES:
        if not options.study or study.name in options.study:
            report(study, options.folder, options.evaluations, options.quick)


if __name__ == "__main__":
    main()
