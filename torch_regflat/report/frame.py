"""Rows as a pandas DataFrame, where pandas is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InputError
from ..result import GroupBy, Result
from .csv_ import table

if TYPE_CHECKING:
    from pandas import DataFrame


def dataframe(result: Result, by: GroupBy = "layer", expand: bool = False) -> DataFrame:
    """The rows of all chips, with the columns of CSV files; missing where a chip has no such memory level."""
    try:
        import pandas
    except ImportError:
        raise InputError("to_dataframe() needs pandas; install it with: pip install pandas") from None
    header, rows = table(result, by, expand)
    return pandas.DataFrame(rows, columns=header)
