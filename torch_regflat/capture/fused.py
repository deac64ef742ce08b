"""Operators that stay whole while gradients are recorded, as they do on an accelerator.

Under autograd a composite operator arrives at a dispatch mode in pieces. On an accelerator attention, RMS norm and
recurrent layers run as fused operators with a backward of their own; on meta tensors torch takes the pieces, so these
are chosen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ..operators.recurrent import CELLS
from ._torch_private import below_autograd, implemented_for_meta_gradients

aten = torch.ops.aten


@contextmanager
def fused_operators() -> Iterator[None]:
    """Within this, attention, RMS norm and recurrent layers of meta tensors with gradients are one operator each."""
    with ExitStack() as stack:
        stack.enter_context(implemented_for_meta_gradients("scaled_dot_product_attention", _attention))
        stack.enter_context(implemented_for_meta_gradients("rms_norm", _rms_norm))
        for cell in CELLS:
            stack.enter_context(implemented_for_meta_gradients(f"{cell}.input", _recurrent(cell)))
            stack.enter_context(implemented_for_meta_gradients(f"{cell}.data", _recurrent_packed(cell)))
        yield


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Flash attention, or cuDNN's where there is a mask or values are of another size; else torch's own."""
    if query.dim() != 4 or (attn_mask is not None and attn_mask.requires_grad):
        whole = aten.scaled_dot_product_attention.default
        return whole.decompose(  # type: ignore[no-any-return]
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if attn_mask is None and query.shape[-1] == value.shape[-1]:
        flash = aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)
        return flash[0]  # type: ignore[no-any-return]
    if attn_mask is not None:
        attn_mask = attn_mask if attn_mask.dtype is not torch.bool else _additive(attn_mask, query.dtype)
        attn_mask = attn_mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    cudnn = aten._scaled_dot_product_cudnn_attention(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )
    return cudnn[0]  # type: ignore[no-any-return]


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask of what may be seen, as torch hands it to a fused kernel: zeros and minus infinities."""
    zeros = torch.zeros((), dtype=dtype, device=mask.device)
    return torch.where(mask, zeros, torch.full((), float("-inf"), dtype=dtype, device=mask.device))


class _RmsNorm(torch.autograd.Function):
    """RMS norm and its backward as one operator each; autograd takes it to pieces on all but accelerators."""

    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, weight: torch.Tensor | None, shape: list[int], eps: float | None
    ) -> torch.Tensor:
        # Gradients count as on, as around this call: by that a forward that runs again in a backward is known.
        with torch.enable_grad(), below_autograd():
            out, rstd = aten._fused_rms_norm(input, shape, weight, eps)
        ctx.save_for_backward(input, weight, rstd)
        ctx.shape = shape
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input, weight, rstd = ctx.saved_tensors
        needed = [ctx.needs_input_grad[0], weight is not None and ctx.needs_input_grad[1]]
        own, weights = aten._fused_rms_norm_backward(gradient, input, ctx.shape, rstd, weight, needed)
        return own if needed[0] else None, weights if needed[1] else None, None, None


def _rms_norm(
    input: torch.Tensor, normalized_shape: list[int], weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    if weight is not None and weight.dtype != input.dtype:
        return aten.rms_norm.default.decompose(input, normalized_shape, weight, eps)  # type: ignore[no-any-return]
    return _RmsNorm.apply(input, weight, list(normalized_shape), eps)  # type: ignore[no-any-return, no-untyped-call]


class _Recurrent(torch.autograd.Function):
    """A recurrent layer and its backward as one operator each. Returns output, last states, last cell states."""

    @staticmethod
    def forward(
        ctx: Any, options: tuple[Any, ...], states: int, input: torch.Tensor, batch_sizes: torch.Tensor | None,
        *hx_and_params: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:  # fmt: skip
        hx, params = list(hx_and_params[:states]), list(hx_and_params[states:])
        with torch.enable_grad(), below_autograd():
            out, h, c, reserve = torch.ops.regflat.rnn(input, batch_sizes, hx, params, *options)
        ctx.save_for_backward(input, out, reserve, batch_sizes, *hx_and_params)
        ctx.options, ctx.states = options, states
        ctx.set_materialize_grads(False)
        return out, h, c

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        input, out, reserve, batch_sizes, *rest = ctx.saved_tensors
        hx, params = rest[: ctx.states], rest[ctx.states :]
        _, _, of_input, _, *needed = ctx.needs_input_grad
        of_states = any(needed[: ctx.states])
        made = list(
            torch.ops.regflat.rnn_backward(
                *grads, input, out, reserve, batch_sizes, hx, params, *ctx.options, of_input, of_states
            )
        )
        given = made.pop(0) if of_input else None
        kept = made[: ctx.states] if of_states else [None] * ctx.states
        return None, None, given, None, *kept, *made[ctx.states if of_states else 0 :]


def _recurrent(cell: str) -> Callable[..., Any]:
    def run(
        input: torch.Tensor, hx: Any, params: list[torch.Tensor], has_biases: bool, num_layers: int, dropout: float,
        train: bool, bidirectional: bool, batch_first: bool,
    ) -> Any:  # fmt: skip
        return _apply(cell, input, None, hx, params, (num_layers, bidirectional, batch_first))

    return run


def _recurrent_packed(cell: str) -> Callable[..., Any]:
    def run(
        data: torch.Tensor, batch_sizes: torch.Tensor, hx: Any, params: list[torch.Tensor], has_biases: bool,
        num_layers: int, dropout: float, train: bool, bidirectional: bool,
    ) -> Any:  # fmt: skip
        return _apply(cell, data, batch_sizes, hx, params, (num_layers, bidirectional, False))

    return run


def _apply(
    cell: str, input: torch.Tensor, batch_sizes: torch.Tensor | None, hx: Any, params: list[torch.Tensor],
    options: tuple[Any, ...],
) -> Any:  # fmt: skip
    states = list(hx) if isinstance(hx, (list, tuple)) else [hx]
    out, h, c = _Recurrent.apply((cell, *options), len(states), input, batch_sizes, *states, *params)  # type: ignore[no-untyped-call]
    return (out, h, c) if cell == "lstm" else (out, h)
