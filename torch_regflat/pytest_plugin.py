"""The pytest plugin: options, settings, the marker and the fixture `regflat`, the summary. Only wiring.

Every run of pytest imports this module, so it imports nothing but pytest; the rest comes with the first use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ._checking import Regflat, Settings

_FIXTURE = pytest.StashKey["Regflat"]()
_SESSION = pytest.StashKey["_Session"]()
_MARKER = (
    "regflat(chip=..., metrics=..., rtol=..., improvement=..., mode=..., software=...): what the fixture `regflat` "
    "profiles on and compares, unless a call says otherwise"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("regflat", "modelled performance (torch_regflat)")
    group.addoption("--regflat-update", action="store_true", help="Accept what checks find now: write their baselines.")
    group.addoption("--regflat-prune", action="store_true", help="Remove baselines that no test has any more.")
    parser.addini("regflat_chip", "Chips of checks that name none, by name or chip file.", "args", default=[])
    parser.addini("regflat_metrics", "Metrics of checks that name none.", "args", default=[])
    parser.addini("regflat_rtol", "Relative change that a check allows, 0.01 for 1 %.", "string", default="0.01")
    parser.addini("regflat_improvement", "What improvements do: show (the default) or fail.", "string", default="show")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    config.stash[_SESSION] = session = _Session(config)
    config.pluginmanager.register(session, "regflat-session")


@pytest.fixture
def regflat(request: pytest.FixtureRequest) -> Iterator[Regflat]:
    """Modelled latency, energy and memory of a model: `check` against a baseline, or `profile` and `assert_below`."""
    from ._checking import Regflat

    item, session = request.node, request.config.stash[_SESSION]
    test = _name(item)
    update = request.config.getoption("regflat_update")
    fixture = Regflat(item.path, test, _settings(item), update, session.has(item.path))
    item.stash[_FIXTURE] = fixture
    yield fixture
    fixture.close(session.passed.get(item.nodeid, False))


def _settings(item: pytest.Item) -> Settings:
    from ._checking import Settings
    from .errors import InputError

    config = item.config
    given = {name: config.getini(f"regflat_{name}") for name in ("chip", "metrics", "rtol", "improvement")}
    try:
        given["rtol"] = float(given["rtol"])
    except ValueError:
        raise InputError(f"the setting regflat_rtol is {given['rtol']!r}; it must be a number, 0.01 for 1 %") from None
    found = Settings(**{name: value for name, value in given.items() if value != []}).checked("the settings of pytest")
    merged: dict[str, Any] = {}
    for marker in item.iter_markers("regflat"):  # the closest first
        if marker.args:
            raise InputError(f"@pytest.mark.regflat takes names only, as in chip={marker.args[0]!r}")
        merged = {**marker.kwargs, **merged}
    return found.with_marker(merged)


def _name(item: pytest.Item) -> str:
    """Classes and name of a test, with dots between. Not from the node id, which xdist may add a group to."""
    classes = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
    return ".".join([*classes, item.name])


class _Session:
    """What one run of pytest, or one worker of xdist, knows: its tests, what they did, and what is left over."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.tests: list[tuple[Path, str]] = []
        self.passed: dict[str, bool] = {}
        self._ended: list[tuple[Path, str]] = []
        self._used: set[Path] = set()
        self._records: list[tuple[str, str, list[str]]] = []
        self._stale: set[str] = set()
        self._removed: list[str] = []

    def has(self, file: Path) -> Any:
        """Whether a test of this name was collected from the file."""
        return lambda test: (file, test) in self.tests

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Remember all tests, before others take some out."""
        known: dict[Path, bool] = {}
        for item in items:
            parent = item.path.parent
            if parent not in known:
                known[parent] = (parent / "__regflat__").is_dir()
            if known[parent] or "regflat" in getattr(item, "fixturenames", ()):
                self.tests.append((item.path, _name(item)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        fixture = item.stash.get(_FIXTURE, None)
        if call.when == "call":
            self.passed[item.nodeid] = report.passed
            if report.passed and self.tests:
                self._ended.append((item.path, _name(item)))
        if fixture is not None:
            self._used.add(fixture.path)
            # An attribute of the report travels from workers of xdist to the main process.
            report.regflat = [(record.status, record.lines) for record in fixture.records]  # type: ignore[attr-defined]
            fixture.records.clear()
            if call.when == "call":
                item.user_properties += fixture.properties
                report.user_properties = list(item.user_properties)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._records += [(report.nodeid, status, lines) for status, lines in getattr(report, "regflat", ())]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self._stale |= self._left_over()
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["regflat_stale"] = sorted(self._stale)
        elif self.config.getoption("regflat_prune"):
            self._prune()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._stale |= set(getattr(node, "workeroutput", {}).get("regflat_stale", ()))

    def _left_over(self) -> set[str]:
        """Stale baselines, of test files that were collected whole."""
        if not self.tests or self.config.getoption("lf", False):
            return set()
        from .regression.stale import stale

        start = self.config.invocation_params.dir
        partly = {(start / arg.split("::")[0]).resolve() for arg in self.config.args if "::" in arg}
        whole = [test for test in self.tests if test[0].resolve() not in partly]
        return {str(path) for path in stale(whole, self._ended, self._used)}

    def _prune(self) -> None:
        from .regression.baseline import remove

        for path in sorted(self._stale):
            remove(Path(path))
            self._removed.append(path)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        left = sorted(path for path in self._stale if Path(path).exists())
        if not (self._records or left or self._removed):
            return
        terminalreporter.section("regflat")
        counts = Counter(status for _, status, _ in self._records)
        words = [f"{counts[status]} {text}" for status, text in _WORDS.items() if counts[status]]
        if words:
            terminalreporter.line(f"{'update' if counts['written'] else 'checks'}: {', '.join(words)}")
        for nodeid, status, lines in self._records:
            if status in ("regression", "improvement", "stale"):
                for text in lines:
                    terminalreporter.line(f"{status}: {nodeid}: {text}")
        for path in self._removed:
            terminalreporter.line(f"removed: {self._relative(path)}")
        for path in left:
            text = f"stale: {self._relative(path)}, which no test has any more (--regflat-prune removes it)"
            terminalreporter.line(text)

    def _relative(self, path: str) -> str:
        try:
            return str(Path(path).relative_to(self.config.invocation_params.dir))
        except ValueError:
            return path


_WORDS = {
    "same": "as the baseline",
    "regression": "modelled regression",
    "improvement": "improved beyond tolerance (accept with --regflat-update)",
    "missing": "without a baseline",
    "written": "written",
}
