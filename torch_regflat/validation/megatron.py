"""GPT-2 divided among ranks as Megatron does it: M. Shoeybi et al., "Megatron-LM", 2019, section 3.

transformers has no plan for its `Conv1D` layers. The first layer of each attention and each MLP is divided by columns,
the second by rows; what rows give is summed over ranks in the forward, and gradients of what columns read in the
backward. Embeddings, norms and the head are whole on each rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import _functional_collectives as functional

from ..errors import InputError
from ..layout import divisors


def divide(model: nn.Module, ranks: int) -> None:
    """Leave of each layer what the first of so many ranks has, within a process group of that many."""
    group: Any = torch.distributed.group.WORLD
    module: Any
    for module in model.modules():
        kind = type(module).__name__
        if kind == "GPT2Attention":
            _attention(module, ranks)
            _summed(module.c_attn, module.c_proj, group)
        elif kind == "GPT2MLP":
            module.c_fc = _columns(module.c_fc, ranks)
            module.c_proj = _rows(module.c_proj, ranks)
            _summed(module.c_fc, module.c_proj, group)


def _attention(module: Any, ranks: int) -> None:
    if module.num_heads % ranks:
        fit = ", ".join(map(str, divisors(module.num_heads)))
        raise InputError(f"{module.num_heads} heads cannot be divided among {ranks} ranks; ranks that do: {fit}")
    module.num_heads //= ranks
    module.split_size //= ranks
    module.c_attn = _columns(module.c_attn, ranks)
    module.c_proj = _rows(module.c_proj, ranks)


def _columns(layer: Any, ranks: int) -> Any:
    return _like(layer, layer.weight.shape[0], layer.nf // ranks)


def _rows(layer: Any, ranks: int) -> Any:
    return _like(layer, layer.weight.shape[0] // ranks, layer.nf)


def _like(layer: Any, inputs: int, outputs: int) -> Any:
    with layer.weight.device:
        return type(layer)(outputs, inputs).to(layer.weight.dtype)


def _summed(first: nn.Module, second: nn.Module, group: Any) -> None:
    read: Any = _SumGradients
    made: Any = _Sum

    def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (read.apply(args[0], group), *args[1:])

    def after(_: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> Any:
        return made.apply(result, group)

    first.register_forward_pre_hook(before)
    second.register_forward_hook(after)


def _all_reduced(x: Tensor, group: Any) -> Tensor:
    collectives: Any = functional
    found: Tensor = collectives.wait_tensor(collectives.all_reduce(x, "sum", group))
    return found


class _Sum(torch.autograd.Function):
    """The sum over ranks; each rank's gradient is that of the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        return _all_reduced(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


class _SumGradients(torch.autograd.Function):
    """What all ranks read alike: their gradients are summed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _all_reduced(gradients[0].contiguous(), ctx.group), None
