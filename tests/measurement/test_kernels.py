"""What runs is right, and is what the model prices."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torch_regflat.capture.record import capture
from torch_regflat.hardware import library
from torch_regflat.measurement import sampling
from torch_regflat.measurement.kernels import nbytes, work_of
from torch_regflat.operators.lowering import workload
from torch_regflat.schedule.kernels import Kernel, form_kernels
from torch_regflat.validation import works
from torch_regflat.validation.formats import BINARY, NORMS, UNARY
from torch_regflat.validation.protocols import protocol_of
from torch_regflat.validation.rows import Attention, Convolution, Gemm, Moe, Row, Streaming, WholeModel

from .fakes import ALL

CPU = torch.device("cpu")
HEAD = {"file": "", "line": 0, "cells": {}, "source": "regflat-measure/graph-cold", "gpu": "h100-sxm", "measured": 0.0}


def ran(kind: Any, dtype: str = "fp32", **sizes: Any) -> tuple[Tensor, tuple[Any, ...]]:
    """The result of a row on the CPU, and its operands as they were before."""
    torch.manual_seed(0)
    work = work_of(kind(**HEAD, dtype=dtype, **sizes), CPU)
    operands = work.operands()
    kept = tuple(x.clone() for x in operands)
    result: Tensor = work.run(*operands)
    assert result.isfinite().all()
    return result, kept


def test_products() -> None:
    result, (x, w) = ran(Gemm, m=5, n=8, k=16, batch=1)
    torch.testing.assert_close(result, x @ w.T)
    result, (a, b) = ran(Gemm, m=5, n=8, k=16, batch=3)
    torch.testing.assert_close(result, a @ b)


def test_a_product_in_fp8_converts_its_input() -> None:
    result, (x, w) = ran(Gemm, "fp8", m=16, n=32, k=64, batch=1)
    assert (x.dtype, w.dtype, result.dtype) == (torch.bfloat16, torch.float8_e4m3fn, torch.bfloat16)
    torch.testing.assert_close(result.float(), x.to(w.dtype).float() @ w.float().T, atol=0.1, rtol=0.02)


@pytest.mark.parametrize("op", [*UNARY, *BINARY, *NORMS])
def test_streams(op: str) -> None:
    result, operands = ran(Streaming, op=op, rows=4, cols=32)
    x, other = operands[0], operands[-1]
    expected = {
        "relu": x, "addu": x + 2, "mulu": 2 * x, "divu": x / 2, "powu": x * x, "tanh": x.tanh(), "add": x + other,
        "gelu": x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), "softmax": x.exp() / x.exp().sum(1, keepdim=True),
        "rmsnorm": x / (x * x).mean(1, keepdim=True).sqrt() * operands[-1],
    }  # fmt: skip
    assert result.shape == (4, 32)
    if op in expected:
        torch.testing.assert_close(result, expected[op])


@pytest.mark.parametrize("phase", ["prefill", "encoder", "decode"])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention(phase: str, kv_heads: int) -> None:
    q_len = 1 if phase == "decode" else 7
    heads = {"heads": 4, "kv_heads": kv_heads, "head_dim": 8}
    result, operands = ran(Attention, phase=phase, batch=2, q_len=q_len, kv_len=7, **heads)
    query, cache = operands[:2]
    if phase != "encoder":
        cache = torch.cat([cache[..., : 7 - q_len, :], operands[2]], -2)
    key, value = cache.repeat_interleave(4 // kv_heads, 2)
    scores = query @ key.mT / math.sqrt(8)
    if phase == "prefill":
        scores = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -math.inf)
    torch.testing.assert_close(result, scores.softmax(-1) @ value)


def test_convolution() -> None:
    sizes = {"n": 2, "c": 3, "h": 9, "w": 9, "k": 4, "r": 3, "s": 3, "stride": 2, "pad_h": 1, "pad_w": 1}
    result, (image, filters) = ran(Convolution, **sizes, algo="")
    assert result.shape == (2, 4, 5, 5)
    torch.testing.assert_close(result[0, 0, 0, 0], (image[0, :, :2, :2] * filters[0, :, 1:, 1:]).sum())


@pytest.mark.parametrize("distribution", ["balanced", "power_law_1.2"])
def test_experts(distribution: str) -> None:
    sizes = {"num_tokens": 6, "hidden": 16, "inter": 32, "topk": 2, "num_experts": 4, "tp": 1, "ep": 1}
    result, (x, up, down, picked, total) = ran(Moe, "bf16", **sizes, distribution=distribution)
    assert abs(len(picked) - 12) <= 1 and result.shape == (6, 16)  # the power law's loads are rounded
    if distribution == "balanced":  # three rows an expert
        expected = total.float()
        for at, token in enumerate(picked):
            gate, value = (x[token].float() @ up[at // 3].float()).chunk(2)
            expected[token] += (F.silu(gate) * value) @ down[at // 3].float()
        torch.testing.assert_close(result.float(), expected, atol=0.1, rtol=0.05)


def test_what_runs_is_what_is_priced() -> None:
    """Recorded on meta, each drawn row has the kernels, FLOPs and bytes that validation gives it."""
    chip = library.load("h100-sxm")
    names = [name for name in sampling.CLASSES if name != "gemm-fp8"]
    for row in sampling.kernels(names, 120, 5, ALL, source="regflat-measure/graph-cold", gpu="h100-sxm"):
        mode, work = protocol_of(row).mode, work_of(row, torch.device("meta"))
        recorded = workload(capture(work.run, work.operands()))
        priced = works.work_of(row, chip, mode).parts[0]
        assert recorded.flops == priced.workload.flops, row.shape
        kernels = form_kernels(recorded, mode)
        assert len(kernels) == len(priced.kernels), row.shape
        if row.kind != "moe":  # which experts are hit, a recording does not know
            assert traffic(kernels) == pytest.approx(traffic(priced.kernels), rel=0.02), row.shape


def traffic(kernels: list[Kernel]) -> float:
    return sum(sum(kernel.reads.values()) + sum(kernel.writes.values()) for kernel in kernels)


def test_bytes_of_nested_tensors_count_each_once() -> None:
    x = torch.zeros(4, dtype=torch.float16)
    assert nbytes((x, [x, (torch.zeros(2),)], 3)) == 16


def test_a_model_is_no_kernel() -> None:
    row: Row = sampling.models(("bert-large",), ("eager",), "bf16", source="", gpu="")[0]
    assert isinstance(row, WholeModel)
    with pytest.raises(ValueError, match="no single kernel"):
        work_of(row, CPU)
