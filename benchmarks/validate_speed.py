"""How many measured kernel rows are predicted a minute, from CSV files.

python benchmarks/validate_speed.py measured/{gemm,attention,moe,elementwise,norm_softmax,conv}.csv
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from torch_regflat.validation.predict import predict
from torch_regflat.validation.reading import read

GOAL = 20_000


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    rows = [row for path in parser.parse_args(argv).files for row in read(path).rows]
    predict(rows[:10])  # imports and files that are read once
    wall, cpu = time.perf_counter(), time.process_time()
    predict(rows)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{len(rows)} rows: {len(rows) / wall * 60:,.0f} a minute, {len(rows) / cpu * 60:,.0f} a minute of processor "
        f"time (goal: at least {GOAL:,} on two cores)"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
