"""What is measured: rows without a time yet, drawn from a seed. The same seed gives the same shapes on every GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from ..errors import InputError, near
from ..models import plain
from ..validation.formats import BINARY, NORMS, UNARY
from ..validation.rows import Attention, Convolution, Gemm, Moe, Row, Streaming, WholeModel

WIDTHS = (768, 1024, 1280, 2048, 2560, 3072, 4096, 5120, 6144, 8192, 11008, 14336, 16384, 28672)
"""Hidden and feed-forward sizes of published models."""
EXPERTS = ((4096, 14336, 2, 8), (2048, 768, 8, 128), (2048, 1408, 6, 64), (2880, 2880, 4, 32), (4096, 1536, 8, 128))
"""Hidden, inner, experts a token and experts of Mixtral-8x7B, Qwen3-30B-A3B, DeepSeek-V2-Lite, gpt-oss-20b and
Qwen3-235B-A22B.
"""
LEAST_BYTES, MOST_BYTES = 2**14, 4 * 2**30
MOST_FLOPS = {"fp32": 1e12, "fp16": 6e12, "bf16": 6e12, "fp8": 1.2e13}
"""A row stays within these: it then runs on small GPUs too, in a fraction of a second, and sets of smaller operands
than this would be too many to exceed a cache.
"""
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1}

Draw = Callable[[Random, str], dict[str, Any] | None]
"""Sizes of one row in a number format; None where they came out too large."""


@dataclass(frozen=True)
class Class:
    """A class of kernels: how large a share of all rows it has, in which number formats, and what the GPU must have."""

    row: type[Row]
    share: int
    dtypes: tuple[str, ...]
    draw: Draw
    needs: str = ""


def _gemm(rng: Random, dtype: str) -> dict[str, Any] | None:
    step = 16 if dtype == "fp8" else 1
    if dtype != "fp8" and rng.random() < 0.15:  # products of activations, as in attention written out
        m, k = (_log(rng, 64, 4096) for _ in range(2))
        found = {"m": m, "n": _log(rng, 64, 4096), "k": k, "batch": _log(rng, 2, 256)}
    else:
        n, k = (rng.choice(WIDTHS) if rng.random() < 0.7 else _log(rng, 64, 16384, max(step, 8)) for _ in range(2))
        found = {"m": _log(rng, 1, 32768), "n": n, "k": k, "batch": 1}
    m, n, k, batch = found.values()
    fits = LEAST_BYTES <= batch * (m * k + n * k + m * n) * BYTES[dtype] <= MOST_BYTES
    return found if fits and 2 * batch * m * n * k <= MOST_FLOPS[dtype] else None


def _elementwise(rng: Random, dtype: str) -> dict[str, Any] | None:
    return _streaming(rng, dtype, (*UNARY, *BINARY), rng.choice(WIDTHS))


def _norm(rng: Random, dtype: str) -> dict[str, Any] | None:
    return _streaming(rng, dtype, NORMS, _log(rng, 128, 32768, 64))


def _streaming(rng: Random, dtype: str, ops: Sequence[str], cols: int) -> dict[str, Any] | None:
    op, rows = rng.choice(ops), max(1, _log(rng, 2**16, 2**29) // cols)
    return {"op": op, "rows": rows, "cols": cols} if 3 * rows * cols * BYTES[dtype] <= MOST_BYTES else None


def _heads(rng: Random) -> dict[str, int]:
    heads = rng.choice((8, 16, 32, 40, 64))
    return {"heads": heads, "kv_heads": heads // rng.choice((1, 1, 4, 8)), "head_dim": rng.choice((64, 128))}


def _prefill(rng: Random, dtype: str) -> dict[str, Any] | None:
    batch, length, sizes = _log(rng, 1, 16), _log(rng, 64, 16384, 64), _heads(rng)
    flops = 4 * batch * length**2 * sizes["heads"] * sizes["head_dim"]
    phase = "encoder" if rng.random() < 0.2 else "prefill"
    found = {"phase": phase, "batch": batch, "q_len": length, "kv_len": length, **sizes}
    return found if batch * length <= 65536 and flops <= MOST_FLOPS[dtype] else None


def _decode(rng: Random, dtype: str) -> dict[str, Any] | None:
    batch, length, sizes = _log(rng, 1, 256), _log(rng, 64, 65536), _heads(rng)
    cache = 2 * batch * length * sizes["kv_heads"] * sizes["head_dim"] * BYTES[dtype]
    found = {"phase": "decode", "batch": batch, "q_len": 1, "kv_len": length, **sizes}
    return found if cache <= MOST_BYTES / 2 else None


def _convolution(rng: Random, dtype: str) -> dict[str, Any] | None:
    n, c, k = _log(rng, 1, 128), rng.choice((3, 32, 64, 128, 256, 512, 1024)), rng.choice((64, 128, 256, 512, 1024))
    side, kernel, stride = rng.choice((7, 14, 28, 56, 112, 224)), rng.choice((1, 3, 3, 5, 7)), rng.choice((1, 1, 2))
    flops = 2 * n * (side // stride + 1) ** 2 * c * k * kernel**2
    fits = LEAST_BYTES <= n * side**2 * (c + k) * BYTES[dtype] <= MOST_BYTES / 4
    found = {"n": n, "c": c, "h": side, "w": side, "k": k, "r": kernel, "s": kernel, "stride": stride}
    pad = kernel // 2
    return {**found, "pad_h": pad, "pad_w": pad, "algo": ""} if fits and flops <= MOST_FLOPS["fp32"] else None


def _experts(rng: Random, dtype: str) -> dict[str, Any]:
    names = ("hidden", "inter", "topk", "num_experts")
    sizes = dict(zip(names, rng.choice(EXPERTS), strict=True))
    spread = rng.choice(("balanced", "power_law_1.2"))
    return {"num_tokens": _log(rng, 1, 16384), **sizes, "tp": 1, "ep": 1, "distribution": spread}


def _log(rng: Random, low: int, high: int, step: int = 1) -> int:
    """Between low and high, uniform in its logarithm; often a power of two; a multiple of `step`."""
    exponent = rng.uniform(math.log2(low), math.log2(high))
    value = 2 ** round(exponent) if rng.random() < 0.5 else round(2**exponent)
    return max(step, min(high, value) // step * step)


HALVES = ("bf16", "bf16", "fp16")
CLASSES: dict[str, Class] = {
    "gemm": Class(Gemm, 20, HALVES, _gemm),
    "gemm-fp32": Class(Gemm, 10, ("fp32",), _gemm),
    "gemm-fp8": Class(Gemm, 10, ("fp8",), _gemm, "fp8"),
    "elementwise": Class(Streaming, 14, (*HALVES, "fp32"), _elementwise),
    "norm": Class(Streaming, 12, (*HALVES, "fp32"), _norm),
    "prefill": Class(Attention, 11, HALVES, _prefill),
    "decode": Class(Attention, 11, HALVES, _decode),
    "convolution": Class(Convolution, 8, ("fp32", *HALVES), _convolution),
    "experts": Class(Moe, 6, ("bf16",), _experts, "grouped_mm"),
}
MODELS: tuple[tuple[str, str, int, int], ...] = (
    ("llama-3-8b", "inference-forward", 1, 512),
    ("llama-3-8b", "inference-forward", 1, 2048),
    ("llama-3-8b", "inference-forward", 4, 2048),
    ("llama-3-8b", "decode", 1, 2048),
    ("llama-3-8b", "decode", 8, 2048),
    ("llama-3-8b", "decode", 32, 1024),
    ("bert-large", "inference-forward", 8, 512),
    ("bert-large", "inference-forward", 32, 128),
    ("resnet-50", "inference-forward", 1, 224),
    ("resnet-50", "inference-forward", 32, 224),
    ("resnet-50", "inference-forward", 128, 224),
)
"""Name, phase, batch, and tokens (of a decode: tokens in the cache) or the side of an image."""


def available(names: Sequence[str], features: Collection[str]) -> list[str]:
    """The classes of these names (all where none is given) that a GPU with these features can run."""
    for name in names:
        if name not in CLASSES:
            raise InputError(f"unknown class {name!r}{near(name, CLASSES) or ';'} known are {', '.join(CLASSES)}")
    return [name for name in CLASSES if name in (names or CLASSES) and CLASSES[name].needs in ("", *features)]


def kernels(
    names: Sequence[str], rows: int, seed: int, features: Collection[str], *, source: str, gpu: str
) -> list[Row]:
    """`rows` different rows of these classes by their shares, in mixed order. More rows begin with the same shapes."""
    total = sum(CLASSES[name].share for name in names)
    counts = [rows * CLASSES[name].share // total for name in names]
    for index in range(rows - sum(counts)):
        counts[index % len(counts)] += 1
    drawn = [
        row
        for name, count in zip(names, counts, strict=True)
        for row, _ in zip(_rows(name, seed, features, source, gpu), range(count), strict=False)
    ]
    Random(f"{seed}:order").shuffle(drawn)
    return drawn


def _rows(name: str, seed: int, features: Collection[str], source: str, gpu: str) -> Iterator[Row]:
    """Different rows of one class without end."""
    rng, seen, found = Random(f"{seed}:{name}"), set(), CLASSES[name]
    while True:
        dtype = rng.choice(found.dtypes)
        dtype = "fp16" if dtype == "bf16" and "bf16" not in features else dtype
        sizes = found.draw(rng, dtype)
        key = (dtype, *(sizes or {}).values())
        if sizes is not None and key not in seen:
            seen.add(key)
            yield found.row(file="", line=0, cells={}, source=source, gpu=gpu, dtype=dtype, measured=0.0, **sizes)


def models(names: Sequence[str], modes: Sequence[str], dtype: str, *, source: str, gpu: str) -> list[Row]:
    """Rows of whole models in each mode, those of one model together. Raises `InputError` for an unknown one."""
    for name in names:
        if name not in plain.NAMES:
            raise InputError(f"unknown model {name!r}{near(name, plain.NAMES)}; known are {', '.join(plain.NAMES)}")
    return [
        WholeModel(
            file="", line=0, cells={}, source=f"{source}/{mode}", gpu=gpu, dtype=dtype, measured=0.0, model=name,
            phase=phase, n_gpus=1, batch=batch, in_len=length, out_len=0, options=(),
            metric="tokens_per_s" if phase == "decode" else "e2e_latency",
            unit="tok/s" if phase == "decode" else "ms",
            quantity="rate" if phase == "decode" else "latency",
        )
        for name, phase, batch, length in MODELS if name in names for mode in modes
    ]  # fmt: skip
