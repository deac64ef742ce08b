"""`regflat validate` with every option once."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from torch_regflat.cli import main
from torch_regflat.validation import package

from . import files

TWICE_THE_ROWS = "aic/vllm-0.24.0,H100-SXM,bf16,1024,4096,4096,1,70.0\n"
"""Of the first row of the file."""


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["validate", *args])


@pytest.fixture
def gemm(tmp_path: Path) -> str:
    return files.write(tmp_path, "gemm")


@pytest.fixture
def broken(tmp_path: Path) -> str:
    return files.write(tmp_path, "broken", files.FILES["gemm"].replace("512", "many", 1))


def test_the_default_tables(gemm: str) -> None:
    done = run(gemm)
    assert done.exit_code == 0
    assert "GEMM bf16/fp16, 30 us and longer" in done.stdout
    for words in ("class           gpu", "class           dtype", "class           decade", "roofline"):
        assert words in done.stdout
    assert "3 of 3 rows predicted" in done.stdout


def test_by_and_where(gemm: str) -> None:
    done = run(gemm, "--by", "gpu,dtype", "--where", "gpu=H100*", "--where", "dtype=bf16")
    assert done.exit_code == 0
    assert "1 of 1 rows predicted" in done.stdout
    assert "figure" not in done.stdout
    assert "did you mean gpu" in run(gemm, "--by", "gpus").stderr
    assert "write a key, = and a pattern" in run(gemm, "--where", "gpu").stderr


def test_min_us_and_split(gemm: str) -> None:
    assert "2 of 2 rows predicted" in run(gemm, "--min-us", "35", "--by", "class").stdout
    counts = [
        int(run(gemm, "--split", side, "--by", "class").stdout.split(" of ")[0].split()[-1])
        for side in ("fit", "held-out", "all")
    ]
    assert counts[0] + counts[1] == counts[2] == 3


def test_worst_rows_show_what_the_model_thought(gemm: str) -> None:
    done = run(gemm, "--worst", "2", "--by", "class")
    assert done.stdout.count("gemm.csv:") == 2
    for words in ("measured", "model", "bound by", "mapping", "x4096x4096x1"):
        assert words in done.stdout


def test_pairs_are_of_the_held_out_side_unless_said(gemm: str) -> None:
    assert "no pairs of rows" in run(gemm, "--pairs", "--by", "class").stdout
    Path(gemm).write_text(files.FILES["gemm"] + TWICE_THE_ROWS)
    lines = run(gemm, "--pairs", "--split", "all", "--by", "class").stdout.splitlines()
    assert any(line.startswith("pairs that differ in one factor") for line in lines)
    assert [line.split()[2:5] for line in lines if line.startswith("gemm bf16")][-1] == ["1", "1", "100"]


def test_json_holds_all_of_it(gemm: str, broken: str) -> None:
    Path(gemm).write_text(files.FILES["gemm"] + TWICE_THE_ROWS)
    data = json.loads(run(gemm, broken, "--format", "json", "--pairs", "--split", "all").stdout)
    assert data["predicted"] == 6
    assert len(data["malformed"]) == 1
    assert {"class", "mape", "inside", "roofline_mape", "rows"} <= set(data["scores"][0])
    assert data["figures"][0]["title"].startswith("GEMM")
    assert data["pairs"][-1]["label"] == "all"
    assert data["files"][0]["format"] == "gemm"


def test_csv_and_output(gemm: str, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    assert run(gemm, "--format", "csv", "--by", "gpu", "-o", str(out)).stdout == ""
    rows = list(csv.DictReader(out.open()))
    assert [row["gpu"] for row in rows] == ["A100-PCIE-40GB", "H100-SXM"]
    assert float(rows[1]["mape"]) > 0


def test_predictions_keep_every_column_and_add_theirs(gemm: str, tmp_path: Path) -> None:
    out = tmp_path / "predictions.csv"
    power = files.write(tmp_path, "power")
    assert run(gemm, power, "--predictions", str(out)).exit_code == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    original = list(csv.DictReader(io.StringIO(files.FILES["gemm"])))
    assert [{key: row[key] for key in original[0]} for row in rows[:3]] == original
    for row in rows[:3]:
        low, value, high = (float(row[f"{name}_us"]) for name in ("low", "predicted", "high"))
        assert 0 < low <= value <= high
        assert float(row["roofline_us"]) > 0 and row["bound_by"]
    assert 100 < float(rows[3]["predicted_us"]) < 700, "board power in the row's own unit, watts"


def test_malformed_rows_are_counted_and_with_strict_an_error(broken: str) -> None:
    done = run(broken, "--by", "class")
    assert done.exit_code == 0
    assert "1 malformed rows skipped" in done.stdout
    strict = run(broken, "--strict")
    assert strict.exit_code == 2
    assert "broken.csv:2: column m is 'many'" in strict.stderr


def test_unknown_gpus_are_counted_as_wrong_and_with_strict_an_error(tmp_path: Path) -> None:
    path = files.write(tmp_path, "gemm", files.FILES["gemm"].replace("H100-SXM", "H100-SXN", 1))
    done = run(path, "--by", "gpu")
    assert "2 of 3 rows predicted" in done.stdout
    assert "not predicted: 1 rows: unknown chip 'H100-SXN'; did you mean h100-sxm" in done.stdout
    strict = run(path, "--strict")
    assert strict.exit_code == 2
    assert "gemm.csv:2: unknown chip 'H100-SXN'" in strict.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "nothing to validate; give CSV files of measured rows, or --from-package"),
        (("nowhere.csv",), "cannot read nowhere.csv"),
        (("GEMM", "--sample", "3"), "--sample is for --from-package"),
        (("GEMM", "--worst", "-1"), "--worst and --min-us must be 0 or more"),
        (("GEMM", "--predictions", "/nowhere/x.csv"), "there is no directory /nowhere"),
    ],
)
def test_what_makes_no_sense_is_refused(args: tuple[str, ...], words: str, gemm: str) -> None:
    done = run(*(gemm if arg == "GEMM" else arg for arg in args))
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stdout == ""


def test_from_package_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "PACKAGE", "no_such_package_here")
    done = run("--from-package")
    assert done.exit_code == 2
    assert "pip install 'torch_regflat[validate]'" in done.stderr
