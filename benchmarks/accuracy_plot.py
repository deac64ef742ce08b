"""The figure of docs/accuracy.md: predicted against measured latency, log-log, a panel a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from torch_regflat.validation.predict import Prediction

COLUMNS = 5
COLOURS = {
    "gemm": "tab:blue", "attention": "tab:red", "moe": "tab:purple", "elementwise": "tab:green", "norm": "tab:olive",
    "softmax": "tab:olive", "convolution": "tab:orange", "operator": "tab:gray", "model": "black",
}  # fmt: skip


def draw(found: Sequence[Prediction], path: Path) -> None:
    """Draw predictions with a latency into a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    gpus = sorted({p.row.gpu for p in found})
    rows = math.ceil(len(gpus) / COLUMNS)
    figure, axes = pyplot.subplots(rows, COLUMNS, figsize=(3 * COLUMNS, 3 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(gpus) :]:
        axis.axis("off")
    for axis, gpu in zip(axes.flat, gpus, strict=False):
        _panel(axis, gpu, [p for p in found if p.row.gpu == gpu])
    handles = [
        matplotlib.lines.Line2D([], [], marker="o", linestyle="", color=colour, label=kind)
        for kind, colour in COLOURS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(COLOURS))
    figure.supxlabel("measured, s")
    figure.supylabel("predicted, s")
    figure.savefig(path, dpi=80)


def _panel(axis: object, gpu: str, found: Sequence[Prediction]) -> None:
    times = [t for p in found for t in (p.row.measured, p.value or p.row.measured)]
    low, high = min(times) / 2, max(times) * 2
    axis.plot([low, high], [low, high], color="black", linewidth=0.7)
    axis.fill_between([low, high], [low / 1.25, high / 1.25], [low * 1.25, high * 1.25], color="black", alpha=0.08)
    for kind, colour in COLOURS.items():
        own = [p for p in found if p.row.kind == kind]
        axis.scatter([p.row.measured for p in own], [p.value for p in own], s=3, color=colour, alpha=0.5, linewidths=0)
    axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), title=f"{gpu} ({len(found)})")
