"""What the articles' figures say about each other, and that the document shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from torch_regflat import load_chip
from torch_regflat.serving import articles

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "serving.md"


def test_what_agrees_and_what_does_not() -> None:
    lines = articles.arithmetic()
    assert [line.what for line in lines if line.agrees] == ["systems", "electricity", "searches a second"]
    power = next(line for line in lines if line.what == "power")
    assert power.follows == pytest.approx(1.8e6 * 10.2e3)
    assert power.ratio == pytest.approx(50.5, rel=0.01)
    queries = [line for line in lines if line.what == "GPT-3 query"]
    assert queries[0].follows == pytest.approx(900e9 / (5 * 365.25) / (1e5 * 86400))
    assert queries[1].follows == pytest.approx(8 * 1.5 / (0.055 * 3600))


def test_the_rent_is_that_of_the_chip_file() -> None:
    price = load_chip("a100-sxm-80gb").price
    assert price is not None and price.rent_per_hour is not None
    assert price.rent_per_hour.value == articles.A100_RENT


def test_the_document_has_the_table() -> None:
    assert articles.markdown() in DOCUMENT.read_text()
