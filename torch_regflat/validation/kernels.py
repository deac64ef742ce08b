"""The operations of a kernel row: the ATen calls that a traced model would make, lowered by the ordinary passes."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx

from ..errors import InputError
from ..operators.lowering import workload
from ..workload import Collective, CollectiveKind, Operation, Tensor, Workload, with_kv_bits
from .experts import experts
from .graphs import Builder
from .rows import Attention, Convolution, Exchange, Gemm, Moe, Row, Streaming

aten = torch.ops.aten

ROTARY = 64
"""Elements of the rotary key of DeepSeek's latent attention, the only one with measured rows."""
TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


def operations(row: Row) -> Workload:
    """The workload of a kernel row, in a model's own number format where its dtype is a quantised one.

    Equal rows, whatever GPU and source, share one.
    """
    if isinstance(row, Gemm):
        return _gemm(row.dtype, row.m, row.n, row.k, row.batch)
    if isinstance(row, Attention):
        heads = (row.heads, row.kv_heads, row.head_dim)
        return _attention(row.dtype, row.phase, row.batch, row.q_len, row.kv_len, *heads)
    if isinstance(row, Moe):
        return experts(row, _model_dtype(row.dtype))
    if isinstance(row, Streaming):
        return _streaming(row.dtype, row.op, row.rows, row.cols)
    if isinstance(row, Convolution):
        return _convolution(row.dtype, *row.shape)
    if isinstance(row, Exchange):
        return _exchange(row.dtype, row.collective, row.ranks, row.size)
    raise InputError(f"{row.place}: a {type(row).__name__} is no single kernel")


@functools.lru_cache(maxsize=65536)
def _gemm(dtype: str, m: int, n: int, k: int, batch: int) -> Workload:
    build, number = Builder(), _model_dtype(dtype)
    if batch > 1:
        a, b = build.tensor(batch, m, k, dtype=number), build.tensor(batch, k, n, dtype=number)
        return _finish(build, build.call(aten.bmm.default, a, b))
    x, w = build.tensor(m, k, dtype=number), build.tensor(n, k, dtype=number, role="weight")
    return _finish(build, build.call(aten.linear.default, x, w))


@functools.lru_cache(maxsize=65536)
def _attention(
    dtype: str, phase: str, batch: int, q_len: int, kv_len: int, heads: int, kv_heads: int, head_dim: int
) -> Workload:
    """The call of an attention backend: new keys and values go into the cache first; fp8 ones arrive as bf16."""
    build, number = Builder(), TORCH_DTYPES[dtype.partition("/")[0]]

    def arrives(*shape: int) -> fx.Node:
        if number.itemsize > 1:
            return build.tensor(*shape, dtype=number)
        return build.call(aten.to.dtype, build.tensor(*shape, dtype=torch.bfloat16), number)

    query = arrives(batch, heads, q_len, head_dim)
    if phase == "latent":
        return _latent(build, number, query, kv_len, dtype)
    if phase == "encoder":
        pairs = arrives(2, batch, kv_heads, kv_len, head_dim)
    else:
        cache = build.tensor(2, batch, kv_heads, kv_len - q_len, head_dim, dtype=number, role="kv_cache")
        pairs = build.call(aten.cat.default, [cache, arrives(2, batch, kv_heads, q_len, head_dim)], 3)
    key, value = (build.call(aten.select.int, pairs, 0, at) for at in range(2))
    options: dict[str, Any] = {"is_causal": phase == "prefill", "enable_gqa": heads != kv_heads}
    target = aten.scaled_dot_product_attention.default
    result = build.call(target, query, key, value, out=(batch, heads, q_len, head_dim), **options)
    work = _finish(build, result)
    return with_kv_bits(work, 8) if dtype.endswith("/kv-fp8") else work


