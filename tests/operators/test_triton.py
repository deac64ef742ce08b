"""Operators of `torch.library.triton_op`, priced by a formula of the user's: `@regflat.operator` with the operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.library import triton_op, wrap_triton

import torch_regflat as regflat

X, Y = torch.empty(1000, device="meta"), torch.empty(1000, device="meta")


def check(add: Any) -> None:
    """Its own formula counts, the same by the operator and by its name, and the result can be used on."""
    regflat.operator(add)(lambda call: regflat.elementwise(call, vector_ops=1))
    profile = regflat.profile(lambda a, b: add(a, b) * 2, (X, Y), strict=True)
    first, second = profile.workload.operations
    assert "add" in first.target and second.target == "aten.mul.Tensor"
    (nest,) = first.nests
    assert nest.vector_ops == 1000 and nest.compulsory_bytes() == 3 * 4 * 1000
    assert profile.coverage.modelled_bytes_share == 1.0


def test_an_operator_made_by_triton_op() -> None:
    """Without a kernel, as triton need not be installed: what the operator is does not hang on what it does."""

    @triton_op("regflat_triton::add", mutates_args={})
    def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    with pytest.raises(regflat.UnmodelledError, match="regflat_triton.add.default"):
        regflat.profile(add, (X, Y), strict=True)
    check(add)


def test_an_operator_with_a_triton_kernel() -> None:
    triton = pytest.importorskip("triton")
    tl = pytest.importorskip("triton.language")

    @triton.jit  # type: ignore[untyped-decorator, unused-ignore]
    def add_kernel(x, y, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def, name-defined]
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(out + at, tl.load(x + at, mask=at < n) + tl.load(y + at, mask=at < n), mask=at < n)

    @triton_op("regflat_triton::kernel_add", mutates_args={})
    def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        wrap_triton(add_kernel)[(triton.cdiv(out.numel(), 128),)](x, y, out, out.numel(), 128)
        return out

    check(add)
