"""Operators that move data: copies, gathers, scatters, sorts. Only the elements touched are counted.

Indices are not known ahead. Rows of a *weight* (an embedding table, experts' weights) are taken to be drawn
uniformly at random, so `expected_distinct` of them are read. Rows of anything else are taken to be picked once each,
as a permutation picks them: as many as there are draws, at most all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..workload import LoopNest
from .registry import Call, Nests, operator
from .shapes import Loop, broadcast, distinct_elements, elementwise, expected_distinct, flat, packets, same_storage

aten = torch.ops.aten

ON_CHIP_ROW = 4096
"""Longest row that a library sorts in one block, in one pass over memory (torch's CUDA segmented sort)."""
RADIX_BITS = 8
"""Bits of the key that one pass of a device-wide radix sort orders."""


@operator(*packets(aten, "clone contiguous reshape flatten ravel _reshape_copy lift_fresh_copy copy narrow_copy"))
@operator(*packets(aten, "view_copy expand_copy permute_copy transpose_copy t_copy squeeze_copy unsqueeze_copy"))
@operator(*packets(aten, "slice_copy select_copy as_strided_copy alias_copy detach_copy diagonal_copy unfold_copy"))
@operator(
    *packets(aten, "repeat tile flip fliplr flipud roll rot90 fft_fftshift fft_ifftshift pixel_shuffle pixel_unshuffle")
)
@operator(*packets(aten, "channel_shuffle native_channel_shuffle repeat_interleave resolve_conj resolve_neg im2col"))
@operator(*packets(aten, "combinations cartesian_prod block_diag diag_embed diag diagflat kron"))
def copy(call: Call) -> Nests:
    """Every distinct element of the inputs read, every element of the result written.

    `copy_` overwrites its first tensor without reading it.
    """
    written = call.out[0] if call.out else call.inputs[0]
    reads = call.inputs
    if call.target.overloadpacket in _OVERWRITES:
        reads = [t for t in reads[1:] if t.numel()]
        return elementwise(call, reads, [written], kind="movement")
    return flat(call, reads, call.out)


_OVERWRITES = set(packets(aten, "copy"))


@operator(*packets(aten, "cat concat concatenate stack hstack vstack dstack column_stack row_stack _chunk_cat"))
@operator(*packets(aten, "split_copy split_with_sizes_copy unbind_copy"))
def cat(call: Call) -> Nests:
    return flat(call, call.inputs, call.out)


@operator(*packets(aten, "pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d"))
@operator(*packets(aten, "replication_pad2d replication_pad3d _pad_circular tril triu one_hot col2im max_unpool2d"))
@operator(*packets(aten, "max_unpool3d masked_select nonzero nonzero_numpy nonzero_static argwhere"))
def padded(call: Call) -> Nests:
    """The input read, the (larger) result written."""
    return flat(call, call.inputs, call.out)


@operator(*packets(aten, "reflection_pad1d_backward reflection_pad2d_backward replication_pad1d_backward"))
@operator(*packets(aten, "replication_pad2d_backward slice_backward select_backward diagonal_backward unfold_backward"))
def scatter_gradient(call: Call) -> Nests:
    return flat(call, call.inputs[:1], call.out)


@operator(*packets(aten, "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d"))
@operator(*packets(aten, "_upsample_nearest_exact2d _upsample_nearest_exact3d"))
def nearest(call: Call) -> Nests:
    return flat(call, call.inputs, call.out, vector=2.0 * call.out[0].numel())


@operator(*packets(aten, "upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d"))
@operator(*packets(aten, "_upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler grid_sampler_2d grid_sampler_3d"))
@operator(*packets(aten, "affine_grid_generator"))
def interpolate(call: Call) -> Nests:
    """A weighted sum of 4 neighbours (16 for bicubic), a multiply-add each."""
    taps = 16 if "bicubic" in call.target.overloadpacket.__name__ else 4
    return flat(call, call.inputs, call.out, vector=2.0 * taps * call.out[0].numel(), kind="pointwise")


@operator(*packets(aten, "upsample_nearest2d_backward upsample_bilinear2d_backward upsample_bicubic2d_backward"))
@operator(*packets(aten, "upsample_nearest1d_backward _upsample_bilinear2d_aa_backward upsample_linear1d_backward"))
@operator(*packets(aten, "grid_sampler_2d_backward upsample_nearest3d_backward upsample_trilinear3d_backward"))
def interpolate_backward(call: Call) -> Nests:
    return flat(call, call.inputs, call.out, vector=2.0 * call.inputs[0].numel(), kind="pointwise")


def _touched(call: Call, source: torch.Tensor, population: int, draws: int) -> float:
    """Distinct rows of `source` that `draws` indices read."""
    if call.operand(source, ()).role == "weight":
        return expected_distinct(population, draws)
    return float(min(population, draws))


@operator(*packets(aten, "embedding"))
def embedding(call: Call) -> Nests:
    """rows r of width c from a table of E rows: `expected_distinct(E, r)`·c elements of it are read."""
    table, indices = call.args[:2]
    width, count = table.shape[-1], indices.numel()
    loop = Loop(call, r=count, c=width)
    loop.read(table, "r", "c", distinct=expected_distinct(table.shape[0], count) * width)
    return loop.read(indices, "r").write(call.out[0], "r", "c").nest("movement")


@operator(*packets(aten, "embedding_bag _embedding_bag _embedding_bag_forward_only"))
def embedding_bag(call: Call) -> Nests:
    """As embedding, summed over the rows of each bag."""
    table, indices = call.args[:2]
    width, count = table.shape[-1], indices.numel()
    loop = Loop(call, r=count, c=width)
    loop.read(table, "r", "c", distinct=expected_distinct(table.shape[0], count) * width)
    for tensor in call.inputs[1:]:
        loop.read(tensor, distinct=float(tensor.numel()))
    for tensor in call.out:
        loop.write(tensor, distinct=float(tensor.numel()))
    return loop.nest("movement", vector_ops=float(width * count))


@operator(*packets(aten, "embedding_renorm"))
def embedding_renorm(call: Call) -> Nests:
    """The rows that are used are read, their norm taken (square and add), and written back scaled."""
    table, indices = call.args[:2]
    touched = expected_distinct(table.shape[0], indices.numel()) * table.shape[-1]
    loop = Loop(call, r=indices.numel(), c=table.shape[-1]).read(indices, "r")
    loop.update(call.out[0], "r", "c", distinct=touched)
    return loop.nest("reduction", vector_ops=3 * touched, special_ops=touched / table.shape[-1])


@operator(*packets(aten, "embedding_dense_backward"))
def embedding_backward(call: Call) -> Nests:
    """The whole gradient table is written (zeros where no row was used), the rows' gradients added."""
    gradient = call.args[0]
    return flat(call, call.inputs, call.out, vector=float(gradient.numel()))


@operator(*packets(aten, "index _unsafe_index index_select gather take take_along_dim _unsafe_masked_index"))
def gather(call: Call) -> Nests:
    """Reads the picked elements of the first tensor, all indices, and writes the result."""
    source, out = call.args[0], call.out[0]
    draws, population = _draws(call, source)
    width = source.numel() / max(population, 1)
    touched = min(_touched(call, source, population, draws) * width, float(distinct_elements(source)))
    loop = Loop(call, c=out.numel()).read(source, "c", distinct=touched)
    for tensor in call.inputs[1:]:
        loop.read(tensor, "c")
    return loop.write(out, "c").nest("movement")


def _draws(call: Call, source: torch.Tensor) -> tuple[int, int]:
    """How many indices pick, and out of how many rows."""
    indices = call.args[-1] if isinstance(call.args[-1], (list, tuple)) else call.arg("indices", call.arg("index"))
    if not isinstance(indices, (list, tuple)):
        if call.target.overloadpacket is aten.index_select:
            return indices.numel(), source.shape[call.arg("dim")] if source.dim() else 1
        return indices.numel(), source.numel()
    used = [(i, t) for i, t in enumerate(indices) if t is not None]
    if any(t.dtype == torch.bool for _, t in used):
        return call.out[0].numel(), source.numel()
    population = math.prod(source.shape[i] for i, _ in used)
    return math.prod(broadcast(*(t.shape for _, t in used))), population


SCATTERS = """
    scatter scatter_add scatter_reduce index_put index_add index_copy index_fill index_reduce put masked_scatter
    _index_put_impl _unsafe_index_put _unsafe_masked_index_put_accumulate
"""
ACCUMULATE = set(packets(aten, "scatter_add scatter_reduce index_add index_reduce"))


@operator(*packets(aten, SCATTERS))
def scatter(call: Call) -> Nests:
    """In place, only the elements hit are written (read too where they accumulate); otherwise all is copied first."""
    own, out = call.args[0], call.out[0]
    others = [t for t in call.inputs if t is not own and t.numel()]
    hit = min(_hit(call, own), own.numel())
    adds = call.target.overloadpacket in ACCUMULATE or bool(call.arg("accumulate")) or call.arg("reduce") is not None
    vector = float(hit) if adds else 0.0
    if not same_storage(own, out):
        return flat(call, [own, *others], [out], vector=vector)
    loop = Loop(call, c=max([hit, *(t.numel() for t in others)]))
    for tensor in others:
        loop.read(tensor, "c")
    (loop.update if adds else loop.write)(out, "c", distinct=float(hit))
    return loop.nest("movement", vector_ops=vector)


def _hit(call: Call, own: torch.Tensor) -> int:
    """Elements of `own` that a scatter writes: those of its source, or as many as its indices select."""
    for name in ("values", "src", "source"):
        value = call.arg(name)
        if isinstance(value, torch.Tensor) and value.numel() > 1:
            return int(value.numel())
    indices = call.arg("index", call.arg("indices"))
    if isinstance(indices, torch.Tensor):
        dim = call.arg("dim")
        if dim is not None and indices.dim() <= 1 < own.dim():
            return int(indices.numel() * own.numel() // max(own.shape[dim], 1))
        return int(indices.numel())
    used = [(i, t) for i, t in enumerate(indices or ()) if t is not None]
    if not used or any(t.dtype == torch.bool for _, t in used):
        return own.numel()
    draws = math.prod(broadcast(*(t.shape for _, t in used)))
    return draws * own.numel() // max(math.prod(own.shape[i] for i, _ in used), 1)


@operator(*packets(aten, "slice_scatter select_scatter diagonal_scatter as_strided_scatter"))
def write_slice(call: Call) -> Nests:
    """A new tensor: what the source does not overwrite is copied from the old one."""
    own, source = call.args[:2]
    out = call.out[0]
    loop = Loop(call, c=out.numel()).read(own, "c", distinct=float(own.numel() - source.numel()))
    return loop.read(source, "c").write(out, "c").nest("movement")


@operator(*packets(aten, "sort argsort topk msort"))
def sort(call: Call) -> Nests:
    """Rows that fit one block are sorted in one pass; longer ones need a radix pass for every 8 bits of the key.

    log2(c) comparisons an element.
    """
    x = call.args[0]
    columns = x.shape[call.arg("dim", -1)] if x.dim() else 1
    passes = 1 if columns <= ON_CHIP_ROW else math.ceil(x.dtype.itemsize * 8 / RADIX_BITS)
    vector = x.numel() * max(math.log2(max(columns, 1)), 1.0)
    return flat(call, call.inputs, call.out, vector=vector, kind="reduction", passes=passes)


def traffic(call: Call, overwritten: Sequence[torch.Tensor] = ()) -> LoopNest | None:
    """An operator without a formula: all inputs read once, all results written once; None when there are none."""
    reads = [t for t in call.inputs if not any(t is o for o in overwritten)]
    nest = flat(call, reads, call.out)
    return nest if nest.operands else None
