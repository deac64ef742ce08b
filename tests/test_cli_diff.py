"""`regflat diff` on files and on factories at revisions of git."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from result_factory import chip_result, layers, result
from torch_regflat.cli import main
from torch_regflat.cli.diff import diff
from torch_regflat.report.files import save

ROOT = Path(__file__).parent.parent
SOURCE = """
import torch
from torch import nn

def small():
    return nn.Sequential(nn.Linear(256, {width}), nn.GELU()), (torch.zeros(128, 256),)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    save(result(), "a.json")
    save(result(chip_result(kernels=layers(scale=1.1))), "b.json")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["diff", *arguments])


def git(*arguments: str) -> None:
    names = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(["git", *arguments], check=True, capture_output=True, env={**os.environ, **names})


def test_two_files() -> None:
    done = run("a.json", "b.json")
    assert done.exit_code == 0, done.output
    assert "latency           17.00 ms  18.70 ms  +10.0 %" in done.stdout
    assert "note: only in a.json: regflat" in done.stdout
    assert "slower" in done.stdout


@pytest.mark.parametrize(("limit", "code"), [("9%", 1), ("9.9 %", 1), ("10.1%", 0), ("11%", 0)])
def test_fail_above(limit: str, code: int) -> None:
    done = run("a.json", "b.json", "--fail-above", limit)
    assert done.exit_code == code
    assert "slower" in done.stdout
    assert (f"regflat: latency grew by 10 %, more than {limit}" in done.stderr) == bool(code)
    assert run("b.json", "a.json", "--fail-above", limit).exit_code == 0


def test_formats_and_output(folder: Path) -> None:
    assert json.loads(run("a.json", "b.json", "--format", "json").stdout)["kind"] == "regflat diff"
    done = run("a.json", "b.json", "--format", "markdown", "-o", "comment.md", "--fail-above", "1%")
    assert (done.exit_code, done.stdout) == (1, "")
    assert (folder / "comment.md").read_text().startswith("### Modelled latency: `a.json` → `b.json`")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a.json", "gone.json"], "cannot read gone.json: No such file or directory"),
        (["a.json", "gone"], "'gone' is neither a saved profile nor module:factory; give a file that"),
        (["a.json", "broken.json"], "broken.json is not JSON"),
        (["a.json", "foreign.json"], "foreign.json is not a saved profile: it has no 'schema' field"),
        (["a.json", "newer.json"], "newer.json: this profile has schema 99, this version reads schema 1"),
        (["a.json", "infinite.json"], "infinite.json: found Infinity; a profile holds finite numbers only"),
        (["a.json", "b.json", "--fail-above", "2"], "--fail-above is '2'; it must be a percentage of 0 or more"),
        (["a.json", "b.json", "--fail-above", "-2%"], "--fail-above is '-2%'; it must be a percentage"),
        (["a.json", "b.json", "--metric", "latenci_s"], "unknown metric 'latenci_s'; did you mean latency_s"),
        (["a.json", "b.json", "--batch", "2"], "--batch is for factories; both sides are saved profiles"),
        (["a.json", "b.json", "--row-limit", "0"], "--row-limit is 0; it must be 1 or more"),
        (["a.json", "b.json", "-o", "no/where"], "there is no directory"),
        (["a.json", "nets:small"], "nets:small: there is no module 'nets' in this folder or its src"),
        (["a.json", "nets:small@HEAD"], "nets:small@HEAD: this is not a work tree of git"),
    ],
)
def test_what_cannot_be(folder: Path, arguments: list[str], says: str) -> None:
    (folder / "broken.json").write_text("{")
    (folder / "foreign.json").write_text("{}")
    (folder / "newer.json").write_text('{"schema": 99}')
    (folder / "infinite.json").write_text('{"schema": 1, "model": Infinity}')
    done = run(*arguments)
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stdout == ""


def test_a_factory_at_a_revision_and_as_it_is(folder: Path) -> None:
    (folder / "src").mkdir()
    nets = folder / "src" / "nets.py"
    nets.write_text(SOURCE.format(width=512))
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    nets.write_text(SOURCE.format(width=2048))
    done = run("nets:small@HEAD", "nets:small", "--chip", "l4", "--mode", "eager", "--fail-above", "5%")
    assert done.exit_code == 1, done.output
    assert "latency grew by" in done.stderr and "\nl4\n" in done.stdout
    assert "what moved: your code (the graph is another" in done.stdout
    trees = subprocess.run(["git", "worktree", "list"], capture_output=True, text=True, check=True).stdout
    assert len(trees.splitlines()) == 1
    assert nets.read_text() == SOURCE.format(width=2048)


def test_revisions_and_factories_that_are_not_there(folder: Path) -> None:
    git("init", "-q")
    git("add", "a.json")
    git("commit", "-qm", "one")
    done = run("nets:small@HEAD", "a.json")
    assert "nets:small@HEAD: at revision HEAD there is no module 'nets' in this folder or its src" in done.stderr
    assert "git knows no revision 'nope'" in run("nets:small@nope", "a.json").stderr
    (folder / "nets.py").write_text("raise RuntimeError('broken')")
    done = run("nets:small", "a.json")
    assert done.exit_code == 2
    assert "nets:small cannot be profiled: cannot import the module 'nets'" in done.stderr
    assert "RuntimeError: broken" in done.stderr


def test_the_document_of_the_gate_can_be_followed() -> None:
    """Its workflow is YAML with steps, and every `regflat diff` in it is one that the command line takes."""
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "docs" / "ci.md").read_text()
    (source,) = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    jobs = yaml.safe_load(source)["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    commands += [line.split("#")[0] for line in text.splitlines() if line.startswith("    regflat diff")]
    commands = [re.sub(r"\$\{\{.*?\}\}", "main", command) for command in commands]
    diffs = [shlex.split(command)[2:] for command in commands if command.split()[:2] == ["regflat", "diff"]]
    assert len(diffs) == 4
    for words in diffs:
        assert diff.make_context("diff", words).params["now"]
