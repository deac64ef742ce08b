"""Rows of the package aiconfigurator-core, with its parquet reader stubbed: folders and columns are as in 0.12.0."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from torch_regflat.errors import InputError
from torch_regflat.validation.package import read_folder
from torch_regflat.validation.rows import Attention, Exchange, Gemm, Moe

COMMON = {"framework": "VLLM", "version": "0.24.0", "device": "x", "kernel_source": "fa3", "latency": 0.05}
ATTENTION = {"batch_size": 2, "num_heads": 8, "head_dim": 128, "attn_dtype": "bfloat16"}
RECORDS: dict[str, list[dict[str, Any]]] = {
    "gemm": [{**COMMON, "op_name": "gemm", "gemm_dtype": "bfloat16", "m": m, "n": 64, "k": 128} for m in range(1, 31)],
    "generation_attention": [
        {**COMMON, **ATTENTION, "op_name": "generation_attention", "num_key_value_heads": 2, "kv_cache_dtype": "fp8",
         "isl": 1, "step": 4095, "window_size": window}
        for window in (0, 128)
    ],
    "encoder_attention": [{**COMMON, **ATTENTION, "op_name": "encoder_attention", "isl": 256}],
    "moe": [
        {**COMMON, "op_name": "moe", "moe_dtype": name, "num_tokens": 4, "hidden_size": 64, "inter_size": 32, "topk": 2,
         "num_experts": 8, "moe_tp_size": 1, "moe_ep_size": 2, "distribution": "power_law_1.2"}
        for name in ("bfloat16", "w4a16_mxfp4", "int7")
    ],
    "nccl": [
        {"op_name": kind, "nccl_dtype": dtype, "num_gpus": 8, "message_size": 2**20, "latency": 0.05,
         "kernel_source": "NCCL"}
        for kind, dtype in (("alltoall", "half"), ("all_gather", "int8"))
    ],
    "custom_allreduce": [
        {**COMMON, "op_name": "all_reduce", "kernel_source": f"vLLM_custom_{how}", "allreduce_dtype": "bfloat16",
         "num_gpus": 4, "message_size": 1024}
        for how in ("eager", "graph")
    ],
}  # fmt: skip


class StubTable:
    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.records, self.num_rows = records, len(records)

    def take(self, places: list[int]) -> StubTable:
        return StubTable([self.records[place] for place in places])

    def to_pylist(self) -> list[dict[str, Any]]:
        return self.records


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder tree of the package, and a stub in place of pyarrow that knows its tables."""
    for name in RECORDS:
        folder = tmp_path / "h100_sxm" / name.split("_")[-1] / "vllm" / "0.24.0"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}_perf.parquet").write_bytes(b"")
    (folder / "wideep_deepep_ll_perf.parquet").write_bytes(b"")
    parquet = types.ModuleType("pyarrow.parquet")
    parquet.read_table = lambda path: StubTable(RECORDS[Path(path).stem.removesuffix("_perf")])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", types.ModuleType("pyarrow"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    return tmp_path


def test_tables_become_rows(data: Path) -> None:
    rows = [row for table in read_folder(data, 100) for row in table.rows]
    gemm = next(row for row in rows if isinstance(row, Gemm))
    assert (gemm.shape, gemm.gpu, gemm.source) == ((1, 64, 128, 1), "H100-SXM", "aic/vllm-0.24.0")
    assert gemm.measured == pytest.approx(50e-6)
    decode, encoder = sorted((r for r in rows if isinstance(r, Attention)), key=lambda r: r.phase)
    assert decode.shape == ("decode", 2, 1, 4096, 8, 2, 128)
    assert (decode.dtype, decode.source) == ("bf16/kv-fp8", "aic/vllm-0.24.0-fa3")
    assert encoder.shape == ("encoder", 2, 256, 256, 8, 8, 128)
    assert [r.dtype for r in rows if isinstance(r, Moe)] == ["bf16", "w4a16_mxfp4"]


def test_collectives_count_bytes_and_graphs(data: Path) -> None:
    """Of messages the tables count elements; tables without columns for them say framework and version by their folder;
    an all-reduce that the host launched one by one is not one of a serving engine's graph."""
    rows = [row for table in read_folder(data, 100) for row in table.rows if isinstance(row, Exchange)]
    assert [(r.collective, r.ranks, r.size, r.dtype, r.source, r.over) for r in rows] == [
        ("all_reduce", 4, 2048, "bf16", "aic/engine-vllm-0.24.0", "NVLink"),
        ("all_to_all", 8, 2**21, "fp16", "aic/nccl-0.24.0", "NVLink"),
        ("all_gather", 8, 2**20, "int8", "aic/nccl-0.24.0", "NVLink"),
    ]
    assert [r.group for r in rows] == [
        "engines' all-reduce over NVLink, below 1 MiB",
        "collective over NVLink, 1 MiB and more",
        "collective over NVLink, 1 MiB and more",
    ]
    assert [table.path for table in read_folder(data, 100, "collective")] == [
        "h100_sxm/allreduce/vllm/0.24.0/custom_allreduce_perf.parquet",
        "h100_sxm/nccl/vllm/0.24.0/nccl_perf.parquet",
    ]


def test_what_no_row_can_be_is_named(data: Path) -> None:
    (line,) = [line for table in read_folder(data, 100) for line in table.malformed]
    assert "moe_perf.parquet" in line and "column dtype is 'int7'" in line


def test_a_sample_is_the_same_every_time(data: Path) -> None:
    first, second = ([row.shape for table in read_folder(data, 7) for row in table.rows] for _ in range(2))
    assert first == second
    assert sum(len(shape) == 4 for shape in first) == 7


def test_no_tables_and_no_sample(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no tables of this package"):
        read_folder(tmp_path / "h100_sxm")
    with pytest.raises(InputError, match="--sample is 0; it must be 1 or more"):
        read_folder(data, 0)
