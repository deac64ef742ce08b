"""CSV reports: one table for all chips, units in the header."""

from __future__ import annotations

import csv
import io

import pytest

from result_factory import FLAT_LEVELS, chip_result, fit, kernel, layers, result
from torch_regflat.report import csv_
from torch_regflat.result import Result


def read(value: Result, **options: object) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_.render(value, **options))))  # type: ignore[arg-type]


def test_rows_of_all_chips() -> None:
    rows = read(result())
    assert {row["chip"] for row in rows} == {"h100-sxm", "regflat"}
    assert sum(float(r["latency_s"]) for r in rows if r["chip"] == "regflat") == pytest.approx(8.5e-3)


def test_header_has_units_and_levels_of_all_chips() -> None:
    header = csv_.render(result()).splitlines()[0].split(",")
    assert {"latency_s", "energy_j", "HBM_traffic_bytes", "flat_traffic_bytes", "L2_memory_energy_j"} <= set(header)


def test_a_level_the_chip_lacks_is_empty_and_one_not_touched_is_zero() -> None:
    quiet = kernel(traffic_bytes={}, memory_energy_j={})
    first, second = read(
        result(chip_result(kernels=[quiet]), chip_result("b", [kernel(levels=FLAT_LEVELS)], FLAT_LEVELS))
    )
    assert (first["L2_traffic_bytes"], first["flat_traffic_bytes"]) == ("0.0", "")
    assert second["L2_traffic_bytes"] == ""
    assert float(second["flat_traffic_bytes"]) > 0


def test_hypothetical_and_limits() -> None:
    rows = read(result(chip_result(fit=fit(False), kernels=layers(4))), by="layer", sort_by="latency", row_limit=1)
    assert [row["path"] for row in rows] == ["model.layers.*.mlp", "(4 more)"]
    assert {row["hypothetical"] for row in rows} == {"true"}


def test_numbers_survive_exactly() -> None:
    value = 0.1 + 0.2
    assert float(read(result(chip_result(kernels=[kernel(latency_s=value)])))[0]["latency_s"]) == value


def test_commas_and_quotes_in_names() -> None:
    assert read(result(chip_result(kernels=[kernel('a,"b"', parts=())])))[0]["path"] == 'a,"b"'
