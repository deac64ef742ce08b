"""Two results layer by layer, and the reports of that."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from result_factory import chip_result, kernel, layers, result
from torch_regflat.errors import InputError
from torch_regflat.regression.diff import Diff, diff
from torch_regflat.regression.diff_report import render
from torch_regflat.result import KernelCost, Result


def of(*kernels: KernelCost, chip: str = "h100-sxm", **changes: Any) -> Result:
    return result(chip_result(chip, kernels=list(kernels)), **{"graph_hash": "aaaa", **changes})


def plain(path: str, seconds: float = 1e-3, shapes: str = "8x8", **changes: Any) -> KernelCost:
    part = dataclasses.replace(kernel(path).parts[0], shapes=shapes)
    return kernel(path, parts=(part,), latency_s=seconds, **changes)


def statuses(found: Diff) -> dict[str, str]:
    return {item.path: item.status for item in found.chips[0].layers}


def test_new_gone_moved_faster_slower_same() -> None:
    before = of(plain("a"), plain("b"), plain("c"), plain("old", shapes="4x4"), plain("gone", shapes="2x2"))
    now = of(plain("a"), plain("b", 2e-3), plain("c", 5e-4), plain("other", 2e-3, "4x4"), plain("extra", shapes="1x1"))
    found = diff(before, now)
    assert statuses(found) == {
        "a": "same", "b": "slower", "c": "faster", "other": "moved", "extra": "new", "gone": "gone"
    }  # fmt: skip
    moved = next(item for item in found.chips[0].layers if item.status == "moved")
    assert (moved.was, moved.value_before, moved.value_now) == ("old", 1e-3, 2e-3)


def test_each_row_moves_once() -> None:
    found = diff(of(plain("a"), plain("b")), of(plain("x"), plain("y"), plain("z")))
    assert statuses(found) == {"x": "moved", "y": "moved", "z": "new"}


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(1e-6, 1.0)), min_size=1, max_size=12),
       st.lists(st.tuples(st.sampled_from("abcdefgh"), st.floats(1e-6, 1.0)), min_size=1, max_size=12))  # fmt: skip
def test_changes_of_rows_add_up_to_the_change_of_the_total(
    one: list[tuple[str, float]], two: list[tuple[str, float]]
) -> None:
    before, now = (of(*(plain(path, seconds) for path, seconds in items)) for items in (one, two))
    (chip,) = diff(before, now).chips
    old, new = chip.totals["latency_s"]
    assert math.fsum(item.change for item in chip.layers) == pytest.approx(new - old, abs=1e-12)
    assert all(item.status == "same" for item in diff(now, now).chips[0].layers)


@pytest.mark.parametrize("by", ["op", "kernel", "module", "layer"])
@pytest.mark.parametrize("expand", [False, True])
def test_any_grouping_finds_what_was_renamed(by: Any, expand: bool) -> None:
    renamed = [
        dataclasses.replace(
            k, path=f"net.{k.path}", parts=tuple(dataclasses.replace(p, path=f"net.{p.path}") for p in k.parts)
        )
        for k in layers()
    ]
    found = diff(of(*layers()), of(*renamed), by=by, expand=expand)
    assert set(statuses(found).values()) == {"moved"}
    if by != "layer":  # of a layer's path only the top is kept, which is `net` now
        assert [item.path for item in found.chips[0].layers] == [f"net.{item.was}" for item in found.chips[0].layers]


def test_the_largest_growth_of_any_chip() -> None:
    before = result(chip_result("a"), chip_result("b"))
    now = result(chip_result("a", layers(scale=1.02)), chip_result("b", layers(scale=0.5)))
    assert diff(before, now).worst() == pytest.approx(0.02)
    assert diff(now, now).worst() == 0.0


def test_what_cannot_be_compared() -> None:
    with pytest.raises(InputError, match=r"no chip is in both: a.json has h100-sxm, b.json has l4"):
        diff(of(plain("a")), of(plain("a"), chip="l4"), ("a.json", "b.json"))
    with pytest.raises(InputError, match="peak memory is not a sum over layers"):
        diff(of(plain("a")), of(plain("a")), metric="peak_memory_bytes")
    with pytest.raises(InputError, match="unknown metric 'latency'; did you mean latency_s"):
        diff(of(plain("a")), of(plain("a")), metric="latency")


def test_the_table() -> None:
    found = diff(of(plain("a"), plain("b")), of(plain("a", 2e-3, bound_by="HBM"), plain("c", shapes="1x1"), model="x"))
    text = render(found)
    assert "before -> now, by latency" in text
    assert "note: another model: llama-3-8b in before, x in now" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["a", "slower", "1.000", "ms", "2.000", "ms", "+100.0", "%", "matrix", "->", "HBM"] in rows
    assert ["b", "gone", "1.000", "ms", "-", "matrix"] in rows
    assert "what moved: nothing that is recorded" in text


def test_rows_beyond_the_limit_are_counted() -> None:
    before = of(*(plain(f"a{chr(97 + i)}") for i in range(9)))
    now = of(*(plain(f"a{chr(97 + i)}", 1e-3 * (i + 2)) for i in range(9)))
    assert "(7 more, each with a smaller change)" in render(diff(before, now), row_limit=2)
    assert "no layer changed" in render(diff(now, now))


def test_markdown_is_safe_whatever_modules_are_called() -> None:
    evil = "a|b`<script>@team\n# x"
    text = render(diff(of(plain("m")), of(plain(evil)), ("x|y`z", "now")), "markdown")
    (row,) = [line for line in text.splitlines() if line.startswith("| `") and "script" in line]
    assert row.startswith("| `m -> a\\|b'<script>@team\\n# x` | moved |")
    assert "### Modelled latency: `x\\|y'z` → `now`" in text
    assert "<details open><summary>Layers: 1 moved</summary>" in text
    assert "No layer changed." in render(diff(of(plain("m")), of(plain("m"))), "markdown")


def test_json_has_everything() -> None:
    data = json.loads(render(diff(of(plain("a")), of(plain("a", 2e-3), plain("b", shapes="1x1"))), "json", row_limit=1))
    assert (data["kind"], data["schema"], data["metric"]) == ("regflat diff", 1, "latency_s")
    (chip,) = data["chips"]
    assert chip["totals"]["latency_s"] == {"before": 1e-3, "now": 3e-3}
    assert [(item["path"], item["status"], item["before"]) for item in chip["layers"]] == [
        ("a", "slower", 1e-3), ("b", "new", None)
    ]  # fmt: skip
