"""The optimizer of a training step: one fused operator for each parameter, written into the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..operators import optimizers as _optimizers  # defines the operators with master weights
from ._torch_distributed import local
from ._torch_private import op_info

if TYPE_CHECKING:
    from .training import TrainingRecorder

aten = torch.ops.aten
_defined_by = _optimizers.__name__

OPTIMIZERS = ("adamw", "sgd", "sgd-momentum")
"""What `optimizer` may be: AdamW keeps two moments for each parameter, SGD none, SGD with momentum one."""


class Updates:
    """Records the optimizer: one fused operator for each parameter, which reads and writes exactly what torch's does.

    Torch's fused optimizers refuse meta tensors, so the operator is written into the graph and not run. With
    `master_weights` parameters of fewer than 32 bits have a float32 copy, which is what is updated.
    """

    def __init__(self, recorder: TrainingRecorder, parameters: list[torch.nn.Parameter], master_weights: bool) -> None:
        self.recorder, self.master_weights = recorder, master_weights
        self.parameters = [p for p in parameters if p.requires_grad and p.grad is not None]

    def record(self, optimizer: str | None) -> list[torch.Tensor]:
        """Append the update of every parameter; returns the gradients."""
        self.recorder.phase = "optimizer"
        if optimizer is not None:
            for parameter in self.parameters:
                self.recorder.owner = self.recorder.owner_of(parameter)
                name = self.recorder.names.tensor(parameter) or self.recorder.names.unique("parameter")
                master = self.master_weights and parameter.dtype.itemsize < 4
                func, args, kwargs = _STEPS[optimizer, master]
                nodes = tuple([self._node(part, parameter, name, master)] if part else [] for part in args)
                self.recorder.append(func, op_info(func), nodes, kwargs, None)
        return [p.grad for p in self.parameters if p.grad is not None]

    def _node(self, part: str, parameter: torch.nn.Parameter, name: str, master: bool) -> Any:
        if part == "parameter":
            return self.recorder.node(local(parameter))
        if part == "gradient":
            assert parameter.grad is not None
            return self.recorder.node(local(parameter.grad))
        with self.recorder.paused():
            if part == "step":
                tensor = torch.zeros((), dtype=torch.float32, device="meta")
            else:
                dtype = torch.float32 if master else parameter.dtype
                tensor = torch.empty_like(local(parameter), requires_grad=False, dtype=dtype)
        return self.recorder.attribute(tensor, f"optimizer.{name}.{part}")


_ADAMW: dict[str, Any] = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "weight_decay": 1e-2, "eps": 1e-8}
_SGD: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.0, "momentum": 0.0}
_MOMENTUM = {**_SGD, "momentum": 0.9}
_FUSED_ADAMW = {**_ADAMW, "amsgrad": False, "maximize": False}
_FUSED_SGD: dict[str, Any] = {"dampening": 0.0, "nesterov": False, "maximize": False, "is_first_step": False}

_Operator = tuple[Any, tuple[str, ...], dict[str, Any]]
_STEPS: dict[tuple[str, bool], _Operator] = {
    ("adamw", False): (
        aten._fused_adamw_.default,
        ("parameter", "gradient", "exp_avg", "exp_avg_sq", "", "step"),
        _FUSED_ADAMW,
    ),
    ("sgd", False): (aten._fused_sgd_.default, ("parameter", "gradient", ""), {**_SGD, **_FUSED_SGD}),
    ("sgd-momentum", False): (
        aten._fused_sgd_.default,
        ("parameter", "gradient", "momentum_buffer"),
        {**_MOMENTUM, **_FUSED_SGD},
    ),
    ("adamw", True): (
        torch.ops.regflat.adamw_master_.default,
        ("parameter", "gradient", "master", "exp_avg", "exp_avg_sq", "step"),
        _ADAMW,
    ),
    ("sgd", True): (torch.ops.regflat.sgd_master_.default, ("parameter", "gradient", "master", ""), _SGD),
    ("sgd-momentum", True): (
        torch.ops.regflat.sgd_master_.default,
        ("parameter", "gradient", "master", "momentum_buffer"),
        _MOMENTUM,
    ),
}
"""(optimizer, with a master copy) -> the operator with torch's default options; "" is an empty list."""
