"""The pytest plugin as its users meet it: runs of pytest inside of pytest, an option or a situation each."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torch_regflat as regflat
import torch_regflat._checking  # what a run inside would import first would be gone after it
import torch_regflat.regression.stale
from result_factory import chip_result, layers, result
from torch_regflat.regression import baseline
from torch_regflat.report.files import save

pytest_plugins = ["pytester"]
MODULE = "torch_regflat.pytest_plugin"
ROOT = Path(__file__).parent.parent
INSTALLED = any(found.value == MODULE for found in importlib.metadata.entry_points(group="pytest11"))
PLUGIN = (*(() if INSTALLED else ("-p", MODULE)), "-p", "no:hypothesispytest", "-p", "no:anyio")
"""Ours, and without two that would be imported anew in each run."""

NET = """
    import os
    import pytest
    import torch
    from torch import nn

    def net():
        width = int(os.environ.get("WIDTH", "4096"))
        return nn.Sequential(nn.Linear(1024, width), nn.ReLU(), nn.Linear(width, 1024)).to("meta", torch.bfloat16)

    rows = torch.empty(4096, 1024, device="meta", dtype=torch.bfloat16)
"""
CHECK = NET + """
    def test_net(regflat):
        regflat.check(net(), (rows,), chip="h100-sxm", metrics=("latency_s", "energy_j", "peak_memory_bytes"))
"""


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Whatever a profile imports is there before the runs inside, which forget what they import."""
    regflat.profile(nn.Linear(8, 8), torch.zeros(2, 8))


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    monkeypatch.chdir(pytester.path)

    def go(*arguments: str, **environment: str) -> pytest.RunResult:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            return pytester.runpytest_inprocess(*PLUGIN, *arguments)

    return go


def written(pytester: pytest.Pytester) -> list[str]:
    """The baselines below the folder of a run."""
    return sorted(str(path.relative_to(pytester.path)) for path in pytester.path.rglob("__regflat__/**/*.json"))


def saved(pytester: pytest.Pytester, name: str = "run.json", **changes: Any) -> None:
    """A saved profile, so that the run inside needs no torch."""
    save(result(**changes), pytester.path / name)


SAVED = """
    import pytest
    import torch_regflat as regflat

    def test_saved(regflat, request):
        import torch_regflat
        regflat.check(torch_regflat.load_result("run.json"))
"""


def test_a_missing_baseline_fails_and_names_the_flag(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(test_it=CHECK)
    done = run()
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        ["*there is no baseline in __regflat__/test_it/test_net.json; accept what is now with pytest --regflat-update*"]
    )
    assert written(pytester) == []


def test_update_writes_and_the_same_code_then_passes(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(test_it=CHECK)
    done = run("--regflat-update")
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["update: 1 written"])
    assert written(pytester) == ["__regflat__/test_it/test_net.json"]
    again = run()
    again.assert_outcomes(passed=1)
    again.stdout.fnmatch_lines(["checks: 1 as the baseline"])
    assert "1 written" not in run("--regflat-update").stdout.str()


