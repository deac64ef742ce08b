"""What each family moves, against closed forms a reader can redo: bf16 is 2 bytes, float32 and int32 4, int64 8."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from torch_regflat.operators import workload
from torch_regflat.operators.attention import causal_fraction
from torch_regflat.operators.shapes import expected_distinct
from torch_regflat.workload import LoopNest

from .tracing import trace


def x(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def ints(*shape: int) -> torch.Tensor:
    return x(*shape, dtype=torch.int64)


def nests(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> list[LoopNest]:
    operations = workload(trace(fn, *args, **kwargs))
    assert all(op.modelled for op in operations)
    return [nest for op in operations for nest in op.nests]


def moved(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
    return sum(nest.compulsory_bytes() for nest in nests(fn, *args, **kwargs))


def into_slice(cache: torch.Tensor, new: torch.Tensor) -> None:
    cache[:, 3:5].copy_(new)


def static_cache(cache: torch.Tensor, at: torch.Tensor, new: torch.Tensor) -> None:
    cache[:, at] = new


CASES: list[tuple[Callable[..., Any], tuple[Any, ...], float]] = [
    # products
    (F.linear, (x(4, 8), x(16, 8), x(16)), 2 * (4 * 8 + 16 * 8 + 16 + 4 * 16)),
    (torch.matmul, (x(3, 4, 8), x(8, 5)), 2 * (3 * 4 * 8 + 8 * 5 + 3 * 4 * 5)),
    (torch.matmul, (x(4, 8), x(3, 8, 5)), 2 * (4 * 8 + 3 * 8 * 5 + 3 * 4 * 5)),
    (torch.bmm, (x(1, 4, 8).expand(3, 4, 8), x(3, 8, 5)), 2 * (4 * 8 + 3 * 8 * 5 + 3 * 4 * 5)),
    (torch.mv, (x(4, 8), x(8)), 2 * (4 * 8 + 8 + 4)),
    # attention: grouped queries read each key once; an expanded mask is read at its own size
    (F.scaled_dot_product_attention, (x(2, 4, 6, 8), x(2, 4, 9, 8), x(2, 4, 9, 8)), 2 * 2 * 4 * 8 * (6 + 9 + 9 + 6)),
    (
        F.scaled_dot_product_attention,
        (x(2, 4, 6, 8), x(2, 4, 9, 8), x(2, 4, 9, 8), x(1, 1, 6, 9).expand(2, 1, 6, 9)),
        2 * (2 * 4 * 8 * (6 + 9 + 9 + 6) + 6 * 9),
    ),
    (
        F.scaled_dot_product_attention,
        (x(2, 4, 6, 8), x(2, 4, 9, 8), x(2, 4, 9, 8), x(2, 1, 6, 9)),
        2 * (2 * 4 * 8 * (6 + 9 + 9 + 6) + 2 * 6 * 9),
    ),
    # convolution: padding is not read
    (lambda a, w: F.conv2d(a, w, padding=1), (x(2, 3, 8, 8), x(4, 3, 3, 3)), 2 * (2 * 3 * 64 + 4 * 27 + 2 * 4 * 64)),
    (lambda a, w: F.conv2d(a, w, stride=2), (x(1, 3, 8, 8), x(4, 3, 2, 2)), 2 * (3 * 64 + 4 * 12 + 4 * 16)),
    # element-wise
    (torch.add, (x(8, 16), x(16)), 2 * (128 + 16 + 128)),
    (torch.mul, (x(8, 1), x(1, 16)), 2 * (8 + 16 + 128)),
    (lambda a: a + 1, (x(8, 16),), 2 * 256),
    (lambda a: a.mul_(2), (x(8, 16),), 2 * 256),
    (lambda a: a * a, (x(8, 16),), 2 * 256),
    (lambda a: a.float(), (x(8, 16),), 128 * (2 + 4)),
    (lambda a: a.expand(8, 16) * 2, (x(16),), 2 * (16 + 128)),
    # reductions and norms
    (lambda a: a.sum(-1), (x(8, 16),), 2 * (128 + 8)),
    (lambda a: a.float().mean(0), (x(8, 16, dtype=torch.float32),), 4 * (128 + 16)),
    (lambda a: a.argmax(-1), (x(8, 16),), 2 * 128 + 8 * 8),
    (lambda a: a.softmax(-1), (x(8, 16),), 2 * 256),
    (lambda a, w, b: F.layer_norm(a, (16,), w, b), (x(8, 16), x(16), x(16)), 2 * (128 + 16 + 16 + 128)),
    (lambda a, w: F.rms_norm(a, (16,), w), (x(8, 16), x(16)), 2 * (128 + 16 + 128)),
    (lambda a, w: F.group_norm(a, 2, w), (x(3, 8, 5), x(8)), 2 * (120 + 8 + 120)),
    # movement
    (lambda a, b: torch.cat([a, b]), (x(8, 16), x(2, 16)), 2 * 2 * (128 + 32)),
    (lambda a, b: torch.cat([a, b]), (x(0, 16), x(2, 16)), 2 * 2 * 32),
    (lambda a: a.t().contiguous(), (x(8, 16),), 2 * 256),
    (lambda a: a.expand(4, 8, 16).reshape(32, 16), (x(1, 8, 16),), 2 * (128 + 512)),
    (into_slice, (x(2, 100, 8), x(2, 2, 8)), 2 * 2 * 32),
    (static_cache, (x(2, 100, 8), ints(2), x(2, 2, 8)), 2 * 2 * 32 + 8 * 2),
    (lambda a, i: a.index_select(0, i), (x(100, 8), ints(5)), 2 * 2 * 40 + 8 * 5),
    (lambda a, i: a[i], (x(100, 8), ints(5)), 2 * 2 * 40 + 8 * 5),
    (lambda a, i: a.gather(1, i), (x(10, 8), ints(10, 2)), 2 * 2 * 20 + 8 * 20),
    (lambda a, i, v: a.index_add_(0, i, v), (x(100, 8), ints(5), x(5, 8)), 2 * 40 * 3 + 8 * 5),
    (lambda a, v: torch.select_scatter(a, v, 0, 1), (x(10, 8), x(8)), 2 * (72 + 8 + 80)),
    # making tensors; reserving memory is free
    (lambda: torch.zeros(8, 16, device="meta"), (), 4 * 128),
    (lambda: torch.arange(16, device="meta"), (), 8 * 16),
    (lambda: torch.empty(8, 16, device="meta"), (), 0),
]


@pytest.mark.parametrize(("fn", "args", "expected"), CASES, ids=range(len(CASES)))
def test_compulsory_bytes(fn: Callable[..., Any], args: tuple[Any, ...], expected: float) -> None:
    assert moved(fn, *args) == expected


VIEWS: list[Callable[[torch.Tensor], Any]] = [
    lambda a: a.view(16, 8), lambda a: a.reshape(-1), lambda a: a.t(), lambda a: a.transpose(0, 1), lambda a: a[2:4],
    lambda a: a.expand(4, 8, 16), lambda a: a.unsqueeze(0).squeeze(0), lambda a: a.split(4), lambda a: a.chunk(2, -1),
    lambda a: a.unbind(0), lambda a: a.detach(), lambda a: a.contiguous(), lambda a: a.to(torch.bfloat16),
    lambda a: F.dropout(a, 0.5, training=False), lambda a: a.permute(1, 0), lambda a: a.flatten(),
    lambda a: a.as_strided((4, 4), (1, 4)), lambda a: a.diagonal(), lambda a: a.unfold(0, 2, 1),
]  # fmt: skip


@pytest.mark.parametrize("fn", VIEWS, ids=range(len(VIEWS)))
def test_views_produce_nothing(fn: Callable[[torch.Tensor], Any]) -> None:
    operations = workload(trace(fn, x(8, 16))).operations
    assert all(op.is_view and op.modelled for op in operations)


def test_adjacent_axes_collapse_to_rows_and_columns() -> None:
    (nest,) = nests(torch.mul, x(2, 1024, 4096), x(4096))
    assert nest.dims == (("r", 2048), ("c", 4096))


def test_embedding_reads_the_rows_that_are_expected_to_be_hit() -> None:
    (nest,) = nests(F.embedding, ints(2, 50), x(1000, 16))
    rows = 1000 * (1 - (1 - 1 / 1000) ** 100)
    assert nest.compulsory_bytes() == pytest.approx(2 * rows * 16 + 8 * 100 + 2 * 100 * 16)
    assert expected_distinct(1000, 100) == pytest.approx(rows)


@pytest.mark.parametrize(("tokens", "k", "experts"), [(1, 2, 8), (1, 8, 256), (7, 4, 32), (2048, 8, 256)])
def test_experts_that_are_expected_to_be_hit(tokens: int, k: int, experts: int) -> None:
    h, f = 64, 96

    def moe(hidden: torch.Tensor, scores: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        ids = scores.topk(k, dim=-1)[1].reshape(-1)
        ordered, perm = ids.sort()
        counts = torch.histc(ordered.float(), bins=experts, min=0, max=experts - 1)
        offsets = counts.cumsum(0, dtype=torch.int32)
        return F.grouped_mm(hidden[perm // k], w, offs=offsets)

    operations = workload(trace(moe, x(tokens, h), x(tokens, experts), x(experts, h, f))).operations
    (nest,) = next(op for op in operations if "grouped_mm" in op.target).nests
    hit = experts * (1 - (1 - k / experts) ** tokens)
    assert nest.flops == 2 * tokens * k * h * f
    weight = next(o for o in nest.operands if len(o.axes) == 3 and o.distinct == pytest.approx(hit * h * f))
    assert weight.access == "read"
    assert dict(nest.dims)["g"] == math.ceil(hit - 1e-9)
    rows = tokens * k
    assert nest.compulsory_bytes() == pytest.approx(2 * (rows * h + hit * h * f + rows * f) + 4 * experts)


def test_causal_domain_is_exact() -> None:
    for q in range(1, 12):
        for s in range(1, 12):
            assert causal_fraction(q, s) == sum(min(i + 1, s) for i in range(q)) / (q * s)
    args = [x(2, 4, 6, 8) for _ in range(3)]
    (nest,) = nests(lambda *a: F.scaled_dot_product_attention(*a, is_causal=True), *args)
    assert nest.domain_fraction == 21 / 36 and nest.special_ops == 2 * 4 * 21
    assert nest.whole == {"d", "e"}


def test_grouped_queries_share_keys() -> None:
    args = (x(2, 8, 6, 8), x(2, 2, 9, 8), x(2, 2, 9, 8))
    (nest,) = nests(lambda *a: F.scaled_dot_product_attention(*a, enable_gqa=True), *args)
    assert nest.dims == (("b", 4), ("g", 4), ("q", 6), ("s", 9), ("d", 8), ("e", 8))
    assert nest.compulsory_bytes() == 2 * (2 * 2 * 8 * 6 * 8 + 2 * 2 * 2 * 9 * 8)


def test_convolution_window() -> None:
    (nest,) = nests(lambda a, w: F.conv2d(a, w, stride=2, dilation=3), x(1, 3, 20, 20), x(4, 3, 3, 3))
    names = [name for name, _ in nest.dims]
    window = nest.operands[0]
    p, r = names.index("p"), names.index("r")
    assert window.axes[2] == ((p, 2), (r, 3))
    assert window.extent == 3 * 20 * 20


def test_a_long_sort_takes_a_pass_for_every_byte_of_the_key() -> None:
    short, long = (nests(torch.sort, x(4, n, dtype=torch.float32))[0] for n in (1000, 10_000))
    assert (short.passes, long.passes) == (1, 4)
