"""Baselines that no test has any more."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .baseline import FOLDER, folder_of, path_of


def stale(tests: Iterable[tuple[Path, str]], passed: Iterable[tuple[Path, str]], used: Iterable[Path]) -> list[Path]:
    """Files that are left over, of the test files collected whole.

    `tests` are all tests of those files (file, name), `passed` those that ran to their end, `used` the baselines that
    any test read or wrote. A baseline is stale if no test has its name, if its test passed without it, or if there
    is no test file beside it.
    """
    listed = list(tests)
    kept = {path_of(*test) for test in listed}
    read = set(used)
    unused = {path_of(*test) for test in passed} - read
    files = sorted({file for file, _ in listed})
    found = [path for file in files for path in baselines(folder_of(file)) if path not in kept and path not in read]
    found += [path for path in unused if path.is_file()]
    found += [path for folder in {file.parent for file in files} for path in orphans(folder)]
    return sorted(set(found))


def baselines(folder: Path) -> list[Path]:
    """The baselines in a folder, and what a killed update left of them."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix == ".json" or _left_over(path))


def orphans(folder: Path) -> list[Path]:
    """Baselines in the `__regflat__` of a folder whose test file is gone."""
    root = folder / FOLDER
    if not root.is_dir():
        return []
    stems = {Path(name).stem for name in os.listdir(folder) if name != FOLDER}
    return [path for child in sorted(root.iterdir()) if child.name not in stems for path in baselines(child)]


def _left_over(path: Path) -> bool:
    return path.name.startswith(".") and ".json." in path.name
