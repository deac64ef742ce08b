"""`regflat validate`: the model against measured rows."""

from __future__ import annotations

from typing import Any

import click

from ..errors import InputError
from .options import FORMATS
from .running import bar, check_writable, emit, one_sentence


@click.command()
@click.argument("files", nargs=-1)
@click.option("--from-package", is_flag=True, help="Rows of the installed package aiconfigurator-core.")
@click.option("--sample", type=int, help="Of each table of that package so many rows.  [default: 200]")
@click.option(
    "--split",
    type=click.Choice(("all", "fit", "held-out")),
    help="Rows that constants may be fitted to, or those that they may not.  [default: all; held-out for --pairs]",
)
@click.option("--min-us", type=float, default=0.0, help="Leave out latencies shorter than this.")
@click.option("--where", multiple=True, metavar="KEY=PATTERN", help="Only such rows, as in gpu=H100*; repeatable.")
@click.option("--by", help="One table by these: class, gpu, dtype, decade, source, file, split; with commas between.")
@click.option("--worst", type=int, default=0, help="Also show so many of the worst rows.")
@click.option("--pairs", is_flag=True, help="Also compare rows that differ in one factor: is the faster one known?")
@click.option("--predictions", type=click.Path(), help="Write every row with what the model says of it, as CSV.")
@click.option("--format", "format_", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("-o", "--output", type=click.Path(), help="Write to this file instead of the terminal.")
@click.option("--strict", is_flag=True, help="Malformed rows and unknown GPUs are an error.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
def validate(files: tuple[str, ...], verbose: bool, **options: Any) -> None:
    """Compare the model with measured rows in CSV FILES: errors by class, GPU, number format and size."""
    with one_sentence(verbose):
        code = _validate(files, **options)
    if code:
        raise click.exceptions.Exit(code)


def _validate(files: tuple[str, ...], quiet: bool, **options: Any) -> int:
    from ..validation.report import predictions_csv, render
    from ..validation.run import validate as run

    _check_validation(files, options)
    check_writable(options["output"], options["predictions"])
    with bar("rows", quiet) as progress:
        found = run(
            (*files, *_packaged(options)),
            split=options["split"] or ("held-out" if options["pairs"] else "all"),
            **{name: options[name] for name in ("min_us", "where", "by", "worst", "pairs")},
            progress=progress,
        )
    if options["strict"] and found.wrong:
        for line in found.wrong:
            click.echo(f"regflat: {line}", err=True)
        return 2
    if options["predictions"] is not None:
        emit(predictions_csv(found), options["predictions"])
    emit(render(found, options["format_"]), options["output"])
    return 0


def _check_validation(files: tuple[str, ...], options: dict[str, Any]) -> None:
    if not files and not options["from_package"]:
        raise InputError("nothing to validate; give CSV files of measured rows, or --from-package")
    if options["sample"] is not None and not options["from_package"]:
        raise InputError("--sample is for --from-package; CSV files are taken whole")
    if options["predictions"] == "-":
        raise InputError("--predictions writes a file beside the tables; give it a name")
    if options["worst"] < 0 or options["min_us"] < 0:
        raise InputError("--worst and --min-us must be 0 or more")


def _packaged(options: dict[str, Any]) -> list[Any]:
    """The tables of the installed package, where they are asked for."""
    if not options["from_package"]:
        return []
    from ..validation.package import SAMPLE, read_package

    return list(read_package(SAMPLE if options["sample"] is None else options["sample"]))
