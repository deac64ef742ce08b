"""The formats of files: which columns make which, and how a line of text becomes a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from .cells import Cells, RowError
from .rows import Attention, Convolution, Exchange, Gemm, Moe, Operator, Power, Quantity, Row, Streaming, WholeModel

Reader: TypeAlias = "Callable[[Cells], dict[str, Any]]"

UNITS: dict[str, tuple[Quantity, float]] = {
    "us": ("latency", 1e-6),
    "ms": ("latency", 1e-3),
    "s": ("latency", 1.0),
    "tok/s": ("rate", 1.0),
    "W": ("power", 1.0),
}
"""Units of the `unit` column: what they measure, and the SI value of one."""


FLOATS = ("fp32", "fp16", "bf16")
PRODUCT_DTYPES = (*FLOATS, "fp8", "fp8_block", "nvfp4", "int4_wo", "w4a16_mxfp4", "w4a8_mxfp4_mxfp8", "w4afp8")
ATTENTION_DTYPES = (*FLOATS, "bf16/kv-fp8", "fp8")
UNARY = ("relu", "gelu", "tanh", "addu", "mulu", "divu", "powu")
"""Element-wise on one tensor; those with a u have a number as the second operand."""
BINARY = ("add", "mul", "div", "pow", "silu_mul")
NORMS = ("layernorm", "rmsnorm", "softmax")
PHASES = ("prefill", "decode", "encoder", "latent")


def _latency(cells: Cells) -> dict[str, Any]:
    return {"measured": cells.positive("latency_us") * 1e-6}


def _median(cells: Cells) -> dict[str, Any]:
    low, middle, high = (cells.positive(f"lat_{name}_us") * 1e-6 for name in ("min", "med", "max"))
    if not low <= middle <= high:
        raise RowError(f"{cells.place}: lat_min_us, lat_med_us and lat_max_us must not fall in this order")
    return {"measured": middle, "low": low, "high": high}


MOST_ELEMENTS = 2**50
"""More than any memory holds."""


def _check_sizes(cells: Cells, *tensors: tuple[int, ...]) -> None:
    for shape in tensors:
        if math.prod(shape) > MOST_ELEMENTS:
            raise RowError(f"{cells.place}: a tensor of {' x '.join(map(str, shape))} is larger than any memory")


def _gemm(cells: Cells) -> dict[str, Any]:
    sizes = {name: cells.whole(name) for name in ("m", "n", "k", "batch")}
    m, n, k, batch = sizes.values()
    _check_sizes(cells, (batch, m, k), (batch, k, n), (batch, m, n))
    return {"dtype": _dtype(cells, PRODUCT_DTYPES), **sizes}


def _attention(cells: Cells) -> dict[str, Any]:
    names = ("batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim")
    sizes = {name: cells.whole(name) for name in names}
    batch, q_len, kv_len, heads, _, size = sizes.values()
    _check_sizes(cells, (batch, q_len, heads, size), (batch, kv_len, heads, size))
    if q_len > kv_len:
        raise RowError(f"{cells.place}: q_len = {q_len} is more than kv_len = {kv_len}, which has the new tokens too")
    if sizes["heads"] % sizes["kv_heads"]:
        raise RowError(f"{cells.place}: heads = {sizes['heads']} is no multiple of kv_heads = {sizes['kv_heads']}")
    return {"dtype": _dtype(cells, ATTENTION_DTYPES), "phase": cells.text("phase", PHASES), **sizes}


def _moe(cells: Cells) -> dict[str, Any]:
    names = ("num_tokens", "hidden", "inter", "topk", "num_experts", "tp", "ep")
    sizes = {name: cells.whole(name) for name in names}
    if sizes["topk"] > sizes["num_experts"]:
        raise RowError(f"{cells.place}: topk = {sizes['topk']} is more than num_experts = {sizes['num_experts']}")
    for name, most in (("ep", "num_experts"), ("tp", "inter")):
        if sizes[name] > sizes[most]:
            raise RowError(f"{cells.place}: {name} = {sizes[name]} ranks share {most} = {sizes[most]}")
    tokens, hidden, inter, topk, experts = list(sizes.values())[:5]
    _check_sizes(cells, (tokens, topk, hidden), (tokens, topk, inter), (experts, hidden, inter))
    spread = cells.text("distribution", default="balanced")
    power_law(spread, cells.place)
    return {"dtype": _dtype(cells, PRODUCT_DTYPES), "distribution": spread, **sizes}


def power_law(distribution: str, place: str = "") -> float:
    """The exponent of a distribution of tokens over experts: 0 for `balanced`, 1.2 for `power_law_1.2`."""
    if distribution == "balanced":
        return 0.0
    try:
        exponent = float(distribution.removeprefix("power_law_"))
    except ValueError:
        exponent = math.nan
    if not 0 < exponent < 100:
        raise RowError(
            f"{place}: column distribution is {distribution!r}; write balanced, or power_law_ and an exponent above 0"
        )
    return exponent


def _streaming(cells: Cells) -> dict[str, Any]:
    op = cells.text("op", (*UNARY, *BINARY, *NORMS))
    _check_sizes(cells, (cells.whole("rows"), cells.whole("cols")))
    return {"dtype": _dtype(cells, FLOATS), "op": op, "rows": cells.whole("rows"), "cols": cells.whole("cols")}


def _convolution(cells: Cells) -> dict[str, Any]:
    sizes = {name: cells.whole(name) for name in ("n", "c", "h", "w", "k", "r", "s", "stride")}
    _check_sizes(cells, tuple(sizes[name] for name in "nchw"), tuple(sizes[name] for name in "nkhw"))
    pad_h = cells.whole("pad_h", 0)
    pad_w = cells.whole("pad_w", 0, default=pad_h)
    if sizes["h"] + 2 * pad_h < sizes["r"] or sizes["w"] + 2 * pad_w < sizes["s"]:
        raise RowError(f"{cells.place}: a filter of {sizes['r']} x {sizes['s']} is larger than the padded image")
    return {
        "dtype": _dtype(cells, FLOATS),
        **sizes,
        "pad_h": pad_h,
        "pad_w": pad_w,
        "algo": cells.text("algo", default=""),
    }


COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")


def _collective(cells: Cells) -> dict[str, Any]:
    return {
        "dtype": _dtype(cells, (*FLOATS, "fp8", "int8")),
        "collective": cells.text("collective", COLLECTIVES),
        "ranks": cells.whole("ranks", 2),
        "size": cells.whole("bytes"),
        "over": cells.text("over", default=""),
    }


def _dtype(cells: Cells, known: tuple[str, ...]) -> str:
    """A trailing question mark says that the source does not state the format for certain."""
    value = cells.text("dtype")
    if value.removesuffix("?") in known:
        return value.removesuffix("?")
    return cells.text("dtype", known)


def _operator(cells: Cells) -> dict[str, Any]:
    forward = cells.positive("fw_ms")
    backward = float(cells.text("bw_ms", default="0") or 0)
    return {
        "dtype": cells.text("dtype", FLOATS, default="fp32"),
        "model": cells.text("model"),
        "target": cells.text("target"),
        "is_module": cells.text("op", ("call_module", "call_function", "call_method")) == "call_module",
        "inputs": cells.shapes("input_shapes"),
        "output": cells.shapes("output_shape")[0],
        "backward": backward > 0,
        "measured": (forward + backward) * 1e-3,
        "unit": "ms",
    }


MODEL_PHASES = ("inference-forward", "train-iteration", "decode", "serve-agg", "serve-disagg")


def _model(cells: Cells) -> dict[str, Any]:
    phase = cells.text("phase", MODEL_PHASES)
    served = phase.startswith("serve")
    options = dict(part.partition("=")[::2] for part in cells.text("ref", default="").split(";") if "=" in part)
    return {
        "dtype": cells.text("dtype", default="bf16"),
        "model": cells.text("model"),
        "phase": phase,
        "n_gpus": cells.whole("n_gpus", default=1 if not served else int(options.get("tp") or 1)),
        "batch": cells.whole("batch", default=int(options.get("conc") or 1) if served else None),
        "in_len": cells.whole("in_len"),
        "out_len": cells.whole("out_len", 0, default=0),
        "metric": cells.text("metric"),
        "options": tuple(sorted(options.items())),
        **_value(cells),
    }


def _value(cells: Cells) -> dict[str, Any]:
    unit = cells.text("unit", tuple(UNITS))
    quantity, scale = UNITS[unit]
    return {"measured": cells.positive("value") * scale, "quantity": quantity, "unit": unit}


def _power(cells: Cells) -> dict[str, Any]:
    cells.text("metric", ("avg_power_watts",))
    workload = cells.text("workload")
    runs = _power_kernel(workload, cells)
    return {"dtype": runs.dtype if runs is not None else "-", "workload": workload, "runs": runs, **_value(cells)}


def _power_kernel(workload: str, cells: Cells) -> Row | None:
    """The kernel in the column `config`: `b=1;q=1;kv=4096;h=8;kvh=1;d=128;bfloat16/kv-fp8`; of experts, or products."""
    parts = cells.text("config", default="").replace("bfloat16", "bf16").split(";")
    given = dict(part.partition("=")[::2] for part in parts if "=" in part)
    words = [part for part in parts if "=" not in part]
    known: dict[str, Any] = {
        "file": cells.file,
        "line": cells.line,
        "cells": {},
        "source": cells.text("source", default=""),
        "gpu": cells.text("gpu"),
        "measured": 1.0,
    }
    if workload in PHASES and len(words) == 1:
        sizes = {name: given.get(key, "") for name, key in ATTENTION_KEYS.items()}
        dtype = words[0].removesuffix("/kv-bf16")
        return Attention(**known, **_attention(cells.others({**sizes, "phase": workload, "dtype": dtype})))
    if workload == "moe" and len(words) == 2:
        sizes = {name: given.get(key, "") for name, key in MOE_KEYS.items()}
        return Moe(**known, **_moe(cells.others({**sizes, "dtype": words[0], "distribution": words[1]})))
    if workload == "gemm" and len(words) == 1:
        sizes = {name: given.get(key, "") for name, key in GEMM_KEYS.items()}
        return Gemm(**known, **_gemm(cells.others({**sizes, "dtype": words[0]})))
    return None


ATTENTION_KEYS = {
    "batch": "b", "q_len": "q", "kv_len": "kv", "heads": "h", "kv_heads": "kvh", "head_dim": "d",
}  # fmt: skip
MOE_KEYS = {
    "num_tokens": "t", "hidden": "hid", "inter": "int", "topk": "topk", "num_experts": "E", "tp": "tp", "ep": "ep",
}  # fmt: skip
GEMM_KEYS = {"m": "m", "n": "n", "k": "k", "batch": "b"}


@dataclass(frozen=True)
class Format:
    """A kind of file: its columns (those in brackets may be missing) and how a line is read."""

    name: str
    row: type[Row]
    columns: tuple[str, ...]
    optional: tuple[str, ...]
    readers: tuple[Reader, ...]

    def matches(self, header: tuple[str, ...]) -> bool:
        return set(self.columns) <= set(header)

    def parse(self, file: str, line: int, values: Mapping[str, str]) -> Row:
        """One line as a row; raises `RowError`."""
        cells = Cells(file, line, values)
        found: dict[str, Any] = {"gpu": cells.text("gpu"), "source": cells.text("source", default="")}
        for reader in self.readers:
            found.update(reader(cells))
        return self.row(file=file, line=line, cells=dict(values), **found)


_MEDIANS = ("lat_min_us", "lat_med_us", "lat_max_us")
_GEMM = ("gpu", "dtype", "m", "n", "k", "batch")
_ATTENTION = ("gpu", "dtype", "phase", "batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim")
_MOE = ("gpu", "dtype", "num_tokens", "hidden", "inter", "topk", "num_experts", "tp", "ep", "latency_us")
_CONV = ("gpu", "dtype", "n", "c", "h", "w", "k", "r", "s", "stride", "pad_h", "latency_us")
_COLLECTIVE = ("gpu", "dtype", "collective", "ranks", "bytes", "latency_us")
_OPERATOR = ("gpu", "model", "op", "target", "input_shapes", "output_shape", "fw_ms")
_WHOLE = ("gpu", "model", "phase", "dtype", "batch", "in_len", "n_gpus", "metric", "value", "unit")
_ANY = ("source",)

FORMATS: tuple[Format, ...] = (
    Format("gemm", Gemm, (*_GEMM, "latency_us"), _ANY, (_gemm, _latency)),
    Format("gemm consensus", Gemm, (*_GEMM, *_MEDIANS), _ANY, (_gemm, _median)),
    Format("attention", Attention, (*_ATTENTION, "latency_us"), _ANY, (_attention, _latency)),
    Format("attention consensus", Attention, (*_ATTENTION, *_MEDIANS), _ANY, (_attention, _median)),
    Format("moe", Moe, _MOE, (*_ANY, "distribution"), (_moe, _latency)),
    Format(
        "elementwise, norm or softmax",
        Streaming,
        ("gpu", "dtype", "op", "rows", "cols", "latency_us"),
        _ANY,
        (_streaming, _latency),
    ),
    Format("conv", Convolution, _CONV, (*_ANY, "pad_w", "algo"), (_convolution, _latency)),
    Format("collective", Exchange, _COLLECTIVE, (*_ANY, "over"), (_collective, _latency)),
    Format("operators of a model", Operator, _OPERATOR, (*_ANY, "dtype", "bw_ms"), (_operator,)),
    Format("whole models, served or not", WholeModel, _WHOLE, (*_ANY, "out_len", "ref"), (_model,)),
    Format("power", Power, ("gpu", "workload", "config", "metric", "value", "unit"), _ANY, (_power,)),
)
