"""What every command needs around its work: errors as one line, progress, and where the text goes."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator

import click

from ..errors import InputError, RegflatError

PATIENCE_S = 2.0


@contextlib.contextmanager
def one_sentence(verbose: bool = False) -> Iterator[None]:
    """Turn errors into one line on stderr and an exit code; the traceback only for `verbose`."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except RegflatError as error:
        message, code = str(error), error.exit_code
    except Exception as error:
        detail = " ".join(str(error).split())
        message = f"unexpected {type(error).__name__}: {detail}; this is a bug, please report it with the output of -v"
        code = 1
    else:
        return
    if verbose:
        traceback.print_exc()
    click.echo(f"regflat: {message}", err=True)
    raise click.exceptions.Exit(code)


@contextlib.contextmanager
def silenced(quiet: bool) -> Iterator[None]:
    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def waiting(what: str, quiet: bool) -> Iterator[None]:
    """Show on a terminal that work goes on, once it has taken some seconds."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    shown = threading.Thread(target=_tick, args=(what, done), daemon=True)
    shown.start()
    try:
        yield
    finally:
        done.set()
        shown.join()


def _tick(what: str, done: threading.Event) -> None:
    if done.wait(PATIENCE_S):
        return
    from tqdm import tqdm

    with tqdm(desc=what, bar_format="{desc}, {elapsed}", leave=False, file=sys.stderr) as bar:
        while not done.wait(0.5):
            bar.refresh()


@contextlib.contextmanager
def bar(what: str, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on a terminal, told (done, total)."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit=f" {what}", leave=False, file=sys.stderr, delay=PATIENCE_S) as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield progress


def emit(text: str, output: str | None) -> None:
    """To the terminal, or to a file in one step."""
    if output in (None, "-"):
        click.echo(text, nl=False)
        return
    from ..report.files import write

    write(str(output), text)


def width(output: str | None) -> int:
    """The terminal's width; a report's own where the text goes elsewhere."""
    from ..report.text import WIDTH

    if output in (None, "-") and sys.stdout.isatty():
        return shutil.get_terminal_size((WIDTH, 24)).columns
    return WIDTH


def check_positive(option: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise InputError(f"{option} is {value}; it must be 1 or more")


def check_writable(*paths: str | None) -> None:
    """Refuse before the work starts what could not be written after it; None and - are the terminal."""
    from ..report.files import check_writable as check

    for path in paths:
        if path not in (None, "-"):
            check(str(path))


def listing(rows: list[dict[str, str]]) -> str:
    from tabulate import tabulate

    return tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True)
