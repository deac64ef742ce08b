"""The HTML report in a real browser: it draws, says nothing on the console, fetches nothing, and clicks work.

Skipped aloud where there is no Chromium (Debian: `apt-get install chromium`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import Page, chromium, opened
from report.test_html import HOSTILE, hostile
from result_factory import chip_result, kernel, result
from torch_regflat.report import html
from torch_regflat.result import Result
from torch_regflat.timeline import KernelSpan, Timeline, TransferSpan

if chromium() is None:
    pytest.skip("no Chromium to open reports in; on Debian: apt-get install chromium", allow_module_level=True)
pytest.importorskip("plotly", reason="no plotly to draw with; pip install 'torch_regflat[html]'")

PATHS = "[...document.querySelectorAll('#table tbody th')].map(e => e.textContent)"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with opened() as found:
        yield found


def with_bandwidths(found: Result) -> Result:
    """With ceilings for the roofline."""
    chips = [
        dataclasses.replace(
            chip,
            levels=tuple(
                dataclasses.replace(level, bandwidth_bytes_per_s=1e12 * (len(chip.levels) - i))
                for i, level in enumerate(chip.levels)
            ),
            peaks_flops_per_s={"bfloat16": 1e15, "fp32, vector": 1e14},
        )
        for chip in found.chips
    ]
    return dataclasses.replace(found, chips=tuple(chips))


def lines_of(found: Result) -> list[Timeline]:
    """A time line for the first chip: kernels one by one, a load for each, and a wait for every other."""
    chip = found.chips[0]
    spans = [
        KernelSpan(k.name, k.path, k.start_s, k.start_s, k.start_s + k.latency_s, {"launch": 1e-4} if i % 2 else {})
        for i, k in enumerate(chip.kernels)
    ]
    loads = [
        TransferSpan(i, "load", "HBM", ("weight",), 1e6, k.start_s, k.start_s + k.latency_s / 2, "kernel")
        for i, k in enumerate(chip.kernels)
    ]
    total = chip.total.latency_s
    return [Timeline(chip.chip, total, total - 1e-4, {"launch": 1e-4}, tuple(spans), tuple(loads), (), 1e6)]


def shown(page: Page, folder: Path, found: Result | None = None, **options: object) -> Page:
    target = folder / "report.html"
    found = with_bandwidths(found or result())
    target.write_text(html.render(found, timelines=lines_of(found)), encoding="utf-8")
    page.open(target, **options)  # type: ignore[arg-type]
    return page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_it_draws_at_every_width_without_a_complaint(page: Page, tmp_path: Path, width: int, dark: bool) -> None:
    shown(page, tmp_path, width=width, dark=dark)
    drawn = "[...document.querySelectorAll('.drawing')].map(e => e.querySelectorAll('svg.main-svg').length > 0)"
    assert page.ask(drawn) == [True] * 5
    assert page.ask("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    ground = page.ask("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (not dark)
    assert page.errors == []


def test_a_module_that_is_clicked_is_what_everything_shows(page: Page, tmp_path: Path) -> None:
    shown(page, tmp_path)
    before = page.ask("document.getElementById('energy').data[0].x[0]")
    index = page.ask(f"{PATHS}.indexOf('model.layers.*.mlp')")
    page.click("#table tbody button", index)
    assert page.ask(PATHS) == ["model.layers.*.mlp"]
    assert page.ask("document.getElementById('trail').textContent") == "all modules / model.layers.*.mlp"
    assert page.ask("document.getElementById('chosen').textContent").startswith("9.00 ms on h100-sxm (52.9 % of all)")
    assert page.ask("document.getElementById('tree').data[0].ids[0]").startswith("model.layers.*.mlp")
    assert page.ask("document.getElementById('energy').data[0].x[0]") < before
    faint = "document.getElementById('{}').data.some(t => (t.opacity ?? t.marker?.opacity) < 0.2 && t.x.length)"
    assert page.ask(faint.format("timeline")) and page.ask(faint.format("roofline"))
    page.click("#trail button", 0)
    assert len(page.ask(PATHS)) > 1
    assert page.errors == []


def test_the_tree_map_is_clicked(page: Page, tmp_path: Path) -> None:
    shown(page, tmp_path)
    slices = "[...document.querySelectorAll('#tree .slice')]"
    place = f"{slices}.findIndex(e => e.__data__.data.data.id === 'model.layers.*.mlp.gate_proj')"
    page.click("#tree .slice path", page.ask(place))
    page.wait("document.getElementById('trail').textContent.endsWith('mlp.gate_proj')")
    assert page.ask(PATHS) == ["model.layers.*.mlp"]  # the row of layers that it is part of
    assert page.errors == []


def test_a_kernel_on_the_time_line_is_clicked(page: Page, tmp_path: Path) -> None:
    shown(page, tmp_path)
    box = page.ask(
        "(() => { const e = document.querySelector('#timeline'); e.scrollIntoView({block: 'center'}); "
        "const b = e.getBoundingClientRect(), l = e._fullLayout, y = l.yaxis, x = l.xaxis; "
        "return [b.x + x._offset + x.l2p(x.range[1] * 0.995), b.y + y._offset + y.l2p(0)]; })()"
    )
    page.click_at(*box)
    page.wait("document.getElementById('trail').textContent.endsWith('lm_head')")
    assert page.errors == []


def test_transfers_and_waits_are_on_the_time_line(page: Page, tmp_path: Path) -> None:
    shown(page, tmp_path)
    names = page.ask("document.getElementById('timeline').data.map(t => t.name)")
    assert {"load", "wait", "matrix"} <= set(names)


def test_rows_are_sorted_filtered_and_grouped(page: Page, tmp_path: Path) -> None:
    shown(page, tmp_path)
    latencies = "[...document.querySelectorAll('#table tbody tr')].map(e => Number(e.cells[2].textContent))"
    page.click("#table thead button[data-sort=latency]")
    down = page.ask(latencies)
    assert down == sorted(down, reverse=True) and down != page.ask(f"{latencies}.sort((a, b) => a - b)")
    assert page.ask("document.querySelector('[data-sort=latency]').closest('th').ariaSort") == "descending"
    page.click("#table thead button[data-sort=latency]")
    assert page.ask(latencies) == sorted(down)
    page.choose("#filter", "MLP")
    assert page.ask(PATHS) == ["model.layers.*.mlp"]
    page.choose("#filter", "")
    page.choose("#by", "kernel")
    assert page.ask("document.getElementById('count').textContent") == "8 rows"
    page.choose("#chip", "1")
    assert page.ask("document.getElementById('chosen').textContent").startswith("8.50 ms on regflat")
    assert page.errors == []


def test_the_keyboard_reaches_rows_and_goes_back(page: Page, tmp_path: Path) -> None:
    shown(page, tmp_path)
    for _ in range(40):
        page.press("Tab", 9)
        if page.ask("document.activeElement.dataset.module ?? ''"):
            break
    assert page.ask("document.activeElement.dataset.module") == "model.embed_tokens"
    page.press("Enter", 13, "\r")
    assert page.ask("document.getElementById('trail').textContent") == "all modules / model.embed_tokens"
    page.ask("document.activeElement.blur()")
    page.press("Escape", 27)
    page.press("Escape", 27)
    assert page.ask("document.getElementById('trail').textContent") == "all modules"
    assert page.errors == []


def test_hostile_names_do_nothing(page: Page, tmp_path: Path) -> None:
    shown(page, tmp_path, hostile())
    assert page.ask("document.querySelectorAll('img, .drawing a').length") == 0
    assert page.ask("document.querySelector('h1').textContent") == HOSTILE
    assert page.ask("document.querySelectorAll('script').length") == 3
    page.click("#table tbody button")
    assert HOSTILE in page.ask("document.getElementById('trail').textContent")
    assert page.errors == []


def test_a_level_is_chosen_for_the_roofline(page: Page, tmp_path: Path) -> None:
    shown(page, tmp_path)
    marks = "JSON.stringify(document.getElementById('roofline').data.filter(t => t.mode === 'markers').map(t => t.x))"
    before = json.loads(page.ask(marks))
    names = page.ask("[...document.getElementById('level').options].map(o => o.value)")
    page.choose("#level", names[1])
    assert json.loads(page.ask(marks)) != before
    assert page.errors == []


def test_the_plain_report_sorts_too(page: Page, tmp_path: Path) -> None:
    target = tmp_path / "plain.html"
    target.write_text(html.render(result(), plots=False), encoding="utf-8")
    page.open(target, 400)
    page.click("#table tbody button")
    page.click("#table thead button[data-sort=energy]")
    assert page.ask(PATHS) == ["model.embed_tokens"]
    assert page.errors == []


def test_ten_thousand_kernels_are_drawn(page: Page, tmp_path: Path) -> None:
    kernels = [
        kernel(f"model.layers.{i // 20}.part{i % 20}", latency_s=1e-6 * (1 + i % 97), start_s=1e-5 * i)
        for i in range(10_000)
    ]
    shown(page, tmp_path, result(chip_result(kernels=kernels)))
    page.choose("#by", "kernel")
    assert page.ask("document.getElementById('count').textContent") == "100 of 10000 rows"
    page.click("#more")
    assert page.ask("document.querySelectorAll('#table tbody tr').length") == 600
    assert page.errors == []
