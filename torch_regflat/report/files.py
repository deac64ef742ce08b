"""Writing a report: refused before the work starts if it cannot be, and never left half written."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from ..errors import ResultError
from ..result import Result
from . import csv_, json_, text

_WRITERS = {".json": json_.dump, ".csv": csv_.render, ".txt": text.render}


def save(result: Result, path: str | os.PathLike[str]) -> None:
    """Write a result: losslessly as `.json`, or as `.csv` rows or a `.txt` table, which cannot be read back."""
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        raise ResultError(f"cannot save as {path}: the name must end in one of {', '.join(_WRITERS)}; .json keeps all")
    write(path, _WRITERS[suffix](result))


def load(path: str | os.PathLike[str]) -> Result:
    """Read a result that was saved as JSON."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror or error}") from None
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
    """Write a text file in one step: readers see the old content or all of the new."""
    target = _target(path)
    try:
        if _is_special(target):  # /dev/stdout, a pipe: replacing those would be wrong
            target.write_text(content, encoding="utf-8")
            return
        _replace(target, content)
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror or error}") from None


def _replace(target: Path, content: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
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
