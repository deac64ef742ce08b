"""What is measured: the same shapes from the same seed, within limits, over all classes."""

from __future__ import annotations

from collections import Counter

import pytest

from torch_regflat.errors import InputError
from torch_regflat.measurement import sampling
from torch_regflat.measurement.run import Plan
from torch_regflat.validation.rows import Gemm, Row

from .fakes import ALL, FakeDevice


def drawn(rows: int, seed: int = 0, features: frozenset[str] = ALL) -> list[Row]:
    names = sampling.available((), features)
    return sampling.kernels(names, rows, seed, features, source="regflat-measure/graph-cold", gpu="h100-sxm")


def test_the_plan_by_default_has_600_rows_over_all_classes_and_all_models_in_three_modes() -> None:
    rows = Plan().listed(FakeDevice(), "h100-sxm")
    groups = Counter(row.group for row in rows)
    assert sum(count for group, count in groups.items() if not group.startswith("model")) == 640
    kinds = {"gemm bf16/fp16", "gemm fp32", "gemm fp8/nvfp4", "attention prefill", "attention decode",
             "attention encoder", "elementwise", "norm", "softmax", "convolution", "moe"}  # fmt: skip
    assert all(groups[kind] >= 8 for kind in kinds)
    models = [row for row in rows if row.kind == "model"]
    assert {row.source for row in models} == {f"regflat-measure/{mode}" for mode in ("eager", "compiled", "graph")}
    assert len(models) == 3 * len(sampling.MODELS)
    assert len({(row.kind, row.source, row.dtype, row.shape) for row in rows}) == len(rows)


def test_a_seed_means_the_same_rows_and_more_of_them_begin_alike() -> None:
    shapes = [{(row.kind, row.dtype, row.shape) for row in drawn(*args)} for args in ((200,), (200,), (400,), (200, 1))]
    assert shapes[0] == shapes[1] != shapes[3]
    assert shapes[0] < shapes[2]


def test_the_beginning_of_a_run_has_all_classes() -> None:
    assert len({row.group for row in drawn(640)[:80]}) >= 10


def test_a_gpu_without_narrow_formats_gets_as_many_rows_of_what_it_has() -> None:
    rows = drawn(300, features=frozenset())
    assert len(rows) == 300
    assert {row.dtype for row in rows} == {"fp32", "fp16"}
    assert not any(row.kind == "moe" for row in rows)


def test_products_stay_within_the_limits() -> None:
    for row in drawn(1000):
        if isinstance(row, Gemm):
            assert 2 * row.m * row.n * row.k * row.batch <= sampling.MOST_FLOPS[row.dtype]
            assert row.dtype != "fp8" or row.n % 16 == row.k % 16 == 0  # what torch._scaled_mm asks for


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="unknown class 'gem'; did you mean gemm"):
        sampling.available(("gem",), ALL)
    with pytest.raises(InputError, match="unknown model 'lama'.*known are llama-3-8b, bert-large, resnet-50"):
        sampling.models(("lama",), ("eager",), "bf16", source="", gpu="")
