"""Results against earlier ones: metrics, tolerances, layers that moved, what is to blame, what is to be believed."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from result_factory import chip_result, fit, kernel, layers, result
from torch_regflat.errors import InputError, ResultError
from torch_regflat.regression import believable
from torch_regflat.regression.budget import assert_below
from torch_regflat.regression.compare import check_tolerance, compare, relative, status_of
from torch_regflat.regression.diff import diff
from torch_regflat.regression.message import explain
from torch_regflat.regression.metrics import DEFAULT, LAYERED, METRICS, named
from torch_regflat.regression.moved import moved, sentence
from torch_regflat.regression.snapshot import MOST_LAYERS, Provenance, Snapshot, snapshot
from torch_regflat.result import Result

PROVENANCE = Provenance("aaaa", "0.2", {"torch_regflat": "0.1.0", "torch": "2.13.0", "transformers": "5.23"}, {})


def one(kernels: Any = None, **changes: Any) -> Result:
    return result(chip_result(kernels=kernels, **changes), graph_hash="aaaa")


def test_every_metric_of_a_snapshot_is_that_of_the_result() -> None:
    chip = one().chips[0]
    found = snapshot(one()).chips["h100-sxm"]
    assert set(found.metrics) == set(METRICS)
    assert found.metrics["latency_s"] == chip.total.latency_s
    assert found.metrics["peak_memory_bytes"] == chip.fit.needs_bytes
    assert found.metrics["external_traffic_bytes"] == chip.levels[-1].traffic_bytes


def test_layers_add_up_to_the_totals() -> None:
    found = snapshot(one()).chips["h100-sxm"]
    for name in set(LAYERED) - {"kernels"}:  # a kernel of two layers counts in both
        assert math.fsum(layer.figures.get(name, 0.0) for layer in found.layers) == pytest.approx(found.metrics[name])


def test_more_layers_than_are_kept_are_summed() -> None:
    kernels = [kernel(f"a{i}", parts=(), latency_s=1e-3 * (i + 1)) for i in range(MOST_LAYERS + 5)]
    found = snapshot(one(kernels)).chips["h100-sxm"]
    assert len(found.layers) == MOST_LAYERS + 1
    assert found.layers[-1].path == "(5 more)"
    total = math.fsum(layer.figures["latency_s"] for layer in found.layers)
    assert total == pytest.approx(found.metrics["latency_s"])


@given(st.floats(1e-9, 1e9), st.floats(0.0, 1.0), st.floats(-0.99, 10.0))
def test_a_change_is_beyond_the_tolerance_or_not(before: float, rtol: float, change: float) -> None:
    now = before * (1.0 + change)
    status = status_of(before, now, rtol)
    if now - before > rtol * before:
        assert status == "regression"
    elif before - now > rtol * before:
        assert status == "improvement"
    else:
        assert status == "same"


def test_a_change_of_just_the_tolerance_is_none_and_of_nothing_all_is() -> None:
    assert status_of(100.0, 101.0, 0.01) == "same"
    assert status_of(0.0, 1e-12, 0.5) == "regression"
    assert status_of(0.0, 0.0, 0.0) == "same"


@pytest.mark.parametrize("rtol", [-0.1, math.nan, math.inf, "1%", True])
def test_tolerances_that_make_no_sense(rtol: Any) -> None:
    with pytest.raises(InputError, match="it must be a number of 0 or more, 0.01 for 1 %"):
        check_tolerance(rtol)


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [(1.0, 1.073, "+7.3 %"), (2.0, 1.0, "-50.0 %"), (0.0, 1.0, "new"), (0.0, 0.0, "+0 %"), (1.0, 20.0, "x20"),
     (1.0, 1.000001, "+1.0e-04 %"), (1.0, 0.0, "-100.0 %")],
)  # fmt: skip
def test_relative_changes(before: float, now: float, text: str) -> None:
    assert relative(before, now) == text


def test_the_layers_that_moved_most_come_first_with_what_bounds_them() -> None:
    slower = [
        dataclasses.replace(k, latency_s=k.latency_s * 2, bound_by="HBM") if k.path.endswith("gate_proj") else k
        for k in layers()
    ]
    (change,) = compare(snapshot(one()), snapshot(one(slower)), ["latency_s"], 0.01)
    assert change.status == "regression"
    assert [(c.path, c.bound_before, c.bound_now) for c in change.layers] == [("model.layers.*.mlp", "matrix", "HBM")]
    assert change.layers[0].change == pytest.approx(9e-3)


def test_layers_that_are_new_or_gone() -> None:
    kernels = layers()
    more = [*kernels, kernel("extra", latency_s=1e-3)]
    (change,) = compare(snapshot(one(kernels)), snapshot(one(more)), ["latency_s"], 0.01)
    assert (change.layers[0].path, change.layers[0].before) == ("extra", None)
    text = explain([change], snapshot(one(kernels)), snapshot(one(more)), 0.01)
    assert "new" in text and "- " in text
    (change,) = compare(snapshot(one(more)), snapshot(one(kernels)), ["latency_s"], 0.01)
    assert change.layers[0].now is None and change.status == "improvement"


def test_peak_memory_is_split_by_what_it_holds_and_no_longer_fitting_is_a_regression() -> None:
    before, now = one(), one(fit=fit(False))
    (change,) = compare(snapshot(before), snapshot(now), ["peak_memory_bytes"], 1e9)
    assert change.status == "regression" and change.overflows
    assert change.layers[0].path == "weights"
    assert "it fitted the memory of the chip before, and no longer does" in explain(
        [change], snapshot(before), snapshot(now), 0.01
    )


def test_chips_the_baseline_lacks_are_left_out() -> None:
    both = snapshot(result())
    assert {c.chip for c in compare(snapshot(one()), both, DEFAULT, 0.0)} == {"h100-sxm"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_figures_that_are_not_finite_are_refused_and_never_pass(value: float) -> None:
    total = dataclasses.replace(one().chips[0].total, latency_s=value)
    bad = one(total=total)
    for attempt in (lambda: snapshot(bad), lambda: assert_below(bad, {"latency": "1 h"}), lambda: diff(one(), bad)):
        with pytest.raises(ResultError, match=f"latency_s on h100-sxm is {value}; a result holds finite numbers only"):
            attempt()


def test_metrics_by_name() -> None:
    assert named("energy_j") == ("energy_j",)
    with pytest.raises(InputError, match="unknown metric 'latency'; did you mean latency_s"):
        named(["latency"])
    with pytest.raises(InputError, match="no metrics named; give one or more of latency_s, energy_j"):
        named([])


# What moved


def blame(chips: dict[str, tuple[str, str]] | None = None, **changes: Any) -> str:
    now = dataclasses.replace(PROVENANCE, **changes)
    return sentence(moved(PROVENANCE, now, chips), PROVENANCE, now)


def test_whose_change_it_is() -> None:
    versions = {**PROVENANCE.versions, "torch": "2.14.0"}
    assert blame(graph_hash="b") == "what moved: your code (the graph is another, torch and transformers the same)"
    assert blame(graph_hash="b", versions=versions) == (
        "what moved: a library or your code (the graph is another, and so is torch 2.13.0 -> 2.14.0)"
    )
    assert blame(cost_model="0.3") == "what moved: our cost model (0.2 -> 0.3)"
    assert blame({"the chip file of h200": ("a", "b")}) == "what moved: the chip file of h200"
    assert blame(settings={"mode": "eager"}) == "what moved: how the model is called (mode: none -> eager)"
    assert blame(graph_hash="b", cost_model="0.3").startswith("what moved: our cost model (0.2 -> 0.3); your code (")


def test_a_library_that_left_the_graph_as_it_was_is_not_to_blame() -> None:
    text = blame(versions={**PROVENANCE.versions, "torch": "2.14.0"})
    assert "torch" not in text.replace("torch_regflat", "") and "nothing that is recorded" in text
    newer = blame(versions={**PROVENANCE.versions, "torch_regflat": "0.2.0"})
    assert newer == "what moved: torch_regflat (0.1.0 -> 0.2.0); all else is as it was"


def test_old_files_have_no_fingerprint() -> None:
    assert blame(graph_hash="").startswith("what moved: not known")


# What is to be believed


def test_the_file_of_what_is_validated() -> None:
    text = believable.BELIEVABLE_FILE.read_text()
    found = believable.validated()
    assert found and all(v.pairs >= 10 and (v.change is None or 0 < v.change <= 4) for v in found.values())
    data = tomllib.loads(text)
    assert believable.render(found.values(), data["model_version"], data["source"]) == text


def test_verdicts() -> None:
    label = "product, 16 bits"
    least = believable.validated()[label].change
    assert least is not None
    assert believable.verdict(label, 1.0, 1.001 + least) == f"yes, from {100 * least:g} %"
    assert believable.verdict(label, 1.0, 0.999 + least) == f"no, from {100 * least:g} %"
    assert believable.verdict(label, 1.001 + least, 1.0).startswith("yes")
    assert believable.verdict("sequential", 1.0, 3.0) == "not validated"
    assert believable.verdict(label, None, 1.0) == believable.verdict(label, 1.0, None) == "-"


def test_a_layer_has_the_class_that_takes_most_of_its_time() -> None:
    mixed = [
        kernel("a.b", parts=(), kind="product", dtype="bfloat16", latency_s=2e-3),
        kernel("a.c", parts=(), kind="pointwise", dtype="bfloat16", latency_s=1e-3),
    ]
    assert {layer.path: layer.kernels for layer in snapshot(one(mixed)).chips["h100-sxm"].layers} == {
        "a.b": "product, 16 bits", "a.c": "pointwise"
    }  # fmt: skip
    layered = [dataclasses.replace(k, kind="product") for k in layers()]
    assert {layer.kernels for layer in snapshot(one(layered)).chips["h100-sxm"].layers} == {"product, 16 bits"}


def test_classes_of_kernels() -> None:
    assert believable.label_of("product", "bfloat16", "prefill") == "product, 16 bits"
    assert believable.label_of("product", "float8_e4m3fn", "decode") == "product, 8 bits or fewer"
    assert believable.label_of("attention", "bfloat16", "decode") == "attention, decode"
    assert believable.label_of("attention", "bfloat16", "train") == "attention, prefill"
    assert believable.label_of("pointwise", "float32", "") == "pointwise"


def test_every_class_is_one_that_kernels_have() -> None:
    pytest.importorskip("torch")
    from torch_regflat.schedule.uncertainty import family_of, uncertainty

    kinds = {key[0] for key in uncertainty().cells}
    assert {label.partition(",")[0] for label in believable.validated()} <= kinds
    for dtype in ("bfloat16", "float32", "float8_e4m3fn", "int8", "nvfp4", "tf32", "float64", "bool"):
        assert believable.formats_of(dtype) == family_of(dtype)


# Budgets


def test_budgets_that_hold_and_that_do_not() -> None:
    assert_below(one(), {"latency": "1 min", "energy": "1 kJ", "peak_memory": "17 GB", "kernels": 8, "flops": 1e12})
    with pytest.raises(AssertionError) as caught:
        assert_below(one(), {"latency": "10 ms", "peak_memory": "1 GB"})
    first, second = str(caught.value).split("\n")
    assert first.startswith("modelled latency of llama-3-8b on h100-sxm is 17.00 ms, above the budget of 10.00 ms, +70")
    assert "most of it: model.layers.*.mlp 9.000 ms, model.layers.*.self_attn" in first
    assert second.startswith("counted peak memory of llama-3-8b on h100-sxm is 17.00 GB, above the budget of 1.000 GB")


@pytest.mark.parametrize(
    ("budgets", "says"),
    [
        ({}, "assert_below() bounds nothing; give one or more of latency, energy"),
        ({"latenci": "1 s"}, "no budget 'latenci'; did you mean latency? budgets are latency"),
        ({"latency": "2 J"}, "the budget latency is '2 J': unit 'J' measures an energy; this field needs a time"),
        ({"latency": "2"}, "the budget latency is '2': '2' has no unit; needed is a time"),
        ({"latency": math.nan}, "the budget latency is nan; it must be a finite number of 0 or more"),
        ({"energy": -1.0}, "the budget energy is -1.0; it must be a finite number of 0 or more"),
        ({"kernels": "many"}, "the budget kernels is 'many'"),
    ],
)
def test_budgets_that_make_no_sense(budgets: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        assert_below(one(), budgets)
    assert says in str(caught.value)


def test_snapshots_are_plain(tmp_path: Any) -> None:
    from torch_regflat.regression.baseline import Baseline, load, save

    path = tmp_path / "__regflat__" / "test_a" / "test_b.json"
    value = Baseline("test_b", {"1": snapshot(result())})
    assert load(path) is None
    assert save(value, path)
    assert load(path) == value
    assert not save(value, path)
    assert isinstance(value.checks["1"], Snapshot)
