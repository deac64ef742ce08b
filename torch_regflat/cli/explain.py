"""`regflat explain`: why the kernels of one layer run as they do."""

from __future__ import annotations

from typing import Any

import click

from ..errors import InputError
from .options import PHASES, layout_options, model_options
from .profile import profile_phase
from .running import check_positive, one_sentence, silenced, waiting


@click.command()
@click.argument("model")
@click.option("--layer", "path", required=True, help="The module whose kernels to explain, as --by module names it.")
@click.option("--phase", "phases", type=click.Choice(PHASES), multiple=True, help="By default what the model is for.")
@click.option("--losers", type=int, default=5, show_default=True, help="How many mappings that lost to show.")
@model_options
@layout_options
def explain(model: str, path: str, losers: int, verbose: bool, **options: Any) -> None:
    """Show why the kernels of one layer of MODEL run as they do: loops, traffic, times, and the mappings that lost."""
    with one_sentence(verbose):
        for name in ("batch", "seq_len", "context"):
            check_positive(f"--{name.replace('_', '-')}", options[name])
        check_positive("--losers", losers)
        if len(options["phases"]) > 1:
            raise InputError("one phase is explained at a time; give --phase once")
        with waiting(f"profiling {model}", options["quiet"]), silenced(options["quiet"]):
            prof = profile_phase(model, next(iter(options["phases"]), None), options)
        from ..report.explain import render

        texts = [render(found) for chip in prof.chips for found in prof.explain(path, chip.chip, losers=losers)]
    click.echo(f"\n{'-' * 80}\n\n".join(texts), nl=False)
