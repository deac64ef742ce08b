"""The documents do what they say: their Python runs as it stands, all blocks of one in order, in one namespace."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import torch_regflat as regflat
import torch_regflat._checking  # what a run inside would import first would be gone after it
import torch_regflat.regression.stale
from torch_regflat import cli
from torch_regflat.hardware import template

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PLUGIN = "torch_regflat.pytest_plugin"
WITH_PYTHON = sorted(path.name for path in DOCS.glob("*.md") if "\n```python\n" in path.read_text())
AFTER_COMMANDS = "adding-a-chip.md"
"""Its Python reads the chip file that its commands write; it has a test of its own."""


def fenced(name: str, language: str) -> list[tuple[int, str]]:
    """(line, text) of each block of a document."""
    text = (DOCS / name).read_text()
    blocks = re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(text[: block.start(1)].count("\n"), block.group(1)) for block in blocks]


def run_python(name: str) -> None:
    space: dict[str, object] = {"__name__": name}
    for line, block in fenced(name, "python"):
        exec(compile("\n" * line + block, str(DOCS / name), "exec"), space)


def commands(name: str) -> list[list[str]]:
    """The arguments of every indented line that calls regflat."""
    lines = re.findall(r"^    regflat (.*)$", (DOCS / name).read_text(), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_no_python_is_left_out() -> None:
    """Python stands in fenced blocks, which run; indented blocks are commands, formats and what is printed."""
    for path in DOCS.glob("*.md"):
        text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        found = re.findall(r"^    (?:from \S+ )?import \w.*$|^    .*\bregflat\.\w+\(.*$", text, re.MULTILINE)
        assert not found, f"{path.name}: {found[0].strip()}"


@pytest.mark.parametrize("name", [name for name in WITH_PYTHON if name != AFTER_COMMANDS])
def test_the_blocks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_python(name)


def test_the_chip_file_of_the_document_can_be_priced(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(next(block for _, block in fenced("chip-files.md", "toml") if "schema = 1" in block))
    layer = nn.Linear(64, 64, device="meta", dtype=torch.bfloat16)
    done = regflat.profile(layer, torch.empty(8, 64, device="meta", dtype=torch.bfloat16), chip=path)
    assert done.chips[0].total.latency_s > 0


def test_from_nothing_to_a_compared_chip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the document in order, with the lines it says to change changed, then its Python."""
    monkeypatch.chdir(tmp_path)
    new: list[list[str]] = []
    show: list[list[str]] = []
    price: list[list[str]] = []
    for arguments in commands(AFTER_COMMANDS):
        if arguments[0] in ("profile", "compare"):
            arguments[1] = "gpt2-xl"  # a smaller model does as well
            price.append([word if word != "1024" else "512" for word in arguments])
        else:
            (new if arguments[1] == "new" else show).append(arguments)
    assert (len(new), len(show), len(price)) == (2, 1, 2)
    for arguments in new:
        assert CliRunner().invoke(cli.main, arguments).exit_code == 0
    ((_, lines),) = fenced(AFTER_COMMANDS, "toml")
    path = Path("my-gpu.toml")
    changed = merged(tomllib.loads(path.read_text()), tomllib.loads(lines))
    path.write_text("\n".join(template._table(changed, "")))
    for arguments in show + price:
        done = CliRunner().invoke(cli.main, arguments)
        assert done.exit_code == 0, done.output
        assert "my-gpu" in done.stdout
    run_python(AFTER_COMMANDS)


def merged(whole: Any, part: Any) -> Any:
    """`whole` with the values of `part`; members of lists go by their names."""
    if isinstance(part, list):
        named = {item["name"]: item for item in part}
        assert named.keys() <= {item["name"] for item in whole}
        return [merged(item, named.get(item["name"], {})) for item in whole]
    if isinstance(part, dict) and "unit" not in part:
        return whole | {key: merged(whole[key], value) if key in whole else value for key, value in part.items()}
    return part


def test_the_first_baseline_of_the_quickstart(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pytester.path)
    regflat.profile(nn.Linear(8, 8), torch.zeros(2, 8))  # runs inside forget what they import
    text = next(block for _, block in fenced("quickstart.md", "python") if block.startswith("# test_speed.py"))
    file = pytester.path / "test_speed.py"
    file.write_text(text)
    installed = any(found.value == PLUGIN for found in importlib.metadata.entry_points(group="pytest11"))
    plugins = [*([] if installed else ["-p", PLUGIN]), "-p", "no:hypothesispytest", "-p", "no:anyio"]

    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess(*plugins, *arguments)

    missing = run("test_speed.py")
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(["*--regflat-update*"])
    run("test_speed.py", "--regflat-update").assert_outcomes(passed=1)
    assert (pytester.path / "__regflat__/test_speed/test_feed_forward.json").is_file()
    run("test_speed.py").assert_outcomes(passed=1)
    file.write_text(text.replace("WIDTH = 4096", "WIDTH = 6144"))
    slower = run("test_speed.py")
    slower.assert_outcomes(failed=1)
    slower.stdout.fnmatch_lines(["*modelled regression of latency_s on h100-sxm*"])
    run("test_speed.py", "--regflat-update").assert_outcomes(passed=1)
    run("test_speed.py").assert_outcomes(passed=1)


def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("myst_parser", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "quickstart.html").is_file()


def test_links_lead_somewhere() -> None:
    """Every relative link of a document is a file, and the index names every document."""
    for path in [*DOCS.glob("*.md"), ROOT / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
    index = (DOCS / "index.md").read_text()
    assert {path.name for path in DOCS.glob("*.md")} - {"index.md"} == set(re.findall(r"\]\(([\w-]+\.md)\)", index))
