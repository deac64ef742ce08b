"""Results: lossless to plain data and back, rows that add up, errors that name the field."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from result_factory import chip_result, kernel, layers, levels_of, result, total_of
from torch_regflat.errors import InputError, ResultError
from torch_regflat.result import (
    ChipResult,
    Coverage,
    Fit,
    GroupBy,
    KernelCost,
    LevelCost,
    Part,
    Result,
    Total,
    collapse,
    layer_of,
)

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
AMOUNTS = st.floats(min_value=0, max_value=1e18, allow_subnormal=False)
COUNTS = st.integers(min_value=0, max_value=2**70)
TEXT = st.text(max_size=8)
LEVELS = ("registers", "HBM")
for plain_type, strategy in {float: NUMBERS, int: COUNTS, str: TEXT}.items():
    st.register_type_strategy(plain_type, strategy)

CHIP_RESULTS = st.builds(
    ChipResult,
    fit=st.builds(Fit, fits=st.booleans()),
    total=st.builds(Total),
    coverage=st.builds(Coverage, unmodelled=st.dictionaries(TEXT, NUMBERS, max_size=2)),
    levels=st.lists(st.builds(LevelCost), max_size=2).map(tuple),
    kernels=st.lists(st.builds(KernelCost, parts=st.tuples(st.builds(Part))), max_size=2).map(tuple),
    notes=st.tuples(TEXT),
)
RESULTS = st.builds(
    Result,
    chips=st.lists(CHIP_RESULTS, max_size=2).map(tuple),
    batch=st.none() | COUNTS,
    versions=st.dictionaries(TEXT, TEXT, max_size=2),
    notes=st.just(()),
)


@settings(max_examples=40, deadline=None)
@given(RESULTS)
def test_lossless_through_json(value: Result) -> None:
    assert Result.from_dict(value.to_dict()) == value
    text = json.dumps(value.to_dict(), allow_nan=False)
    again = Result.from_dict(json.loads(text))
    assert again == value
    assert json.dumps(again.to_dict()) == text


PATHS = st.sampled_from(
    ["", "lm_head", "model.norm", "model.layers.0", "model.layers.1.mlp.up", "model.layers.2.mlp.down", "0.1.act"]
)


@st.composite
def kernels_with_parts(draw: st.DrawFn) -> KernelCost:
    weights = draw(st.lists(st.integers(1, 9), max_size=3))
    flops = [draw(st.integers(0, 2**50)) for _ in weights]
    parts = tuple(
        Part(draw(st.sampled_from(["aten.mm", "aten.add"])), draw(PATHS), w / sum(weights), f, f / 2)
        for w, f in zip(weights, flops, strict=True)
    )
    levels = draw(st.sets(st.sampled_from(LEVELS)))
    return kernel(
        draw(PATHS),
        LEVELS,
        parts=parts,
        flops=sum(flops) if parts else 7,
        executed_flops=math.fsum(f / 2 for f in flops) if parts else 7.0,
        latency_s=draw(AMOUNTS),
        traffic_bytes={level: draw(AMOUNTS) for level in sorted(levels)},
        memory_energy_j={level: draw(AMOUNTS) for level in sorted(levels)},
        compute_energy_j=draw(AMOUNTS),
        static_energy_j=draw(AMOUNTS),
        unattributed_energy_j=draw(AMOUNTS),
        utilization=draw(st.floats(0, 1)),
        bound_by=draw(st.sampled_from(["matrix", "HBM"])),
    )


def close(found: float, expected: float) -> bool:
    return math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-300)


@settings(max_examples=60, deadline=None)
@given(st.lists(kernels_with_parts(), max_size=8), st.sampled_from(get_args(GroupBy)), st.booleans())
def test_rows_add_up_to_the_total(kernels: list[KernelCost], by: GroupBy, expand: bool) -> None:
    chip = chip_result(kernels=kernels, levels=LEVELS)
    rows = chip.rows(by, expand)
    total = chip.total
    assert close(math.fsum(r.latency_s for r in rows), total.latency_s)
    assert close(math.fsum(r.energy_j for r in rows), total.energy_j)
    assert close(math.fsum(r.compute_energy_j for r in rows), total.compute_energy_j)
    assert close(math.fsum(r.static_energy_j for r in rows), total.static_energy_j)
    assert close(math.fsum(r.unattributed_energy_j for r in rows), total.unattributed_energy_j)
    assert close(math.fsum(e for r in rows for e in r.memory_energy_j.values()), total.memory_energy_j)
    assert sum(r.flops for r in rows) == total.flops
    assert close(math.fsum(r.executed_flops for r in rows), total.executed_flops)
    for level in chip.levels:
        assert close(math.fsum(r.traffic_bytes.get(level.name, 0.0) for r in rows), level.traffic_bytes)
        assert close(math.fsum(r.memory_energy_j.get(level.name, 0.0) for r in rows), level.energy_j)
    if total.latency_s:
        assert math.isclose(math.fsum(r.share for r in rows), 1.0, rel_tol=1e-9)
    assert all(0 <= r.utilization <= 1 + 1e-12 for r in rows)


def test_layers_are_collapsed_with_their_count() -> None:
    rows = {row.path: row for row in chip_result(kernels=layers(32)).rows()}
    assert list(rows) == [
        "model.embed_tokens",
        "model.layers.*.input_layernorm",
        "model.layers.*.self_attn",
        "model.layers.*.mlp",
        "lm_head",
    ]
    assert rows["model.layers.*.mlp"].calls == 32
    assert rows["lm_head"].calls == 1
    assert len(chip_result(kernels=layers(32)).rows(expand=True)) == 2 + 3 * 32


def test_calls_count_instances_of_a_layer_and_calls_of_an_operator() -> None:
    kernels = [kernel(f"layers.{i}.mlp.{name}") for i in range(4) for name in ("up", "down", "down")]
    chip = chip_result(kernels=kernels)
    assert [row.calls for row in chip.rows("layer")] == [4]
    assert {row.path: row.calls for row in chip.rows("module")} == {"layers.*.mlp.up": 4, "layers.*.mlp.down": 4}
    assert {row.path: row.calls for row in chip.rows("op")} == {
        "layers.*.mlp.up  aten.mm.default": 4,
        "layers.*.mlp.down  aten.mm.default": 8,
    }
    assert [row.kernels for row in chip.rows("layer")] == [12]


def test_a_kernel_without_parts_is_not_lost() -> None:
    chip = chip_result(kernels=[kernel("a.b.c", parts=())])
    assert [(row.path, row.latency_s) for row in chip.rows("layer")] == [("a.b", 1e-3)]
    assert [row.path for row in chip.rows("op")] == ["a.b.c  gemm"]


def test_shapes_are_shown_only_when_there_is_one() -> None:
    def row_of(*shapes: str) -> str:
        parts = [Part("aten.mm", "m", 1.0, 0, 0.0, s) for s in shapes]
        chip = chip_result(kernels=[kernel("m", parts=(part,)) for part in parts])
        return chip.rows()[0].shapes

    assert row_of("[1]", "[1]") == "[1]"
    assert row_of("[1]", "[2]") == ""


def test_unknown_grouping() -> None:
    with pytest.raises(InputError, match=r"cannot group by 'layers'; did you mean layer\?; the groupings are op, "):
        chip_result().rows("layers")  # type: ignore[arg-type]


def test_energy_of_a_kernel_is_the_sum_of_its_parts() -> None:
    k = kernel(unattributed_energy_j=5e-4)
    assert k.energy_j == math.fsum([*k.memory_energy_j.values(), 2e-3, 1e-3, 5e-4])


@pytest.mark.parametrize(
    ("path", "collapsed", "layer"),
    [
        ("", "", ""),
        ("lm_head", "lm_head", "lm_head"),
        ("model.norm", "model.norm", "model.norm"),
        ("model.rotary_emb.inner.deep", "model.rotary_emb.inner.deep", "model.rotary_emb"),
        ("model.layers.3", "model.layers.*", "model.layers.*"),
        ("model.layers.3.mlp", "model.layers.*.mlp", "model.layers.*.mlp"),
        ("model.layers.31.mlp.gate_proj", "model.layers.*.mlp.gate_proj", "model.layers.*.mlp"),
        ("transformer.h.0.attn.c_attn", "transformer.h.*.attn.c_attn", "transformer.h.*.attn"),
        ("encoder.layers.0.blocks.1.attn.qkv", "encoder.layers.*.blocks.*.attn.qkv", "encoder.layers.*.blocks.*.attn"),
        ("layer1.0.conv1", "layer1.*.conv1", "layer1.*.conv1"),
        ("layer1.0.downsample.1", "layer1.*.downsample.*", "layer1.*.downsample.*"),
        ("0", "*", "*"),
        ("0.attn.q", "*.attn.q", "*.attn"),
        ("model.layers.0.mlp.experts.7.up", "model.layers.*.mlp.experts.*.up", "model.layers.*.mlp.experts.*.up"),
        ("conv2d.x", "conv2d.x", "conv2d.x"),
        ("a.3b.c", "a.3b.c", "a.3b"),
        ("a.\u0663.c", "a.\u0663.c", "a.\u0663"),
    ],
)
def test_collapse_and_layer_of(path: str, collapsed: str, layer: str) -> None:
    assert collapse(path) == collapsed
    assert layer_of(collapsed) == layer


@given(st.lists(st.sampled_from(["model", "layers", "0", "17", "*", "mlp", "a1", ""]), max_size=7).map(".".join))
def test_collapsing_twice_changes_nothing_and_commutes_with_layers(path: str) -> None:
    assert collapse(collapse(path)) == collapse(path)
    assert layer_of(layer_of(path)) == layer_of(path)
    assert collapse(path).count(".") == path.count(".")


def rows_of(*calls: tuple[str, str], by: GroupBy = "layer", expand: bool = False) -> dict[str, int]:
    """Names and counts of the rows of kernels given as (path, target)."""
    parts = [Part(target, path, 1.0, 0, 0.0) for path, target in calls]
    chip = chip_result(kernels=[kernel(part.path, parts=(part,)) for part in parts])
    return {row.path: row.calls for row in chip.rows(by, expand)}


def test_different_members_of_a_sequential_keep_their_index() -> None:
    linear_relu_linear = [("0", "mm"), ("1", "relu"), ("2", "mm")]
    assert rows_of(*linear_relu_linear) == {"0": 1, "1": 1, "2": 1}
    assert rows_of(*((f"net.{path}", target) for path, target in linear_relu_linear), by="module") == {
        "net.0": 1,
        "net.1": 1,
        "net.2": 1,
    }


def test_equal_members_and_blocks_are_collapsed() -> None:
    assert rows_of(("lin.0", "mm"), ("lin.1", "mm")) == {"lin.*": 2}
    blocks = [(f"{i}{path}", target) for i in range(4) for path, target in ((".gate", "mm"), ("", "mul"))]
    assert rows_of(*blocks) == {"*.gate": 4, "*": 4}
    assert rows_of(*blocks, expand=True) == {f"{i}{name}": 1 for i in range(4) for name in (".gate", "")}


def test_a_sequential_inside_a_repeated_block_belongs_to_its_layer() -> None:
    calls = [(f"h.{i}.mlp.{j}", target) for i in range(3) for j, target in enumerate(["mm", "gelu", "mm"])]
    assert rows_of(*calls) == {"h.*.mlp": 3}
    assert rows_of(*calls, expand=True) == {"h.0.mlp": 1, "h.1.mlp": 1, "h.2.mlp": 1}
    assert rows_of(*calls, by="module") == {"h.*.mlp.0": 3, "h.*.mlp.1": 3, "h.*.mlp.2": 3}


def broken(**changes: Any) -> dict[str, Any]:
    return {**result().to_dict(), **changes}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "this is not a saved profile: it has no 'schema' field"),
        ({}, "this is not a saved profile: it has no 'schema' field"),
        (broken(schema=2), "this profile has schema 2, this version reads schema 1; use the torch_regflat that wrote"),
        (broken(schema="1"), "this profile has schema '1', this version reads schema 1"),
        (broken(schema=True), "this profile has schema True"),
        (broken(extra=1), "profile has an unknown field 'extra'; was it written by another version?"),
        ({"schema": 1, "model": "m", "phase": "p"}, "profile lacks the field 'chips'; the file is cut short"),
        (broken(model=3), "profile.model should be text, found 3"),
        (broken(batch="two"), "profile.batch should be a whole number, found 'two'"),
        (broken(batch=1.5), "profile.batch should be a whole number, found 1.5"),
        (broken(batch=True), "profile.batch should be a whole number, found True"),
        (broken(chips=None), "profile.chips should be a list, found null"),
        (broken(chips=[3]), r"profile.chips\[0\] should be an object, found 3"),
        (broken(versions=[]), "profile.versions should be an object, found a list"),
        (broken(versions={"torch": 2.13}), "profile.versions.torch should be text, found 2.13"),
    ],
)
def test_bad_data_is_refused_with_the_field(data: Any, message: str) -> None:
    with pytest.raises(ResultError, match=message):
        Result.from_dict(data)


def test_deep_fields_are_named() -> None:
    data = result().to_dict()
    data["chips"][1]["kernels"][0]["parts"][0]["share"] = "half"
    with pytest.raises(ResultError, match=r"profile.chips\[1\].kernels\[0\].parts\[0\].share should be a number"):
        Result.from_dict(data)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_both_ways(value: float) -> None:
    chip = chip_result()
    bad = result(dataclasses.replace(chip, total=dataclasses.replace(chip.total, latency_s=value)))
    with pytest.raises(ResultError, match=rf"profile.chips\[0\].total.latency_s is {value}; a profile holds finite"):
        bad.to_dict()
    data = result().to_dict()
    data["chips"][0]["total"]["latency_s"] = value
    with pytest.raises(ResultError, match=r"total.latency_s should be a finite number, found"):
        Result.from_dict(data)


def test_foreign_objects_are_refused() -> None:
    with pytest.raises(ResultError, match="profile.versions.torch is a object; a profile holds only numbers"):
        result(versions={"torch": object()}).to_dict()


def test_whole_numbers_may_come_back_as_floats() -> None:
    data = broken(batch=4.0)
    assert Result.from_dict(data).batch == 4
    assert isinstance(Result.from_dict(data).batch, int)


def test_factory_adds_up() -> None:
    kernels = layers(4)
    memory = math.fsum(level.energy_j for level in levels_of(kernels, ("registers", "shared", "L2", "HBM")))
    assert math.isclose(memory, total_of(kernels).memory_energy_j)
