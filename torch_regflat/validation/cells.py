"""The cells of one line of a file, read by column; what one cannot be is said with file, line and column."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping

from ..errors import InputError, near

MOST = 1e15
"""No time in microseconds, no rate and no power is as large."""


class RowError(InputError):
    """A line that is no row of its format."""


class Cells:
    """The cells of one line, read by column with errors that name it."""

    def __init__(self, file: str, line: int, cells: Mapping[str, str]) -> None:
        self.file, self.line, self.cells = file, line, cells

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    def others(self, cells: Mapping[str, str]) -> Cells:
        """Other cells of the same line: what is written inside one of them."""
        return Cells(self.file, self.line, cells)

    def text(self, column: str, known: tuple[str, ...] = (), *, default: str | None = None) -> str:
        value = (self.cells.get(column) or "").strip()
        if not value and default is not None:
            return default
        if not value:
            raise RowError(f"{self.place}: column {column} is empty{_one_of(known)}")
        if known and value not in known:
            raise RowError(f"{self.place}: column {column} is {value!r}{near(value, known)}{_one_of(known)}")
        return value

    def whole(self, column: str, least: int = 1, *, default: int | None = None) -> int:
        value = (self.cells.get(column) or "").strip()
        if not value and default is not None:
            return default
        try:
            number = int(value)
        except ValueError:
            number = least - 1
        if number < least:
            raise RowError(f"{self.place}: column {column} is {value!r}; it must be a whole number of {least} or more")
        return number

    def positive(self, column: str) -> float:
        value = (self.cells.get(column) or "").strip()
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number < MOST:
            raise RowError(f"{self.place}: column {column} is {value!r}; it must be a positive number")
        return number

    def shapes(self, column: str) -> tuple[tuple[int, ...], ...]:
        """`[[2, 3], [1]]` as two shapes, `(2, 3)` as one."""
        text = self.text(column)
        try:
            value = ast.literal_eval(text)
            nested = value if value and isinstance(value[0], (list, tuple)) else [value]
            shapes = tuple(tuple(int(size) for size in shape) for shape in nested)
        except (ValueError, SyntaxError, TypeError, LookupError):
            shapes = ()
        if not shapes or any(size < 1 for shape in shapes for size in shape):
            raise RowError(f"{self.place}: column {column} is {text!r}; it must be shapes, as in [[16, 512], [1]]")
        return shapes


def _one_of(known: tuple[str, ...]) -> str:
    return f"; it must be one of {', '.join(known)}" if known else ""
