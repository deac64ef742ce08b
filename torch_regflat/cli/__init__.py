"""The command line: a thin door. It reads options, calls the profiler, and writes what a report makes of the result."""

from __future__ import annotations

import click

from .. import __version__
from . import chips, claims, compare, diff, explain, measure, models, profile, serve, validate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name="regflat", message="%(prog)s %(version)s")
def main() -> None:
    """What a PyTorch model costs on a chip: latency, energy and memory traffic, without running it."""


for _command in (
    profile.profile,
    explain.explain,
    serve.serve,
    compare.compare,
    claims.claims,
    diff.diff,
    validate.validate,
    measure.measure,
    chips.chips,
    models.models,
):
    main.add_command(_command)
