"""Operators that make a tensor out of nothing: one write; `empty` writes nothing, so it is free on purpose."""

from __future__ import annotations

import torch

from .registry import Call, Nests, operator
from .shapes import elementwise, flat, packets

aten = torch.ops.aten


@operator(*packets(aten, "empty empty_like new_empty empty_strided new_empty_strided empty_permuted"))
@operator(*packets(aten, "_empty_affine_quantized"))
def empty(call: Call) -> None:
    """Memory is reserved; nothing moves."""
    return None


@operator(*packets(aten, "zeros zeros_like new_zeros ones ones_like new_ones full full_like new_full"))
@operator(*packets(aten, "scalar_tensor zero fill eye _efficientzerotensor tril_indices triu_indices fill_diagonal"))
def constant(call: Call) -> Nests:
    """One write; a tensor argument gives only a shape, but for the single value that `fill` may read."""
    reads = [t for t in call.inputs[1:] if t.numel() == 1]
    return elementwise(call, reads, call.out, kind="movement")


@operator(*packets(aten, "arange range linspace logspace hann_window hamming_window blackman_window bartlett_window"))
@operator(*packets(aten, "kaiser_window vander linalg_vander"))
def sequence(call: Call) -> Nests:
    """A multiplication and an addition an element."""
    return elementwise(call, [], call.out, 2.0)


@operator(*packets(aten, "rand rand_like randn randn_like randint randint_like randperm multinomial poisson"))
@operator(*packets(aten, "bernoulli_like normal_functional _standard_gamma binomial"))
def random(call: Call) -> Nests:
    """About ten integer operations of a counter-based generator and one special function a number."""
    count = call.out[0].numel()
    reads = call.inputs if call.target.overloadpacket in _READERS else []
    return flat(call, reads, call.out, vector=10.0 * count, special=float(count), kind="pointwise")


_READERS = set(packets(aten, "multinomial poisson _standard_gamma binomial"))
