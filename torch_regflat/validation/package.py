"""Measured rows out of an installed `aiconfigurator-core` (Apache-2.0), in the columns of our own formats.

The package has `systems/data/<system>/<operation>/<framework>/<version>/<table>.parquet` with latencies in
milliseconds. Of each table a sample is taken, the same every time. Left out: sliding windows, number formats that
no row of ours can have, and of the all-reduces of serving engines those that were not replayed in a graph.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import InputError
from .cells import RowError
from .formats import FORMATS, Format
from .reading import Table

PACKAGE = "aiconfigurator_core"
SAMPLE = 200
"""Rows of each table, unless another number is asked for: some 20,000 in all."""

Record: TypeAlias = dict[str, Any]

SYSTEMS = {
    "a100_sxm": "A100-SXM4-80GB", "a100_pcie": "A100-PCIE-40GB", "b200_sxm": "B200-SXM", "b300_sxm": "B300-SXM",
    "b60": "ARC-B60", "gb200": "GB200", "gb300": "GB300", "h100_sxm": "H100-SXM", "h100_pcie": "H100-PCIE",
    "h200_sxm": "H200-SXM", "l4": "L4", "l40s": "L40S", "rtx_pro_6000_server": "RTX-PRO-6000-SE",
}  # fmt: skip
"""Folders of the package, and how measured files spell those GPUs."""

_DTYPES = {"bfloat16": "bf16", "float16": "fp16"}


def _gemm(record: Record) -> Record:
    return {"dtype": _dtype(record["gemm_dtype"]), "m": record["m"], "n": record["n"], "k": record["k"], "batch": 1}


def _attention(phase: str) -> Callable[[Record], Record | None]:
    def cells(record: Record) -> Record | None:
        if record.get("window_size"):
            return None
        dtype, cache = _dtype(record["attn_dtype"]), _dtype(record.get("kv_cache_dtype") or record["attn_dtype"])
        heads = record["num_heads"]
        return {
            "dtype": dtype if cache == dtype or dtype == "fp8" else f"{dtype}/kv-{cache}",
            "phase": phase,
            "batch": record["batch_size"],
            "q_len": 1 if phase == "decode" else record["isl"],
            "kv_len": record["step"] + 1 if phase == "decode" else record["isl"],
            "heads": heads,
            "kv_heads": record.get("num_key_value_heads") or heads,
            "head_dim": record["head_dim"],
        }

    return cells


def _latent(record: Record) -> Record | None:
    """DeepSeek's attention over its compressed cache: 512 elements and 64 rotary ones a token, for all heads."""
    dtype, cache = _dtype(record["mla_dtype"]), _dtype(record["kv_cache_dtype"])
    if cache not in (dtype, "fp8") or dtype not in ("bf16", "fp8"):
        return None
    return {
        "dtype": dtype if cache == dtype else f"{dtype}/kv-{cache}",
        "phase": "latent",
        "batch": record["batch_size"],
        "q_len": 1,
        "kv_len": record["step"] + record["isl"],
        "heads": record["num_heads"],
        "kv_heads": 1,
        "head_dim": 576,
    }


def _moe(record: Record) -> Record:
    same = ("num_tokens", "topk", "num_experts", "distribution")
    return {
        "dtype": _dtype(record["moe_dtype"]),
        "hidden": record["hidden_size"],
        "inter": record["inter_size"],
        "tp": record["moe_tp_size"],
        "ep": record["moe_ep_size"],
        **{name: record[name] for name in same},
    }


_COLLECTIVES = {"alltoall": "all_to_all"}
_PCIE = ("L40S", "RTX", "L4", "A100-PCIE", "H100-PCIE", "ARC")
"""Starts of the names of GPUs that PCIe joins in these tables; links of their own join the others."""


def _nccl(record: Record) -> Record:
    """A collective of NCCL; the table counts elements."""
    half = record["nccl_dtype"] == "half"
    kind = record["op_name"]
    return {
        "dtype": "fp16" if half else "int8",
        "collective": _COLLECTIVES.get(kind, kind),
        "ranks": record["num_gpus"],
        "bytes": record["message_size"] * (2 if half else 1),
        "source": f"aic/nccl-{record['version']}",
    }


