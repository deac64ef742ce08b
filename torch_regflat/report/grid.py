"""Columns to a plain-text table, drawn by tabulate: tight headings of several lines, and a total under a rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import SEPARATING_LINE, DataRow, Line, TableFormat, tabulate

_GAP = "  "
_ROW = DataRow("", _GAP, "")
_FORMAT = TableFormat(None, Line("", "-", _GAP, ""), None, None, _ROW, _ROW, 0, None)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its heading (lines), a cell a row, and the cell of the total line."""

    heading: str
    cells: tuple[str, ...]
    total: str = ""
    align: str = "right"

    @property
    def lines(self) -> list[str]:
        return self.heading.split("\n")

    @property
    def width(self) -> int:
        return max(len(text) for text in (*self.lines, *self.cells, self.total))


def grid_width(columns: Sequence[Column]) -> int:
    """How many characters wide `grid` draws these columns."""
    return sum(column.width for column in columns) + len(_GAP) * (len(columns) - 1)


def grid(columns: Sequence[Column]) -> str:
    """Draw the columns. Headings end on one line; a total line is drawn where a column has one."""
    # Headings are rows here because tabulate pads real headers by two characters a column.
    height = max(len(column.lines) for column in columns)
    rows: list[Sequence[str]] = [
        ["" if i < height - len(column.lines) else column.lines[i - height] for column in columns]
        for i in range(height)
    ]
    rows.append(SEPARATING_LINE)
    rows += [list(cells) for cells in zip(*(column.cells for column in columns), strict=True)]
    if any(column.total for column in columns):
        rows += [SEPARATING_LINE, [column.total for column in columns]]
    align = [column.align for column in columns]
    text = tabulate(rows, tablefmt=_FORMAT, colalign=align, disable_numparse=True)
    return "\n".join(line.rstrip() for line in text.split("\n"))
