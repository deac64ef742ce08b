"""`regflat compare`: two chips on one model, like for like."""

from __future__ import annotations

from typing import Any

import click

from ..errors import InputError
from .options import MODES, PHASES
from .running import check_positive, check_writable, emit, one_sentence, silenced

_TABLES = ("table", "markdown", "csv")


@click.command()
@click.argument("model")
@click.option("--chip", "chips", multiple=True, required=True, help="Two: the first is what the second is compared to.")
@click.option("--phase", "phases", type=click.Choice(PHASES), multiple=True, help="By default what the model is for.")
@click.option("--batch", "batches", type=int, multiple=True, help="Sequences at a time; repeatable.  [default: 1]")
@click.option("--context", "contexts", type=int, multiple=True, help="Tokens in the cache, or of a prompt; repeatable.")
@click.option("--dtype", "dtypes", multiple=True, help="Data type of weights and activations; repeatable.")
@click.option("--kv-dtype", help="Data type of the KV cache; by default that of the activations.")
@click.option("--weights", help="Format of linear layers' weights: fp8, mxfp8, int8, int4, mxfp4 or nvfp4.")
@click.option("--activations", help="Multiply in this format too.")
@click.option("--mode", type=click.Choice(MODES), default="graph", show_default=True, help="How kernels are formed.")
@click.option("--software", help="Runs on the first chip in place of its own: a variant by name, or a software file.")
@click.option("--format", "format_", type=click.Choice(_TABLES), default="table", show_default=True)
@click.option("-o", "--output", type=click.Path(), help="Write to this file instead of the terminal.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no warnings.")
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
def compare(model: str, chips: tuple[str, ...], verbose: bool, **options: Any) -> None:
    """Compare two chips on MODEL like for like, and say where the first one loses its time."""
    with one_sentence(verbose):
        emit(_compare(model, chips, **options), options["output"])


def _compare(model: str, chips: tuple[str, ...], output: str | None, format_: str, quiet: bool, **options: Any) -> str:
    if len(chips) != 2:
        raise InputError(f"compare takes two chips, found {len(chips)}; give --chip twice")
    for name, single in (("batches", "--batch"), ("contexts", "--context")):
        for value in options[name]:
            check_positive(single, value)
    check_writable(output)
    from ..study.compare import compare as compared
    from ..study.rows import to_csv
    from ..study.tables import render
    from ..study.variants import Variant

    axes = {"phases": (None,), "batches": (1,), "contexts": (None,), "dtypes": (None,)}
    options |= {name: options[name] or default for name, default in axes.items()}
    one, other = (Variant.of(chip) for chip in chips)
    with silenced(quiet):
        found = compared(model, one, other, progress=False if quiet else None, **options)
    if format_ == "csv":
        return to_csv(row for point in found for row in point.rows)
    return render(found, one.chip, other.chip, format_ == "markdown")