def _engine(record: Record) -> Record | None:
    """An all-reduce of a serving engine in a graph, of bfloat16."""
    if str(record["kernel_source"]).endswith("eager"):
        return None
    return {
        "dtype": "bf16",
        "collective": "all_reduce",
        "ranks": record["num_gpus"],
        "bytes": record["message_size"] * 2,
        "source": f"aic/engine-{record['framework'].lower()}-{record['version']}",
    }


def _dtype(name: Any) -> str:
    return _DTYPES.get(name, str(name))


TABLES: dict[str, tuple[str, Callable[[Record], Record | None]]] = {
    "gemm_perf": ("gemm", _gemm),
    "context_attention_perf": ("attention", _attention("prefill")),
    "generation_attention_perf": ("attention", _attention("decode")),
    "encoder_attention_perf": ("attention", _attention("encoder")),
    "generation_mla_perf": ("attention", _latent),
    "moe_perf": ("moe", _moe),
    "nccl_perf": ("collective", _nccl),
    "custom_allreduce_perf": ("collective", _engine),
}
"""Tables that are read: the format they are brought into, and how; None for a row that is left out."""


def read_package(sample: int = SAMPLE, format_: str | None = None) -> list[Table]:
    """A sample of each table of the installed package (of one format, where it is named).

    Raises `InputError` where the package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations or importlib.util.find_spec("pyarrow") is None:
        raise InputError("--from-package needs the package aiconfigurator-core; pip install 'torch_regflat[validate]'")
    return read_folder(Path(next(iter(found.submodule_search_locations))) / "systems" / "data", sample, format_)


def read_folder(data: Path, sample: int = SAMPLE, format_: str | None = None) -> list[Table]:
    """A sample of each table below the folder `data` of the package."""
    if sample < 1:
        raise InputError(f"--sample is {sample}; it must be 1 or more")
    wanted = {name for name, (known, _) in TABLES.items() if format_ in (None, known)}
    paths = sorted(path for path in data.glob("*/*/*/*/*.parquet") if path.stem in wanted)
    if not paths:
        raise InputError(f"{data} has no tables of this package; known are {', '.join(TABLES)} in parquet files")
    return [_table(path, data, sample) for path in paths]


def _table(path: Path, data: Path, sample: int) -> Table:
    name, convert = TABLES[path.stem]
    format_ = next(known for known in FORMATS if known.name == name)
    table = Table(str(path.relative_to(data)), format_, (*format_.optional[:1], *format_.columns))
    system, _, framework, version, _ = path.relative_to(data).parts
    for line, record in _records(path, sample):
        record["version"] = record.get("version") or version
        record["framework"] = record.get("framework") or framework
        made = convert(record)
        if made is not None:
            _add(table, format_, line, {**_common(record, system), **made})
    return table


def _common(record: Record, system: str) -> Record:
    kernel = f"-{record['kernel_source']}" if record["op_name"].endswith("attention") else ""
    gpu = SYSTEMS.get(system, system)
    return {
        "source": f"aic/{str(record['framework']).lower()}-{record['version']}{kernel}",
        "gpu": gpu,
        "over": "PCIe" if gpu.startswith(_PCIE) else "NVLink",
        "latency_us": record["latency"] * 1e3,
    }


def _add(table: Table, format_: Format, line: int, cells: Record) -> None:
    values = {name: str(value) for name, value in cells.items()}
    try:
        table.rows.append(format_.parse(table.path, line, values))
    except RowError as error:
        table.malformed.append(str(error))


def _records(path: Path, sample: int) -> Iterator[tuple[int, Record]]:
    """(row number, row) of a sample that depends on the file's name and length only."""
    parquet = importlib.import_module("pyarrow.parquet")
    table = parquet.read_table(path)
    chosen = list(range(table.num_rows))
    if len(chosen) > sample:
        chosen = sorted(random.Random(path.name).sample(chosen, sample))
    yield from zip(chosen, table.take(chosen).to_pylist(), strict=True)
