from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from torch_regflat.errors import ChipError
from torch_regflat.hardware import library


@pytest.fixture(autouse=True)
def _no_private_chips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.CHIP_PATH, raising=False)


def private(folder: Path, name: str) -> Path:
    """A copy of a shipped file under another name."""
    text = (Path(library.__file__).parent / "chips" / "regflat-physical.toml").read_text(encoding="utf-8")
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(text.replace('name = "regflat-physical"', f'name = "{name}"'), encoding="utf-8")
    return path


def refused(name: str | Path) -> str:
    with pytest.raises(ChipError) as caught:
        library.load(name)
    return str(caught.value)


def test_by_name_alias_path_and_as_it_is(tmp_path: Path) -> None:
    h100 = library.load("h100-sxm")
    assert library.load("H100") == library.load(" h100-sxm ") == library.load(h100) == h100
    assert library.load("a100").name == "a100-sxm-80gb"
    path = private(tmp_path, "mine")
    assert library.load(str(path)).name == library.load(path).name == "mine"


def test_unknown() -> None:
    assert refused("h10").startswith("unknown chip 'h10'; did you mean h100 or ")
    assert "; did you mean regflat-physical" in refused("regflat-phys")
    assert refused("zzz") == f"unknown chip 'zzz'; known are {', '.join(library.names())}"


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    assert refused("no/such.toml").startswith("chip file no/such.toml: there is no such file; give the path")
    assert refused(tmp_path).startswith(f"chip file {tmp_path}: is a folder; give the path of a .toml file")


def test_bad_toml_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('name = "x"\nclock = = 3\n', encoding="utf-8")
    assert refused(path) == "bad.toml: not valid TOML: Invalid value (at line 2, column 9)"
    path.write_bytes(b"\xff\xfe\x00")
    assert refused(path) == "bad.toml: not a text file; a chip file is TOML in UTF-8"
    path.write_text("", encoding="utf-8")
    assert refused(path).startswith("bad.toml: schema: missing")


def test_private_chips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private(tmp_path / "a", "mine")
    private(tmp_path / "b", "Other")
    monkeypatch.setenv(library.CHIP_PATH, os.pathsep.join([str(tmp_path / "a"), str(tmp_path / "b")]))
    assert library.load("mine").name == "mine"
    assert library.load("Other").name == "Other"
    assert library.names()[-2:] == ["Other", "mine"]
    assert "did you mean mine" in refused("minee")
    private(tmp_path / "a", "h100-sxm")
    assert library.load("h100-sxm").memory_system == "register-flat"


def test_private_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.CHIP_PATH, str(tmp_path / "gone"))
    assert library.load("h100-sxm").name == "h100-sxm"
    assert refused("mine").endswith(f"(REGFLAT_CHIP_PATH names {tmp_path / 'gone'}, which is not a folder)")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = private(tmp_path, "mine")
    before = library.load(path)
    text = path.read_text(encoding="utf-8").replace("value = 1.4, unit", "value = 1.25, unit")
    path.write_text(text, encoding="utf-8")
    assert library.load(path).clock.value == 1.25e9 != before.clock.value


def test_aliases_point_to_one_chip() -> None:
    seen: dict[str, str] = {}
    for name in library.names():
        for alias in library.load(name).aliases:
            assert alias == alias.lower()
            assert alias not in library.names()
            assert seen.setdefault(alias, name) == name


def test_summary_and_description() -> None:
    row = library.summary(library.load("h100-sxm"))
    assert row["name"] == "h100-sxm"
    assert row["peak bf16"] == "989 TFLOP/s"
    assert row["bandwidth"] == "3.35 TB/s"
    assert row["capacity"] == "80.0 GB"
    assert row["power"] == "700 W"
    assert [r["name"] for r in library.summary_rows()] == library.names()
    text = library.describe(library.load("regflat-physical"))
    assert "memory.registers.read_energy" in text
    assert "0.0887 pJ/bit" in text
    assert "[sram-fit]" in text
    rows = {row["field"]: row for row in library.describe_rows(library.load("h100-sxm"))}
    assert rows["clock"]["value"] == "1980 MHz"
    assert rows["memory.L2.read_bandwidth"]["range"] == "7 to 10.3"
    assert rows["power.unattributed_bit"]["range"] == "0 to 11"
    assert "gpu-benches" in rows["memory.L2.read_bandwidth"]["source"]


def test_hardware_does_not_import_torch() -> None:
    code = (
        "import sys; from torch_regflat.hardware import library, software;"
        "library.describe(library.load('h100')); software.for_chip(library.load('h100'));"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_file_in_the_documentation_loads(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "chip-files.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in text.split("```toml\n")[1:]]
    whole = next(block for block in blocks if "schema = 1" in block)
    path = tmp_path / "example.toml"
    path.write_text(whole, encoding="utf-8")
    chip = library.load(path)
    assert chip.peak_flops("bf16") == pytest.approx(200e12, rel=0.05)
    for block in blocks:
        tomllib.loads(block)
