"""What the pytest fixture `regflat` gives: `check` against a baseline, and `profile`. Nothing here imports pytest."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from .errors import InputError, RegflatError, ResultError, near
from .regression import baseline as files
from .regression.baseline import Baseline
from .regression.compare import Change, check_tolerance, compare
from .regression.message import explain, line
from .regression.metrics import DEFAULT, figure, named
from .regression.snapshot import Snapshot, snapshot
from .result import Result

if TYPE_CHECKING:
    from .profiler import Profile

IMPROVEMENT = ("show", "fail")
P = ParamSpec("P")
T = TypeVar("T")


def _plainly(method: Callable[P, T]) -> Callable[P, T]:
    """Errors that the user can act on end at the line of the test: frames of ours would hide it."""

    @functools.wraps(method)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        __tracebackhide__ = True
        try:
            return method(*args, **kwargs)
        except RegflatError as error:
            raise error.with_traceback(None)  # noqa: B904, it keeps the cause it has

    return called


@dataclass(frozen=True)
class Settings:
    """What a check takes where its call says nothing. `options` go to `profile`."""

    chip: Any = None
    metrics: Sequence[str] = DEFAULT
    rtol: float = 0.01
    improvement: str = "show"
    options: dict[str, Any] = field(default_factory=dict)

    def with_marker(self, given: dict[str, Any]) -> Settings:
        """Overridden by the arguments of `@pytest.mark.regflat(...)`."""
        known = ("chip", "metrics", "rtol", "improvement", "mode", "software")
        for name in given:
            if name not in known:
                hint = near(name, known) or ";"
                raise InputError(f"@pytest.mark.regflat has no {name!r}{hint} it takes {', '.join(known)}")
        own = {name: value for name, value in given.items() if name in known[:4]}
        options = {name: value for name, value in given.items() if name in known[4:]}
        return replace(self, **own, options={**self.options, **options}).checked("@pytest.mark.regflat")

    def checked(self, where: str) -> Settings:
        """Refuse what makes no sense, naming where it was written."""
        try:
            named(self.metrics)
            check_tolerance(self.rtol)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if self.improvement not in IMPROVEMENT:
            hint = near(str(self.improvement), IMPROVEMENT) or ";"
            allowed = " or ".join(IMPROVEMENT)
            raise InputError(f"{where}: improvement is {self.improvement!r}{hint} it must be {allowed}")
        return self


def shown(path: Path) -> str:
    """A path as people write it: from where they are, where it is below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _lacking(before: Snapshot, now: Snapshot, metrics: Sequence[str]) -> list[str]:
    """What is asked for that a baseline does not have."""
    lost = [f"chip {chip}" for chip in now.chips if chip not in before.chips]
    kept = [before.chips[chip] for chip in now.chips if chip in before.chips]
    return lost + [name for name in metrics if any(name not in chip.metrics for chip in kept)]


@dataclass
class Record:
    """One check of a test, for the summary: same, regression, improvement, missing, written or stale."""

    status: str
    lines: list[str]


