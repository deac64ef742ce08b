"""The text report: what it must say, that it adds up, and that it can be read."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from result_factory import FLAT_LEVELS, chip_result, fit, kernel, layers, result
from torch_regflat.errors import InputError
from torch_regflat.report import render, text
from torch_regflat.report.compare import ratio
from torch_regflat.report.grid import Column, grid, grid_width
from torch_regflat.report.rows import merge
from torch_regflat.report.scale import Scale
from torch_regflat.result import Coverage, Part


def cells(table: str, first: str) -> list[str]:
    """The cells of the line that starts with `first`."""
    line = next(line for line in table.splitlines() if line.startswith(first))
    return re.split(r"\s{2,}", line.strip())


def test_header_says_what_the_figures_mean() -> None:
    shown = text.render(result(chip_result()))
    assert "llama-3-8b, prefill, batch 1, seq-len 2048, bfloat16" in shown
    assert "h100-sxm: A chip called h100-sxm" in shown
    assert "evidence: datasheet only; dense peak 989 TFLOP/s in bfloat16; 1 MAC = 2 FLOPs" in shown
    assert "arith. util. = executed FLOPs / (peak x latency)" in shown
    assert "HBM util. = its traffic / (its bandwidth x latency)" in shown
    assert "fits: needs 17.0 GB, has 80.0 GB (weights 16.0 GB, KV cache 500 MB, activations 500 MB)" in shown
    assert "side by side" not in shown


def test_a_row_a_layer_with_its_count_and_a_total() -> None:
    shown = text.render(result(chip_result(kernels=layers(32))))
    assert cells(shown, "model.layers.*.mlp")[:4] == [
        "model.layers.*.mlp",
        "32",
        "[2048, 4096] x [4096, 4096]",
        "96.00",
    ]
    assert cells(shown, "total")[:7] == ["total", "162.00", "100", "98.00", "69.6", "30.0", "matrix"]
    assert cells(shown, "total")[7:] == ["4.224", "1.056", "264.0", "66.00"]


def test_displayed_latencies_add_up_to_the_displayed_total() -> None:
    columns = text._time_columns(chip_result(), chip_result().rows(), text._total_row(chip_result()))
    latency = columns[0]
    assert latency.heading == "latency\nms"
    assert math.isclose(sum(map(float, latency.cells)), float(latency.total), abs_tol=0.005 * len(latency.cells))


def test_energy_columns_share_a_unit_and_add_up() -> None:
    chip = chip_result()
    columns = text._energy_columns(chip.rows(), text._total_row(chip))
    assert [c.heading.split("\n") for c in columns] == [
        ["energy", name, "mJ"] for name in ("registers", "shared", "L2", "HBM", "compute", "static", "total")
    ]
    totals = [float(c.total) for c in columns]
    assert math.isclose(sum(totals[:-1]), totals[-1], abs_tol=0.05)


def test_unattributed_energy_gets_a_column_when_there_is_some() -> None:
    chip = chip_result(kernels=[kernel(unattributed_energy_j=1e-3)])
    assert "energy, other: what the whole chip or board spends" in text.render(result(chip))
    assert "other" not in text.render(result(chip_result()))


def test_what_does_not_fit_is_hypothetical_everywhere() -> None:
    flat = chip_result("regflat", layers(levels=FLAT_LEVELS), FLAT_LEVELS)
    shown = text.render(result(chip_result(fit=fit(False)), flat))
    line = "does not fit: needs 141 GB, has 80.0 GB, at least 2 chips (weights 140 GB, "
    assert shown.index(line) < shown.index("model.embed_tokens")
    assert "HYPOTHETICAL: every figure below for this chip is priced as if capacity sufficed" in shown
    assert shown.count("total, hypothetical") == 2  # in both tables of this chip
    comparison = shown[shown.index("side by side") :]
    assert "(hypothetical)" in comparison
    assert "no, needs 2 chips" in comparison
    second = shown[shown.index("regflat: A chip") : shown.index("side by side")]
    assert "hypothetical" not in second.lower()


def test_coverage_names_what_has_no_formula() -> None:
    missing = Coverage(0.9996, {"aten.small.default": 0.0001, "aten.big.default": 0.0003})
    shown = text.coverage_line(chip_result(coverage=missing))
    assert shown == (
        "coverage: >99.9 % of bytes modelled by a formula of the operator; "
        "priced by their traffic alone: aten.big.default <0.1 %, aten.small.default <0.1 %"
    )
    assert text.coverage_line(chip_result()).startswith("coverage: 100 % of bytes")
    many = Coverage(0.5, {f"aten.op{i}": 0.05 for i in range(10)})
    assert text.coverage_line(chip_result(coverage=many)).endswith("aten.op7 5.0 % and 2 more")


def test_side_by_side_has_ratios_to_the_first() -> None:
    shown = text.render(result())
    comparison = shown[shown.index("side by side, ratios to h100-sxm") :]
    assert cells(comparison, "latency") == ["latency", "17.00 ms", "8.500 ms", "0.500x"]
    assert cells(comparison, "memory energy  ") == ["memory energy", "8.000 mJ", "2.400 mJ", "0.300x"]
    assert cells(comparison, "memory energy, HBM") == ["memory energy, HBM", "3.200 mJ", "1.600 mJ", "0.500x"]
    assert cells(comparison, "memory energy, L2") == ["memory energy, L2", "2.400 mJ", "-", "-"]
    assert cells(comparison, "utilization of arithmetic")[1:] == ["65.9 %", "65.9 %", "1.00x"]  # 0.7 of 16 in 17 ms


def test_default_tables_stay_within_the_width() -> None:
    gpu = chip_result(kernels=[kernel("model.layers.0.post_attention_layernorm"), *layers(32)])
    shown = text.render(result(gpu, chip_result("regflat-physical", layers(32, FLAT_LEVELS), FLAT_LEVELS)))
    assert max(map(len, shown.splitlines())) <= text.WIDTH


def test_shapes_give_way_before_figures_do() -> None:
    shapes = ", ".join(["[2048, 4096]"] * 3)
    long = kernel("model.layers.0.a_rather_long_name", parts=(Part("aten.mm", "m" * 40, 1.0, 0, 0.0, shapes),))
    shown = text.render(result(chip_result(kernels=[long])))
    assert max(map(len, shown.splitlines())) <= text.WIDTH
    assert "[2048, 4096]" in shown and shapes not in shown
    assert shapes in text.render(result(chip_result(kernels=[long])), wide=True)


def test_one_table_where_it_fits_and_with_wide() -> None:
    flat = result(chip_result("regflat", layers(levels=FLAT_LEVELS), FLAT_LEVELS))
    assert text.render(flat, width=180).count("model.layers.*.mlp") == 1
    assert text.render(flat, width=100).count("model.layers.*.mlp") == 2
    assert text.render(result(chip_result()), wide=True).count("model.layers.*.mlp") == 1


def test_wide_adds_versions_and_tiles() -> None:
    shown = text.render(result(chip_result()), by="kernel", wide=True)
    assert "versions: cost model 1, torch 2.13.0" in shown
    assert "tiles" in shown and "128x128x64" in shown
    assert "tiles" not in text.render(result(chip_result()), by="kernel")


def test_sorting_and_limit_keep_the_sum() -> None:
    shown = text.render(result(chip_result()), sort_by="latency", row_limit=1)
    assert cells(shown, "model.layers.*.mlp")[3] == "9.000"
    assert cells(shown, "(4 more)")[:4] == ["(4 more)", "8", "8.000", "47.1"]
    assert "lm_head" not in shown


@pytest.mark.parametrize(
    "sort_by", ["latency", "latency_s", "energy_j", "flops", "traffic_bytes", "calls", "utilization"]
)
def test_sort_keys(sort_by: str) -> None:
    assert "lm_head" in text.render(result(), sort_by=sort_by)


def test_bad_layout_is_refused() -> None:
    with pytest.raises(InputError, match=r"cannot sort by 'latncy'; did you mean latency\?; rows sort by latency, "):
        text.render(result(), sort_by="latncy")
    with pytest.raises(InputError, match="the row limit is 0; give 1 or more, or leave it out to see all rows"):
        text.render(result(), row_limit=0)
    with pytest.raises(InputError, match=r"unknown format 'jsn'; did you mean json\?; the formats are table, "):
        render(result(), "jsn")


def test_hostile_names_stay_on_their_line() -> None:
    shown = text.render(result(chip_result(kernels=[kernel("a\nb\x1b[31m", parts=())])))
    assert "a\\nb\\x1b[31m" in shown


def test_operations_of_the_root_are_named() -> None:
    assert "(top level)" in text.render(result(chip_result(kernels=[kernel("", parts=())])))


def test_nothing_to_show() -> None:
    empty = chip_result(kernels=[])
    shown = text.render(result(empty, empty))
    assert cells(shown, "total")[:3] == ["total", "0", "100"]
    assert "kernels: 0" in shown


def test_notes_are_shown() -> None:
    shown = text.render(result(chip_result(notes=("clocks held",)), notes=("uniform routing",)))
    assert "note: clocks held" in shown and "note: uniform routing" in shown


def test_long_notes_are_broken() -> None:
    shown = text.render(result(chip_result(notes=("word " * 60,))), width=150)
    assert max(map(len, shown.splitlines())) <= 150


def test_no_colour_and_plain_ascii() -> None:
    shown = text.render(result())
    assert "\x1b" not in shown
    assert shown.isascii()


def test_same_text_twice() -> None:
    assert text.render(result()) == text.render(result())


@pytest.mark.parametrize(
    ("values", "unit", "numbers"),
    [
        ([0.0435], "ms", ["43.50"]),
        ([1.0, 1e-7], "s", ["1.000", "<0.001"]),
        ([0.0, 5e-6], "us", ["0", "5.000"]),
        ([0.99996], "s", ["1.000"]),
        ([0.0099994], "ms", ["9.999"]),
        ([0.0], "s", ["0"]),
        ([-0.002], "ms", ["-2.000"]),
        ([1e5], "s", ["100000"]),
    ],
)
def test_scale(values: list[float], unit: str, numbers: list[str]) -> None:
    scale = Scale.fit("s", values)
    assert scale.unit == unit
    assert [scale.number(v) for v in values] == numbers


def test_scale_of_bytes_is_whole_at_the_bottom() -> None:
    assert Scale.fit("B", [17.0]).text(17.0) == "17 B"


@pytest.mark.parametrize(
    ("value", "base", "shown"),
    [
        (1, 2, "0.500x"),
        (3, 1, "3.00x"),
        (250, 1, "250.0x"),
        (0, 1, "0x"),
        (1, 0, "-"),
        (None, 1, "-"),
        (5e6, 1, "5.00e+06x"),
    ],
)
def test_ratio(value: Any, base: Any, shown: str) -> None:
    assert ratio(value, base) == shown


@pytest.mark.parametrize(
    ("fraction", "shown"),
    [(0, "0"), (1, "100"), (1 - 1e-13, "100"), (0.0001, "<0.1"), (0.9999, ">99.9"), (0.5, "50.0")],
)
def test_percent(fraction: float, shown: str) -> None:
    assert text.percent(fraction) == shown


def test_grid_is_as_wide_as_it_says() -> None:
    columns = [Column("a\nb", ("x", "yyyy"), "t", "left"), Column("n", ("1", "22"))]
    drawn = grid(columns)
    assert drawn.splitlines() == ["a", "b      n", "----  --", "x      1", "yyyy  22", "----  --", "t"]
    assert grid_width(columns) == 8


def test_every_figure_of_a_row_is_merged() -> None:
    rows = chip_result().rows()
    merged = merge(rows)
    total = chip_result().total
    assert math.isclose(merged.latency_s, total.latency_s)
    assert math.isclose(merged.energy_j, total.energy_j)
    assert merged.flops == total.flops
    assert math.isclose(merged.utilization, total.utilization)
    assert math.isclose(merged.share, 1.0)
