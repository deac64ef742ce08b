"""Profiles to compare: a saved one, or that of a factory as it is, or as it was at a revision of git.

A factory runs in a process of its own, in a temporary work tree of the revision: the checkout stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, ModelError, ResultError
from ..report.files import load
from ..result import Result

_SPEC = re.compile(r"(?P<factory>[A-Za-z_][\w.]*:[A-Za-z_][\w.]*)(?:@(?P<revision>.+))?")


@dataclass(frozen=True, slots=True)
class Source:
    """One side of a comparison: a file, or a factory with perhaps a revision."""

    text: str
    factory: str = ""
    revision: str = ""


def source(text: str) -> Source:
    """Read `run.json`, `module:factory` or `module:factory@REV`. A file that exists comes first."""
    match = _SPEC.fullmatch(text)
    if Path(text).is_file() or text.endswith(".json") or match is None:
        if match is None and not text.endswith(".json") and not Path(text).exists():
            raise InputError(
                f"{text!r} is neither a saved profile nor module:factory; give a file that Profile.save() wrote, or "
                "module:factory@REVISION"
            )
        return Source(text)
    return Source(text, match["factory"], match["revision"] or "")


def obtain(given: Source, options: Sequence[str] = ()) -> Result:
    """The result of one side. `options` are those of `regflat profile` and go to factories.

    Raises `ResultError` for a file that is no profile, `ModelError` for a factory or a revision that is not there.
    """
    if not given.factory:
        return load(given.text)
    if not given.revision:
        return _profile(given, options, Path.cwd(), Path.cwd(), Path.cwd())
    root = Path(_git(Path.cwd(), "rev-parse", "--show-toplevel", why=f"{given.text}: this is not a work tree of git"))
    with _work_tree(root, given) as tree:
        here = tree / Path.cwd().resolve().relative_to(root.resolve())
        return _profile(given, options, root, tree, here)


@contextlib.contextmanager
def _work_tree(root: Path, given: Source) -> Iterator[Path]:
    revision = f"{given.revision}^{{commit}}"
    unknown = f"{given.text}: git knows no revision {given.revision!r}"
    commit = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", revision, why=unknown)
    with tempfile.TemporaryDirectory(prefix="regflat-") as folder:
        tree = Path(folder) / "tree"
        why = f"{given.text}: git cannot make a work tree"
        quietly = ("-c", f"core.hooksPath={os.devnull}")  # to look at a revision must not run anything
        _git(root, *quietly, "worktree", "add", "--quiet", "--detach", str(tree), commit, why=why)
        try:
            yield tree
        finally:
            _git(root, "worktree", "remove", "--force", str(tree), why=why)


def _profile(given: Source, options: Sequence[str], root: Path, tree: Path, here: Path) -> Result:
    """Run `regflat profile` in `here`, with what Python finds below `root` looked for in `tree`."""
    if not here.is_dir():
        raise ModelError(f"{given.text}: at that revision there is no folder {here.relative_to(tree)}")
    paths = _search_path(root.resolve(), tree, here)
    _check_there(given, paths)
    ours = str(Path(__file__).resolve().parents[2])
    search = [*map(str, paths), *([] if ours in map(str, paths) else [ours])]
    with tempfile.TemporaryDirectory(prefix="regflat-") as folder:
        out = Path(folder) / "profile.json"
        program = "import sys; sys.argv[0] = 'regflat'; from torch_regflat.cli import main; main()"
        command = [sys.executable, "-c", program, "profile", given.factory, *options]
        done = subprocess.run(
            [*command, "--format", "json", "-o", str(out), "-q"],
            cwd=here,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
            capture_output=True,
            text=True,
        )
        if done.returncode or not out.is_file():
            said = done.stderr.strip().splitlines() or ["it said nothing"]
            raise ModelError(f"{given.text} cannot be profiled: {said[-1].removeprefix('regflat: ')}")
        try:
            return load(out)
        except ResultError as error:
            raise ResultError(f"{given.text}: {str(error).replace(str(out), 'its profile')}") from None


def _search_path(root: Path, tree: Path, here: Path) -> list[Path]:
    """`here`, its `src`, and every folder below `root` that this process imports from, as it is in `tree`."""
    own = [Path(entry).resolve() for entry in sys.path if entry]
    inside = [tree / entry.relative_to(root) for entry in own if entry.is_relative_to(root) and _is_code(entry)]
    return [path for path in dict.fromkeys([here, here / "src", *inside, tree / "src"]) if path.is_dir()]


def _is_code(entry: Path) -> bool:
    return entry.is_dir() and "site-packages" not in entry.parts


def _check_there(given: Source, paths: Sequence[Path]) -> None:
    """Without this an installed copy would be profiled in place of the revision's."""
    parts = given.factory.partition(":")[0].split(".")
    for folder in paths:
        place = folder.joinpath(*parts)
        if place.with_suffix(".py").is_file() or place.is_dir():
            return
    at = f"at revision {given.revision} " if given.revision else ""
    raise ModelError(f"{given.text}: {at}there is no module {'.'.join(parts)!r} in this folder or its src")


def _git(folder: Path, *arguments: str, why: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        raise ModelError(f"{why}: the program git is not installed") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ModelError(f"{why}{f' ({said[-1]})' if said else ''}")
    return done.stdout.strip()
