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


def test_twins_of_any_spelling_and_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.load("NVIDIA H100:flat") == library.load("h100-sxm:flat") == library.load("h100").flatten()
    path = tmp_path / "mine.toml"
    text = (Path(library.__file__).parent / "chips" / "a100-sxm-80gb.toml").read_text(encoding="utf-8")
    path.write_text(text.replace('name = "a100-sxm-80gb"', 'name = "mine"', 1), encoding="utf-8")
    assert library.load(f"{path}:flat-power").name == "mine:flat-power"


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


GPU_COLUMN = {
    "1080Ti": "gtx-1080-ti",
    "A100-PCIE-40GB": "a100-pcie-40gb",
    "A100-PCIE-80GB": "a100-pcie-80gb",
    "A100-SXM4-80GB": "a100-sxm-80gb",
    "ARC-B60": "arc-b60",
    "B200-SXM": "b200",
    "H100-SXM": "h100-sxm",
    "H200-SXM": "h200",
    "P100-PCIE-16GB": "p100-pcie-16gb",
    "RTX-PRO-6000-SE": "rtx-pro-6000",
    "V100-PCIE-32GB": "v100-pcie",
    "V100-SXM2-16GB": "v100-sxm2",
}
"""Spellings of published tables."""

DEVICE_NAMES = {
    "NVIDIA A100-SXM4-80GB": "a100-sxm-80gb",
    "NVIDIA A100 80GB PCIe": "a100-pcie-80gb",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
    "NVIDIA B200": "b200",
    "NVIDIA GeForce RTX 4090": "rtx-4090",
    "NVIDIA H100 PCIe": "h100-pcie",
    "NVIDIA H200": "h200",
    "NVIDIA L40S": "l40s",
    "Tesla T4": "t4",
    "Tesla V100-SXM2-16GB": "v100-sxm2",
    "AMD Instinct MI210": "mi210",
    "TPU v4": "tpu-v4",
    "TPU v5 lite": "tpu-v5e",
}
"""What `torch.cuda.get_device_name()` and JAX call them."""


@pytest.mark.parametrize(("spelling", "name"), [*GPU_COLUMN.items(), *DEVICE_NAMES.items()])
def test_other_spellings(spelling: str, name: str) -> None:
    assert library.load(spelling).name == library.load(spelling.lower()).name == name


def test_an_alias_is_no_name_and_is_shared_only_by_relatives() -> None:
    for name in library.names():
        chip = library.load(name)
        for alias in chip.aliases:
            assert alias == alias.lower()
            assert alias.replace(" ", "-") not in library.names()
            sharing = {n for n in library.names() if alias in library.load(n).aliases}
            assert {library.load(n).architecture for n in sharing} == {chip.architecture}
            assert len(sharing) == 1 or f"may be {' or '.join(sorted(sharing))}" in refused(alias)


def test_ambiguous_alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused("A100-PCIe") == ("chip 'A100-PCIe' may be a100-pcie-40gb or a100-pcie-80gb; give one of these names")
    for name in ("mine", "yours"):
        path = private(tmp_path, name)
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("\nclock =", '\naliases = ["Our Chip"]\nclock =', 1), encoding="utf-8")
    monkeypatch.setenv(library.CHIP_PATH, str(tmp_path))
    assert refused("our_chip") == "chip 'our_chip' may be mine or yours; give one of these names"
    (tmp_path / "yours.toml").write_text("broken = = 1", encoding="utf-8")
    assert library.load("our chip").name == "mine"


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


def test_the_readme_lists_every_chip() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    rows = text.split("Chips that ship, each number with its source:")[1].split("\n\n")[1]
    listed = [name for cell in rows.split("`")[1::2] for name in cell.split()]
    assert sorted(listed) == sorted(path.stem for path in (Path(library.__file__).parent / "chips").glob("*.toml"))
