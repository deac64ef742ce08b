"""Write how far modelled latencies may be off, and which chips were measured, from CSV files of measured rows.

    python benchmarks/fit_intervals.py measured/*.csv

`schedule/uncertainty.toml` comes from rows that may be fitted to, `hardware/evidence.toml` from the held-out ones; the
cells of collectives from those of an installed aiconfigurator-core, which stay out of all else. Then prints the share
of held-out rows inside their interval: as they are, and with each GPU in turn treated as one that nobody measured.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

from torch_regflat.cost import MODEL_VERSION
from torch_regflat.hardware import evidence, library
from torch_regflat.hardware.evidence import Measured
from torch_regflat.schedule.uncertainty import UNCERTAINTY_FILE
from torch_regflat.validation.package import read_package
from torch_regflat.validation.predict import Prediction, predict
from torch_regflat.validation.run import validate
from torch_regflat.validation.score import percent
from torch_regflat.validation.split import is_test_gpu
from torch_regflat.validation.spread import Cell, cells, correlations, inside, left_out, render

ALL = 10**6
NOT_KERNELS = ("served", "power", "model")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    files = parser.parse_args(argv).files
    found = validate(files).predictions
    kernels = [p for p in found if p.row.kind not in NOT_KERNELS and p.value is not None]
    fit = [p for p in kernels if not p.row.held_out]
    held_out = [p for p in kernels if p.row.held_out]
    table, correlated = [*cells(fit), *collectives()], correlations(fit)
    UNCERTAINTY_FILE.write_text(render(table, correlated, MODEL_VERSION), encoding="utf-8")
    evidence.EVIDENCE_FILE.write_text(evidence.render(measured(held_out), MODEL_VERSION), encoding="utf-8")
    print(f"{len(table)} cells from {len(fit)} rows, correlations {correlated[0]:.2f} and {correlated[1]:.2f}")
    print(f"inside on held-out rows: {percent(inside(held_out, table))} %")
    for gpu, rows, share in left_out(kernels):
        print(f"  {gpu} left out: {percent(share)} % of {rows} rows")


def collectives() -> list[Cell]:
    """Cells of exchanges between chips; what kernels of other classes take from broader cells is left alone.

    Over links of their own alone: what PCIe gives more than two cards is a matter of the server, by a factor of ten.
    """
    tables = read_package(ALL, "collective")
    rows = [row for table in tables for row in table.rows if not row.held_out and row.over == "NVLink"]
    return [cell for cell in cells(predict(rows)) if cell.key[0] == "collective"]


def measured(held_out: Sequence[Prediction]) -> dict[str, Measured]:
    """For each chip of the data that is not of the permanent test set: its held-out rows and their mean error."""
    chips: dict[str, list[float]] = {}
    for p in held_out:
        if not is_test_gpu(p.row.gpu):
            chips.setdefault(library.load(p.row.gpu).name, []).append(abs(p.error))
    return {name: Measured(rows=len(errors), mape=math.fsum(errors) / len(errors)) for name, errors in chips.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
