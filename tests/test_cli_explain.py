"""`regflat explain` and `regflat profile --sensitivity` on a real module."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from torch_regflat.cli import main

SOURCE = """
import torch
from torch import nn

def small():
    net = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256))
    return net, (torch.zeros(128, 256),)
"""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    (tmp_path / "explained_factory.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, list(arguments), catch_exceptions=False)

    return invoke


def test_explain_shows_the_mapping_and_what_lost(call) -> None:  # type: ignore[no-untyped-def]
    done = call("explain", "explained_factory:small", "--layer", "0", "--chip", "h100-sxm", "--losers", "2")
    assert done.exit_code == 0
    for words in ("mapping: tile m", "thread blocks over 132 SMs", "the best that lost", "candidates"):
        assert words in done.output


def test_explain_says_what_is_wrong(call) -> None:  # type: ignore[no-untyped-def]
    unknown = call("explain", "explained_factory:small", "--layer", "9")
    assert unknown.exit_code == 2 and "no kernel runs '9'" in unknown.output
    few = call("explain", "explained_factory:small", "--layer", "0", "--losers", "0")
    assert few.exit_code == 2 and "--losers is 0; it must be 1 or more" in few.output
    many = call("explain", "explained_factory:small", "--layer", "0", "--phase", "forward", "--phase", "train")
    assert many.exit_code == 2 and "one phase is explained at a time" in many.output


def test_sensitivity_follows_the_table_of_each_chip(call) -> None:  # type: ignore[no-untyped-def]
    both = ("--chip", "h100-sxm", "--chip", "regflat-physical")
    done = call("profile", "explained_factory:small", *both, "--sensitivity")
    assert done.exit_code == 0
    assert "h100-sxm: what 1 % more of each number does" in done.output
    assert "regflat-physical: what 1 % more of each number does" in done.output
    refused = call("profile", "explained_factory:small", "--sensitivity", "--format", "json")
    assert refused.exit_code == 2 and "--sensitivity is a table of one phase" in refused.output


def test_the_time_line_follows_the_table_of_each_chip(call) -> None:  # type: ignore[no-untyped-def]
    both = ("--chip", "h100-sxm", "--chip", "regflat-physical")
    done = call("profile", "explained_factory:small", *both, "--timeline")
    assert done.exit_code == 0
    assert "h100-sxm: time line of" in done.output and "regflat-physical: time line of" in done.output
    assert done.output.count("longest waits:") == 2 and done.output.count("on chip at most") == 1
    refused = call("profile", "explained_factory:small", "--timeline", "--format", "json")
    assert refused.exit_code == 2 and "--timeline is a table of one phase" in refused.output
