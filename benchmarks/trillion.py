"""Models of about a trillion parameters on many chips: the best layout of each, as rows of a CSV, and a plot of them.

    python benchmarks/trillion.py ROWS.csv                 # price what the file lacks; minutes a row
    python benchmarks/trillion.py ROWS.csv --plot PLOT.png # draw it

Weights are stored in fp8 (as DeepSeek-V3 and Kimi-K2 are published), everything else is in bf16. Prompts of 2048
tokens, answers of 512, the first token within 5 s, each later one within 100 ms on average. Chips that have no price
cost what an H100 does, so that dollars compare what they do and not what they are sold for.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch_regflat import CapacityError, InputError, load_chip
from torch_regflat.serving.serve import ServingProfile, serve
from torch_regflat.serving.steps import Model

MODELS = ("deepseek-v3", "kimi-k2", "gpt4-moe-estimate", "dense-1.8t-estimate")
CHIPS = ("h100-sxm", "h200", "b200", "h100-sxm:flat", "regflat-physical")
NUMBERS = (64, 8, 16, 32, 128)
ASKED: dict[str, Any] = {"prompt": 2048, "output": 512, "ttft": "5 s", "tpot": "100 ms", "chunk": 2048}
FIELDS = (
    "model", "chip", "chips", "layout", "tokens_per_s_chip", "requests_at_once", "ttft_s", "tpot_s", "utilization",
    "power_w", "j_per_request", "usd_per_million_tokens", "usd_per_request", "limited_by", "share", "bandwidth",
    "network", "error",
)  # fmt: skip


def row(model: Model, chip: str, number: int) -> dict[str, object]:
    """One row; where nothing fits or meets the targets, with the reason."""
    head = {"model": model.name, "chip": chip, "chips": number}
    priced = load_chip(chip).price
    economics = {} if priced and priced.purchase else {"purchase": "30000 USD"}
    try:
        found = serve(model, chip=chip, chips=number, economics=economics, **ASKED)
    except (CapacityError, InputError) as error:
        return {**head, "error": str(error)}
    return {**head, **figures(found)}


def figures(found: ServingProfile) -> dict[str, object]:
    """What a row keeps of a served model."""
    best, costs = found.best, found.costs
    assert costs is not None
    shares = {limit.name: limit.share for limit in best.limits}
    return {
        "layout": str(best.layout),
        "tokens_per_s_chip": f"{best.tokens_per_s_chip:.4g}",
        "requests_at_once": best.slots,
        "ttft_s": f"{best.ttft_s:.4g}",
        "tpot_s": f"{best.tpot_s:.4g}",
        "utilization": f"{best.utilization:.4f}",
        "power_w": f"{best.power_w:.1f}",
        "j_per_request": f"{best.j_per_request:.4g}",
        "usd_per_million_tokens": f"{costs['owned'].usd_per_million_tokens:.4g}",
        "usd_per_request": f"{costs['owned'].usd_per_request:.4g}",
        "limited_by": best.limits[0].name,
        "share": f"{best.limits[0].share:.3f}",
        "bandwidth": f"{shares.get('bandwidth', 0.0):.3f}",
        "network": f"{shares.get('network', 0.0):.3f}",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--numbers", nargs="*", type=int, default=NUMBERS)
    options = parser.parse_args(arguments)
    known = list(csv.DictReader(options.rows.open())) if options.rows.exists() else []
    if options.plot:
        plot(known, options.plot)
        return
    done = {(one["model"], one["chip"], int(one["chips"])) for one in known}
    for number, name in itertools.product(options.numbers, options.models):
        model = Model(name, weights="fp8")
        for chip in CHIPS:
            if (name, chip, number) in done:
                continue
            known.append({key: str(value) for key, value in row(model, chip, number).items()})
            with options.rows.open("w", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                writer.writeheader()
                writer.writerows(known)
            print(*known[-1].values(), sep="  ")


def plot(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Tokens a second and chip over the number of chips, a panel a model, a line a chip."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(MODELS), figsize=(14, 3.6), sharex=True)
    for axis, model in zip(axes, MODELS, strict=True):
        for chip in CHIPS:
            some = [one for one in rows if (one["model"], one["chip"]) == (model, chip) and one["tokens_per_s_chip"]]
            some.sort(key=lambda one: int(one["chips"]))
            points = [(int(one["chips"]), float(one["tokens_per_s_chip"])) for one in some]
            axis.plot(*zip(*points, strict=True), marker="o", label=chip) if points else None
        axis.set_title(model, fontsize=9)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel("chips")
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_formatter("{x:.0f}")
            side.set_minor_formatter("{x:.0f}")
        axis.tick_params(labelsize=7, which="both")
    axes[0].set_ylabel("tokens/s a chip, targets met")
    axes[-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
