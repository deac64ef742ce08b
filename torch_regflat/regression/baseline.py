"""Baselines: what the checks of one test gave when they were accepted, as JSON beside the test.

`tests/test_decoder.py::TestStep::test_one[8]` has `tests/__regflat__/test_decoder/TestStep.test_one[8].json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ResultError
from ..plain import build, plain
from ..report.files import write
from .snapshot import Snapshot

SCHEMA = 1
KIND = "regflat baseline"
FOLDER = "__regflat__"
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_LONGEST_NAME = 120


@dataclass(frozen=True, slots=True)
class Baseline:
    """The checks of one test by their names, as accepted."""

    test: str
    checks: dict[str, Snapshot] = field(default_factory=dict)


def folder_of(test_file: Path) -> Path:
    """Where the baselines of a test file are."""
    return test_file.parent / FOLDER / test_file.stem


def path_of(test_file: Path, test: str) -> Path:
    """The file of a test, `test` being its classes and name with dots between.

    What file systems refuse becomes `_`, and a hash then keeps different tests apart.
    """
    safe = _FORBIDDEN.sub("_", test).rstrip(". ")
    if safe != test or len(safe.encode()) > _LONGEST_NAME:
        short = safe.encode()[:_LONGEST_NAME].decode(errors="ignore")
        safe = f"{short}-{hashlib.sha256(test.encode()).hexdigest()[:8]}"
    return folder_of(test_file) / f"{safe}.json"


def load(path: Path) -> Baseline | None:
    """Read a baseline; None if there is none. Raises `ResultError` on anything that is not one, saying what to do."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResultError(f"baseline {path} cannot be read: {error.strerror or error}") from None
    again = "restore it, or write it anew with --regflat-update"
    try:
        data = json.loads(text, parse_constant=_not_finite)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ResultError):
            raise ResultError(f"baseline {path}: {error}; {again}") from None
        raise ResultError(f"baseline {path} is damaged: it is not JSON ({error}); {again}") from None
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise ResultError(
            f"{path} is not a baseline: it has no kind {KIND!r}; move it away, or overwrite it with --regflat-update"
        )
    schema = data.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        newer = isinstance(schema, int) and schema > SCHEMA
        advice = "update torch_regflat, or write it anew with --regflat-update" if newer else again
        raise ResultError(f"baseline {path} has schema {schema!r}, this version reads {SCHEMA}; {advice}")
    try:
        rest = {name: value for name, value in data.items() if name not in ("schema", "kind")}
        built: Baseline = build(Baseline, rest, "baseline")
    except ResultError as error:
        raise ResultError(f"{path}: {error}; {again}") from None
    return built


def save(baseline: Baseline, path: Path) -> bool:
    """Write a baseline in one step; False if the file says so already. Raises `ResultError` where it cannot be."""
    document: dict[str, Any] = {"schema": SCHEMA, "kind": KIND, **plain(baseline, "baseline")}
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        if path.is_file() and path.read_bytes() == text.encode():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror or error}") from None
    write(path, text)
    return True


def remove(path: Path) -> None:
    """Delete a baseline that no test has any more, and the folders that it leaves empty."""
    try:
        path.unlink(missing_ok=True)
        for folder in (path.parent, path.parent.parent):
            if any(folder.iterdir()):
                return
            os.rmdir(folder)
    except OSError as error:
        raise ResultError(f"cannot remove {path}: {error.strerror or error}") from None


def _not_finite(word: str) -> NoReturn:
    raise ResultError(f"found {word}; a baseline holds finite numbers only")
