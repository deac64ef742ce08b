"""Operators that stay whole while gradients are recorded, as they do on an accelerator.

Under autograd a composite operator arrives at a dispatch mode in pieces. On an accelerator attention and RMS norm run
as fused operators with a backward of their own; on meta tensors torch takes the pieces, so these are chosen here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ._torch_private import below_autograd, implemented_for_meta_gradients

aten = torch.ops.aten


@contextmanager
def fused_operators() -> Iterator[None]:
    """Within this, attention and RMS norm of meta tensors that need gradients are one operator each."""
    with (
        implemented_for_meta_gradients("scaled_dot_product_attention", _attention),
        implemented_for_meta_gradients("rms_norm", _rms_norm),
    ):
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