def test_a_baseline_is_readable_and_says_what_it_was_made_from(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(test_it=CHECK)
    run("--regflat-update")
    (file,) = pytester.path.rglob("*.json")
    data = json.loads(file.read_text())
    check = data["checks"]["1"]
    assert (data["kind"], data["schema"], data["test"]) == ("regflat baseline", 1, "test_net")
    assert check["provenance"]["versions"]["torch"] == torch.__version__
    assert check["provenance"]["cost_model"]
    assert len(check["provenance"]["graph_hash"]) == len(check["chips"]["h100-sxm"]["chip_hash"]) == 16
    assert check["chips"]["h100-sxm"]["metrics"]["latency_s"] > 0
    assert file.read_text().count("\n") > 50


def test_a_regression_says_what_moved(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(test_it=CHECK)
    run("--regflat-update")
    done = run(WIDTH="8192")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        [
            "*modelled regression of latency_s on h100-sxm: baseline * us, now * us, +* % (tolerance 1 %)",
            "*moved most*before*now*change*bound by*believable*kernels",
            "*power (compute) *yes, from * %*product, 16 bits",
            "*believable: 95 % of measured pairs of such kernels went the way the model says from this change on",
            "*modelled regression of energy_j on h100-sxm*",
            "*changes of energy are not validated against measurements",
            "*counted regression of peak_memory_bytes on h100-sxm: baseline 92.28 MB*",
            "*activations*",
            "*what moved: your code (the graph is another, torch and transformers the same)",
            "*__regflat__/test_it/test_net.json: accept it with pytest --regflat-update",
            "checks: 1 modelled regression",
            "regression: test_it.py::test_net: latency on h100-sxm *",
        ]
    )


def test_a_small_change_is_called_too_small(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(test_it=CHECK)
    run("--regflat-update")
    done = run(WIDTH="4608")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*power (compute) *no, from * %*product, 16 bits"])


def test_improvements_are_shown(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(test_it=CHECK)
    run("--regflat-update")
    done = run(WIDTH="2048")
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(
        ["checks: 1 improved beyond tolerance*", "improvement: test_it.py::test_net: latency on h100-sxm *(-*"]
    )


def test_improvements_can_fail(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(test_it=CHECK)
    run("--regflat-update")
    done = run("-o", "regflat_improvement=fail", WIDTH="2048")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*modelled improvement of latency_s on h100-sxm*"])


def test_setting_rtol(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(test_it=CHECK)
    pytester.makeini("[pytest]\nregflat_rtol = 10")
    run("--regflat-update")
    run(WIDTH="8192").assert_outcomes(passed=1)


def test_settings_chip_and_metrics(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(test_it=NET + "\n    def test_net(regflat):\n        regflat.check(net(), rows)\n")
    pytester.makeini("[pytest]\nregflat_chip = a100-sxm-80gb regflat-physical\nregflat_metrics = kernels")
    run("--regflat-update").assert_outcomes(passed=1)
    (file,) = pytester.path.rglob("*.json")
    assert list(json.loads(file.read_text())["checks"]["1"]["chips"]) == ["a100-sxm-80gb", "regflat-physical"]
    run(WIDTH="8192").assert_outcomes(passed=1)  # as many kernels as before


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("regflat_rtol = much", "regflat_rtol is 'much'; it must be a number, 0.01 for 1 %"),
        ("regflat_rtol = nan", "rtol is nan; it must be a number of 0 or more"),
        ("regflat_improvement = fial", "improvement is 'fial'; did you mean fail? it must be show or fail"),
        ("regflat_metrics = latency", "unknown metric 'latency'; did you mean latency_s?"),
        ("regflat_chip = h100sxm", "unknown chip 'h100sxm'; did you mean"),
    ],
)
def test_settings_that_make_no_sense(pytester: pytest.Pytester, run: Any, setting: str, says: str) -> None:
    pytester.makepyfile(test_it=NET + "\n    def test_net(regflat):\n        regflat.check(net(), rows)\n")
    pytester.makeini(f"[pytest]\n{setting}")
    done = run()
    assert done.ret == 1
    assert says in done.stdout.str()


def test_the_marker_names_chips_and_budgets_bound_them(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(
        test_it=NET + """
    @pytest.mark.regflat(chip=["h100-sxm", "regflat-physical"])
    @pytest.mark.parametrize("budget", ["1 s", "1 us"])
    def test_budget(regflat, budget):
        prof = regflat.profile(net(), (rows,))
        assert [chip.chip for chip in prof.chips] == ["h100-sxm", "regflat-physical"]
        prof.assert_below(latency=budget, energy="150 J")
    """
    )
    done = run("--strict-markers")
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(
        [
            "*modelled latency of Sequential on h100-sxm is * us (between * and *), above the budget of 1.000 us, *; "
            "most of it: *",
            "*modelled latency of Sequential on regflat-physical *",
        ]
    )


def test_the_closest_marker_counts(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(
        test_it=NET + """
    pytestmark = pytest.mark.regflat(chip="h200", mode="compiled")

    @pytest.mark.regflat(chip="l4")
    class TestNet:
        def test_class(self, regflat):
            prof = regflat.profile(net(), rows)
            assert prof.chips[0].chip == "l4" and prof.result.mode == "compiled"

        @pytest.mark.regflat(chip="a10g")
        def test_own(self, regflat):
            assert regflat.profile(net(), rows).chips[0].chip == "a10g"
    """
    )
    run().assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("marker", "says"),
    [
        ("chips='t4'", "@pytest.mark.regflat has no 'chips'; did you mean chip? it takes chip, metrics"),
        ("'t4'", "@pytest.mark.regflat takes names only, as in chip='t4'"),
        ("rtol=-1", "@pytest.mark.regflat: rtol is -1; it must be a number of 0 or more"),
    ],
)
def test_markers_that_make_no_sense(pytester: pytest.Pytester, run: Any, marker: str, says: str) -> None:
    code = f"\n    @pytest.mark.regflat({marker})\n    def test_net(regflat):\n        pass\n"
    pytester.makepyfile(test_it=NET + code)
    assert says in run().stdout.str()


def test_parametrised_tests_and_classes_have_baselines_of_their_own(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(
        test_it=NET + """
    @pytest.mark.parametrize("n", [8, 16])
    def test_rows(regflat, n):
        regflat.check(net(), rows[:n])

    class TestNet:
        @pytest.mark.parametrize("path", ["a/b", "a:b", "x" * 300])
        def test_path(self, regflat, path):
            regflat.check(net(), rows)
    """
    )
    run("--regflat-update").assert_outcomes(passed=5)
    run().assert_outcomes(passed=5)
    names = written(pytester)
    assert "__regflat__/test_it/test_rows[8].json" in names
    assert len(names) == 5
    assert sum("TestNet.test_path[a_b]-" in name for name in names) == 2


def test_unittest(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(
        test_it=NET + """
    import unittest

    class TestNet(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def _regflat(self, regflat):
            self.regflat = regflat

        def test_net(self):
            self.regflat.check(net(), rows)
    """
    )
    run().assert_outcomes(failed=1)
    run("--regflat-update").assert_outcomes(passed=1)
    run().assert_outcomes(passed=1)
    assert written(pytester) == ["__regflat__/test_it/TestNet.test_net.json"]
    run(WIDTH="8192").assert_outcomes(failed=1)


def test_last_failed(pytester: pytest.Pytester, run: Any) -> None:
    more = "\n    def test_other(regflat):\n        regflat.check(nn.Linear(8, 8), torch.zeros(2, 8))\n"
    pytester.makepyfile(test_it=CHECK + more)
    run("--regflat-update").assert_outcomes(passed=2)
    run(WIDTH="8192").assert_outcomes(passed=1, failed=1)
    done = run("--lf", WIDTH="8192")
    done.assert_outcomes(failed=1)
    assert "stale" not in done.stdout.str()
    run("--lf", "--regflat-update", "--regflat-prune", WIDTH="8192").assert_outcomes(passed=1)
    assert len(written(pytester)) == 2


def test_several_checks_of_one_test(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(
        test_it=NET + """
    def test_net(regflat):
        regflat.check(net(), rows)
        if os.environ.get("SHORT") is None:
            regflat.check(net(), rows[:8], name="few rows")
    """
    )
    run("--regflat-update").assert_outcomes(passed=1)
    (file,) = pytester.path.rglob("*.json")
    assert list(json.loads(file.read_text())["checks"]) == ["1", "few rows"]
    done = run(SHORT="1")
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["stale: *test_net.json has checks that its test no longer makes: 'few rows'"])
    run("--regflat-update", SHORT="1").assert_outcomes(passed=1)
    assert list(json.loads(file.read_text())["checks"]) == ["1"]


def test_two_checks_of_one_name(pytester: pytest.Pytester, run: Any) -> None:
    twice = "regflat.check(net(), rows, name='one'); " * 2
    pytester.makepyfile(test_it=NET + f"\n    def test_net(regflat):\n        {twice}\n")
    done = run("--regflat-update")
    done.stdout.fnmatch_lines(["*two checks of test_net are named 'one'; give each a name of its own*"])


def test_a_model_by_name_or_a_profile_made_already(pytester: pytest.Pytester, run: Any) -> None:
    saved(pytester)
    pytester.makepyfile(
        test_it=NET + """
    import torch_regflat

    def test_result(regflat):
        regflat.check(torch_regflat.load_result("run.json"), metrics="kernels")

    def test_profile(regflat):
        made = torch_regflat.profile(net(), rows)
        assert regflat.check(made) is made

    def test_too_late(regflat):
        with pytest.raises(torch_regflat.InputError, match="chip and options come too late"):
            regflat.check(torch_regflat.load_result("run.json"), chip="l4")

    def test_inputs_of_a_name(regflat):
        with pytest.raises(torch_regflat.InputError, match="leave out args and kwargs"):
            regflat.profile("llama-3-8b", rows)
    """
    )
    run("--regflat-update").assert_outcomes(passed=4)


def test_a_chip_or_a_metric_more(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(test_it=NET + """
    def test_net(regflat):
        regflat.check(net(), rows, chip=os.environ.get("CHIPS", "l4").split(), metrics=os.environ.get("M", "energy_j"))
    """)
    run("--regflat-update").assert_outcomes(passed=1)
    run(M="memory_energy_j").assert_outcomes(passed=1)  # every metric is kept
    (file,) = pytester.path.rglob("*.json")
    file.write_text(file.read_text().replace('"memory_energy_j": ', '"older_j": ', 1))
    run(M="memory_energy_j").stdout.fnmatch_lines(["*the baseline has no memory_energy_j in *; accept*"])
    done = run(CHIPS="l4 l40s")
    done.stdout.fnmatch_lines(["*the baseline has no chip l40s in *; accept what is now with pytest --regflat-update*"])


# Stale baselines


def test_stale_baselines_are_reported_and_pruned(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(test_it=CHECK, test_gone=CHECK)
    run("--regflat-update")
    (pytester.path / "test_gone.py").unlink()
    pytester.makepyfile(test_it=CHECK.replace("test_net", "test_renamed"))
    done = run("--regflat-update")
    done.stdout.fnmatch_lines(
        [
            "stale: __regflat__/test_gone/test_net.json, which no test has any more (--regflat-prune removes it)",
            "stale: __regflat__/test_it/test_net.json, *",
        ]
    )
    assert len(written(pytester)) == 3
    done = run("--regflat-prune")
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["removed: __regflat__/test_gone/test_net.json"])
    assert written(pytester) == ["__regflat__/test_it/test_renamed.json"]
    assert not (pytester.path / "__regflat__" / "test_gone").exists()


def test_a_baseline_whose_test_passes_without_it_is_stale(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(test_it=CHECK)
    run("--regflat-update")
    pytester.makepyfile(test_it="def test_net():\n    pass\n")
    run("--regflat-prune").stdout.fnmatch_lines(["removed: __regflat__/test_it/test_net.json"])


@pytest.mark.parametrize(
    "selection", [("-k", "net"), ("test_it.py::test_net",), ("--deselect", "test_it.py::test_two")], ids=str
)
def test_what_was_not_selected_is_not_stale(pytester: pytest.Pytester, run: Any, selection: tuple[str, ...]) -> None:
    pytester.makepyfile(test_it=CHECK + "\n    def test_two(regflat):\n        regflat.check(net(), rows)\n")
    run("--regflat-update").assert_outcomes(passed=2)
    run("--regflat-prune", *selection).assert_outcomes(passed=1, deselected=int(selection[0].startswith("-")))
    assert len(written(pytester)) == 2


def test_what_could_not_be_collected_or_was_skipped_is_not_stale(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(test_it=CHECK, test_fine="def test_fine():\n    pass\n", test_two=CHECK)
    run("--regflat-update")
    pytester.makepyfile(test_it=CHECK + "\n    import no_such_module\n")
    pytester.makepyfile(test_two="import pytest\n\n@pytest.mark.skip\ndef test_net():\n    pass\n")
    run("--regflat-prune", "--continue-on-collection-errors").assert_outcomes(errors=1, passed=1, skipped=1)
    assert len(written(pytester)) == 2


# Bad input


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "*baseline *test_net.json is damaged: it is not JSON (*); restore it, or write it anew with*"),
        ("[]", "*test_net.json is not a baseline: it has no kind 'regflat baseline'; move it away, or overwrite it*"),
        ('{"kind": "regflat baseline", "schema": 9}', "*has schema 9, this version reads 1; update torch_regflat, or*"),
        ('{"kind": "regflat baseline", "schema": 1}', "*baseline lacks the field 'test'*"),
        ('{"kind": "regflat baseline", "schema": 1, "test": NaN}', "*found NaN; a baseline holds finite numbers only*"),
    ],
)
def test_files_that_are_no_baselines(pytester: pytest.Pytester, run: Any, content: str, says: str) -> None:
    pytester.makepyfile(test_it=CHECK)
    run("--regflat-update")
    (file,) = pytester.path.rglob("*.json")
    file.write_text(content)
    done = run()
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines([says])
    assert file.read_text() == content
    run("--regflat-update").assert_outcomes(passed=1)
    run().assert_outcomes(passed=1)


def test_two_tests_with_one_baseline(pytester: pytest.Pytester, run: Any) -> None:
    """As where a file system takes Test_net and test_net for the same name."""
    pytester.makepyfile(test_it=CHECK + "\n    def test_two(regflat):\n        regflat.check(net(), rows)\n")
    run("--regflat-update")
    folder = pytester.path / "__regflat__" / "test_it"
    (folder / "test_net.json").write_text((folder / "test_two.json").read_text())
    for flag in ((), ("--regflat-update",)):
        done = run(*flag)
        done.assert_outcomes(passed=1, failed=1)
        done.stdout.fnmatch_lines(["*two tests have one baseline: *test_net.json is that of test_two, and test_net*"])


def test_the_baseline_of_a_test_that_was_renamed_by_hand(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(test_it=CHECK)
    run("--regflat-update")
    folder = pytester.path / "__regflat__" / "test_it"
    (folder / "test_net.json").rename(folder / "test_new.json")
    pytester.makepyfile(test_it=CHECK.replace("test_net", "test_new"))
    run().stdout.fnmatch_lines(["*is the baseline of another test, test_net; if that was renamed to test_new, accept*"])
    run("--regflat-update").assert_outcomes(passed=1)
    run().assert_outcomes(passed=1)


def test_a_read_only_tree(pytester: pytest.Pytester, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(test_it=CHECK)
    run("--regflat-update")
    before = {path: path.read_bytes() for path in pytester.path.rglob("__regflat__/**/*.json")}

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    run("-p", "no:cacheprovider").assert_outcomes(passed=1)  # to compare, nothing is written
    done = run("--regflat-update", "-p", "no:cacheprovider", WIDTH="8192")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*cannot write *test_net.json: Read-only file system*"])
    assert {path: path.read_bytes() for path in before} == before


def test_a_killed_update_leaves_the_old_baseline(pytester: pytest.Pytester, run: Any) -> None:
    saved(pytester)
    pytester.makepyfile(test_it=SAVED)
    run("--regflat-update").assert_outcomes(passed=1)
    (file,) = pytester.path.rglob("__regflat__/**/*.json")
    before = file.read_bytes()
    saved(pytester, chips=(chip_result(kernels=layers(scale=2.0)),))
    pytester.makeconftest("import os\nos.replace = lambda *_: os._exit(9)\n")
    assert pytester.runpytest_subprocess(*PLUGIN, "--regflat-update").ret == 9
    assert file.read_bytes() == before
    assert len(os.listdir(file.parent)) == 2  # what was being written
    pytester.makeconftest("")
    run("--regflat-prune")
    assert os.listdir(file.parent) == [file.name]


# With others


def test_xdist(pytester: pytest.Pytester, run: Any) -> None:
    saved(pytester)
    pytester.makepyfile(test_it=SAVED, test_gone=SAVED)
    assert run("--regflat-update").ret == 0
    saved(pytester, chips=(chip_result(kernels=layers(scale=2.0)),))
    (pytester.path / "test_gone.py").unlink()
    done = pytester.runpytest_subprocess(*PLUGIN, "-n1", "--dist", "loadgroup", "--junitxml=out.xml")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        [
            "checks: 1 modelled regression",
            "regression: test_it.py::test_saved: latency on h100-sxm *(+100.0 %)",
            "stale: __regflat__/test_gone/test_saved.json*",
        ]
    )
    assert '<property name="regflat.h100-sxm.latency_s"' in (pytester.path / "out.xml").read_text()
    pytester.runpytest_subprocess(*PLUGIN, "-n1", "--regflat-prune", "--regflat-update").assert_outcomes(passed=1)
    assert written(pytester) == ["__regflat__/test_it/test_saved.json"]


def test_junit_has_the_figures(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(test_it=CHECK)
    run("--regflat-update", "--junitxml=out.xml")
    text = (pytester.path / "out.xml").read_text()
    for name in ("latency_s", "energy_j", "peak_memory_bytes"):
        assert f'<property name="regflat.h100-sxm.{name}" value="' in text


def test_nothing_is_imported_and_said_where_nothing_is_used(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(
        test_it="""
    import sys

    def test_nothing():
        assert "torch_regflat.pytest_plugin" in sys.modules
        assert "torch" not in sys.modules
        assert not [name for name in sys.modules if name.startswith("torch_regflat.") and name[14:] != "pytest_plugin"]
    """
    )
    done = pytester.runpytest_subprocess(*PLUGIN)
    done.assert_outcomes(passed=1)
    assert "regflat" not in done.stdout.str().replace("torch_regflat-", "").split("collected")[1]


def test_saved_results_need_no_torch(pytester: pytest.Pytester, run: Any) -> None:
    saved(pytester)
    more = "\n    def test_no_torch():\n        import sys\n        assert 'torch' not in sys.modules\n"
    pytester.makepyfile(test_it=SAVED + more)
    pytester.runpytest_subprocess(*PLUGIN, "--regflat-update").assert_outcomes(passed=2)


def shape(text: str) -> str:
    """A report without its figures and the width of its columns, which change with the cost model."""
    return re.sub(r"[\s-]+", " ", re.sub(r"[-+]?\d[\d.]*|\bx\d+|yes,|no,", "#", text))


def test_the_tests_of_the_document_run(pytester: pytest.Pytester, run: Any) -> None:
    text = (ROOT / "docs" / "ci.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    pytester.makepyfile(test_decoder="\n".join(blocks))
    run().assert_outcomes(failed=2, passed=1)
    run("--regflat-update").assert_outcomes(passed=3)
    run().assert_outcomes(passed=3)
    pytester.makepyfile(test_decoder="\n".join(blocks).replace("width: int = 4096", "width: int = 6144"))
    said = re.sub(r"^E? *", "", run("-k", "test_decoder and not step").stdout.str(), flags=re.MULTILINE)
    shown = text.split("With `width` at 6144:")[1].split("baseline tests/")[0]
    for line in filter(None, map(str.strip, shown.splitlines())):
        assert shape(line) in shape(said), line


def test_options_settings_and_the_marker_are_documented(pytester: pytest.Pytester, run: Any) -> None:
    text = run("--help").stdout.str()
    for name in ("--regflat-update", "--regflat-prune"):
        assert name in text
    for name in ("chip", "metrics", "rtol", "improvement"):
        assert f"regflat_{name}" in text
        assert f"`regflat_{name}`" in (ROOT / "docs" / "ci.md").read_text()
    assert "@pytest.mark.regflat(chip=..., metrics=..., rtol=...," in run("--markers").stdout.str()


def test_the_names_of_baselines_are_those_of_the_tests(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    assert baseline.path_of(file, "TestA.test_b[c]").name == "TestA.test_b[c].json"
    assert textwrap.shorten(baseline.path_of(file, "a/b").name, 40).startswith("a_b-")
    assert sys.platform == "win32" or baseline.path_of(file, "a/b") != baseline.path_of(file, "a_b")
