"""Collectives against published times of NCCL and of serving engines, and the fit of the constants behind them.

    python benchmarks/collectives.py           # errors with the constants that ship
    python benchmarks/collectives.py --fit     # and the fit, each GPU left out once
    python benchmarks/collectives.py --write   # that, and what docs/accuracy.md says of it (benchmarks/accuracy)

Rows are those of an installed aiconfigurator-core (extra `validate`): NCCL's tests on 2, 4 and 8 GPUs of one machine,
512 bytes to 512 MiB, and the all-reduces of vLLM, SGLang and TensorRT-LLM in graphs. A cell is a GPU, a collective,
ranks and bytes; versions that measured the same are one cell with their median, and how far they lie apart bounds what
any model of the hardware can reach. Constants are fitted to cells that are not held out (`validation.split`), none to
the GPUs of the permanent test set.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tabulate import tabulate

from torch_regflat.hardware import library, software
from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.software import Software
from torch_regflat.interconnect import price
from torch_regflat.validation import package
from torch_regflat.validation.protocols import protocol_of
from torch_regflat.validation.rows import MIB, Exchange
from torch_regflat.validation.split import fit_only, is_test_gpu
from torch_regflat.workload import Collective

ALL = 10**6
PAGE = Path(__file__).parent / "accuracy" / "collectives.md"
EVALUATIONS = 2500
SOFTWARES = ("cuda-libraries", "nccl", "board-kernels")


@dataclass(frozen=True)
class Cell:
    """What several versions measured: the row of the median, and the least and the greatest of all."""

    row: Exchange
    low: float
    high: float

    @property
    def collective(self) -> Collective:
        row = self.row
        size = row.size / row.ranks if row.collective == "all_gather" else float(row.size)
        return Collective(row.collective, size, row.ranks)


@dataclass(frozen=True)
class Constant:
    """A number of the software file (by path), or of the links of chips (by field)."""

    path: str
    low: float
    high: float
    chips: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """Constants that are fitted together, and the cells they are fitted to."""

    name: str
    takes: Callable[[Exchange], bool]
    constants: tuple[Constant, ...]


def _nvlink(row: Exchange) -> bool:
    return row.source.startswith("aic/nccl") and row.over == "NVLink"


P = "collectives.protocols."
AMPERE, HOPPER, PCIE = ("a100-sxm-80gb",), ("h100-sxm", "h200"), ("rtx-pro-6000",)
STUDIES = (
    Study(
        "NCCL over NVLink",
        _nvlink,
        (
            Constant("collectives.link_rate", 0.6, 0.9),
            Constant("collectives.own_copy", 0.2, 0.7),
            Constant(P + "LL.rate", 0.002, 0.5),
            Constant(P + "LL128.start", 0.1, 20.0),
            Constant(P + "LL128.hop", 1.0, 4.0),
            Constant(P + "LL128.rate", 0.2, 1.0),
            Constant(P + "Simple.start", 1.0, 60.0),
            Constant(P + "Simple.hop", 1.0, 8.0),
            Constant("collectives.in_network.start", 0.1, 90.0),
            Constant("collectives.in_network.rate", 0.5, 1.0),
            *(Constant(f, *r, chips) for chips in (AMPERE, HOPPER)
              for f, r in (("latency", (0.4, 2.0)), ("start", (1.0, 9.0)))),
        ),
    ),
    Study(
        "NCCL over PCIe",
        lambda row: row.source.startswith("aic/nccl") and row.gpu.startswith("RTX"),
        (
            Constant("collectives.host_pair_rate", 0.2, 0.95),
            Constant("collectives.host_rate", 0.05, 0.95),
            Constant("latency", 0.5, 3.0, PCIE),
            Constant("start", 0.5, 9.0, PCIE),
        ),
    ),
    Study(
        "all-reduces of serving engines over NVLink",
        lambda row: row.source.startswith("aic/engine") and row.over == "NVLink",
        (
            Constant("collectives.direct.start", 0.05, 4.0),
            Constant("collectives.direct.hop", 0.05, 2.0),
            Constant("collectives.direct.rate", 0.4, 1.2),
        ),
    ),
)  # fmt: skip


GROUPS: tuple[tuple[str, Callable[[Exchange], bool]], ...] = (
    ("NCCL over NVLink", _nvlink),
    ("NCCL over PCIe", lambda row: row.source.startswith("aic/nccl") and row.over == "PCIe"),
    ("all-reduces of serving engines over NVLink", STUDIES[2].takes),
    ("all-reduces of serving engines over PCIe", lambda r: r.source.startswith("aic/engine") and r.over == "PCIe"),
)


@dataclass(frozen=True)
class Model:
    """The software files and chips that cells are priced with."""

    softwares: dict[str, Software]
    chips: dict[str, Chip]

    @classmethod
    def shipped(cls, cells: Iterable[Cell]) -> Model:
        listed = list(cells)
        return cls(
            {name: software.load(name) for name in SOFTWARES},
            {gpu: library.load(gpu) for gpu in dict.fromkeys(cell.row.gpu for cell in listed)},
        )

    def value(self, constant: Constant) -> float:
        if constant.chips:
            chip = next(chip for chip in self.chips.values() if chip.name in constant.chips)
            return float(getattr(chip.ways[0], constant.path).given)
        place = self.softwares["cuda-libraries"]
        for step in constant.path.split("."):
            place = place[step] if isinstance(place, dict) else getattr(place, step)
        return float(place.given)

    def with_value(self, constant: Constant, value: float) -> Model:
        if not constant.chips:
            made = {name: _with(found, constant.path.split("."), value) for name, found in self.softwares.items()}
            return replace(self, softwares=made)
        chips = {gpu: _linked(c, constant, value) if c.name in constant.chips else c for gpu, c in self.chips.items()}
        return replace(self, chips=chips)

    def seconds(self, cell: Cell) -> float:
        """With the gap of a launch in a graph, as the pipeline has it."""
        chip, protocol = self.chips[cell.row.gpu], protocol_of(cell.row)
        own = self.softwares[protocol.software or "cuda-libraries"]
        gap = chip.launch_gap_graph_s * own.launch_ratio.value
        return gap + price(chip, cell.collective, own).seconds


def _with(place, steps, value):
    """A frozen model, or a dictionary of them, with the number at a path replaced."""
    step, *rest = steps
    old = place[step] if isinstance(place, dict) else getattr(place, step)
    new = _with(old, rest, value) if rest else _given(old, value)
    return {**place, step: new} if isinstance(place, dict) else place.model_copy(update={step: new})


def _linked(chip: Chip, constant: Constant, value: float) -> Chip:
    first = chip.ways[0]
    changed = first.model_copy(update={constant.path: _given(getattr(first, constant.path), value)})
    links = tuple(changed if link.name == first.name else link for link in chip.interconnect)
    return chip.model_copy(update={"interconnect": links})


def _given(quantity, value):
    return quantity.model_copy(update={"given": value, "given_low": None, "given_high": None})


def cells_of(rows: Iterable[Exchange]) -> list[Cell]:
    """Rows of one kind of library that measured the same, whatever its version."""
    groups: dict[tuple[object, ...], list[Exchange]] = {}
    for row in rows:
        groups.setdefault((row.gpu, row.source.split("-")[0], *row.shape), []).append(row)
    found = []
    for members in groups.values():
        members.sort(key=lambda row: row.measured)
        middle = members[(len(members) - 1) // 2]
        times = [row.measured for row in members]
        found.append(Cell(replace(middle, measured=statistics.median(times)), times[0], times[-1]))
    return found


def loss(model: Model, cells: Sequence[Cell]) -> float:
    """Mean of |predicted / measured - 1|, every GPU counting alike."""
    by_gpu: dict[str, list[float]] = {}
    for cell in cells:
        by_gpu.setdefault(cell.row.gpu, []).append(min(abs(model.seconds(cell) / cell.row.measured - 1.0), 2.0))
    return statistics.fmean(statistics.fmean(errors) for errors in by_gpu.values())


def fit(model: Model, study: Study, cells: Sequence[Cell], evaluations: int) -> Model:
    """A coordinate search from the constants of `model`, always from the same seed."""
    generator = random.Random(20261125)
    values, steps = [model.value(c) for c in study.constants], [0.3] * len(study.constants)
    best = loss(model, cells)
    for round_ in range(evaluations):
        i = round_ % len(values)
        constant = study.constants[i]
        moved = values[i] * math.exp(generator.gauss(0.0, 1.0) * steps[i])
        moved = min(max(moved, constant.low), constant.high)
        trial = model.with_value(constant, moved)
        found = loss(trial, cells)
        if found < best:
            model, best, values[i], steps[i] = trial, found, moved, min(steps[i] * 1.5, 0.6)
        else:
            steps[i] = max(steps[i] * 0.9, 0.01)
    return model


def to_fit(cells: Iterable[Cell]) -> list[Cell]:
    return list(fit_only((cell for cell in cells if not cell.row.held_out), lambda cell: cell.row))


def left_out(study: Study, cells: Sequence[Cell], evaluations: int) -> list[tuple[Cell, float]]:
    """Signed errors on each GPU, with constants fitted to the others; its links are as theirs in the mean."""
    found = []
    known = [cell for cell in cells if study.takes(cell.row) and not is_test_gpu(cell.row.gpu)]
    for gpu in sorted({cell.row.gpu for cell in known}):
        others = to_fit(cell for cell in known if cell.row.gpu != gpu)
        if not others:
            continue
        model = Model.shipped(cells)
        # Chips of one architecture share what was fitted to their links: leave out all of them.
        relatives = {c.chips for c in study.constants if model.chips[gpu].name in c.chips}
        others = [cell for cell in others if all(model.chips[cell.row.gpu].name not in chips for chips in relatives)]
        constants = tuple(c for c in study.constants if c.chips not in relatives)
        if not others:
            continue
        model = fit(model, replace(study, constants=constants), others, evaluations)
        for constant in study.constants:
            if constant.chips in relatives:
                rest = [model.value(c) for c in constants if c.chips and c.path == constant.path]
                model = model.with_value(constant, statistics.fmean(rest)) if rest else model
        found += [(c, model.seconds(c) / c.row.measured - 1.0) for c in known if c.row.gpu == gpu]
    return found


def said(errors: Iterable[float]) -> str:
    """Mean of the absolute errors in percent, median of the signed ones, and how many."""
    listed = list(errors)
    if not listed:
        return "-"
    mean, bias = statistics.fmean(map(abs, listed)), statistics.median(listed)
    return f"{100 * mean:.1f} ({100 * bias:+.0f}, {len(listed)})"


def report(title: str, found: Sequence[tuple[Cell, float]], key: Callable[[Exchange], str]) -> None:
    names = sorted({key(cell.row) for cell, _ in found})
    sides = [(split, big) for split in (False, True) for big in (True, False)]
    table = []
    for name in [*names, "all"]:
        row = [name]
        for split, big in sides:
            row.append(said(e for c, e in found if name in ("all", key(c.row)) and c.row.held_out == split
                            and (c.row.size >= MIB) == big))
        some = [c for c, _ in found if name in ("all", key(c.row)) and c.high > c.low]
        row.append(f"{100 * statistics.fmean((c.high - c.low) / c.row.measured for c in some):.0f}" if some else "-")
        table.append(row)
    heads = [f"{'held out' if split else 'fitted'}, {'>= 1 MiB' if big else '< 1 MiB'}" for split, big in sides]
    print(f"\n{title}: mean absolute error in % (median signed error, cells)")
    print(tabulate(table, headers=["", *heads, "versions apart %"], disable_numparse=True))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="Fit the constants, and leave each GPU out once.")
    parser.add_argument("--evaluations", type=int, default=EVALUATIONS)
    parser.add_argument("--write", action="store_true", help="Also write benchmarks/accuracy/collectives.md.")
    options = parser.parse_args(argv)
    tables = package.read_package(ALL, "collective")
    rows = [row for table in tables for row in table.rows if isinstance(row, Exchange)]
    cells = cells_of(rows)
    print(f"{len(rows)} rows, {len(cells)} cells")
    model = shipped = Model.shipped(cells)
    if options.fit:
        for study in STUDIES:
            known = to_fit(cell for cell in cells if study.takes(cell.row) and not is_test_gpu(cell.row.gpu))
            before = model
            model = fit(model, study, known, options.evaluations)
            lines = [[c.path, ", ".join(c.chips), before.value(c), model.value(c)] for c in study.constants]
            print(f"\n{study.name}, {len(known)} cells: {loss(before, known):.4f} to {loss(model, known):.4f}")
            print(tabulate(lines, headers=["constant", "chips", "shipped", "fitted"], floatfmt=".4g"))
    found = [(cell, shipped.seconds(cell) / cell.row.measured - 1.0) for cell in cells]
    for title, takes in GROUPS:
        some = [(cell, error) for cell, error in found if takes(cell.row)]
        report(title, some, lambda row: row.gpu + (" (never fitted)" if is_test_gpu(row.gpu) else ""))
        report(title, some, lambda row: row.collective)
        report(title, some, lambda row: f"{row.ranks:2} ranks")
    if options.fit:
        for study in STUDIES:
            errors = left_out(study, cells, options.evaluations // 2)
            if errors:
                report(f"{study.name}, each GPU left out of the fit", errors, lambda row: row.gpu)
    if options.write:
        PAGE.write_text(page(found, left_out(STUDIES[0], cells, options.evaluations // 2)), encoding="utf-8")
        print(f"\n{PAGE} written")


def page(found: Sequence[tuple[Cell, float]], unknown: Sequence[tuple[Cell, float]]) -> str:
    """What the document says: held-out cells by GPU, beside what versions of a library differ by."""
    parts = [
        "## Collectives",
        "Rows of the package aiconfigurator-core, which `python benchmarks/collectives.py` reads: NCCL's tests on 2, 4 "
        "and 8 GPUs of one machine, and the all-reduces of vLLM, SGLang and TensorRT-LLM in graphs. A cell is a "
        "collective, ranks and bytes on one GPU; versions that measured the same are one cell with their median. "
        "Held-out cells, and those of GPUs that nothing is fitted to; mean absolute error in % (cells):",
    ]
    table = []
    for title, takes in GROUPS:
        some = [(c, e) for c, e in found if takes(c.row) and c.row.held_out]
        for gpu in sorted({c.row.gpu for c, _ in some}):
            sides = [[e for c, e in some if c.row.gpu == gpu and (c.row.size >= MIB) == big] for big in (True, False)]
            apart = [(c.high - c.low) / c.row.measured for c, _ in some if c.row.gpu == gpu and c.high > c.low]
            never = ", never fitted" if is_test_gpu(gpu) else ""
            spread = f"{100 * statistics.fmean(apart):.0f}" if apart else "-"
            table.append((title, gpu + never, *map(_short, sides), spread))
        both = [_short(e for c, e in some if (c.row.size >= MIB) == big) for big in (True, False)]
        table.append((title, "all", *both, ""))
    heads = ("", "GPU", "1 MiB and more", "below 1 MiB", "versions apart by %")
    parts.append(tabulate(table, headers=heads, tablefmt="github", disable_numparse=True))
    without = []
    for gpu in sorted({c.row.gpu for c, _ in unknown}):
        own = [(c.row.size >= MIB, e) for c, e in unknown if c.row.gpu == gpu]
        without.append((gpu, *(_short(e for large, e in own if large == big) for big in (True, False))))
    parts += [
        "Servers with L40S differ by a factor of ten on more than two cards. NCCL's table and most of the engines' are "
        "of slow ones, SGLang 0.5.12's is of one whose cards get as large a share of PCIe as those of the RTX PRO 6000 "
        "server, to which the constants are fitted. That is a matter of the server's sockets and switches, which no "
        "chip file has. Versions of serving engines differ by half because their kernels do.",
        "NCCL over NVLink with an architecture left out of the fit, and its links taken to be as the other's. Only two "
        "have links that are fitted, A100 and H100 or H200, and the start of their kernels differs by 5 us:",
        tabulate(without, headers=("GPU left out", *heads[2:4]), tablefmt="github", disable_numparse=True),
        "The form of the model was chosen with all of these rows in sight, its numbers with the fitted ones alone. The "
        "latency of the links of B200, B300, GB200 and GB300 is an estimate from another source (`nccl-1940` in their "
        "files). The package has no rows of several machines. All-reduces of long messages that others published of "
        "256 and 16 H100 come out 6 % and -7 % off, of a rack of 72 GB200 17 to 38 % too fast "
        "(`tests/interconnect/test_published.py`).",
    ]
    return "\n\n".join(parts) + "\n"


def _short(errors: Iterable[float]) -> str:
    listed = list(errors)
    return f"{100 * statistics.fmean(map(abs, listed)):.1f} ({len(listed)})" if listed else "-"


if __name__ == "__main__":
    main()
