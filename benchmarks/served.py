"""Times of served models against a CSV of measured ones, each configuration at its lowest concurrency.

    python benchmarks/served.py served.csv [--where KEY=VALUE]... [--limit N]

Columns: gpu, n_gpus, model, phase, batch (requests at once), in_len, out_len, dtype, metric (ttft, tpot), value (ms),
ref (`tp=..;pp=..;dp=..;ep=..`). The times that were measured hold queueing, scheduling, sampling and the server around
the model, so this says how far they are from the model's, and no constant is fitted to it. Bias is the median of
predicted / measured - 1: below zero, the model is too fast.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch_regflat import InputError, load_chip
from torch_regflat.errors import RegflatError
from torch_regflat.layout import Layout
from torch_regflat.progress import counted
from torch_regflat.serving.layouts import experts_of
from torch_regflat.serving.replica import Replica, Traffic
from torch_regflat.serving.shallow import steps_of
from torch_regflat.serving.steps import Model, Steps
from torch_regflat.validation.models import LANGUAGE_MODELS
from torch_regflat.validation.works import QUANTIZED, narrow

Key = tuple[str, ...]
CHUNK = 8192
"""Tokens that a pass of prompts reads at most: the default of vLLM, SGLang and TensorRT-LLM on such GPUs."""


def lowest(rows: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """Of each configuration the rows at its lowest concurrency. Disaggregated ones are left out."""
    groups: dict[Key, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        if row["phase"] == "serve-agg":
            name = ";".join(part for part in row["ref"].split(";") if not part.startswith("conc="))
            groups[(row["gpu"], row["model"], row["dtype"], row["in_len"], row["out_len"], name)].append(row)
    least = ((some, min(int(row["batch"]) for row in some)) for some in groups.values())
    return [row for some, fewest in least for row in some if int(row["batch"]) == fewest]


class Predictor:
    """Times of rows; models are captured once."""

    def __init__(self) -> None:
        self.steps: dict[Key, Steps] = {}

    def seconds(self, row: dict[str, str]) -> float:
        """The predicted ttft or tpot. Raises `RegflatError` for what cannot be priced."""
        options = dict(part.split("=") for part in row["ref"].split(";") if "=" in part)
        degree = {name: int(options.get(name) or 1) for name in ("tp", "pp", "dp", "ep")}
        steps = self._steps(row)
        degree["ep"] = max(degree["ep"], 1) if experts_of(steps.model) else 1
        traffic = Traffic(int(row["in_len"]), int(row["out_len"]))
        replica = Replica(steps, traffic, Layout(**degree))
        lane = replica.state(max(round(int(row["batch"]) / replica.lanes), 1), CHUNK)
        return lane.ttft_s if row["metric"] == "ttft" else lane.tpot_s

    def _steps(self, row: dict[str, str]) -> Steps:
        key = (row["gpu"], row["model"], row["dtype"])
        if key not in self.steps:
            if row["model"] not in LANGUAGE_MODELS:
                raise InputError(f"{row['model']} does not ship")
            chip = load_chip(row["gpu"])
            weights, activations = narrow(row["dtype"], chip) if row["dtype"] in QUANTIZED else (None, None)
            model = Model(LANGUAGE_MODELS[row["model"]][0], weights=weights, activations=activations)
            self.steps[key] = steps_of(model, chip)
        return self.steps[key]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--limit", type=int, help="So many rows, evenly spread.")
    options = parser.parse_args(arguments)
    wanted = dict(pair.split("=", 1) for pair in options.where)
    with options.file.open() as file:
        rows = [row for row in lowest(csv.DictReader(file)) if all(row[k] == v for k, v in wanted.items())]
    if options.limit and len(rows) > options.limit:
        rows = [rows[i * len(rows) // options.limit] for i in range(options.limit)]
    predictor, found, skipped = Predictor(), defaultdict[Key, list[float]](list), defaultdict[str, int](int)
    with counted("rows", len(rows)) as step:
        for row in rows:
            try:
                ratio = predictor.seconds(row) / (float(row["value"]) / 1e3) - 1.0
            except RegflatError as error:
                skipped[str(error)[:90]] += 1
            else:
                found[row["model"], row["metric"]].append(ratio)
                found["all", row["metric"]].append(ratio)
            step(1)
    print(f"{'model':26}{'metric':8}{'rows':>5}{'bias':>9}{'MAPE':>9}")
    for (model, metric), ratios in sorted(found.items()):
        absolute = statistics.mean(map(abs, ratios))
        print(f"{model:26}{metric:8}{len(ratios):5}{statistics.median(ratios):9.1%}{absolute:9.1%}")
    for why, count in sorted(skipped.items()):
        print(f"skipped {count}: {why}")


if __name__ == "__main__":
    main()
