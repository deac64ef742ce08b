"""JSON reports: the promised schema, units in keys, and nothing lost on the way back."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from result_factory import FLAT_LEVELS, chip_result, fit, layers, result
from torch_regflat.errors import ResultError
from torch_regflat.report import json_


def document(**options: Any) -> Any:
    return json.loads(json_.render(result(), **options))


def test_promised_schema() -> None:
    data = document()
    assert data["schema"] == 1
    assert {"model_version", "model", "phase", "results"} <= set(data)
    chip = data["results"][0]
    assert {"chip", "fits", "total", "coverage", "levels", "layers"} <= set(chip)
    assert {
        "latency_s",
        "energy_j",
        "memory_energy_j",
        "compute_energy_j",
        "static_energy_j",
        "flops",
        "executed_flops",
        "utilization",
        "bandwidth_utilization",
        "bound_by",
        "kernels",
    } <= set(chip["total"])
    assert set(chip["coverage"]) == {"modelled_bytes_share", "unmodelled"}
    assert set(chip["levels"][0]) == {"name", "traffic_bytes", "energy_j", "bandwidth_bytes_per_s"}
    assert {
        "path",
        "calls",
        "latency_s",
        "energy_j",
        "flops",
        "traffic_bytes",
        "utilization",
        "bound_by",
    } <= set(chip["layers"][0])
    assert set(chip["layers"][0]["traffic_bytes"]) == {"registers", "shared", "L2", "HBM"}


def test_layers_sum_to_the_total() -> None:
    for chip in document(row_limit=2)["results"]:
        assert sum(row["latency_s"] for row in chip["layers"]) == pytest.approx(chip["total"]["latency_s"], rel=1e-12)
        assert sum(row["energy_j"] for row in chip["layers"]) == pytest.approx(chip["total"]["energy_j"], rel=1e-12)


def test_keys_end_in_their_unit() -> None:
    """A key that holds a float and has no unit must be a count or a plain ratio."""
    unitless = {"utilization", "bandwidth_utilization", "share", "modelled_bytes_share", "executed_flops", "vector_ops"}
    unitless |= {"coverage", "correlation", "class_correlation"}

    def walk(value: Any, key: str) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                walk(item, key if key.endswith(("_bytes", "_j", "_s", "unmodelled")) else name)
        elif isinstance(value, list):
            for item in value:
                walk(item, key)
        elif isinstance(value, float):
            assert key in unitless or re.search(r"(_s|_j|_bytes|_per_s|unmodelled)$", key), key

    walk(document(), "")


def test_lossless() -> None:
    value = result(chip_result(fit=fit(False)), chip_result("b", layers(levels=FLAT_LEVELS), FLAT_LEVELS))
    assert json_.load(json_.dump(value)) == value
    for options in ({"by": "op", "expand": True}, {"sort_by": "energy", "row_limit": 1}):
        assert json_.load(json_.render(value, **options)) == value  # type: ignore[arg-type]
    assert json_.dump(json_.load(json_.dump(value))) == json_.dump(value)
    assert json_.load(json_.dump(value).encode()) == value


def test_a_chip_that_does_not_fit_is_marked() -> None:
    chip = json.loads(json_.render(result(chip_result(fit=fit(False)))))["results"][0]
    assert chip["fits"] is False
    assert chip["hypothetical"] is True
    assert chip["fit"]["chips"] == 2


def test_grouping_is_recorded() -> None:
    data = document(by="op", expand=True)
    assert (data["by"], data["expand"]) == ("op", True)
    assert data["results"][0]["layers"][1]["path"] == "model.layers.0.input_layernorm  aten.rms_norm.default"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"run.json is not JSON \(.*\); it is damaged, or not a profile saved as JSON"),
        ('{"schema": 1, "resu', "run.json is not JSON"),
        ("[1]", "run.json is not a saved profile: it has no 'schema' field"),
        ('{"a": 1}', "run.json is not a saved profile"),
        ('{"schema": 7}', "run.json: this profile has schema 7, this version reads schema 1"),
        ('{"schema": 1, "batch": NaN}', "run.json: found NaN; a profile holds finite numbers only"),
        ('{"schema": 1, "batch": 1e999}', "run.json: profile lacks the field 'model'"),
        ('{"schema": 1, "model": "m", "phase": "p", "results": 3}', "profile.chips should be a list, found 3"),
        ('{"schema": 1, "model": "m", "phase": "p", "results": [3]}', r"profile.chips\[0\] should be an object"),
        ("[" * 100_000, "run.json is"),
    ],
)
def test_bad_files(text: str, message: str) -> None:
    with pytest.raises(ResultError, match=message):
        json_.load(text, "run.json")


def test_bad_bytes() -> None:
    with pytest.raises(ResultError, match="run.json is not JSON"):
        json_.load(b"\xff\xfe\x00\x80", "run.json")
