"""HTML: one file that needs nothing else. With plotly installed it has linked plots, without it a sortable table.

The page is a jinja2 template with what is the same however one looks (`facts`); the script beside it draws the rest
from columns of numbers (`data`). Names are escaped by jinja2, or reach the page as text of elements, never as markup.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ...result import GroupBy, Result
from ...timeline import Timeline
from ..rows import check_sort_key
from ..timelines import matched
from .data import GROUPINGS, document, packed
from .facts import card, comparison, heading, not_modelled, sources

_SCRIPTS = ("format.js", "model.js", "table.js", "page.js")
_PLOTS = ("tree.js", "roofline.js", "timeline.js", "energy.js")
_SORTED_BY = {
    "memory_energy": "energy",
    "compute_energy": "energy",
    "traffic": "bytes",
    "bandwidth_utilization": "bandwidth",
}


def render(
    result: Result,
    *,
    by: GroupBy = "layer",
    expand: bool = False,
    sort_by: str | None = None,
    row_limit: int | None = None,
    timelines: Sequence[Timeline] = (),
    plots: bool | None = None,
) -> str:
    """The page. `by`, `expand` (every kernel on its own) and `sort_by` say what its table shows at first.

    `row_limit` is how many rows it shows before one asks for more. With the time line of a chip its transfers and waits
    are drawn as well. `plots` are drawn where plotly is installed, unless that is said otherwise.
    """
    if sort_by is not None:
        check_sort_key(sort_by)
    plots = has_plotly() if plots is None else plots
    start = {
        "by": "kernel" if expand or by == "kernel" else by,
        "sort": _sort_column(sort_by),
        "rows": row_limit or 100,
    }
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            heading=heading(result),
            cards=[card(chip, result) for chip in result.chips],
            comparison=comparison(result),
            groupings=GROUPINGS,
            chips=[chip.chip for chip in result.chips],
            sources=[sources(chip) for chip in result.chips],
            unmodelled=[not_modelled(chip) for chip in result.chips],
            notes=result.notes,
            plotly=Markup(_plotly()) if plots else None,
            style=Markup(_static("style.css")),
            script=Markup("\n".join(map(_static, (*_SCRIPTS[:-1], *(_PLOTS if plots else ()), _SCRIPTS[-1])))),
            data=packed({**document(result, matched(result, timelines)), "start": start}),
        )
    )


def fragment(result: Result, row_limit: int = 10) -> str:
    """A small table for a notebook's cell: the totals of every chip, and the longest layers of the first."""
    rows = sorted(result.chips[0].rows("layer"), key=lambda row: -row.latency_s) if result.chips else []
    return (
        _environment()
        .get_template("fragment.html.jinja")
        .render(
            heading=heading(result),
            cards=[card(chip, result) for chip in result.chips],
            comparison=comparison(result),
            rows=rows[:row_limit],
            more=max(len(rows) - row_limit, 0),
        )
    )


def has_plotly() -> bool:
    """Whether the extra `html` is installed."""
    return find_spec("plotly") is not None


def _sort_column(sort_by: str | None) -> str | None:
    if sort_by is None:
        return None
    name = sort_by.removesuffix("_s").removesuffix("_j").removesuffix("_bytes")
    return _SORTED_BY.get(name, name)


@functools.cache
def _plotly() -> str:
    source = resources.files("plotly").joinpath("package_data", "plotly.min.js")
    return source.read_text(encoding="utf-8").replace("</script", "<\\/script")


@functools.cache
def _static(name: str) -> str:
    return resources.files(__name__).joinpath("static", name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> Environment:
    from ...units import format_bytes, format_si
    from ..text import percent, printable

    found = Environment(
        loader=PackageLoader(__name__, "static"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(si=format_si, bytes=format_bytes, percent=percent, printable=printable)
    return found
