"""Break-even maps: a ratio over two swept axes, as text, and as a plot where matplotlib is installed."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..report.files import check_writable
from ..report.grid import Column, grid

Values = Mapping[tuple[Any, Any], float | None]
"""A ratio by (down, across); above 1 the second chip is better. None where it could not be priced."""


def text_map(title: str, down: str, across: str, values: Values) -> str:
    """The map as text: a row for each value of `down`, a column for each of `across`; `+` where the ratio is above
    1.01, `-` where it is below 0.99, `=` between."""
    rows, columns = _axes(values)
    first = Column(f"{down} \\ {across}", tuple(str(row) for row in rows), align="left")
    others = [Column(str(column), tuple(_cell(values.get((row, column))) for row in rows)) for column in columns]
    return f"{title}\n\n{grid([first, *others])}\n"


def _axes(values: Values) -> tuple[list[Any], list[Any]]:
    if not values:
        raise InputError("a map without values; sweep at least one point")
    return list(dict.fromkeys(row for row, _ in values)), list(dict.fromkeys(column for _, column in values))


def _cell(value: float | None) -> str:
    if value is None:
        return "no fit"
    return f"{value:.2f}x {'+' if value > 1.01 else '-' if value < 0.99 else '='}"


def plot_map(path: str | Path, title: str, down: str, across: str, values: Values) -> None:
    """The map as a plot, break-even drawn as a line. Raises `InputError` where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("a plot needs matplotlib; pip install 'torch_regflat[plots]', or take the text")
    check_writable(path)
    from matplotlib.figure import Figure

    rows, columns = _axes(values)
    cells = [[_number(values.get((row, column))) for column in columns] for row in rows]
    width = max(1.6 + 0.9 * len(columns), 0.5 + 0.085 * len(title))
    figure = Figure(figsize=(width, 1.4 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    logs = [[math.log2(value) for value in line] for line in cells]
    reach = max([abs(value) for line in logs for value in line if value == value] + [math.log2(1.25)])
    image = axes.imshow(logs, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto", origin="lower")
    axes.set_xticks(range(len(columns)), [str(column) for column in columns])
    axes.set_yticks(range(len(rows)), [str(row) for row in rows])
    axes.set(title=title, xlabel=across, ylabel=down)
    for y, line in enumerate(cells):
        for x, value in enumerate(line):
            said = "no fit" if value != value else f"{value:.2f}"
            dark = abs(logs[y][x]) > 0.6 * reach
            axes.text(x, y, said, ha="center", va="center", fontsize=9, color="white" if dark else "black")
    if len(rows) > 1 and len(columns) > 1 and min(map(min, logs)) < 0.0 < max(map(max, logs)):
        axes.contour(logs, levels=[0.0], colors="black", linewidths=1.0)
    ends = (-reach, -reach / 2, 0.0, reach / 2, reach)
    figure.colorbar(image, ticks=ends).ax.set_yticklabels([f"{2**tick:.2f}" for tick in ends])
    figure.savefig(path, dpi=120)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def show(path: str | Path, title: str, down: str, across: str, values: Values) -> None:
    """Print the map as text, and plot it to `path` where matplotlib is installed."""
    print(text_map(title, down, across, values))
    if importlib.util.find_spec("matplotlib") is not None:
        plot_map(path, title, down, across, values)
