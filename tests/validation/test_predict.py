"""Rows of every format are predicted, and as a traced model would be."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from torch_regflat.capture.record import capture
from torch_regflat.hardware import library
from torch_regflat.operators.lowering import workload
from torch_regflat.schedule.modes import MODES
from torch_regflat.validation.cells import RowError
from torch_regflat.validation.formats import FORMATS
from torch_regflat.validation.predict import Prediction, predict
from torch_regflat.validation.reading import read
from torch_regflat.validation.rows import Row
from torch_regflat.validation.works import work_of

from . import files

KERNELS = [name for name in files.FILES if name not in ("end_to_end", "served")]


def predicted(tmp_path: Path, name: str, text: str | None = None) -> list[Prediction]:
    return predict(read(files.write(tmp_path, name, text)).rows)


@pytest.mark.parametrize("name", KERNELS)
def test_rows_of_every_format_are_predicted(name: str, tmp_path: Path) -> None:
    for p in predicted(tmp_path, name):
        assert p.value is not None and p.value > 0 and math.isfinite(p.value), p.reason
        assert p.roofline is not None and p.roofline > 0
        assert p.bound_by
        if p.row.quantity == "latency":
            assert p.low is not None and p.high is not None and p.low <= p.value <= p.high
            assert 0.1 < p.value / p.row.measured < 10, "the numbers of the tests are of the right size"


@pytest.mark.parametrize("name", ["end_to_end", "served"])
def test_rows_of_whole_models_are_predicted(name: str, tmp_path: Path) -> None:
    for p in predicted(tmp_path, name):
        assert p.value is not None, p.reason
        assert 0.2 < p.value / p.row.measured < 5
        assert p.low is not None and p.high is not None and p.low <= p.value <= p.high


def row(format_: str, **cells: str) -> Row:
    """A row of a format on an H100, from its own columns alone."""
    known = next(f for f in FORMATS if f.name == format_)
    return known.parse("made up", 2, {"gpu": "h100-sxm", "latency_us": "1", **cells})


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


HALF = torch.bfloat16
TRACED: list[tuple[Row, Callable[..., Any], tuple[torch.Tensor, ...]]] = [
    (row("gemm", dtype="bf16", m="64", n="128", k="256", batch="1"), F.linear,
     (empty(64, 256, dtype=HALF), empty(128, 256, dtype=HALF))),
    (row("gemm", dtype="fp32", m="64", n="128", k="256", batch="8"), torch.bmm,
     (empty(8, 64, 256), empty(8, 256, 128))),
    (row("attention", dtype="bf16", phase="encoder", batch="2", q_len="64", kv_len="64", heads="4", kv_heads="4",
         head_dim="32"),
     lambda q, kv: F.scaled_dot_product_attention(q, kv[0], kv[1]),
     (empty(2, 4, 64, 32, dtype=HALF), empty(2, 2, 4, 64, 32, dtype=HALF))),
    (row("elementwise, norm or softmax", dtype="fp32", op="softmax", rows="64", cols="128"),
     lambda x: F.softmax(x, -1), (empty(64, 128),)),
    (row("elementwise, norm or softmax", dtype="fp16", op="silu_mul", rows="64", cols="128"),
     lambda x, y: F.silu(x) * y, (empty(64, 128, dtype=torch.half), empty(64, 128, dtype=torch.half))),
    (row("conv", dtype="fp32", n="2", c="4", h="8", w="8", k="8", r="3", s="3", stride="1", pad_h="1"),
     lambda x, w: F.conv2d(x, w, padding=1), (empty(2, 4, 8, 8), empty(8, 4, 3, 3))),
]  # fmt: skip


@pytest.mark.parametrize(("found", "function", "args"), TRACED, ids=lambda value: getattr(value, "kind", ""))
def test_a_row_is_the_operation_that_a_traced_model_would_give(
    found: Row, function: Callable[..., Any], args: tuple[torch.Tensor, ...]
) -> None:
    (part,) = work_of(found, library.load("h100-sxm"), MODES["graph"]).parts
    traced = workload(capture(function, args))
    ours, theirs = ([op for op in work if not op.is_view] for work in (part.workload, traced))
    assert [op.target for op in ours] == [op.target for op in theirs]
    assert [op.flops for op in ours] == [op.flops for op in theirs]
    moved = [[math.fsum(n.compulsory_bytes() for n in op.nests) for op in side] for side in (ours, theirs)]
    assert moved[0] == moved[1]


def test_an_unknown_gpu_is_answered_with_near_names_and_counts_as_wrong(tmp_path: Path) -> None:
    text = files.FILES["gemm"].replace("H100-SXM", "H100-SXN", 1)
    first, *others = predicted(tmp_path, "gemm", text)
    assert first.value is None
    assert "unknown chip 'H100-SXN'; did you mean h100-sxm" in first.reason
    assert first.error == -1.0
    assert all(p.value is not None for p in others)


def test_the_gpu_may_be_a_chip_file(tmp_path: Path) -> None:
    chip = tmp_path / "mine.toml"
    source = Path(library.__file__).parent / "chips" / "h100-sxm.toml"
    chip.write_text(source.read_text().replace('name = "h100-sxm"', 'name = "mine"', 1))
    text = files.FILES["gemm"].splitlines()[0] + f"\nrtl,{chip},bf16,512,4096,4096,1,40.0\n"
    (p,) = predicted(tmp_path, "gemm", text)
    assert p.chip == "mine"
    assert p.value is not None


def test_a_chip_that_lacks_a_narrow_format_widens_the_weights(tmp_path: Path) -> None:
    text = files.FILES["gemm"].splitlines()[0] + "\nx,A40,fp8,64,4096,4096,1,40.0\nx,A40,bf16,64,4096,4096,1,40.0\n"
    narrow, wide = predicted(tmp_path, "gemm", text)
    assert narrow.value is not None and wide.value is not None
    assert narrow.value < wide.value


def test_progress_is_told_of_every_row(tmp_path: Path) -> None:
    told: list[int] = []
    rows = read(files.write(tmp_path, "gemm", files.FILES["gemm"].replace("H100-SXM", "nonsense", 1))).rows
    predict(rows, told.append)
    assert sum(told) == len(rows)


def test_a_power_row_without_a_kernel_is_no_prediction(tmp_path: Path) -> None:
    text = files.FILES["power"].splitlines()[0] + "\naccelwattch,V100-PCIE-32GB,1,btree_k1,x,avg_power_watts,150,W\n"
    (p,) = predicted(tmp_path, "power", text)
    assert p.value is None
    assert "btree_k1: the source does not say what the kernel works on" in p.reason


def test_row_errors_say_where() -> None:
    with pytest.raises(RowError, match="made up:2: column m"):
        row("gemm", dtype="bf16", m="0", n="1", k="1", batch="1")


def test_a_model_without_a_term_says_something_else(tmp_path: Path) -> None:
    """As scripts that take a term out see it."""
    rows = read(files.write(tmp_path, "gemm")).rows
    none = {"prologue": {"value": 0.0, "low": None}}
    plain = [p.value or 0.0 for p in predict(rows)]
    without = [p.value or 0.0 for p in predict(rows, change=lambda chip, made: (chip, made.replace(none)))]
    assert all(0.0 < b <= a for a, b in zip(plain, without, strict=True))
    assert without[0] < plain[0]
