"""Convolutions: 2·(outputs)·(input channels a group)·(filter size) FLOPs, as torch's counter has it.

Dimensions: n images, g groups (only where there are several), k output and c input channels a group, spatial output
p, q (o, p, q in 3-D), filter r, s (t, r, s in 3-D). The input is indexed by the sliding window stride·p + dilation·r,
and its `extent` is the elements that exist: padding is not read. A transposed convolution is the same loop turned
round: the spatial dimensions are the input's, and the result is what the window indexes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..workload import LoopNest
from .registry import Call, Nests, operator
from .shapes import Loop, dtype_name, packets, rows

aten = torch.ops.aten

SPATIAL = {1: ("p",), 2: ("p", "q"), 3: ("o", "p", "q")}
FILTER = {1: ("r",), 2: ("r", "s"), 3: ("t", "r", "s")}


@dataclass(frozen=True)
class Convolution:
    """A convolution's tensors and options, one shape for forward and backward.

    `dense` is the tensor whose spatial axes are loop dimensions (the result; of a transposed one the input),
    `window` the one the sliding window indexes.
    """

    dense: torch.Tensor
    window: torch.Tensor
    weight: torch.Tensor
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool

    @property
    def rank(self) -> int:
        return self.weight.dim() - 2

    def loop(self, call: Call) -> Loop:
        rank, groups = self.rank, self.groups
        images = self.dense.shape[0] if self.dense.dim() == rank + 2 else 1
        first, second = self.weight.shape[0] // groups, self.weight.shape[1]
        k, c = (second, first) if self.transposed else (first, second)
        dims = [("n", images), *([("g", groups)] if groups > 1 else []), ("k", k)]
        dims += zip(SPATIAL[rank], self.dense.shape[-rank:], strict=True)
        dims.append(("c", c))
        return Loop(call, [*dims, *zip(FILTER[rank], self.weight.shape[2:], strict=True)])

    def axes(self, loop: Loop, which: str) -> tuple[Any, ...]:
        """What indexes the `dense` or `window` tensor, or the `weight`."""
        rank, group = self.rank, ("g",) if self.groups > 1 else ()
        k, c = ("c", "k") if self.transposed else ("k", "c")
        if which == "weight":
            return (*group, k, c, *FILTER[rank])
        if which == "dense":
            return ("n", *group, k, *SPATIAL[rank])
        steps = zip(SPATIAL[rank], self.stride, FILTER[rank], self.dilation, strict=True)
        return ("n", *group, c, *(loop.axis((p, step), (r, hole)) for p, step, r, hole in steps))

    @property
    def macs(self) -> int:
        """Multiply-accumulates, padding included."""
        images = self.dense.shape[0] if self.dense.dim() == self.rank + 2 else 1
        return images * math.prod(self.dense.shape[-self.rank :]) * self.weight.numel()


def _options(value: Any, rank: int, default: int) -> tuple[int, ...]:
    if value is None or (isinstance(value, Sequence) and not value):
        return (default,) * rank
    if isinstance(value, int):
        return (value,) * rank
    return tuple(value) if len(value) == rank else (value[0],) * rank


def _of(call: Call, x: torch.Tensor, out: torch.Tensor, weight: torch.Tensor, transposed: bool) -> Convolution:
    rank = weight.dim() - 2
    dense, window = (x, out) if transposed else (out, x)
    stride, dilation = (_options(call.arg(name), rank, 1) for name in ("stride", "dilation"))
    return Convolution(dense, window, weight, stride, dilation, call.arg("groups", 1) or 1, transposed)


def _forward(call: Call, transposed: bool) -> LoopNest:
    x, weight = call.args[0], call.arg("weight")
    conv = _of(call, x, call.out[0], weight, transposed)
    loop = conv.loop(call)
    out = call.out[0]
    if transposed:
        loop.read(x, *conv.axes(loop, "dense"))
    else:
        loop.read(x, *conv.axes(loop, "window"), extent=float(x.numel()))
    loop.read(weight, *conv.axes(loop, "weight"))
    bias = call.arg("bias")
    loop.read(bias, *(("g", "k") if conv.groups > 1 else ("k",)))
    if transposed:
        loop.write(out, *conv.axes(loop, "window"), extent=float(out.numel()))
    else:
        loop.write(out, *conv.axes(loop, "dense"))
    adds = 0.0 if bias is None else float(out.numel())
    return loop.nest("convolution", dtype_name(x), flops=2 * conv.macs, vector_ops=adds)


@operator(*packets(aten, "conv1d conv2d conv3d cudnn_convolution mkldnn_convolution _slow_conv2d_forward"))
@operator(*packets(aten, "thnn_conv2d conv_depthwise3d _conv_depthwise2d slow_conv3d slow_conv_dilated2d"))
@operator(*packets(aten, "miopen_convolution cudnn_convolution_relu"))
def convolve(call: Call) -> Nests:
    return _forward(call, transposed=False)


@operator(*packets(aten, "conv_transpose1d conv_transpose2d conv_transpose3d cudnn_convolution_transpose"))
@operator(*packets(aten, "slow_conv_transpose2d slow_conv_transpose3d"))
def convolve_transposed(call: Call) -> Nests:
    return _forward(call, transposed=True)


@operator(*packets(aten, "convolution _convolution convolution_overrideable"))
def convolution(call: Call) -> Nests:
    return _forward(call, bool(call.arg("transposed")))


@operator(*packets(aten, "convolution_backward convolution_backward_overrideable"))
def convolution_backward(call: Call) -> Nests:
    """Up to three nests: the input's gradient, the weight's (each with the forward's loops), the bias's (a sum).

    torch's counter multiplies the weight gradient of a grouped convolution by the groups; `flops` follows it and
    `executed_flops` does not.
    """
    gradient, x, weight = call.args[:3]
    mask = call.arg("output_mask")
    outs = iter(call.out)
    grads = [next(outs, None) if wanted else None for wanted in mask]
    conv = _of(call, x, gradient, weight, bool(call.arg("transposed")))
    roles = ("dense", "window") if conv.transposed else ("window", "dense")
    nests: list[LoopNest] = []
    for grad, of_weight in ((grads[0], False), (grads[1], True)):
        if grad is None:
            continue
        loop = conv.loop(call)
        _touch(loop, conv, gradient, roles[1])
        if of_weight:
            _touch(loop, conv, x, roles[0])
            loop.write(grad, *conv.axes(loop, "weight"))
        else:
            loop.read(weight, *conv.axes(loop, "weight"))
            _touch(loop, conv, grad, roles[0], write=True)
        counted = conv.macs * (conv.groups if of_weight else 1)
        work = float(2 * conv.macs)
        nests.append(loop.nest("convolution", dtype_name(x), flops=2 * counted, executed_flops=work))
    if grads[2] is not None:
        channels = grads[2].numel()
        count = gradient.numel()
        nests.append(rows(call, channels, count // max(channels, 1), [gradient], [grads[2]], vector=1.0))
    return nests


def _touch(loop: Loop, conv: Convolution, tensor: torch.Tensor, which: str, *, write: bool = False) -> None:
    options = {"extent": float(tensor.numel())} if which == "window" else {}
    (loop.write if write else loop.read)(tensor, *conv.axes(loop, which), **options)
