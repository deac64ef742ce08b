"""Sweeps: the rows are those of single profiles, a CSV is taken up where it ends, bad axes are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import torch_regflat as regflat
from torch_regflat.errors import ChipError, InputError, ModelError
from torch_regflat.study import rows as tables
from torch_regflat.study import sweep as module
from torch_regflat.study.variants import variants

CHIPS = ["h100-sxm", "regflat-physical"]


def test_a_row_is_what_a_profile_says(llama: str) -> None:
    rows = regflat.sweep(llama, CHIPS, phases=["prefill", "decode"], batches=[1, 4], contexts=256)
    assert [(r["phase"], r["batch"], r["chip"]) for r in rows] == [
        (phase, batch, chip) for phase in ("prefill", "decode") for batch in (1, 4) for chip in CHIPS
    ]
    for row in rows:
        sizes: dict[str, Any] = {"context" if row["phase"] == "decode" else "seq_len": 256}
        one = regflat.profile_model(llama, phase=row["phase"], batch=row["batch"], chips=row["chip"], **sizes)
        total = one.chips[0].total
        assert row["latency_s"] == total.latency_s
        assert row["energy_j"] == total.energy_j
        assert row["utilization"] == total.utilization
        assert row["external_bytes"] == one.chips[0].levels[-1].traffic_bytes
        assert row["tokens"] == row["batch"] * (1 if row["phase"] == "decode" else 256)
        lines = ("on_chip", "external", "compute", "static", "unattributed")
        assert sum(row[f"{line}_energy_j"] for line in lines) == pytest.approx(row["energy_j"])


def test_it_goes_on_where_the_csv_ends(llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.csv"
    first = regflat.sweep(llama, CHIPS, phases="decode", batches=[1, 2], contexts=128, csv=path)
    captured: list[int] = []
    monkeypatch.setattr(
        module, "capture_model", lambda spec, **o: captured.append(o["batch"]) or regflat_capture(spec, **o)
    )
    assert regflat.sweep(llama, CHIPS, phases="decode", batches=[1, 2], contexts=128, csv=path) == first
    assert captured == []
    more = regflat.sweep(llama, CHIPS, phases="decode", batches=[2, 3], contexts=128, csv=path)
    assert captured == [3]
    assert more[:2] == first[2:]
    assert len(tables.load(path)) == 6


def regflat_capture(spec: str, **options: Any) -> Any:
    from torch_regflat.profiler import capture_model

    return capture_model(spec, **options)


def test_parameters_of_a_chip_are_an_axis(llama: str) -> None:
    path = "memory.HBM3.read_bandwidth"
    values = ["1 TB/s", "2 TB/s", "4 TB/s"]
    rows = regflat.sweep(llama, "regflat-physical", phases="decode", batches=1, contexts=128, parameters={path: values})
    assert [row[f"set {path}"] for row in rows] == values
    seconds = [row["latency_s"] for row in rows]
    assert seconds == sorted(seconds, reverse=True) and seconds[0] > 2 * seconds[2]
    assert len({row["chip_hash"] for row in rows}) == 3


def test_what_cannot_be_priced_is_a_row_with_the_reason(llama: str, tmp_path: Path) -> None:
    dtypes = ["fp64", "bf16"]
    path = tmp_path / "rows.csv"
    bad, good = regflat.sweep(llama, "regflat-physical", phases="decode", contexts=16, dtypes=dtypes, csv=path)
    assert "cannot compute in float64" in bad["error"] and bad["latency_s"] is None
    assert good["error"] == "" and good["latency_s"] > 0
    assert [row["error"] for row in tables.load(path)] == [bad["error"], ""]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": []}, "batches is empty; give at least one"),
        ({"batches": -1}, "batches holds -1; each must be a whole number from 1 on"),
        ({"batches": [1, None]}, "batches holds None; each must be a whole number from 1 on"),
        ({"contexts": [0]}, "contexts holds 0; each must be a whole number from 1 on"),
        ({"chips": []}, "no chip given; name at least one"),
        ({"parameters": {"clock": "1 GHz"}}, "parameters['clock'] must be a list of values with units, found '1 GHz'"),
    ],
)
def test_bad_axes(llama: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        regflat.sweep(llama, **options)
    assert message in str(error.value)


def test_unknown_names_are_refused(llama: str) -> None:
    with pytest.raises(ChipError, match="did you mean h100-sxm"):
        regflat.sweep(llama, "h100-sxn")
    with pytest.raises(ChipError, match="no 'HBM4'"):
        regflat.sweep(llama, "h100-sxm", parameters={"memory.HBM4.read_bandwidth": ["1 TB/s"]})
    with pytest.raises(ModelError, match="llama-3-8b"):
        regflat.sweep("llama-3-8c", "h100-sxm")


def test_foreign_csv_files_are_refused_and_left_alone(llama: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="mine.csv has no rows of a sweep: there is no column 'model'"):
        regflat.sweep(llama, "h100-sxm", contexts=16, csv=path)
    assert path.read_text() == "a,b\n1,2\n"
    row = regflat.sweep(llama, "h100-sxm", phases="decode", contexts=16)[0]
    path.write_text(tables.to_csv([{**row, "model_version": "0.0"}]))
    with pytest.raises(InputError, match="holds rows of model 0.0, this is model .*; name another file"):
        regflat.sweep(llama, "h100-sxm", phases="decode", contexts=16, csv=path)
    path.write_text(tables.to_csv([row]).replace(str(row["latency_s"]), "soon"))
    with pytest.raises(InputError, match="line 2: latency_s is 'soon', which is not a number"):
        tables.load(path)


def test_every_combination_of_parameters_and_software() -> None:
    parameters = {"memory.HBM3.read_bandwidth": ["1 TB/s", "2 TB/s"], "clock": ["1 GHz", "1.4 GHz"]}
    found = variants(CHIPS[1], parameters, [None, "cuda-libraries"])
    assert len({str(v.key) for v in found}) == 8
    assert {v.software.name for v in found} == {"ideal-mapper", "cuda-libraries"}
