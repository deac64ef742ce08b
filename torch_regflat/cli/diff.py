"""`regflat diff`: what changed between two profiles, layer by layer."""

from __future__ import annotations

from typing import Any

import click

from ..errors import InputError
from .options import GROUPINGS, PHASES, model_options
from .running import check_positive, check_writable, emit, one_sentence, waiting

_DIFF_FORMATS = ("table", "markdown", "json")
_OF_DIFF = ("metric", "fail_above", "by", "expand", "row_limit", "format_", "output", "quiet", "verbose")


@click.command()
@click.argument("before")
@click.argument("now")
@click.option("--metric", default="latency_s", show_default=True, help="What rows and --fail-above are about.")
@click.option("--fail-above", metavar="PERCENT", help="Exit with 1 if it grew by more on any chip, as in 2%.")
@click.option("--phase", "phases", type=click.Choice(PHASES), multiple=True, help="Of factories; by default forward.")
@model_options
@click.option("--by", type=click.Choice(GROUPINGS), default="layer", show_default=True, help="A row for each.")
@click.option("--expand", is_flag=True, help="Show each of the repeated layers.")
@click.option("--row-limit", type=int, default=30, show_default=True, help="Show so many of the rows that changed.")
@click.option("--format", "format_", type=click.Choice(_DIFF_FORMATS), default="table", show_default=True)
@click.option("-o", "--output", type=click.Path(), help="Write to this file instead of the terminal.")
@click.pass_context
def diff(context: click.Context, /, before: str, now: str, verbose: bool, **options: Any) -> None:
    """Show what changed from BEFORE to NOW, layer by layer.

    Each is a profile saved as JSON, module:factory for what is in the current folder, or module:factory@REVISION for
    what git has of it. Options that say what is priced go to factories.
    """
    with one_sentence(verbose):
        text, complaint = _diff(before, now, _given(context), **options)
        emit(text, options["output"])
    if complaint:
        click.echo(f"regflat: {complaint}", err=True)
        raise click.exceptions.Exit(1)


def _diff(before: str, now: str, given: list[str], **options: Any) -> tuple[str, str]:
    """The report, and what is wrong where more than `--fail-above` was added."""
    from ..regression.diff import diff as compare
    from ..regression.diff_report import render
    from ..regression.metrics import named
    from ..regression.revision import obtain, source

    limit = _percentage(options["fail_above"])
    named(options["metric"])
    check_positive("--row-limit", options["row_limit"])
    check_writable(options["output"])
    sides = source(before), source(now)
    if given and not any(side.factory for side in sides):
        raise InputError(f"{given[0]} is for factories; both sides are saved profiles, which are compared as they are")
    with waiting("profiling both", options["quiet"]):
        old, new = (obtain(side, given) for side in sides)
    layout = {name: options[name] for name in ("metric", "by", "expand")}
    found = compare(old, new, (before, now), **layout)
    text = render(found, options["format_"], options["row_limit"])
    if limit is None or found.worst() <= limit:
        return text, ""
    return text, f"{found.metric.words} grew by {100 * found.worst():.3g} %, more than {options['fail_above']}"


def _percentage(text: str | None) -> float | None:
    if text is None:
        return None
    from ..units import parse

    try:
        value = parse(text, "number") if text.rstrip().endswith("%") else -1.0
    except InputError:
        value = -1.0
    if value < 0:
        raise InputError(f"--fail-above is {text!r}; it must be a percentage of 0 or more, as in 2%")
    return value


def _given(context: click.Context) -> list[str]:
    """The options of the model that were written on the command line, as `regflat profile` takes them."""
    found: list[str] = []
    for option in context.command.params:
        name = option.name or ""
        written = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if not isinstance(option, click.Option) or not written or name in _OF_DIFF:
            continue
        value = context.params[name]
        values = value if option.multiple else [value]
        found += [option.opts[0]] if option.is_flag else [word for v in values for word in (option.opts[0], str(v))]
    return found
