"""Writing a report: refused before the work starts if it cannot be, and never left half written."""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import ResultError
from ..result import Result
from ..timeline import Timeline
from . import csv_, json_, text, trace

_PLAIN: dict[str, Callable[[Result], str]] = {".json": json_.dump, ".csv": csv_.render, ".txt": text.render}
_IN_TIME = (".html", ".trace.json")
"""Endings of what also shows time lines."""
_GZIP = b"\x1f\x8b"


def save(
    result: Result, path: str | os.PathLike[str], timelines: Callable[[], Sequence[Timeline]] = tuple
) -> None:
    """Write a result: losslessly as `.json`; as `.csv`, `.txt`, `.html` or `.trace.json`, which cannot be read back.

    A further `.gz` compresses. `timelines` is asked for time lines where the format shows them.
    """
    name = os.fspath(path).lower().removesuffix(".gz")
    ending = next((known for known in (*_IN_TIME, *_PLAIN) if name.endswith(known)), None)
    if ending is None:
        listed = ", ".join((*_PLAIN, *_IN_TIME))
        raise ResultError(f"cannot save as {path}: the name must end in one of {listed}; .json keeps all")
    check_writable(path)
    if ending == ".trace.json":
        write(path, trace.render(result, timelines=timelines()))
    elif ending == ".html":
        from . import html

        write(path, html.render(result, timelines=timelines()))
    else:
        write(path, _PLAIN[ending](result))


def load(path: str | os.PathLike[str]) -> Result:
    """Read a result that was saved as JSON."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror or error}") from None
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ResultError(f"{path} is cut short or damaged: {error}") from None
    return json_.load(content, os.fspath(path))


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise `ResultError` if `write` could not write there. Leaves nothing behind."""
    target = _target(path)
    if target.is_dir():
        raise ResultError(f"cannot write {path}: it is a directory; name a file")
    if not target.parent.is_dir():
        raise ResultError(f"cannot write {path}: there is no directory {target.parent}; make it first")
    if target.exists() and not os.access(target, os.W_OK):
        raise ResultError(f"cannot write {path}: the file is read-only")
    if _is_special(target):
        return
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror or error}") from None
    os.close(descriptor)
    os.unlink(name)


def write(path: str | os.PathLike[str], content: str) -> None:
    """Write a text file in one step: readers see the old content or all of the new. A name in `.gz` is compressed."""
    target = _target(path)
    data = content.encode()
    if os.fspath(path).lower().endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    try:
        if _is_special(target):  # /dev/stdout, a pipe: replacing those would be wrong
            target.write_bytes(data)
            return
        _replace(target, data)
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror or error}") from None


def _replace(target: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _target(path: str | os.PathLike[str]) -> Path:
    """The file itself: a link is followed, so that writing does not replace it."""
    return Path(os.path.realpath(path))


def _is_special(target: Path) -> bool:
    return target.exists() and not target.is_file()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
