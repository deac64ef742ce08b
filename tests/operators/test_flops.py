"""FLOPs equal torch's own counter, over a table of shapes and over random ones; all on meta tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from torch_regflat.operators import workload

from .tracing import trace

aten = torch.ops.aten


def x(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def counted(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        fn(*args, **kwargs)
    return int(counter.get_total_flops())


def ours(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    return workload(trace(fn, *args, **kwargs)).flops


sdpa = F.scaled_dot_product_attention
TABLE: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (torch.mm, (x(7, 5), x(5, 3)), {}),
    (torch.mm, (x(1, 4096), x(4096, 4096)), {}),
    (torch.addmm, (x(3), x(7, 5), x(5, 3)), {}),
    (torch.addmm, (x(7, 1), x(7, 5), x(5, 3)), {"beta": 0}),
    (torch.bmm, (x(4, 7, 5), x(4, 5, 3)), {}),
    (torch.baddbmm, (x(4, 1, 3), x(4, 7, 5), x(4, 5, 3)), {}),
    (torch.matmul, (x(2, 3, 7, 5), x(2, 3, 5, 4)), {}),
    (torch.matmul, (x(2, 3, 7, 5), x(5, 4)), {}),
    (torch.matmul, (x(7, 5), x(2, 3, 5, 4)), {}),
    (torch.matmul, (x(2, 1, 7, 5), x(1, 3, 5, 4)), {}),
    (F.linear, (x(2, 9, 16), x(32, 16), x(32)), {}),
    (F.linear, (x(16), x(32, 16)), {}),
    (torch.einsum, ("bij,bjk->bik", x(2, 3, 4), x(2, 4, 5)), {}),
    (torch.einsum, ("bhqd,bkhd->bhqk", x(2, 4, 6, 8), x(2, 7, 4, 8)), {}),
    (torch.einsum, ("...i,ij->...j", x(2, 3, 4), x(4, 5)), {}),
    (torch.einsum, ("bi,bi->bi", x(2, 3), x(2, 3)), {}),
    (torch.einsum, ("ij,jk,kl->il", x(2, 3), x(3, 4), x(4, 5)), {}),
    (torch.tensordot, (x(2, 3, 4), x(4, 3, 5)), {"dims": ([1, 2], [1, 0])}),
    (sdpa, (x(2, 8, 16, 64), x(2, 8, 16, 64), x(2, 8, 16, 64)), {}),
    (sdpa, (x(2, 8, 16, 64), x(2, 8, 16, 64), x(2, 8, 16, 64)), {"is_causal": True}),
    (sdpa, (x(1, 8, 1, 64), x(1, 8, 33, 64), x(1, 8, 33, 32)), {}),
    (sdpa, (x(2, 8, 16, 64), x(2, 2, 16, 64), x(2, 2, 16, 64)), {"enable_gqa": True}),
    (sdpa, (x(2, 8, 16, 64), x(2, 8, 9, 64), x(2, 8, 9, 64)), {"attn_mask": x(2, 1, 16, 9)}),
    (F.conv1d, (x(2, 8, 50), x(16, 8, 3), x(16)), {"stride": 2, "padding": 1}),
    (F.conv2d, (x(2, 8, 14, 15), x(16, 8, 3, 5)), {"dilation": 2}),
    (F.conv2d, (x(2, 8, 14, 15), x(16, 2, 3, 3)), {"groups": 4, "padding": "same"}),
    (F.conv3d, (x(2, 4, 6, 7, 8), x(8, 4, 2, 3, 3)), {"padding": 1}),
    (F.conv_transpose1d, (x(2, 8, 10), x(8, 4, 3)), {"stride": 2}),
    (F.conv_transpose2d, (x(2, 8, 9, 9), x(8, 4, 3, 3)), {"stride": 2, "groups": 2}),
]


@pytest.mark.parametrize(("fn", "args", "kwargs"), TABLE, ids=lambda v: getattr(v, "__name__", None))
def test_table(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert ours(fn, *args, **kwargs) == counted(fn, *args, **kwargs)


side = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(b=side, m=side, n=side, k=side)
def test_products(b: int, m: int, n: int, k: int) -> None:
    for fn, args in (
        (torch.mm, (x(m, k), x(k, n))),
        (torch.bmm, (x(b, m, k), x(b, k, n))),
        (F.linear, (x(b, m, k), x(n, k), x(n))),
    ):
        assert ours(fn, *args) == counted(fn, *args)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3), groups=st.integers(1, 3), c=st.integers(1, 4), k=st.integers(1, 4), size=st.integers(7, 9),
    filter_size=st.integers(1, 3), stride=st.integers(1, 3), padding=st.integers(0, 2), dilation=st.integers(1, 3),
    transposed=st.booleans(),
)  # fmt: skip
def test_convolutions(
    batch: int, groups: int, c: int, k: int, size: int, filter_size: int, stride: int, padding: int, dilation: int,
    transposed: bool,
) -> None:  # fmt: skip
    image = x(batch, groups * c, size, size + 1)
    shape = (groups * c, k) if transposed else (groups * k, c)
    fn = F.conv_transpose2d if transposed else F.conv2d
    args = (image, x(*shape, filter_size, filter_size))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    assert ours(fn, *args, **options) == counted(fn, *args, **options)


@settings(max_examples=60, deadline=None)
@given(
    b=st.integers(1, 3), kv=st.integers(1, 3), g=st.integers(1, 3), q=side, s=side, d=st.integers(1, 16),
    e=st.integers(1, 16), causal=st.booleans(),
)  # fmt: skip
def test_attention(b: int, kv: int, g: int, q: int, s: int, d: int, e: int, causal: bool) -> None:
    args = (x(b, kv * g, q, d), x(b, kv, s, d), x(b, kv, s, e))
    options = {"is_causal": causal, "enable_gqa": g > 1}
    assert ours(sdpa, *args, **options) == counted(sdpa, *args, **options)


BACKWARD = [
    lambda: F.linear(x(2, 9, 16).requires_grad_(), x(32, 16).requires_grad_(), x(32).requires_grad_()),
    lambda: F.conv2d(x(2, 8, 14, 15).requires_grad_(), x(16, 2, 3, 3).requires_grad_(), groups=4, padding=1),
    lambda: F.conv_transpose2d(x(2, 8, 9, 9).requires_grad_(), x(8, 4, 3, 3).requires_grad_(), stride=2),
    lambda: sdpa(*(x(2, 4, 16, 8).requires_grad_() for _ in range(3)), is_causal=True),
    lambda: torch.baddbmm(x(4, 7, 3).requires_grad_(), x(4, 7, 5).requires_grad_(), x(4, 5, 3).requires_grad_()),
]


@pytest.mark.parametrize("forward", BACKWARD)
def test_backward(forward: Callable[[], torch.Tensor]) -> None:
    def step() -> None:
        out = forward()
        out.backward(torch.empty_like(out))

    with FlopCounterMode(display=False) as counter:
        step()
    assert workload(trace(step, inference=False)).flops == counter.get_total_flops() > 0


@pytest.mark.parametrize(
    "name",
    ["_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"],
)
def test_attention_kernels_and_their_backward(name: str) -> None:
    """The fused kernels do not run on meta tensors through SDPA, so their formulas are held to the counter's own."""
    from torch.utils.flop_counter import flop_registry

    from torch_regflat.operators import lower_call

    q, k, v = x(2, 4, 16, 8), x(2, 4, 12, 8), x(2, 4, 12, 6)
    out, lse = x(2, 4, 16, 6), x(2, 4, 16, dtype=torch.float32)
    forward = getattr(aten, name)
    args = (q, k, v) if "flash" in name else (q, k, v, None, True)
    assert sum(n.flops for n in lower_call(forward.default, args, {}, (out, lse)).nests) == flop_registry[forward](
        q, k, v
    )
    backward = getattr(aten, name + "_backward")
    args = (out, q, k, v, out, lse) if "flash" in name else (out, q, k, v, None, out, lse)
    lowered = lower_call(backward.default, args, {}, (q.clone(), k.clone(), v.clone()))
    assert sum(n.flops for n in lowered.nests) == flop_registry[backward](out, q, k, v)


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.LSTM(16, 32, 2, bidirectional=True),
        torch.nn.LSTM(16, 32, 2, proj_size=8),
        torch.nn.GRU(16, 32, 2),
        torch.nn.RNN(16, 32),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_recurrent(layer: torch.nn.Module) -> None:
    layer = layer.to("meta")
    given_x = x(10, 4, 16, dtype=torch.float32)
    found = workload(trace(layer, given_x))
    assert found.flops == counted(layer, given_x)
    sequential = [n for op in found for n in op.nests if n.kind == "sequential"]
    assert sequential and all(n.sequential == 10 for n in sequential)
