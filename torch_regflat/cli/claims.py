"""`regflat claims`: the founding claims, each with a verdict."""

from __future__ import annotations

from typing import Any

import click

from ..errors import InputError
from .running import check_writable, emit, one_sentence, silenced


@click.command()
@click.argument("ids", nargs=-1)
@click.option("--rows", type=click.Path(), help="Keep the swept rows in this CSV, and take those that it holds.")
@click.option("--write", "to_docs", is_flag=True, help="Write the document docs/claims.md.")
@click.option("-o", "--output", type=click.Path(), help="Write the document to this file instead of the terminal.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no warnings.")
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
def claims(ids: tuple[str, ...], verbose: bool, **options: Any) -> None:
    """Check the claims of the founding article, or those of IDS: what the model gives, and whether each holds."""
    with one_sentence(verbose):
        _claims(ids, **options)


def _claims(ids: tuple[str, ...], rows: str | None, to_docs: bool, output: str | None, quiet: bool) -> None:
    if to_docs and output is not None:
        raise InputError("--write is -o docs/claims.md; give one of them")
    path = "docs/claims.md" if to_docs else output
    check_writable(path, rows)
    from ..study.claims import Setup
    from ..study.claims import claims as checked
    from ..study.claims.render import markdown, text

    with silenced(quiet):
        found = checked(ids=ids, csv=rows, progress=False if quiet else None)
    emit(text(found) if path is None else markdown(found, Setup()), path)
