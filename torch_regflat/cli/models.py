"""`regflat models`: the models that ship."""

from __future__ import annotations

import click

from ..units import format_si
from .running import listing, one_sentence


@click.command()
@click.argument("name", required=False)
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
def models(name: str | None, verbose: bool) -> None:
    """List the models that ship, or show the configuration of model NAME."""
    with one_sentence(verbose):
        click.echo(_model_facts(name) if name else _model_table())


def _model_table() -> str:
    from ..models import describe, names

    shown = ("name", "kind", "architecture", "layers", "hidden", "heads", "kv_heads", "experts", "dtype", "positions")
    rows = []
    for facts in map(describe, names()):
        row = {key: "" if facts[key] is None else str(facts[key]) for key in shown}
        rows.append({**row, "parameters": format_si(facts["parameters"], "")})
    return listing(rows)


def _model_facts(name: str) -> str:
    from tabulate import tabulate

    from ..models import describe

    facts = [(key.replace("_", " "), str(value)) for key, value in describe(name).items() if value not in (None, "")]
    return tabulate(facts, tablefmt="plain", disable_numparse=True)