def _latent(build: Builder, number: torch.dtype, query: fx.Node, kv_len: int, dtype: str) -> Workload:
    """One token over a compressed cache: latents and rotary keys, to which those of the token are appended first."""
    batch, heads, q_len, size = query.meta["val"].shape

    def cached(width: int) -> fx.Node:
        known = build.tensor(batch, 1, kv_len - q_len, width, dtype=number, role="kv_cache")
        return build.call(aten.cat.default, [known, build.tensor(batch, 1, q_len, width, dtype=number)], 2)

    latent, rope = cached(size - ROTARY), cached(ROTARY)
    target = torch.ops.regflat.latent_attention.default
    work = _finish(build, build.call(target, query, latent, rope, 1.0, out=(batch, heads, q_len, size - ROTARY)))
    return with_kv_bits(work, 8) if dtype.endswith("/kv-fp8") else work


@functools.lru_cache(maxsize=65536)
def _streaming(dtype: str, op: str, rows: int, cols: int) -> Workload:
    build, number = Builder(), TORCH_DTYPES[dtype]
    x = build.tensor(rows, cols, dtype=number)
    return _finish(build, _streaming_call(build, op, x, rows, cols, number))


def _streaming_call(build: Builder, op: str, x: fx.Node, rows: int, cols: int, number: torch.dtype) -> fx.Node:
    unary = {"relu": aten.relu.default, "gelu": aten.gelu.default, "tanh": aten.tanh.default}
    scalar = {"addu": aten.add.Tensor, "mulu": aten.mul.Tensor, "divu": aten.div.Tensor, "powu": aten.pow.Tensor_Scalar}
    binary = {"add": aten.add.Tensor, "mul": aten.mul.Tensor, "div": aten.div.Tensor, "pow": aten.pow.Tensor_Tensor}
    call = functools.partial(build.call, out=(rows, cols))
    if op in unary:
        return call(unary[op], x)
    if op in scalar:
        return call(scalar[op], x, 2.0)
    if op in binary:
        return call(binary[op], x, build.tensor(rows, cols, dtype=number))
    if op == "silu_mul":
        return call(aten.mul.Tensor, call(aten.silu.default, x), build.tensor(rows, cols, dtype=number))
    if op == "softmax":
        return call(aten.softmax.int, x, -1)
    weight = build.tensor(cols, dtype=number, role="weight")
    if op == "rmsnorm":
        return call(aten.rms_norm.default, x, [cols], weight)
    return call(aten.layer_norm.default, x, [cols], weight, build.tensor(cols, dtype=number, role="weight"))


@functools.lru_cache(maxsize=65536)
def _convolution(
    dtype: str, n: int, c: int, h: int, w: int, k: int, r: int, s: int, stride: int, pad_h: int, pad_w: int
) -> Workload:
    build, number = Builder(), TORCH_DTYPES[dtype]
    image, filters = build.tensor(n, c, h, w, dtype=number), build.tensor(k, c, r, s, dtype=number, role="weight")
    options = ([stride, stride], [pad_h, pad_w])
    return _finish(build, build.call(aten.conv2d.default, image, filters, None, *options))


@functools.lru_cache(maxsize=65536)
def _exchange(dtype: str, kind: CollectiveKind, ranks: int, size: int) -> Workload:
    """A collective of a message of `size` bytes, of which a gather starts with a share and a scatter ends with one."""
    sent = size // ranks if kind == "all_gather" else size
    made = size // ranks if kind == "reduce_scatter" else size
    tensors = {0: Tensor(0, "x0", sent, "activation"), 1: Tensor(1, "x1", made, "activation", 0, True)}
    collective = Collective(kind, size / ranks if kind == "all_gather" else float(size), ranks)
    operation = Operation(0, f"_c10d_functional.{kind}.default", "", (), (0,), (1,), dtype=dtype, collective=collective)
    return Workload((operation,), tensors)


def _model_dtype(dtype: str) -> torch.dtype:
    """The dtype of the model around: a quantised layer sits in a bf16 model."""
    return TORCH_DTYPES.get(dtype, torch.bfloat16) if dtype != "fp8" else torch.bfloat16


def _finish(build: Builder, result: fx.Node) -> Workload:
    return workload(build.graph(result))