class Regflat:
    """The fixture of one test."""

    def __init__(
        self, test_file: Path, test: str, settings: Settings, update: bool, exists: Callable[[str], bool]
    ) -> None:
        self.path = files.path_of(test_file, test)
        self.records: list[Record] = []
        self.properties: list[tuple[str, object]] = []
        self._test, self._settings, self._update, self._exists = test, settings, update, exists
        self._done: list[str] = []

    def __repr__(self) -> str:
        return "regflat"

    @_plainly
    def profile(self, model: Any, args: Any = None, kwargs: dict[str, Any] | None = None, **options: Any) -> Profile:
        """A profile on the chips of the marker, unless `chip` is given; then as `regflat.profile`.

        A name is taken as `regflat.profile_model` takes it. `.assert_below(latency="2 ms")` bounds what it gives.
        """
        from . import profiler

        given = {**self._settings.options, **options}
        chip = given.pop("chip", None) or given.pop("chips", None) or self._settings.chip or profiler.DEFAULT_CHIP
        if isinstance(model, str):
            if args is not None or kwargs is not None:
                raise InputError(f"the inputs of {model!r} are made for it; leave out args and kwargs")
            made = profiler.profile_model(model, chips=chip, **given)
        else:
            made = profiler.profile(model, args, kwargs, chip=chip, **given)
        self._note(made.result, "")
        return made

    @_plainly
    def check(
        self,
        model: Any,
        args: Any = None,
        kwargs: dict[str, Any] | None = None,
        *,
        chip: Any = None,
        metrics: str | Iterable[str] | None = None,
        rtol: float | None = None,
        name: str | None = None,
        **options: Any,
    ) -> Profile | Result:
        """Compare with the baseline of this test; `--regflat-update` writes it.

        `model` is what `profile` takes, or a profile or result already made. `metrics` are names as in results
        (`latency_s`), `rtol` the relative change that is allowed. Several checks of one test are numbered unless they
        have a `name`. Raises `AssertionError` on a change for the worse or a missing baseline.
        """
        __tracebackhide__ = True
        wanted = named(self._settings.metrics if metrics is None else metrics)
        allowed = check_tolerance(self._settings.rtol if rtol is None else rtol)
        key = self._key(name)
        made = self._made(model, args, kwargs, chip, options)
        result = made if isinstance(made, Result) else made.result
        now = snapshot(result)
        self._note(result, "" if key == "1" else f"{key}.", wanted)
        if self._update:
            self._write(key, now)
        else:
            self._compare(key, now, wanted, allowed)
        return made

    def close(self, passed: bool) -> None:
        """After the test: of one that passed, checks that it no longer makes are stale."""
        if not passed or not self._done:
            return
        kept = files.load(self.path)
        left = [] if kept is None else [key for key in kept.checks if key not in self._done]
        if kept is None or not left:
            return
        if self._update:
            made = {key: check for key, check in kept.checks.items() if key in self._done}
            files.save(Baseline(self._test, made), self.path)
        else:
            text = f"{shown(self.path)} has checks that its test no longer makes: {', '.join(map(repr, left))}"
            self.records.append(Record("stale", [text]))

    def _made(self, model: Any, args: Any, kwargs: Any, chip: Any, options: dict[str, Any]) -> Profile | Result:
        if not isinstance(model, Result) and not isinstance(getattr(model, "result", None), Result):
            given = options if chip is None else {**options, "chip": chip}
            return self.profile(model, args, kwargs, **given)
        if args is not None or kwargs is not None or chip is not None or options:
            raise InputError("check() was given a profile that is made already; args, chip and options come too late")
        return cast("Profile | Result", model)

    def _key(self, name: str | None) -> str:
        key = str(len(self._done) + 1) if name is None else name
        if key in self._done:
            raise InputError(f"two checks of {self._test} are named {key!r}; give each a name of its own")
        self._done.append(key)
        return key

    def _load(self, update: bool) -> Baseline | None:
        try:
            found = files.load(self.path)
        except ResultError:
            if not update:
                raise
            return None  # damaged or foreign: to write it anew is what was asked for
        if found is None or found.test == self._test:
            return found
        if self._exists(found.test):
            raise ResultError(
                f"two tests have one baseline: {self.path} is that of {found.test}, and {self._test} has the same "
                "file name on this file system; rename one of the tests"
            )
        if update:
            return None
        raise ResultError(
            f"{self.path} is the baseline of another test, {found.test}; if that was renamed to {self._test}, accept "
            "with --regflat-update"
        )

    def _write(self, key: str, now: Snapshot) -> None:
        found = self._load(update=True)
        kept = {} if found is None else dict(found.checks)
        kept[key] = now
        written = files.save(Baseline(self._test, kept), self.path)
        self.records.append(Record("written" if written else "same", [str(self.path)] if written else []))

    def _compare(self, key: str, now: Snapshot, metrics: Sequence[str], rtol: float) -> None:
        __tracebackhide__ = True
        found = self._load(update=False)
        before = None if found is None else found.checks.get(key)
        lacking = [] if before is None else _lacking(before, now, metrics)
        if before is None or lacking:
            what = "there is no baseline" if found is None else f"the baseline has no check {key!r}"
            what = what if before is None else f"the baseline has no {', '.join(lacking)}"
            accept = "accept what is now with pytest --regflat-update, and commit the file"
            message = f"{what} in {shown(self.path)}; {accept}"
            self.records.append(Record("missing", [message]))
            raise AssertionError(message)
        changes = compare(before, now, metrics, rtol)
        self._judge([change for change in changes if change.status != "same"], before, now, rtol)

    def _judge(self, changes: list[Change], before: Snapshot, now: Snapshot, rtol: float) -> None:
        __tracebackhide__ = True
        worse = any(change.status == "regression" for change in changes)
        status = "regression" if worse else "improvement" if changes else "same"
        self.records.append(Record(status, [line(change) for change in changes]))
        if worse or (changes and self._settings.improvement == "fail"):
            hint = "accept it with pytest --regflat-update"
            raise AssertionError(f"{explain(changes, before, now, rtol)}\n\nbaseline {shown(self.path)}: {hint}")

    def _note(self, result: Result, prefix: str, metrics: Sequence[str] = DEFAULT) -> None:
        """Figures as properties of the test, for JUnit."""
        kept = dict(self.properties)
        for chip in result.chips:
            kept.update({f"regflat.{prefix}{chip.chip}.{name}": figure(name, chip) for name in metrics})
        self.properties[:] = kept.items()
