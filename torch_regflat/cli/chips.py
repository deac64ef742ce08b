"""`regflat chips`: the chips that ship, every number of one, and files to fill in."""

from __future__ import annotations

import os

import click

from ..errors import ChipError, InputError, near
from .running import check_writable, emit, listing, one_sentence


class _Chips(click.Group):
    """`chips`, `chips NAME` and `chips new NAME`: what is not the name of a command is the name of a chip."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in self.commands:
            return super().resolve_command(ctx, args)
        if len(args) > 1 and not args[1].startswith("-"):
            also = near(args[0], ["new"]) or "; only new takes a name after it"
            ctx.fail(f"chips takes one NAME, found {args[0]!r} and {args[1]!r}{also}")
        return super().resolve_command(ctx, ["show", *args])


@click.group(
    cls=_Chips, invoke_without_command=True, subcommand_metavar="[NAME | new NAME]", options_metavar="[OPTIONS]"
)
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
@click.pass_context
def chips(context: click.Context, verbose: bool) -> None:
    """List the chips that ship and those on REGFLAT_CHIP_PATH, or show every number of chip NAME with its source."""
    if context.invoked_subcommand is None:
        with one_sentence(verbose):
            click.echo(_chip_table())


@chips.command(hidden=True)
@click.argument("name")
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
@click.pass_context
def show(context: click.Context, name: str, verbose: bool) -> None:
    """Show every number of chip NAME with its source."""
    with one_sentence(verbose or (context.parent is not None and context.parent.params["verbose"])):
        from ..hardware import library

        click.echo(library.describe(library.load(name)))


@chips.command()
@click.argument("name")
@click.option("--like", metavar="CHIP", help="Start from the numbers of this chip; by default from round ones.")
@click.option("-o", "--output", metavar="FILE", help="Where to write; by default NAME.toml, - is the terminal.")
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
def new(name: str, like: str | None, output: str | None, verbose: bool) -> None:
    """Write a chip file to fill in: valid as it stands, every number an estimate without a source."""
    with one_sentence(verbose):
        from ..hardware.template import template

        text, path = template(name, like), output or f"{name}.toml"
        if path != "-":
            _check_new(path)
        emit(text, path)
        if path != "-":
            told = f"wrote {path}; see it with regflat chips {path}, price it with --chip {path}"
            click.echo(f"regflat: {told}", err=True)


def _check_new(path: str) -> None:
    if not path.endswith(".toml"):
        raise InputError(f"cannot write {path}: the name of a chip file ends in .toml")
    if os.path.lexists(path):
        raise InputError(f"cannot write {path}: it is there already; name another file with -o, or remove it first")
    check_writable(path)


def _chip_table() -> str:
    from ..hardware import library

    rows = []
    for name in library.names():
        try:
            rows.append(library.summary(library.load(name)))
        except ChipError as error:  # one broken private file must not hide the others
            click.echo(f"regflat: {error}", err=True)
    return listing([_one_peak(row) for row in rows])


def _one_peak(row: dict[str, str]) -> dict[str, str]:
    """`peak bf16: 989 TFLOP/s` to `peak: 989 TFLOP/s bf16`, so that chips of different types share a column."""
    return {
        "peak" if key.startswith("peak ") else key: f"{value} {key[5:]}" if key.startswith("peak ") else value
        for key, value in row.items()
    }
