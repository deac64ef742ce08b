"""Steps of optimizers as fused operators over lists of parameters: torch's own, and those with float32 master weights.

Torch has no fused step for parameters of fewer bits than their state. `regflat::adamw_master_` and `sgd_master_` are
such steps, as the FusedAdam of NVIDIA Apex and Transformer Engine has them (`master_weights=True`): they read gradient,
master copy and moments, and write master copy, moments and the parameter, all in one kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..workload import LoopNest
from .registry import Call, Formula, operator
from .shapes import flat, packets

OPTIMIZERS = {"adam": (12.0, 2.0), "adamw": (13.0, 2.0), "sgd": (4.0, 0.0), "adagrad": (5.0, 2.0)}
"""Vector and special operations a parameter: moments, bias correction, root, division, weight decay, step."""

_library: Any = torch.library.Library("regflat", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "adamw_master_(Tensor(a!)[] self, Tensor[] grads, Tensor(b!)[] masters, Tensor(c!)[] exp_avgs, "
    "Tensor(d!)[] exp_avg_sqs, Tensor[] state_steps, *, float lr, float beta1, float beta2, float weight_decay, "
    "float eps) -> ()"
)
_library.define(
    "sgd_master_(Tensor(a!)[] self, Tensor[] grads, Tensor(b!)[] masters, Tensor(c!)[] momentum_buffers, *, "
    "float lr, float weight_decay, float momentum) -> ()"
)


def _adamw(
    parameters: list[Tensor], grads: list[Tensor], masters: list[Tensor], means: list[Tensor], squares: list[Tensor],
    steps: list[Tensor], *, lr: float, beta1: float, beta2: float, weight_decay: float, eps: float,
) -> None:  # fmt: skip
    """Decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), with moments that have seen `steps` steps."""
    for p, grad, master, mean, square, step in zip(parameters, grads, masters, means, squares, steps, strict=True):
        g = grad.to(master.dtype)
        mean.lerp_(g, 1 - beta1)
        square.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        root = (square / (1 - beta2**step)).sqrt_().add_(eps)
        master.mul_(1 - lr * weight_decay).sub_(lr * (mean / (1 - beta1**step)) / root)
        p.copy_(master)


def _sgd(
    parameters: list[Tensor], grads: list[Tensor], masters: list[Tensor], buffers: list[Tensor], *, lr: float,
    weight_decay: float, momentum: float,
) -> None:  # fmt: skip
    """With a buffer of momentum for each parameter, or for none."""
    for at, (p, grad, master) in enumerate(zip(parameters, grads, masters, strict=True)):
        g = grad.to(master.dtype).add(master, alpha=weight_decay)
        if buffers:
            g = buffers[at].mul_(momentum).add_(g)
        master.sub_(lr * g)
        p.copy_(master)


_library.impl("adamw_master_", _adamw, "CompositeExplicitAutograd")
_library.impl("sgd_master_", _sgd, "CompositeExplicitAutograd")


def _formula(vector: float, special: float) -> Formula:
    def step(call: Call) -> LoopNest:
        count = sum(t.numel() for t in call.arg("self", call.args[0]))
        return _step(call, vector * count, special * count)

    return step


def _step(call: Call, vector: float, special: float) -> LoopNest:
    """Reads parameters, gradients and state; writes parameters and state. Gradients are `(b!)` in the schema because a
    gradient scaler divides them in place: without one they are only read."""
    writes = call.out
    if call.arg("grad_scale") is None:
        count = len(call.arg("self", call.args[0]))
        writes = [*call.out[:count], *call.out[2 * count :]]
    return flat(call, call.inputs, writes, vector=vector, special=special, kind="pointwise")


def _with_masters(vector: float, special: float) -> Formula:
    """Reads all but the parameters, which are made anew of their masters."""

    def step(call: Call) -> LoopNest:
        parameters = call.args[0]
        count = sum(t.numel() for t in parameters)
        read = call.inputs[len(parameters) :]
        return flat(call, read, call.out, vector=vector * count, special=special * count, kind="pointwise")

    return step


for _name, (_vector, _special) in OPTIMIZERS.items():
    operator(*packets(torch.ops.aten, f"_fused_{_name}"))(_formula(_vector, _special))
# Two casts more: of the gradient, and of the parameter.
operator(torch.ops.regflat.adamw_master_)(_with_masters(OPTIMIZERS["adamw"][0] + 2, OPTIMIZERS["adamw"][1]))
operator(torch.ops.regflat.sgd_master_)(_with_masters(OPTIMIZERS["sgd"][0] + 2, OPTIMIZERS["sgd"][1]))
