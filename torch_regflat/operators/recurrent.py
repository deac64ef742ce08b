"""Recurrent layers that arrive whole (lstm, gru, rnn): one sequential nest a layer and direction.

Dimensions: t steps (in order), m batch, n gates x hidden size, k input and hidden size together. Both weights are
read once if they stay on chip over the steps; the cost kernel decides whether they do. Layers after the first read
what the layer below wrote, a buffer of the result's size. FLOPs: 2·t·m·n·k, what torch's counter gives for the
matrix products inside (a projection of the hidden state adds its own). Element-wise work of a step, per hidden
element: lstm 4 vector and 3·2 + 2 special operations (three sigmoids, two tanh), gru 6 and 2·2 + 1, rnn 1 and 1; and
2 additions a gate.

In training they are `regflat::rnn`, which also writes what the backward needs (the `reserve`: activations of the gates,
cell states, what inner layers wrote), and `regflat::rnn_backward`, as cuDNN has them: for each layer and direction a
sequential nest for the gradients of gates, states and input, and one product for those of the weights over all steps.
Without gradients for the first state there is one step less to the states.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ..workload import LoopNest
from .registry import Call, Nests, operator
from .shapes import Loop, dtype_name, packets

aten = torch.ops.aten

CELLS = {"lstm": (4, 4.0, 8.0), "gru": (3, 6.0, 5.0), "rnn_tanh": (1, 1.0, 1.0), "rnn_relu": (1, 1.0, 0.0)}
"""Gates, vector operations and special operations a hidden element and step."""


_library: Any = torch.library.Library("regflat", "FRAGMENT")  # type: ignore[no-untyped-call]
_OPTIONS = "str cell, int num_layers, bool bidirectional, bool batch_first"
_library.define(
    f"rnn(Tensor input, Tensor? batch_sizes, Tensor[] hx, Tensor[] params, {_OPTIONS}) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "rnn_backward(Tensor? grad, Tensor? grad_h, Tensor? grad_c, Tensor input, Tensor output, Tensor reserve, "
    f"Tensor? batch_sizes, Tensor[] hx, Tensor[] params, {_OPTIONS}, bool input_grad, bool state_grad) -> Tensor[]"
)


def rnn_shapes(
    input: torch.Tensor, batch_sizes: torch.Tensor | None, hx: list[torch.Tensor], params: list[torch.Tensor],
    cell: str, num_layers: int, bidirectional: bool, batch_first: bool,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """Result, last states and reserve of a recurrent layer, as shapes."""
    directions = 2 if bidirectional else 1
    points, width = math.prod(input.shape[:-1]), directions * hx[0].shape[-1]
    gates = params[0].shape[0]
    kept = gates + (gates // CELLS[cell][0] if cell == "lstm" else 0)
    reserve = points * (num_layers * directions * kept + (num_layers - 1) * width)
    cells = torch.empty_like(hx[1]) if cell == "lstm" else input.new_empty(0)
    return input.new_empty(*input.shape[:-1], width), torch.empty_like(hx[0]), cells, input.new_empty(reserve)


def _rnn_backward_shapes(
    grad: Any, grad_h: Any, grad_c: Any, input: torch.Tensor, output: torch.Tensor, reserve: torch.Tensor,
    batch_sizes: Any, hx: list[torch.Tensor], params: list[torch.Tensor], cell: str, num_layers: int,
    bidirectional: bool, batch_first: bool, input_grad: bool, state_grad: bool,
) -> list[torch.Tensor]:  # fmt: skip
    """Gradients of the input and the states, where they are asked for, and of all parameters."""
    wanted = [*([input] if input_grad else []), *(hx if state_grad else []), *params]
    return [torch.empty_like(tensor) for tensor in wanted]


_library.impl("rnn", rnn_shapes, "Meta")
_library.impl("rnn_backward", _rnn_backward_shapes, "Meta")


@operator(*(p for name in CELLS for p in packets(aten, name)), torch.ops.regflat.rnn)
def recurrent(call: Call) -> Nests:
    """input [t, m, i] (or [m, t, i] with `batch_first`; packed [rows, i]), parameters four (or two) a direction."""
    layer = _Layers(call)
    reserve = call.out[3] if len(call.out) > 3 else None
    nests: list[LoopNest] = []
    for i in range(layer.count):
        source = layer.x if i < layer.directions else call.out[0]
        nests.append(_cell(layer, source, layer.weights(i), reserve))
    return nests


@operator(torch.ops.regflat.rnn_backward)
def recurrent_backward(call: Call) -> Nests:
    """Of each layer and direction the gradients of what it read, then those of its weights."""
    layer = _Layers(call)
    nests: list[LoopNest] = []
    for i in reversed(range(layer.count)):
        needs_source = i >= layer.directions or bool(call.arg("input_grad"))
        nests += [_cell_backward(layer, layer.weights(i), needs_source), _weights_backward(layer, layer.weights(i))]
    return nests


class _Layers:
    """What the call of a recurrent module says of its layers."""

    def __init__(self, call: Call) -> None:
        self.call = call
        name = call.arg("cell") if "regflat" in str(call.target) else call.target.overloadpacket.__name__
        self.gates, self.vector, self.special = CELLS[name]
        self.x: torch.Tensor = call.arg("input", call.args[0])
        self.params: list[torch.Tensor] = call.arg("params")
        self.directions = 2 if call.arg("bidirectional") else 1
        self.count: int = call.arg("num_layers") * self.directions
        self.steps, self.batch = _steps(call, self.x, call.arg("batch_sizes") is not None)

    def weights(self, i: int) -> list[torch.Tensor]:
        each = len(self.params) // self.count
        return self.params[i * each : (i + 1) * each]


def _steps(call: Call, x: torch.Tensor, packed: bool) -> tuple[int, int]:
    """Steps and batch; a packed batch is as many steps as it has sizes, of the mean batch."""
    if packed:
        steps = call.arg("batch_sizes").numel()
        return steps, max(1, x.shape[0] // max(steps, 1))
    first, second = x.shape[0], x.shape[1] if x.dim() > 2 else 1
    return (second, first) if call.arg("batch_first") else (first, second)


def _cell(layer: _Layers, source: torch.Tensor, weights: list[torch.Tensor], reserve: torch.Tensor | None) -> LoopNest:
    w_in, w_hidden, *rest = weights
    (n, inputs), state = w_in.shape, w_hidden.shape[1]
    hidden = n // layer.gates
    out = layer.call.out[0]
    loop = Loop(layer.call, t=layer.steps, m=layer.batch, n=n, k=inputs + state)
    loop.read(source, "t", "m", "k", distinct=float(source.numel()))
    for weight in (w_in, w_hidden):
        loop.read(weight, "n", "k", distinct=float(weight.numel()))
    for tensor in rest:
        loop.read(tensor, distinct=float(tensor.numel()))
    loop.write(out, "t", "m", "n", distinct=out.numel() / layer.directions)
    if reserve is not None:
        loop.write(reserve, distinct=reserve.numel() / layer.count)
    points = layer.steps * layer.batch
    counts: dict[str, Any] = {
        "vector_ops": points * (layer.vector * hidden + 2.0 * n),
        "special_ops": points * layer.special * hidden,
    }
    flops = 2 * points * (n * (inputs + state) + _projected(rest))
    return loop.nest("sequential", dtype_name(source), flops=flops, sequential=layer.steps, **counts)


def _projected(rest: list[torch.Tensor]) -> int:
    """Weights of the projection of the hidden state, where there is one."""
    return sum(t.numel() for t in rest if t.dim() == 2)


def _cell_backward(layer: _Layers, weights: list[torch.Tensor], needs_source: bool) -> LoopNest:
    """Step by step backwards: gradients of the gates times both weights. Element-wise work is twice the forward's."""
    call, (w_in, w_hidden, *rest) = layer.call, weights
    (n, inputs), state = w_in.shape, w_hidden.shape[1]
    hidden, points = n // layer.gates, layer.steps * layer.batch
    to_state = points if call.arg("state_grad") else points - layer.batch
    reserve: torch.Tensor = call.arg("reserve")
    loop = Loop(call, t=layer.steps, m=layer.batch, n=state + (inputs if needs_source else 0), k=n)
    loop.read(reserve, "t", "m", "k", distinct=reserve.numel() / layer.count)
    for weight in (w_hidden, *((w_in,) if needs_source else ())):
        loop.read(weight, "n", "k", distinct=float(weight.numel()))
    given = [t for t in (call.arg("grad"), call.arg("grad_h"), call.arg("grad_c")) if t is not None]
    for tensor in given:
        loop.read(tensor, distinct=tensor.numel() / layer.count)
    for tensor in rest:
        loop.read(tensor, distinct=float(tensor.numel()))
    loop.write(reserve, "t", "m", "n", distinct=float(points * n))  # the gradients of the gates, for the weights
    flops = 2 * (to_state * n * state + points * _projected(rest)) + (2 * points * n * inputs if needs_source else 0)
    return loop.nest(
        "sequential", dtype_name(reserve), flops=flops, sequential=layer.steps,
        vector_ops=2 * points * (layer.vector * hidden + 2.0 * n), special_ops=points * layer.special * hidden,
    )  # fmt: skip


def _weights_backward(layer: _Layers, weights: list[torch.Tensor]) -> LoopNest:
    """Gradients of the gates times inputs and states of all steps at once."""
    call, (w_in, w_hidden, *rest) = layer.call, weights
    (n, inputs), state = w_in.shape, w_hidden.shape[1]
    points = layer.steps * layer.batch
    reserve: torch.Tensor = call.arg("reserve")
    loop = Loop(call, m=n, n=inputs + state, k=points)
    loop.read(reserve, "m", "k", distinct=float(points * n))
    loop.read(call.arg("output"), "n", "k", distinct=float(points * (inputs + state)))
    for weight in weights:
        loop.write(next(t for t in call.out if t.shape == weight.shape), distinct=float(weight.numel()))
    return loop.nest("product", dtype_name(reserve), flops=2 * points * (n * (inputs + state) + _projected(rest)))


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
