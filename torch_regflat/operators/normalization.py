"""Normalizations and softmaxes: rows r that are normalized over columns c, in one streaming pass.

Vector operations an element (special ones per row or element in brackets):

- layer, group, instance norm: mean 1, variance 3 (subtract, square, add), normalize 2, scale 1, shift 1 [1 rsqrt a row]
- RMS norm: mean of squares 2, normalize 1, scale 1 [1 rsqrt a row]
- batch norm of fixed statistics: 2 (one fused multiply-add) [1 rsqrt a channel]; of the batch's: as layer norm
- softmax: maximum, subtract, sum, scale: 4 [1 exp an element, 1 reciprocal a row]; log-softmax the same [1 log a row]
- a backward: twice the forward's reductions, `BACKWARD`: 8
"""

from __future__ import annotations

import math

import torch

from .registry import Call, Nests, operator
from .shapes import elementwise, flat, packets, rows

aten = torch.ops.aten

BACKWARD = 8.0


def _affine(call: Call) -> int:
    return sum(call.arg(name) is not None for name in ("weight", "bias"))


def _write(call: Call) -> list[torch.Tensor]:
    return [t for t in call.out if t.numel()]


@operator(*packets(aten, "layer_norm native_layer_norm"))
def layer_norm(call: Call) -> Nests:
    x, columns = call.args[0], math.prod(call.arg("normalized_shape"))
    count = x.numel() // columns
    return rows(call, count, columns, call.inputs, _write(call), vector=6 + _affine(call), row_special=1, sweeps=2)


@operator(*packets(aten, "rms_norm _fused_rms_norm"))
def rms_norm(call: Call) -> Nests:
    x, columns = call.args[0], math.prod(call.arg("normalized_shape"))
    count = x.numel() // columns
    return rows(call, count, columns, call.inputs, _write(call), vector=3 + _affine(call), row_special=1, sweeps=2)


@operator(*packets(aten, "group_norm native_group_norm"))
def group_norm(call: Call) -> Nests:
    x = call.args[0]
    count = x.shape[0] * call.arg("num_groups", call.arg("group"))
    return rows(call, count, x.numel() // count, call.inputs, _write(call), vector=6 + _affine(call), row_special=1)


@operator(*packets(aten, "instance_norm"))
def instance_norm(call: Call) -> Nests:
    x = call.args[0]
    count = x.shape[0] * x.shape[1]
    return rows(call, count, x.numel() // count, call.inputs, _write(call), vector=6 + _affine(call), row_special=1)


@operator(
    *packets(
        aten,
        """batch_norm native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit
        _native_batch_norm_legit_no_training _native_batch_norm_legit_functional _batch_norm_impl_index
        _batch_norm_with_update _batch_norm_with_update_functional _batch_norm_no_update""",
    )
)
def batch_norm(call: Call) -> Nests:
    """A row a channel. The batch's own statistics need a reduction, fixed ones only a multiply-add."""
    x = call.args[0]
    channels = x.shape[1] if x.dim() > 1 else 1
    name = call.target.overloadpacket.__name__
    training = bool(call.arg("training", call.arg("train", "update" in name))) and "no_" not in name
    kind = "reduction" if training else "pointwise"
    vector = 8.0 if training else 2.0
    columns = x.numel() // channels
    return rows(call, channels, columns, call.inputs, _write(call), vector=vector, row_special=1, kind=kind)  # type: ignore[arg-type]


@operator(*packets(aten, "softmax _softmax log_softmax _log_softmax _safe_softmax special_softmax special_log_softmax"))
def softmax(call: Call) -> Nests:
    x = call.args[0]
    columns = x.shape[call.arg("dim")] if x.dim() else 1
    count = x.numel() // max(columns, 1)
    sweeps = 3 if x.dim() and call.arg("dim") % x.dim() == x.dim() - 1 else 0
    return rows(call, count, columns, call.inputs, call.out, vector=4, special=1, row_special=1, sweeps=sweeps)


@operator(*packets(aten, "_masked_softmax"))
def masked_softmax(call: Call) -> Nests:
    x = call.args[0]
    columns = x.shape[-1]
    return rows(call, x.numel() // columns, columns, call.inputs, call.out, vector=5, special=1, row_special=1)


@operator(*packets(aten, "_softmax_backward_data _log_softmax_backward_data _masked_softmax_backward"))
def softmax_backward(call: Call) -> Nests:
    """softmax: y·(g - Σ y·g); log-softmax: g - exp(y)·Σ g: four vector operations, one exp for the latter."""
    x = call.args[0]
    columns = x.shape[call.arg("dim", -1)] if x.dim() else 1
    special = 1.0 if "log" in call.target.overloadpacket.__name__ else 0.0
    return rows(call, x.numel() // max(columns, 1), columns, call.inputs, call.out, vector=4, special=special)


@operator(*packets(aten, "native_layer_norm_backward _fused_rms_norm_backward"))
def layer_norm_backward(call: Call) -> Nests:
    x, columns = call.args[1], math.prod(call.arg("normalized_shape"))
    return rows(call, x.numel() // columns, columns, call.inputs, _write(call), vector=BACKWARD)


@operator(*packets(aten, "native_group_norm_backward"))
def group_norm_backward(call: Call) -> Nests:
    x = call.args[1]
    count = x.shape[0] * call.arg("group")
    return rows(call, count, x.numel() // count, call.inputs, _write(call), vector=BACKWARD)


@operator(*packets(aten, "native_batch_norm_backward cudnn_batch_norm_backward batch_norm_backward"))
@operator(*packets(aten, "miopen_batch_norm_backward"))
def batch_norm_backward(call: Call) -> Nests:
    x = call.args[1]
    channels = x.shape[1]
    return rows(call, channels, x.numel() // channels, call.inputs, _write(call), vector=BACKWARD)


@operator(*packets(aten, "_weight_norm _weight_norm_interface renorm"))
def weight_norm(call: Call) -> Nests:
    """v · g / ‖v‖ over all but one axis: square, add, scale an element; a root and a division a row."""
    v, axis = call.args[0], call.arg("dim", 0)
    count = v.shape[axis]
    return rows(call, count, v.numel() // count, call.inputs, _write(call), vector=3, row_special=2)


@operator(*packets(aten, "local_response_norm cosine_similarity pairwise_distance normalize"))
def over_channels(call: Call) -> Nests:
    count = float(call.args[0].numel())
    return flat(call, call.inputs, call.out, vector=6 * count, special=count, kind="reduction")


@operator(*packets(aten, "batch_norm_elemt"))
def batch_norm_elemt(call: Call) -> Nests:
    return elementwise(call, call.args[:1], call.out, 4.0)
