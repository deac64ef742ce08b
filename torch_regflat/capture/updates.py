"""The optimizer of a training step: one fused operator for each parameter, written into the graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from ..operators import optimizers as _optimizers  # defines the operators with master weights
from ..sharded import unit_of
from ._torch_distributed import is_dtensor, local, respread
from ._torch_private import op_info

if TYPE_CHECKING:
    from .training import TrainingRecorder

aten = torch.ops.aten
_defined_by = _optimizers.__name__
_AVERAGE = torch.ops._c10d_functional.all_reduce_coalesced_.default if torch.distributed.is_available() else None

BUCKET = 25 * 2**20
"""Bytes of gradients that data-parallel ranks average at once (the default of DistributedDataParallel)."""

OPTIMIZERS = ("adamw", "sgd", "sgd-momentum")
"""What `optimizer` may be: AdamW keeps two moments for each parameter, SGD none, SGD with momentum one."""


class Updates:
    """Records the optimizer: one fused operator for each parameter, which reads and writes exactly what torch's does.

    Torch's fused optimizers refuse meta tensors, so the operator is written into the graph and not run. With
    `master_weights` parameters of fewer than 32 bits have a float32 copy, which is what is updated.
    """

    def __init__(
        self,
        recorder: TrainingRecorder,
        parameters: list[torch.nn.Parameter],
        master_weights: bool,
        average_over: str | None = None,
    ) -> None:
        self.recorder, self.master_weights, self.average_over = recorder, master_weights, average_over
        self.parameters = [p for p in parameters if p.requires_grad and p.grad is not None]
        self.gradients = [_like(p) for p in self.parameters]

    def record(self, optimizer: str | None) -> list[torch.Tensor]:
        """Append the update of every parameter; returns the gradients."""
        self.recorder.phase = "optimizer"
        if self.average_over is not None:
            for owner, bucket in self._buckets():
                self.recorder.owner = owner
                self.recorder.call(_AVERAGE, (bucket, "avg", self.average_over), {})
        if optimizer is not None:
            for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
                self.recorder.owner = self.recorder.owner_of(parameter)
                name = self.recorder.names.tensor(parameter) or self.recorder.names.unique("parameter")
                master = self.master_weights and parameter.dtype.itemsize < 4
                func, args, kwargs = _STEPS[optimizer, master]
                nodes = tuple([self._node(part, parameter, gradient, name, master)] if part else [] for part in args)
                self.recorder.append(func, op_info(func), nodes, kwargs, None)
        return self.gradients

    def _buckets(self) -> Iterator[tuple[str, list[torch.Tensor]]]:
        """Gradients averaged together, in the order of a backward: those of one layer, `BUCKET` bytes at most."""
        bucket: list[torch.Tensor] = []
        last: str | None = None
        for parameter, gradient in zip(self.parameters[::-1], self.gradients[::-1], strict=True):
            owner = self.recorder.owner_of(parameter)
            size = sum(t.numel() * t.dtype.itemsize for t in (*bucket, gradient))
            if last is not None and (size > BUCKET or unit_of(owner) != unit_of(last)):
                yield last, bucket
                bucket = []
            bucket, last = [*bucket, gradient], owner
        if last is not None:
            yield last, bucket

    def _node(
        self, part: str, parameter: torch.nn.Parameter, gradient: torch.Tensor, name: str, master: bool
    ) -> Any:
        if part == "parameter":
            return self.recorder.node(local(parameter))
        if part == "gradient":
            return self.recorder.node(gradient)
        with self.recorder.paused():
            if part == "step":
                tensor = torch.zeros((), dtype=torch.float32, device="meta")
            else:
                dtype = torch.float32 if master else parameter.dtype
                tensor = torch.empty_like(local(parameter), requires_grad=False, dtype=dtype)
        return self.recorder.attribute(tensor, f"optimizer.{name}.{part}")


def _like(parameter: torch.nn.Parameter) -> torch.Tensor:
    """What this rank holds of a gradient, spread as its parameter is: partial sums are added up for that."""
    gradient = parameter.grad
    assert gradient is not None
    return local(respread(gradient, parameter)) if is_dtensor(gradient) else gradient


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
