"""Dollars: the arithmetic of costs, assumptions that are replaced, and those that make no sense."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from torch_regflat import InputError, load_chip
from torch_regflat.layout import Layout
from torch_regflat.report import costs as report
from torch_regflat.served import Serving, ServingPoint
from torch_regflat.serving.economics import NAMES, Economics, costs_of

POINT = ServingPoint(
    layout=Layout(tp=2),
    slots=64,
    decoding=60.0,
    chunk=512,
    requests_per_s=10.0,
    tokens_per_s=2000.0,
    ttft_s=0.1,
    tpot_s=0.02,
    mixed=0.2,
    energy_j={"static": 60.0, "weight": 20.0},
    power_w=400.0,
    utilization=0.3,
    weights_bytes=1e10,
    kv_cache_bytes=1e10,
    activations_bytes=1e9,
    has_bytes=8e10,
)
SERVING = Serving(model="m", chip="h100-sxm", prompt=100, output=200, prefix=0, best=POINT)
CHIP = load_chip("h100-sxm")
ROUND: dict[str, Any] = {
    "purchase": "20000 USD", "rent_per_hour": "3 USD/h", "life": "4 year", "utilization": 0.5, "servers": 0.5,
    "server_power": "300 W", "pue": 1.5, "electricity": "0.1 USD/kWh", "hosting": "100 USD/kW/month",
    "rack_power": "100 kW",
}  # fmt: skip


def test_a_cost_is_arithmetic_that_a_reader_can_redo() -> None:
    found = costs_of(SERVING, CHIP, Economics.of(changes=ROUND))
    idle = CHIP.power.idle or CHIP.power.static
    owned = found["owned"].usd_per_hour
    hours = 4 * 365.25 * 24
    assert owned["chips"] == pytest.approx(20000 / hours)
    assert owned["servers"] == pytest.approx(10000 / hours)
    assert owned["hosting"] == pytest.approx((0.7 + 0.3) * 100 * 12 / (365.25 * 24))
    drawn = 0.5 * 400 + 0.5 * idle.value + 300
    assert owned["electricity"] == pytest.approx(drawn / 1000 * 1.5 * 0.1)
    answered = 10.0 / 2 * 0.5 * 3600  # requests of a chip in an hour
    assert found["owned"].usd_per_request == pytest.approx(math.fsum(owned.values()) / answered)
    assert found["rented"].usd_per_request == pytest.approx(3.0 / answered)
    assert found["rented"].usd_per_million_tokens == pytest.approx(3.0 / answered / 200 * 1e6)
    assert found["owned"].share("electricity") == pytest.approx(owned["electricity"] / math.fsum(owned.values()))


def test_a_fleet_and_a_budget_of_power() -> None:
    economics = Economics.of(changes=ROUND)
    found = costs_of(SERVING, CHIP, economics, queries_per_s=1000.0, watts=30000.0)
    assert found.fleet is not None and found.budget is not None
    assert (found.fleet.instances, found.fleet.chips) == (200, 400)  # 10 requests a second, half of the time
    assert found.fleet.racks == 4  # 400 kW
    assert found.fleet.provided_w == pytest.approx(400 * 1000 * 1.5)
    assert found.fleet.usd_per_day == pytest.approx(400 * 24 * math.fsum(found["owned"].usd_per_hour.values()))
    assert found.budget.instances == 10  # of 3 kW each, cooling counted
    assert found.budget.queries_per_s == pytest.approx(50.0)
    assert found.budget.provided_w <= 30000.0
    with pytest.raises(InputError, match="1.00 kW is too little for one instance of 2 chips, which needs 3.00 kW"):
        costs_of(SERVING, CHIP, economics, watts=1000.0)


def test_every_assumption_is_listed_with_its_source() -> None:
    found = costs_of(SERVING, CHIP)
    assert [one.name for one in found.assumptions] == list(NAMES)
    assert all(one.source and one.kind for one in found.assumptions)
    text = report.render(found)
    for words in ("life = 5 year (3 to 6), estimate: AI Infra Map", "eia.gov", "a million tokens of answers", "rented"):
        assert words in text


def test_a_file_replaces_some(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('schema = 1\nlife = { value = 3, unit = "year", source = "our books", kind = "estimate" }\n')
    found = Economics.of(path, {"pue": 1.05})
    assert (str(found.life), found.life.source, found.pue.value) == ("3 year", "our books", 1.05)
    assert found.electricity == Economics.of().electricity


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lfe": 3}, r"unknown assumption 'lfe'; did you mean life\? they are purchase, rent_per_hour, life"),
        ({"life": "3 kg"}, r"life: unknown unit 'kg'; needed is a time \(s, "),
        ({"life": 3}, "life: '3' has no unit; needed is a time"),
        ({"pue": 0.9}, "pue = 0.9 is below 1"),
        ({"utilization": 1.5}, "utilization: 1.5 is too large; it must be at most 1"),
        ({"electricity": "-0.1 USD/kWh"}, "electricity: -0.1 USD/kWh is negative"),
    ],
)
def test_what_makes_no_sense(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Economics.of(changes=changes)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read .*none.toml: No such file"):
        Economics.of(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("life = ")
    with pytest.raises(InputError, match="broken.toml is not TOML"):
        Economics.of(tmp_path / "broken.toml")
    (tmp_path / "other.toml").write_text("schema = 1\nlifetime = 3\n")
    with pytest.raises(InputError, match=r"other.toml: lifetime: unknown key; did you mean life"):
        Economics.of(tmp_path / "other.toml")


def test_a_chip_without_a_price() -> None:
    flat = load_chip("regflat-physical")
    with pytest.raises(InputError, match="regflat-physical has neither a price nor a rent; give one with --set"):
        costs_of(SERVING, flat)
    found = costs_of(SERVING, flat, Economics.of(changes={"purchase": "30000 USD"}))
    assert [cost.basis for cost in found.costs] == ["owned"]
