"""Reports of a `Result`: text and HTML for people, JSON, CSV and traces for programs.

A report sees nothing but a `Result`, and the `Timeline`s of its chips.

Every report is a module with one function, `render(result, *, by, expand, sort_by, row_limit, ...) -> str`.
"""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import InputError, near
from ..result import Result

FORMATS: dict[str, str] = {"table": "text", "json": "json_", "csv": "csv_", "html": "html", "trace": "trace"}
"""Format names as the command line has them, and the modules that write them."""


def render(result: Result, format: str = "table", **options: Any) -> str:
    """Render a result in one of `FORMATS`; the options are those of that report's `render`."""
    if format not in FORMATS:
        raise InputError(f"unknown format {format!r}{near(format, FORMATS)}; the formats are {', '.join(FORMATS)}")
    module = importlib.import_module(f".{FORMATS[format]}", __name__)
    text: str = module.render(result, **options)
    return text
