"""Recurrent layers that arrive whole (lstm, gru, rnn): one sequential nest a layer and direction.

Dimensions: t steps (in order), m batch, n gates x hidden size, k input and hidden size together. Both weights are
read once if they stay on chip over the steps; the cost kernel decides whether they do. Layers after the first read
what the layer below wrote, a buffer of the result's size. FLOPs: 2·t·m·n·k, what torch's counter gives for the
matrix products inside (a projection of the hidden state adds its own). Element-wise work of a step, per hidden
element: lstm 4 vector and 3·2 + 2 special operations (three sigmoids, two tanh), gru 6 and 2·2 + 1, rnn 1 and 1; and
2 additions a gate.
"""

from __future__ import annotations

from typing import Any

import torch

from ..workload import LoopNest
from .registry import Call, Nests, operator
from .shapes import Loop, dtype_name, packets

aten = torch.ops.aten

CELLS = {"lstm": (4, 4.0, 8.0), "gru": (3, 6.0, 5.0), "rnn_tanh": (1, 1.0, 1.0), "rnn_relu": (1, 1.0, 0.0)}
"""Gates, vector operations and special operations a hidden element and step."""


@operator(*(p for name in CELLS for p in packets(aten, name)))
def recurrent(call: Call) -> Nests:
    """input [t, m, i] (or [m, t, i] with `batch_first`; packed [rows, i]), parameters four (or two) a direction."""
    gates, vector, special = CELLS[call.target.overloadpacket.__name__]
    packed = call.arg("batch_sizes") is not None
    x = call.args[0]
    params: list[torch.Tensor] = call.arg("params")
    directions = 2 if call.arg("bidirectional") else 1
    layers: int = call.arg("num_layers")
    each = len(params) // (layers * directions)
    steps, batch = _steps(call, x, packed)
    nests: list[LoopNest] = []
    for i in range(layers * directions):
        weights = params[i * each : (i + 1) * each]
        source = x if i < directions else call.out[0]
        nests.append(_cell(call, source, weights, steps, batch, gates, vector, special, share=directions))
    return nests


def _steps(call: Call, x: torch.Tensor, packed: bool) -> tuple[int, int]:
    """Steps and batch; a packed batch is as many steps as it has sizes, of the mean batch."""
    if packed:
        steps = call.arg("batch_sizes").numel()
        return steps, max(1, x.shape[0] // max(steps, 1))
    first, second = x.shape[0], x.shape[1] if x.dim() > 2 else 1
    return (second, first) if call.arg("batch_first") else (first, second)


def _cell(
    call: Call,
    source: torch.Tensor,
    weights: list[torch.Tensor],
    steps: int,
    batch: int,
    gates: int,
    vector: float,
    special: float,
    share: int,
) -> LoopNest:
    w_in, w_hidden, *rest = weights
    (n, inputs), state = w_in.shape, w_hidden.shape[1]
    hidden = n // gates
    loop = Loop(call, t=steps, m=batch, n=n, k=inputs + state)
    loop.read(source, "t", "m", "k", distinct=float(source.numel()))
    for weight in (w_in, w_hidden):
        loop.read(weight, "n", "k", distinct=float(weight.numel()))
    for tensor in rest:
        loop.read(tensor, distinct=float(tensor.numel()))
    loop.write(call.out[0], "t", "m", "n", distinct=call.out[0].numel() / share)
    points = steps * batch
    counts: dict[str, Any] = {
        "vector_ops": points * (vector * hidden + 2.0 * n),
        "special_ops": points * special * hidden,
    }
    projected = sum(t.numel() for t in rest if t.dim() == 2)
    flops = 2 * points * (n * (inputs + state) + projected)
    return loop.nest("sequential", dtype_name(source), flops=flops, sequential=steps, **counts)


@operator(*packets(aten, "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"))
def recurrent_cell(call: Call) -> Nests:
    """One step of one layer."""
    gates, vector, special = CELLS[call.target.overloadpacket.__name__.removesuffix("_cell")]
    x, w_in, w_hidden = call.arg("input"), call.arg("w_ih"), call.arg("w_hh")
    (n, inputs), state = w_in.shape, w_hidden.shape[1]
    batch = x.shape[0] if x.dim() > 1 else 1
    loop = Loop(call, m=batch, n=n, k=inputs + state)
    for tensor in call.inputs:
        loop.read(tensor, distinct=float(tensor.numel()))
    for tensor in call.out:
        loop.write(tensor, distinct=float(tensor.numel()))
    counts = {"vector_ops": batch * (vector * n / gates + 2 * n), "special_ops": batch * special * n / gates}
    return loop.nest("product", dtype_name(x), flops=2 * batch * n * (inputs + state), **counts)
