"""Element-wise operators: a table of what one output element costs.

(vector operations, special-function evaluations), counted as `shapes` says. Operands broadcast; an in-place form
reads and writes the same storage; scalars cost nothing to read.
"""

from __future__ import annotations

from typing import Any

import torch

from .registry import Call, Formula, Nests, operator
from .shapes import elementwise, flat, packets

aten = torch.ops.aten

TABLE: tuple[tuple[float, float, str], ...] = (
    (1, 0, "add sub subtract rsub mul multiply neg negative abs absolute square maximum minimum fmax fmin sign sgn"),
    (1, 0, "floor ceil round trunc fix frac positive copysign ldexp nextafter heaviside"),
    (1, 0, "eq ne lt le gt ge not_equal less less_equal greater greater_equal isnan isinf isfinite isposinf isneginf"),
    (1, 0, "isreal signbit isclose isin"),
    (1, 0, "logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor bitwise_not"),
    (1, 0, "__and__ __or__ __xor__ __lshift__ __rshift__ __iand__ __ior__ __ixor__ __ilshift__ __irshift__"),
    (1, 0, "bitwise_left_shift bitwise_right_shift"),
    (1, 0, "where masked_fill clamp_min clamp_max relu threshold conj_physical _conj_physical nan_to_num"),
    (1, 0, "_to_copy to type_as _cast_Float _cast_Half _cast_Double _cast_Long _cast_Int _autocast_to_full_precision"),
    (1, 0, "chalf float double half bfloat16 int long bool cpu cuda _autocast_to_reduced_precision to_dense"),
    (1, 0, "threshold_backward hardtanh_backward relu6_backward"),
    (2, 0, "clamp clip hardtanh relu6 lerp leaky_relu prelu _prelu_kernel addcmul dropout feature_dropout"),
    (2, 0, "alpha_dropout feature_alpha_dropout native_dropout_backward leaky_relu_backward _prelu_kernel_backward"),
    (2, 1, "addcdiv floor_divide fmod remainder"),
    (0, 1, "div divide true_divide reciprocal sqrt rsqrt exp exp2 expm1 log log2 log10 log1p"),
    (0, 1, "sin cos tan asin acos atan arcsin arccos arctan sinh cosh tanh asinh acosh atanh arcsinh arccosh arctanh"),
    (0, 1, "sinc erf erfc erfinv special_erf special_erfc special_erfinv special_erfcx special_expm1 special_exp2"),
    (1, 1, "hypot atan2 arctan2 celu elu selu hardswish hardsigmoid softsign deg2rad rad2deg"),
    (1, 1, "bernoulli normal uniform random exponential geometric log_normal cauchy rrelu_with_noise"),
    (0, 2, "sigmoid special_expit pow float_power special_log_ndtr special_ndtr special_ndtri"),
    (1, 2, "silu logit log_sigmoid log_sigmoid_forward softplus mish tanhshrink xlogy special_xlogy special_xlog1py"),
    (1, 2, "logaddexp logaddexp2 special_entr"),
    (10, 2, "lgamma digamma polygamma mvlgamma igamma igammac i0 special_i0 special_i0e special_i1 special_i1e"),
    (10, 2, "special_zeta special_digamma special_gammaln special_psi special_polygamma special_bessel_j0"),
    (2, 0, "hardshrink softshrink gcd lcm special_gammainc complex polar view_as_complex_copy angle"),
    (2, 0, "tanh_backward sigmoid_backward hardswish_backward hardsigmoid_backward softplus_backward"),
    (4, 2, "silu_backward mish_backward elu_backward log_sigmoid_backward logit_backward gelu_backward"),
    (3, 2, "glu glu_jvp"),
    (6, 2, "glu_backward"),
    (4, 0, "fake_quantize_per_tensor_affine fake_quantize_per_channel_affine quantize_per_tensor dequantize"),
)
"""pow is log and exp; softplus exp and log; a random number is a few integer operations and one special."""


def _operands(call: Call) -> list[torch.Tensor]:
    return [t for t in call.inputs if t.numel()]


def priced(vector: float, special: float) -> Formula:
    """The formula of an element-wise operator with these counts per output element."""

    def pointwise(call: Call) -> Nests:
        return elementwise(call, _operands(call), call.out, vector, special)

    return pointwise


for _vector, _special, _names in TABLE:
    operator(*packets(aten, _names))(priced(_vector, _special))


tagged = priced(1.0, 0.0)
"""For operators that torch itself tags as element-wise and this table does not list: one vector operation."""


@operator(*packets(aten, "gelu"))
def gelu(call: Call) -> Nests:
    """erf form: scale, erf, add, times x, halve; tanh form adds the cubic inside."""
    return elementwise(call, _operands(call), call.out, 4.0 if call.arg("approximate") == "none" else 7.0, 1.0)


CHEAP_POWERS = {0: (1.0, 0.0), 1: (1.0, 0.0), 2: (1.0, 0.0), 3: (2.0, 0.0), 4: (2.0, 0.0), 0.5: (0.0, 1.0)}
CHEAP_POWERS |= {-0.5: (0.0, 1.0), -1: (0.0, 1.0), -2: (1.0, 1.0)}


def _register_powers() -> None:
    """Powers by a small constant are multiplications or one root; these overloads win over the table's packet."""
    for packet in packets(aten, "pow"):
        for name in ("Tensor_Scalar", "Tensor_Scalar_out", "Scalar"):
            overload = getattr(packet, name, None)
            if overload is not None and (packet is not aten.pow or name != "Scalar"):
                operator(overload)(_power)


def _power(call: Call) -> Nests:
    return elementwise(call, _operands(call), call.out, *CHEAP_POWERS.get(call.arg("exponent"), (0.0, 2.0)))


_register_powers()


@operator(*packets(aten, "native_dropout _fused_dropout"))
def native_dropout(call: Call) -> Nests:
    """A random number, a comparison and a multiplication; writes the mask as well."""
    return elementwise(call, _operands(call), [t for t in call.out if t.numel()], 3.0, 1.0)


@operator(*packets(aten, "add_relu _add_relu"))
def add_relu(call: Call) -> Nests:
    return elementwise(call, _operands(call), call.out, 2.0)


@operator(*packets(aten, "rope rotary_embedding"))
def rope(call: Call) -> Nests:
    return elementwise(call, _operands(call), call.out, 3.0)


FOREACH: tuple[tuple[float, float, str], ...] = (
    (1, 0, "add sub mul neg abs maximum minimum clamp_min clamp_max sign floor ceil round trunc frac copy zero"),
    (0, 1, "div sqrt rsqrt exp log reciprocal sin cos tanh erf expm1 log1p log2 log10"),
    (2, 0, "addcmul lerp"),
    (2, 1, "addcdiv"),
    (0, 2, "pow sigmoid"),
)


def _each(vector: float, special: float) -> Formula:
    """Lists of tensors, element by element; `flat` counts every distinct element of every list."""

    def foreach(call: Call) -> Nests:
        count = sum(t.numel() for t in call.out)
        return flat(call, call.inputs, call.out, vector=vector * count, special=special * count, kind="pointwise")

    return foreach


for _vector, _special, _names in FOREACH:
    operator(*packets(aten, " ".join(f"_foreach_{name}" for name in _names.split())))(_each(_vector, _special))


def is_pointwise(target: Any) -> bool:
    """Whether torch tags this overload as element-wise."""
    return torch.Tag.pointwise in getattr(target, "tags", ())
