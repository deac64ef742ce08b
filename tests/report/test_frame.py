"""Rows as a DataFrame."""

from __future__ import annotations

import sys

import pytest

from result_factory import result
from torch_regflat.errors import InputError
from torch_regflat.report.frame import dataframe


def test_rows_of_all_chips_with_a_column_a_figure() -> None:
    pytest.importorskip("pandas")
    frame = dataframe(result())
    sums = frame.groupby("chip", sort=False)["latency_s"].sum()
    assert list(sums.index) == ["h100-sxm", "regflat"]
    assert list(sums) == pytest.approx([chip.total.latency_s for chip in result().chips])
    assert frame["hypothetical"].dtype == bool
    flat = frame[frame["chip"] == "regflat"]
    assert flat["L2_traffic_bytes"].isna().all() and not frame["latency_s"].isna().any()


def test_without_pandas_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        InputError, match="to_dataframe() needs pandas; install it with: pip install pandas".replace("()", r"\(\)")
    ):
        dataframe(result())
