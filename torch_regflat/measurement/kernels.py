"""A row as calls on real tensors: what PyTorch runs for it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..models import plain
from ..validation.formats import power_law
from ..validation.routing import rows_per_expert
from ..validation.rows import Attention, Convolution, Gemm, Moe, Row, Streaming, WholeModel

DTYPES = {**plain.DTYPES, "fp8": torch.float8_e4m3fn}
UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh, "addu": lambda x: x + 2.0, "mulu": lambda x: x * 2.0,
    "divu": lambda x: x / 2.0, "powu": lambda x: x**2.0, "softmax": lambda x: torch.softmax(x, -1),
}  # fmt: skip
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "mul": torch.mul, "div": torch.div, "pow": torch.pow, "silu_mul": lambda x, y: F.silu(x) * y,
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """A function, and what makes a fresh set of its operands."""

    run: Callable[..., Any]
    operands: Callable[[], tuple[Any, ...]]


def work_of(row: Row, device: torch.device) -> Work:
    """What a row of a single kernel runs on a device, with random operands."""
    builders: dict[type[Row], Callable[[Any, torch.device], Work]] = {
        Gemm: _gemm, Streaming: _streaming, Attention: _attention, Convolution: _convolution, Moe: _experts,
    }  # fmt: skip
    if type(row) not in builders:
        raise InputError(f"a {type(row).__name__} is no single kernel")
    return builders[type(row)](row, device)


def nbytes(value: Any) -> int:
    """Bytes of the tensors in nested tuples and lists, each storage once."""
    found: dict[int, int] = {}
    _storages(value, found)
    return sum(found.values())


def _storages(value: Any, found: dict[int, int]) -> None:
    if isinstance(value, Tensor):
        found[value.untyped_storage()._cdata] = value.nbytes
    elif isinstance(value, (tuple, list)):
        for item in value:
            _storages(item, found)


def _gemm(row: Gemm, device: torch.device) -> Work:
    """A batched product, a linear layer, or one in fp8 that first converts its bf16 input (with a scale known before,
    of 1).
    """
    m, n, k, batch = row.m, row.n, row.k, row.batch
    make = functools.partial(torch.randn, device=device, dtype=DTYPES["bf16" if row.dtype == "fp8" else row.dtype])
    if batch > 1:
        return Work(torch.bmm, lambda: (make(batch, m, k), make(batch, k, n)))
    if row.dtype != "fp8":
        return Work(F.linear, lambda: (make(m, k), make(n, k)))
    one = torch.ones((), device=device)

    def narrow(x: Tensor, weight: Tensor) -> Tensor:
        narrowed = x.to(torch.float8_e4m3fn)
        product: Tensor = torch._scaled_mm(narrowed, weight.t(), scale_a=one, scale_b=one, out_dtype=x.dtype)
        return product

    return Work(narrow, lambda: (make(m, k), make(n, k).to(torch.float8_e4m3fn)))


def _streaming(row: Streaming, device: torch.device) -> Work:
    number, shape = DTYPES[row.dtype], (row.rows, row.cols)

    def make(*sizes: int) -> Tensor:
        """Around 1, so that no power and no quotient overflows."""
        return torch.rand(sizes, device=device, dtype=number) + 0.5

    if row.op in UNARY:
        return Work(UNARY[row.op], lambda: (make(*shape),))
    if row.op in BINARY:
        return Work(BINARY[row.op], lambda: (make(*shape), make(*shape)))
    if row.op == "rmsnorm":
        return Work(lambda x, w: F.rms_norm(x, [row.cols], w), lambda: (make(*shape), make(row.cols)))
    return Work(
        lambda x, w, b: F.layer_norm(x, [row.cols], w, b), lambda: (make(*shape), make(row.cols), make(row.cols))
    )


def _attention(row: Attention, device: torch.device) -> Work:
    """New keys and values go into the cache; then one call of `scaled_dot_product_attention` over all of it."""
    make = functools.partial(torch.randn, device=device, dtype=DTYPES[row.dtype])
    causal, grouped, start = row.phase == "prefill", row.heads != row.kv_heads, row.kv_len - row.q_len

    def attend(query: Tensor, cache: Tensor, new: Tensor | None = None) -> Tensor:
        if new is not None:
            cache[..., start:, :].copy_(new)
        return F.scaled_dot_product_attention(query, cache[0], cache[1], is_causal=causal, enable_gqa=grouped)

    def operands() -> tuple[Tensor, ...]:
        query = make(row.batch, row.heads, row.q_len, row.head_dim)
        cache = make(2, row.batch, row.kv_heads, row.kv_len, row.head_dim)
        if row.phase == "encoder":
            return query, cache
        return query, cache, make(2, row.batch, row.kv_heads, row.q_len, row.head_dim)

    return Work(attend, operands)


def _convolution(row: Convolution, device: torch.device) -> Work:
    make = functools.partial(torch.randn, device=device, dtype=DTYPES[row.dtype])
    run = functools.partial(F.conv2d, stride=row.stride, padding=(row.pad_h, row.pad_w))
    return Work(run, lambda: (make(row.n, row.c, row.h, row.w), make(row.k, row.c, row.r, row.s)))


def _experts(row: Moe, device: torch.device) -> Work:
    """Gated experts with known routing: copy rows in the order of experts, two grouped products, add results up."""
    make = functools.partial(torch.randn, device=device, dtype=DTYPES[row.dtype])
    counts = rows_per_expert(row.num_tokens, row.num_experts, row.topk, row.ep, power_law(row.distribution))
    padded = torch.tensor((*counts, *([0] * (row.num_experts - len(counts)))))
    ends = padded.cumsum(0).to(device, torch.int32)

    def run(x: Tensor, up: Tensor, down: Tensor, picked: Tensor, total: Tensor) -> Tensor:
        gate, value = F.grouped_mm(x[picked], up, offs=ends).chunk(2, -1)
        return total.index_add(0, picked, F.grouped_mm(F.silu(gate) * value, down, offs=ends))

    def operands() -> tuple[Tensor, ...]:
        scale = 1 / math.sqrt(row.hidden)
        up = make(row.num_experts, row.hidden, 2 * row.inter).mul_(scale)
        down = make(row.num_experts, row.inter, row.hidden).mul_(scale)
        picked = torch.randint(row.num_tokens, (sum(counts),), device=device)
        return make(row.num_tokens, row.hidden), up, down, picked, make(row.num_tokens, row.hidden)

    return Work(run, operands)


class Networks:
    """Whole models on a device, the last one kept: rows of one model follow one another."""

    def __init__(self, device: torch.device, **changes: Any) -> None:
        self.device, self.changes = device, changes
        self._key: tuple[str, str] | None = None
        self._model: Any = None

    def work_of(self, row: WholeModel, *, compiled: bool) -> Work:
        """One call of the model; `compiled` by torch.compile, for these shapes alone."""
        if self._key != (row.model, row.dtype):
            self.clear()
            self._model = plain.build(row.model, DTYPES[row.dtype], self.device, **self.changes)
            self._key = (row.model, row.dtype)
        model, decode = self._model, row.phase == "decode"
        run = torch.compile(model, dynamic=False) if compiled else model
        return Work(run, lambda: plain.inputs(model, row.batch, row.in_len, self.device, decode=decode))

    def clear(self) -> None:
        """Let go of the model and of what was compiled for it."""
        if self._model is not None:
            self._key = self._model = None
            torch.compiler.reset()
