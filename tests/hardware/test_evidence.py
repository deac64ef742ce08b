from __future__ import annotations

from pathlib import Path

import pytest

from hardware.chip_files import small
from torch_regflat.errors import ChipError
from torch_regflat.hardware import evidence, library
from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.evidence import Measured, evidence_of


@pytest.fixture
def some(tmp_path: Path) -> Path:
    """A file in which one chip of one architecture is measured."""
    path = tmp_path / "evidence.toml"
    path.write_text(evidence.render({"h100-sxm": Measured(rows=1774, mape=0.0831)}, "0.1"), encoding="utf-8")
    return path


def test_measured_family_and_neither(some: Path) -> None:
    assert str(evidence_of(library.load("h100"), some)) == "measured (1774 rows, MAPE 8.3 %)"
    assert str(evidence_of(library.load("h200"), some)) == "family (Hopper: h100-sxm)"
    assert str(evidence_of(library.load("a40"), some)) == "datasheet only"
    assert str(evidence_of(library.load("regflat-physical"), some)) == "estimate"


def test_without_a_file(tmp_path: Path) -> None:
    nowhere = tmp_path / "evidence.toml"
    assert evidence.read(nowhere).measured == {}
    assert str(evidence_of(library.load("h100"), nowhere)) == "datasheet only"
    nowhere.write_text("schema = 1\n", encoding="utf-8")
    assert str(evidence_of(library.load("h100"), nowhere)) == "datasheet only"


def test_what_was_measured_is_the_chip_as_it_is(some: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h100 = library.load("h100")
    faster = h100.replace(**{"memory.HBM3.read_bandwidth": "4.8 TB/s"})
    assert faster.name == "h100-sxm"
    assert evidence_of(faster, some).kind == "family"
    # A private chip of the same name is another chip, too.
    assert evidence_of(Chip.from_dict(small(name="h100-sxm")), some).kind == "estimate"
    # Another memory system makes a twin that nobody measured.
    levels = [h100.to_dict()["memory"][i] for i in (1, 3)]
    flat = Chip.from_dict({**h100.to_dict(), "memory_system": "register-flat", "memory": levels})
    assert evidence_of(flat, some).kind == "datasheet only"


def test_the_file_is_what_render_writes(some: Path) -> None:
    read = evidence.read(some)
    assert read.model_version == "0.1"
    assert read.measured == {"h100-sxm": Measured(rows=1774, mape=0.0831)}
    assert evidence.render(read.measured, read.model_version) == some.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema = 2", "evidence.toml: schema: found 2; it must be 1"),
        ('schema = 1\n[measured."h100-sxm"]\nrows = 3', "evidence.toml: measured.h100-sxm.mape: missing; add it"),
        ("schema = 1\n[measured.a40]\nrows = 0\nmape = 0.1", "evidence.toml: measured.a40.rows: input should be"),
    ],
)
def test_a_broken_file_says_what_is_wrong(some: Path, text: str, message: str) -> None:
    some.write_text(text, encoding="utf-8")
    with pytest.raises(ChipError) as caught:
        evidence.read(some)
    assert str(caught.value).startswith(message)


def test_every_measured_chip_ships() -> None:
    for name in evidence.read().measured:
        assert library.shipped(name) is not None, name
