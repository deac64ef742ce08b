"""Write which modelled changes of latency are worth believing, by class of kernel, from CSV files of measured rows.

    python benchmarks/believable.py measured/*.csv

Writes `torch_regflat/regression/believable.toml`, from which failing tests say whether a change is large enough, and
prints it. Only held-out rows count, and pairs that differ in a size or in how experts are hit: another number format is
another kernel.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from torch_regflat.cost import MODEL_VERSION
from torch_regflat.regression.believable import BELIEVABLE_FILE, Validated, label_of, render
from torch_regflat.validation.pairs import Pair, pair_scores, pairs
from torch_regflat.validation.rows import Attention, Row
from torch_regflat.validation.run import validate

KINDS = {
    "gemm": "product", "attention": "attention", "moe": "experts", "convolution": "convolution", "norm": "reduction",
    "softmax": "reduction", "elementwise": "pointwise",
}  # fmt: skip


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    files = parser.parse_args(argv).files
    predictions = validate(files, split="held-out").predictions
    classes: dict[str, list[Pair]] = {}
    for pair in pairs(p for p in predictions if p.row.kind in KINDS):
        if pair.factor != "dtype":
            classes.setdefault(label(pair.first.row), []).append(pair)
    scores = [(name, pair_scores(found)[-1]) for name, found in sorted(classes.items())]
    source = f"{sum(score.pairs for _, score in scores)} pairs of held-out rows, docs/accuracy.md"
    text = render((Validated(name, s.pairs, s.believable) for name, s in scores), MODEL_VERSION, source)
    BELIEVABLE_FILE.write_text(text, encoding="utf-8")
    print(text, end="")


def label(row: Row) -> str:
    """The class of kernel that a row measures."""
    phase = "decode" if isinstance(row, Attention) and row.phase == "decode" else "prefill"
    return label_of(KINDS[row.kind], row.dtype, phase)


if __name__ == "__main__":
    main(sys.argv[1:])
