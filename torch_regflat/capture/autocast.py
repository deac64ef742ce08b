"""Mixed precision by `torch.autocast`, for code that is recorded on meta tensors.

Torch's own autocast goes by the device of tensors and passes meta tensors by, silently. Here a function mode does what
it does on an accelerator, by the lists of its documentation ("Autocast Op Reference", CUDA): products, convolutions and
attention get their inputs in the lower precision, exponentials, norms and losses in float32, a few operators in the
widest of their inputs. The cast of a parameter is made once in a context, as torch caches it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ._torch_private import autograd_node

Policy = Literal["lower", "float32", "float32 result", "widest"]

NAMES: dict[Policy, str] = {
    "lower": """
        _convolution addbmm addmm addmv addr baddbmm bmm chain_matmul conv1d conv2d conv3d conv_tbc conv_transpose1d
        conv_transpose2d conv_transpose3d convolution einsum gru_cell lstm_cell matmul __matmul__ __rmatmul__ mm mv
        prelu rnn_relu_cell rnn_tanh_cell linear multi_dot linalg_multi_dot vecdot linalg_vecdot
        scaled_dot_product_attention multi_head_attention_forward lstm gru rnn_tanh rnn_relu
    """,
    "float32": """
        acos asin binary_cross_entropy_with_logits cdist cosh cosine_embedding_loss cosine_similarity dist erfinv exp
        expm1 group_norm hinge_embedding_loss kl_div layer_norm rms_norm log log10 log1p log2 logsumexp
        margin_ranking_loss norm pdist poisson_nll_loss pow __pow__ __rpow__ reciprocal __rdiv__ __rtruediv__ renorm
        rsqrt sinh tan triplet_margin_loss l1_loss mse_loss multi_margin_loss multilabel_margin_loss nll_loss
        nll_loss_nd nll_loss2d cross_entropy cross_entropy_loss smooth_l1_loss soft_margin_loss softplus softmin
        normalize
    """,
    "float32 result": "softmax log_softmax cumprod cumsum prod sum",
    "widest": "addcdiv addcmul atan2 bilinear cross dot vdot grid_sample grid_sampler index_put scatter_add tensordot",
}
"""Functions by what happens to their inputs. Composite ones that torch takes apart below (an LSTM) go with their
products."""


@functools.cache
def policies() -> dict[Any, Policy]:
    """The functions of torch that NAMES names, wherever they are to be found."""
    owners = (torch, torch.Tensor, torch.nn.functional, torch._C._nn, torch.linalg)
    return {
        getattr(owner, name): policy
        for policy, names in NAMES.items()
        for name in names.split()
        for owner in owners
        if hasattr(owner, name)
    }


class _Current(threading.local):
    def __init__(self) -> None:
        self.mode: _Casting | None = None


_current = _Current()


@contextmanager
def casting(dtype: torch.dtype | None) -> Iterator[None]:
    """Within this, functions run as under `torch.autocast` to `dtype`; None as under a disabled autocast."""
    outer = _current.mode
    if dtype is None and outer is None:
        yield
        return
    _current.mode = mode = _Casting(dtype)
    try:
        with mode:
            yield
    finally:
        _current.mode = outer


def casts_to() -> torch.dtype | None:
    """The lower precision of the innermost context, None where there is none or it is disabled."""
    return None if _current.mode is None else _current.mode.dtype


class _Casting(TorchFunctionMode):
    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self._made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """Parameters, by identity, and their casts."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # In a backward only what is computed again (gradient checkpointing) runs under autocast, with gradients on.
        if _current.mode is not self or self.dtype is None or _in_backward():
            return func(*args, **kwargs)
        policy = policies().get(func)
        if policy == "lower":
            args, kwargs = _converted(args, kwargs, self._lower)
        elif policy == "float32":
            args, kwargs = _converted(args, kwargs, lambda t: t.to(torch.float32))
        elif policy == "float32 result" and args and _is_low(args[0]) and not _names_dtype(args, kwargs):
            kwargs = {**kwargs, "dtype": torch.float32}
        elif policy == "widest":
            floats = [t.dtype for t in pytree.tree_leaves((args, kwargs)) if _is_float(t)]
            wide = torch.float32 if torch.float32 in floats else self.dtype
            args, kwargs = _converted(args, kwargs, lambda t: t.to(wide))
        return func(*args, **kwargs)

    def _lower(self, tensor: torch.Tensor) -> torch.Tensor:
        assert self.dtype is not None
        if tensor.dtype is not torch.float32 or not (tensor.requires_grad and tensor.is_leaf):
            return tensor.to(self.dtype)
        if id(tensor) not in self._made:
            self._made[id(tensor)] = (tensor, tensor.to(self.dtype))
        return self._made[id(tensor)][1]


def _in_backward() -> bool:
    return autograd_node() is not None and not torch.is_grad_enabled()


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype is not torch.float64


def _is_low(value: Any) -> bool:
    return _is_float(value) and value.dtype is not torch.float32


def _names_dtype(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return "dtype" in kwargs or any(isinstance(value, torch.dtype) for value in args)


def _converted(args: Any, kwargs: Any, convert: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Any, Any]:
    converted: tuple[Any, Any] = pytree.tree_map(lambda v: convert(v) if _is_float(v) else v, (args, kwargs))
    return converted
