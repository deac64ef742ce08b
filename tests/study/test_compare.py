"""`compare` in Python and on the command line: the tables hold what the rows say, and bad input is refused."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import torch_regflat as regflat
from torch_regflat.cli import main
from torch_regflat.errors import InputError
from torch_regflat.hardware.library import load
from torch_regflat.study.compare import distances, verdict

GPU, FLAT = "h100-sxm", "regflat-physical"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_only_fair_differences_are_credited(llama: str) -> None:
    found = regflat.compare(llama, GPU, FLAT, phases="prefill", batches=4, contexts=512)[0]
    shipped = next((a, b) for pair, a, b in found.pairs if pair.name == "as shipped" and pair.unattributed)
    for figure in ("latency_s", "energy_j"):
        ratios = [a[figure] / b[figure] for p, a, b in found.pairs if p.fair and p.unattributed]
        assert found.gain(figure) == (min(ratios), max(ratios))
    credited = found.gain("latency_s")
    assert credited is not None and credited[1] < shipped[0]["latency_s"] / shipped[1]["latency_s"]
    assert {pair.unattributed for pair, _, _ in found.pairs} == {True, False}
    for pair, a, b in found.pairs:
        if not pair.unattributed:
            assert a["unattributed_energy_j"] == b["unattributed_energy_j"] == 0.0


def test_the_tables(llama: str) -> None:
    line = ["compare", llama, "--chip", GPU, "--chip", FLAT, "--phase", "decode", "-q"]
    done = run(*line, "--batch", "1", "--batch", "8")
    assert done.exit_code == 0, done.output
    for words in (
        "as shipped", "only the on-chip memory differs: ideal-mapper",
        "credited to the on-chip memory of regflat-physical",
        "unattributed", "where the time of h100-sxm goes", "external bandwidth", "picojoules a bit, by distance",
        "batch 1", "batch 8", "regflat-physical, registers",
    ):  # fmt: skip
        assert words in done.stdout
    found = run(*line, "--format", "markdown")
    assert found.exit_code == 0 and "| --- | ---: |" in found.stdout and found.stdout.startswith("# ")


def test_rows_as_csv(llama: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    line = ["compare", llama, "--chip", GPU, "--chip", FLAT, "--phase", "decode", "--format", "csv", "-q"]
    assert run(*line, "-o", str(path)).exit_code == 0
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert len(rows) == 20
    assert {row["chip"] for row in rows} == {GPU, FLAT}
    assert {row["unattributed"] for row in rows} == {"True", "False"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chip", GPU], "compare takes two chips, found 1; give --chip twice"),
        (["--chip", GPU, "--chip", "h100"], "h100-sxm is compared with itself; name two chips"),
        (["--chip", GPU, "--chip", "regflat-physicla"], "did you mean regflat-physical"),
        (["--chip", GPU, "--chip", FLAT, "--batch", "0"], "--batch is 0; it must be 1 or more"),
        (["--chip", GPU, "--chip", FLAT, "-o", "nowhere/x.md"], "there is no directory"),
    ],
)
def test_bad_input(llama: str, arguments: list[str], message: str) -> None:
    done = run("compare", llama, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not done.stdout


def test_bad_claims_input(tmp_path: Path) -> None:
    done = run("claims", "nothing")
    assert done.exit_code == 2 and "there is no claim 'nothing'" in done.stderr
    done = run("claims", "one-cycle", "--write", "-o", "x.md")
    assert done.exit_code == 2 and "--write is -o docs/claims.md; give one of them" in done.stderr


def test_claims_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "claims.md"
    assert "holds only if" in run("claims", "one-cycle", "fleet-power").stdout
    assert run("claims", "one-cycle", "no-cuda", "-o", str(path)).exit_code == 0
    assert "not checkable" in path.read_text()


def test_a_bit_costs_more_from_farther_away() -> None:
    found = {(level, where): read for level, where, read, _ in distances(load(FLAT))}
    own, anywhere, corner = (found["registers", where] for where in ("local", "interleaved", "worst"))
    assert own < anywhere < corner < found["HBM3", "local"]
    assert found["all levels", "external memory to engines, once"] == load(FLAT).stream_j_per_bit


def test_words_for_a_pair() -> None:
    base = {"latency_s": 1.0, "energy_j": 1.0, "energy_without_unattributed_j": 1.0}
    assert verdict(base, {**base, "latency_s": 0.5}) == "faster"
    assert verdict(base, {**base, "energy_j": 2.0}) == "more energy"
    assert verdict(base, {**base, "energy_j": 1.005}) == "equal"
    assert verdict(base, {**base, "energy_without_unattributed_j": 0.5}, unattributed=False) == "less energy"


def test_one_chip_cannot_be_compared(llama: str) -> None:
    with pytest.raises(InputError, match="h100-sxm is compared with itself; name two chips"):
        regflat.compare(llama, GPU, GPU)
