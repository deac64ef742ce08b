"""`regflat chips new`: a file that is valid as it stands, says that nothing in it is checked, overwrites nothing."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import torch_regflat as regflat
from torch_regflat import cli
from torch_regflat.errors import ChipError
from torch_regflat.hardware import library
from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.template import template


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(library.CHIP_PATH, raising=False)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["chips", *arguments])


def latency(chip: Chip | str | Path) -> float:
    layer = nn.Linear(1024, 1024, device="meta", dtype=torch.bfloat16)
    x = torch.empty(256, 1024, device="meta", dtype=torch.bfloat16)
    return regflat.profile(layer, x, chip=chip).chips[0].total.latency_s


@pytest.mark.parametrize("like", [None, *library.names(), "h100-sxm:flat"])
def test_valid_from_every_chip_and_nothing_vouched_for(like: str | None) -> None:
    chip = Chip.from_dict(tomllib.loads(template("mine", like)))
    assert chip.name == "mine"
    assert {(number.kind, number.source) for _, number in chip.quantities()} == {("estimate", "todo")}
    assert chip.sources["todo"].startswith("TODO: ")
    assert library.summary(chip)["evidence"] == "estimate"


def test_a_copy_has_the_numbers_of_its_model_and_not_its_identity() -> None:
    one, copy = library.load("h100-sxm"), Chip.from_dict(tomllib.loads(template("mine", "h100")))
    numbers = {path: (number.value, number.low, number.high) for path, number in copy.quantities()}
    kept = [(p, n) for p, n in one.quantities() if ".datasheet_peak." not in p and not p.startswith("price.")]
    assert numbers == {path: (number.value, number.low, number.high) for path, number in kept}
    assert copy.aliases == () and copy.price is None and copy.architecture == ""
    assert latency(copy) == latency(one)


def test_written_listed_and_priced() -> None:
    done = run("new", "mine")
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    told = "regflat: wrote mine.toml; see it with regflat chips mine.toml, price it with --chip mine.toml\n"
    assert done.stderr == told
    assert latency(Path("mine.toml")) > 0
    shown = run("mine.toml")
    assert "mine: TODO: the full name of mine (cache," in shown.stdout
    assert "[todo] TODO: a made-up round number, not a fact about mine" in shown.stdout


def test_to_the_terminal_and_to_another_file() -> None:
    text = run("new", "mine", "-o", "-").stdout
    assert tomllib.loads(text)["name"] == "mine"
    assert not list(Path().iterdir())
    assert run("new", "mine", "--like", "l4", "-o", "other.toml").exit_code == 0
    assert library.load(Path("other.toml")).name == "mine"


def test_overwrites_nothing() -> None:
    Path("mine.toml").write_text("a day of work")
    done = run("new", "mine")
    assert done.exit_code == 2
    assert done.stderr == (
        "regflat: cannot write mine.toml: it is there already; name another file with -o, or remove it first\n"
    )
    assert Path("mine.toml").read_text() == "a day of work"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine", "--like", "h100-sxn"], "unknown chip 'h100-sxn'; did you mean h100-sxm"),
        (["My Chip"], "'My Chip' is no name for a chip; write small letters, digits and hyphens, as my-chip"),
        (["a/b"], "'a/b' is no name for a chip; write small letters, digits and hyphens, as a-b"),
        (["new"], "'new' is no name for a chip; write small letters, digits and hyphens, as my-chip"),
        (
            ["h100"],
            "'h100' is the name of a chip already (another name of h100-sxm); give yours another one, as in "
            "regflat chips new my-h100 --like h100-sxm",
        ),
        (["mine", "-o", "mine.json"], "cannot write mine.json: the name of a chip file ends in .toml"),
        (["mine", "-o", "no/mine.toml"], "cannot write no/mine.toml: there is no directory"),
    ],
)
def test_refused_in_one_sentence(arguments: list[str], message: str) -> None:
    done = run("new", *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"regflat: {message}")
    assert done.stderr.count("\n") == 1
    assert not list(Path().iterdir())


def test_a_private_chip_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours.toml").write_text(template("ours"))
    monkeypatch.setenv(library.CHIP_PATH, str(tmp_path))
    with pytest.raises(ChipError, match="'ours' is the name of a chip already; give yours another one"):
        template("ours")
