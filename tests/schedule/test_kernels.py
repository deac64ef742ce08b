"""Fusion: every operation runs once, after what it needs; and the patterns people know come out as they expect."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn import functional as F

from torch_regflat.schedule.kernels import Kernel, form_kernels
from torch_regflat.workload import Workload

from .graphs import meta, programs, work_of


def names(kernels: list[Kernel]) -> list[list[str]]:
    return [[op.target.split(".")[1] for op in kernel.operations] for kernel in kernels]


@settings(max_examples=150, deadline=None)
@given(programs())
def test_every_operation_runs_once_and_after_what_it_needs(program: Callable[[Tensor, Tensor], Tensor]) -> None:
    work = work_of(program, meta(64, 64), meta(64, 64))
    kernels = form_kernels(work)
    assert sorted(op.index for kernel in kernels for op in kernel.operations) == [
        op.index for op in work if not op.is_view
    ]
    position = {op.index: (k.index, i) for k in kernels for i, op in enumerate(k.operations)}
    for before in work:
        for after in work:
            if before.is_view or after.is_view or before.index >= after.index:
                continue
            conflict = set(before.outputs) & {*after.inputs, *after.outputs} or set(before.inputs) & set(after.outputs)
            if conflict:
                assert position[before.index] < position[after.index], (before, after)


@settings(max_examples=150, deadline=None)
@given(programs())
def test_fusion_never_moves_more_and_never_less_than_inputs_and_outputs(
    program: Callable[[Tensor, Tensor], Tensor],
) -> None:
    work = work_of(program, meta(64, 64), meta(64, 64))
    kernels = form_kernels(work)
    fused = sum(sum(k.reads.values()) + sum(k.writes.values()) for k in kernels)
    apart = sum(nest.compulsory_bytes() for op in work for nest in op.nests)
    assert fused <= apart
    written = {t for k in kernels for t in k.writes}
    outputs = {t.id for t in work.tensors.values() if t.is_output and t.producer is not None}
    assert outputs <= written


def test_a_handwritten_rms_norm_is_one_kernel() -> None:
    def norm(x: Tensor, weight: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return weight * y.to(x.dtype)

    work = work_of(norm, meta(16, 128), meta(128))
    (kernel,) = form_kernels(work)
    assert sum(kernel.reads.values()) == (16 * 128 + 128) * 2
    assert sum(kernel.writes.values()) == 16 * 128 * 2


def test_rotary_embedding_is_one_kernel_a_tensor() -> None:
    def rotate(q: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = q.shape[-1] // 2
        turned = torch.cat((-q[..., half:], q[..., :half]), dim=-1)
        return q * cos + turned * sin

    (kernel,) = form_kernels(work_of(rotate, meta(4, 16, 64), meta(16, 64), meta(16, 64)))
    assert {op.target for op in kernel.operations} == {
        "aten.mul.Tensor",
        "aten.neg.default",
        "aten.cat.default",
        "aten.add.Tensor",
    }


def test_a_product_takes_its_activation_and_residual_but_not_what_others_read() -> None:
    def block(x: Tensor, w: Tensor) -> Tensor:
        y = x @ w
        return x + F.silu(y)

    assert names(form_kernels(work_of(block, meta(32, 32), meta(32, 32)))) == [["matmul", "silu", "add"]]

    def shared(x: Tensor, w: Tensor) -> Tensor:
        y = x @ w
        return F.silu(y) * y

    assert names(form_kernels(work_of(shared, meta(32, 32), meta(32, 32)))) == [["matmul"], ["silu", "mul"]]


def test_attention_writes_the_order_that_is_wanted() -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).contiguous()

    (kernel,) = form_kernels(work_of(attend, *(meta(1, 4, 32, 16) for _ in range(3))))
    assert len(kernel.operations) == 2


def test_writing_in_place_does_not_overtake_a_reader_of_the_old_value() -> None:
    def program(x: Tensor, y: Tensor) -> Tensor:
        a = x * 2
        b = a @ y
        a.add_(1)
        return b + a

    kernels = form_kernels(work_of(program, meta(32, 32), meta(32, 32)))
    where = {op.target: k.index for k in kernels for op in k.operations}
    assert where["aten.add_.Tensor"] > where["aten.matmul.default"]


def test_an_operation_without_a_formula_stays_alone() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.regflat_tests.odd(x + 1) * 2

    lib = torch.library.Library("regflat_tests", "FRAGMENT")
    lib.define("odd(Tensor x) -> Tensor")
    lib.impl("odd", lambda x: torch.empty_like(x), "Meta")
    work: Workload = work_of(Odd(), meta(8, 8))
    kernels = form_kernels(work)
    assert [len(k.operations) for k in kernels] == [1, 1, 1]
    assert not kernels[1].operations[0].modelled
    assert sum(kernels[1].reads.values()) == sum(kernels[1].writes.values()) == 8 * 8 * 2
