"""Reductions, scans, losses and pooling: a stream over the input with one result a row.

The table gives vector and special operations an input element. What is reduced shows in the sizes alone: rows r are
the results, columns c the inputs of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .registry import Call, Formula, Nests, operator
from .shapes import flat, packets, rows

aten = torch.ops.aten

REDUCTIONS: tuple[tuple[float, float, str], ...] = (
    (1, 0, "hash_tensor segment_reduce"),
    (1, 0, "sum mean prod nansum nanmean amax amin max min argmax argmin any all count_nonzero median nanmedian mode"),
    (1, 0, "_is_all_true _is_any_true kthvalue sum_to_size trace equal is_nonzero _local_scalar_dense item aminmax"),
    (4, 0, "var std var_mean std_mean"),
    (3, 1, "logsumexp special_logsumexp"),
    (2, 0, "norm linalg_vector_norm linalg_norm linalg_matrix_norm native_norm frobenius_norm dist nuclear_norm"),
    (2, 0, "_chunk_cat_norm allclose is_all_close _nested_tensor_from_mask_left_aligned"),
)
"""(vector, special) an element. Variance is mean 1 and subtract, square, add 3; a norm squares and adds."""

SCANS: tuple[tuple[float, float, str], ...] = (
    (1, 0, "cumsum cumprod cummax cummin _cummax_helper diff cumulative_trapezoid trapezoid trapz gradient"),
    (3, 2, "logcumsumexp _logcumsumexp"),
)

LOSSES: tuple[tuple[float, float, str], ...] = (
    (2, 0, "nll_loss nll_loss_forward nll_loss2d nll_loss2d_forward nll_loss_nd"),
    (3, 0, "mse_loss l1_loss smooth_l1_loss huber_loss margin_ranking_loss hinge_embedding_loss soft_margin_loss"),
    (3, 0, "multi_margin_loss multilabel_margin_loss triplet_margin_loss cosine_embedding_loss"),
    (5, 2, "binary_cross_entropy binary_cross_entropy_with_logits kl_div poisson_nll_loss gaussian_nll_loss"),
    (6, 1, "cross_entropy_loss ctc_loss _ctc_loss linear_cross_entropy"),
)

POOLS = """
    max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    fractional_max_pool2d fractional_max_pool3d lp_pool1d lp_pool2d mkldnn_max_pool2d quantized_max_pool2d
"""


def _real(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [t for t in tensors if t.numel()]


def reduce(vector: float, special: float) -> Formula:
    """A reduction: the first result's elements are the rows."""

    def reduction(call: Call) -> Nests:
        x = call.inputs[0]
        count = call.out[0].numel() if call.out else 1
        if count and x.numel() % count == 0:
            return rows(call, count, x.numel() // count, call.inputs, call.out, vector=vector, special=special)
        return _stream(vector, special)(call)

    return reduction


def _stream(vector: float, special: float) -> Formula:
    def stream(call: Call) -> Nests:
        count = max((t.numel() for t in call.inputs), default=0)
        writes = _real(call.out)
        return flat(call, call.inputs, writes, vector=vector * count, special=special * count, kind="reduction")

    return stream


def _register(table: tuple[tuple[float, float, str], ...], make: Callable[[float, float], Formula]) -> None:
    for vector, special, names in table:
        operator(*packets(aten, names))(make(vector, special))


@operator(*packets(aten, POOLS))
def pool(call: Call) -> Nests:
    """One vector operation per output and window element; input and results move once."""
    out = call.out[0]
    window = call.arg("kernel_size")
    if window is None:
        spatial = max(call.args[0].dim() - 2, 1)
        each = math.prod(call.args[0].shape[-spatial:]) / max(math.prod(out.shape[-spatial:]), 1)
    else:
        spatial = max(out.dim() - 2, 1) if len(window) == 1 else len(window)
        each = math.prod(window) if len(window) > 1 else window[0] ** spatial
    return flat(call, call.inputs, call.out, vector=float(each * out.numel()), kind="reduction")


@operator(*packets(aten, "max_pool2d_with_indices_backward avg_pool2d_backward _adaptive_avg_pool2d_backward"))
@operator(*packets(aten, "avg_pool3d_backward max_pool3d_with_indices_backward _adaptive_avg_pool3d_backward"))
@operator(*packets(aten, "adaptive_max_pool2d_backward adaptive_max_pool3d_backward mkldnn_max_pool2d_backward"))
def pool_backward(call: Call) -> Nests:
    """The gradient is spread over the input's; the forward's input tells only its shape and is not read."""
    indices = [t for t in call.inputs[1:] if not t.dtype.is_floating_point]
    return flat(call, [call.inputs[0], *indices], call.out, vector=float(call.out[0].numel()), kind="reduction")


@operator(*packets(aten, "nll_loss_backward nll_loss2d_backward mse_loss_backward smooth_l1_loss_backward"))
@operator(*packets(aten, "huber_loss_backward binary_cross_entropy_backward soft_margin_loss_backward"))
@operator(*packets(aten, "_ctc_loss_backward multi_margin_loss_backward multilabel_margin_loss_backward"))
def loss_backward(call: Call) -> Nests:
    return flat(call, call.inputs, call.out, vector=3.0 * call.out[0].numel(), kind="pointwise")


@operator(*packets(aten, "histc bincount unique_dim _unique2 unique_consecutive searchsorted bucketize histogram"))
@operator(*packets(aten, "histogramdd _histogramdd_from_bin_cts _histogramdd_from_bin_tensors"))
def histogram(call: Call) -> Nests:
    """Each element is compared, or hashed, into a bin: log2(bins) comparisons for a search, else one."""
    x = call.inputs[0]
    return flat(call, call.inputs, call.out, vector=2.0 * x.numel(), kind="reduction")


@operator(*packets(aten, "cdist _cdist_forward _euclidean_dist pdist _pdist_forward"))
def distances(call: Call) -> Nests:
    """Every row with every row: subtract, square and add an element, a root a distance."""
    width = call.inputs[0].shape[-1]
    count = call.out[0].numel()
    return flat(call, call.inputs, call.out, vector=3.0 * count * width, special=count, kind="reduction")


_register(REDUCTIONS, reduce)
_register(SCANS, _stream)
_register(LOSSES, _stream)


@operator(*packets(aten, "quantile nanquantile"))
def quantile(call: Call) -> Nests:
    """A sort, log2(c) comparisons an element, then an interpolation."""
    x = call.args[0]
    axis = call.arg("dim")
    columns = x.numel() if axis is None else x.shape[axis] if x.dim() else 1
    return flat(call, call.inputs, call.out, vector=x.numel() * max(math.log2(max(columns, 1)), 1), kind="reduction")


@operator(*packets(aten, "_foreach_norm _foreach_max"))
def foreach_norm(call: Call) -> Nests:
    return flat(call, call.inputs, call.out, vector=2.0 * sum(t.numel() for t in call.inputs), kind="reduction")
