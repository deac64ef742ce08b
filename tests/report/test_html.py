"""The HTML report as a file: complete, self-contained, small, and deaf to hostile names."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from result_factory import FLAT_LEVELS, chip_result, fit, kernel, layers, result
from torch_regflat.errors import InputError
from torch_regflat.report import html, render
from torch_regflat.result import ChipFigure, Coverage, Interval, Part, Result

HOSTILE = "</script><img src=x onerror=alert(1)>"


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script id="data"[^>]*>([^<]*)</script>', page)
    assert found
    document: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(found[1])))
    return document


class Elements(HTMLParser):
    """The elements of a page, and the text outside scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def hostile() -> Result:
    """Names of modules, operators, the model, a chip and its sources that try to be markup."""
    part = Part(f"mylib.{HOSTILE}", f"model.{HOSTILE}.layer", 1.0, 1, 1.0, HOSTILE)
    bad = [kernel(f"model.{HOSTILE}.layer", name=HOSTILE, parts=(part,), bound_by=f"bound {HOSTILE}")]
    chip = chip_result(
        f"chip {HOSTILE}",
        bad,
        title=HOSTILE,
        evidence=HOSTILE,
        notes=(HOSTILE,),
        coverage=Coverage(0.5, {HOSTILE: 0.5}),
        figures=(ChipFigure(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
    )
    return result(chip, model=HOSTILE, inputs=HOSTILE, notes=(HOSTILE,), dtype=HOSTILE)


def test_nothing_is_fetched() -> None:
    page = render(result(), "html", plots=False)
    elements = Elements(page)
    links = [value for _, attributes in elements.tags for name, value in attributes.items() if name in ("src", "href")]
    assert set(links) == {"data:,", "#layers"}
    assert "url(" not in page and "@import" not in page
    policy = next(a["content"] for tag, a in elements.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")


def test_totals_evidence_and_intervals_are_on_the_cards() -> None:
    ends = [dataclasses.replace(k, latency_low_s=0.8 * k.latency_s, latency_high_s=1.2 * k.latency_s) for k in layers()]
    interval = Interval("rows of this chip", 0.8)
    chip = chip_result(kernels=ends, interval=interval, evidence="measured (12 rows, MAPE 9 %)")
    total = dataclasses.replace(chip.total, latency_low_s=0.012, latency_high_s=0.021)
    text = Elements(render(result(dataclasses.replace(chip, total=total)), "html", plots=False)).text
    assert "17.0 ms latency" in text
    assert "12.0 ms to 21.0 ms: 80% interval from measured rows of this chip" in text
    assert "evidence: measured (12 rows, MAPE 9 %)" in text


def test_what_is_not_modelled_is_named() -> None:
    chip = chip_result(coverage=Coverage(0.9, {"aten.sort.stable": 0.1}), notes=("clocks are guessed",))
    text = Elements(render(result(chip), "html", plots=False)).text
    assert "90.0 % of bytes modelled" in text
    assert "aten.sort.stable 10.0 %" in text
    assert "clocks are guessed" in text


def test_a_model_that_does_not_fit_is_hypothetical() -> None:
    text = Elements(render(result(chip_result(fit=fit(False))), "html", plots=False)).text
    assert "does not fit" in text and "HYPOTHETICAL" in text


def test_every_source_is_listed() -> None:
    figures = (ChipFigure("clock", "1980 MHz", "datasheet", "the whitepaper", "1395 to 1980", "boost"),)
    text = Elements(render(result(chip_result(figures=figures)), "html", plots=False)).text
    assert "1 figures: 1 datasheet" in text
    assert "clock 1980 MHz 1395 to 1980 datasheet the whitepaper (boost)" in text


def test_hostile_names_stay_text() -> None:
    page = html.render(hostile(), plots=False)
    elements = Elements(page)
    assert not [tag for tag, _ in elements.tags if tag == "img"]
    assert [tag for tag, _ in elements.tags].count("script") == 2
    assert HOSTILE in elements.text  # shown as it is
    assert f"model.{HOSTILE}.layer  mylib.{HOSTILE}" in data_of(page)["texts"]
    assert "<img" not in html.fragment(hostile())


def test_the_data_adds_up_to_the_result() -> None:
    found = result()
    for chip, data in zip(found.chips, data_of(html.render(found, plots=False))["chips"], strict=True):
        for rows in data["rows"].values():
            assert math.fsum(rows["latency"]) == pytest.approx(chip.total.latency_s, rel=1e-3)
            assert math.fsum(rows["energy"]) == pytest.approx(chip.total.energy_j, rel=1e-3)
        parts = data["rows"]["op"]["parts"].values()
        assert math.fsum(map(math.fsum, parts)) == pytest.approx(chip.total.energy_j, rel=5e-3)
        assert math.fsum(data["kernels"]["latency"]) == pytest.approx(chip.total.latency_s, rel=1e-3)
        charged = math.fsum(value for roles in data["operands"].values() for value in roles.values())
        assert charged == pytest.approx(chip.levels[-1].energy_j, rel=1e-3)


def test_without_plotly_a_table_is_written_and_says_so() -> None:
    page = html.render(result(), plots=False)
    assert "pip install 'torch_regflat[html]'" in Elements(page).text
    assert 'id="tree"' not in page and 'id="table"' in page
    assert len(page) < 100_000


def test_plotly_is_embedded_once() -> None:
    pytest.importorskip("plotly")
    page = html.render(result(), plots=True)
    assert page.count("plotly.js v") == 1
    assert Elements(page).tags.count(("script", {})) == 2
    assert "torch_regflat[html]" not in page


def test_options_of_the_command_line_set_what_is_shown_first() -> None:
    start = data_of(html.render(result(), by="module", sort_by="energy_j", row_limit=7, plots=False))["start"]
    assert start == {"by": "module", "sort": "energy", "rows": 7}
    assert data_of(html.render(result(), expand=True, plots=False))["start"]["by"] == "kernel"
    with pytest.raises(InputError, match="cannot sort by 'latancy'"):
        html.render(result(), sort_by="latancy", plots=False)


def test_the_same_result_gives_the_same_file() -> None:
    assert html.render(result(), plots=False) == html.render(result(), plots=False)


def test_a_notebook_gets_a_small_table() -> None:
    cell = html.fragment(result())
    words = Elements(cell).text
    assert "llama-3-8b" in words and "17.0 ms" in words and "regflat" in words
    assert "model.layers.*.mlp" in words
    assert "<script" not in cell and len(cell) < 10_000


def test_ten_thousand_kernels_take_two_megabytes_at_most() -> None:
    chips = []
    for name, levels in (("h100-sxm", ("registers", "shared", "L2", "HBM3")), ("regflat", FLAT_LEVELS)):
        kernels = [
            kernel(f"model.layers.{i // 20}.part{i % 20}", levels, latency_s=1e-6 * (1 + i % 97), start_s=1e-5 * i)
            for i in range(10_000)
        ]
        chips.append(chip_result(name, kernels, levels))
    assert len(html.render(result(*chips), plots=False)) < 2_000_000
