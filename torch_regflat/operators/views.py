"""Operators that only describe memory that is already there: they move nothing and cost nothing, on purpose.

An operator that may view or copy (reshape, contiguous, to) is not listed: `lower_call` looks at the storages of its
input and its result, and its formula is asked only when it copied.
"""

from __future__ import annotations

import torch

from .registry import Call, operator
from .shapes import packets

aten = torch.ops.aten

VIEWS = """
    view view_as reshape_as _unsafe_view _reshape_alias as_strided alias detach lift lift_fresh
    transpose t numpy_T mT mH matrix_H adjoint permute movedim moveaxis swapaxes swapdims
    expand expand_as broadcast_to broadcast_tensors meshgrid atleast_1d atleast_2d atleast_3d
    slice select narrow split split_with_sizes unsafe_split unsafe_split_with_sizes chunk unsafe_chunk tensor_split
    hsplit vsplit dsplit unbind diagonal unfold squeeze unsqueeze unflatten
    real imag view_as_real view_as_complex _conj conj _neg_view _unwrap_dead_wrappers
    set_ resize resize_as set_data requires_grad retain_grad rename refine_names align_to _version
"""

QUESTIONS = """
    size stride numel dim sym_size sym_stride sym_numel sym_storage_offset storage_offset is_contiguous
    is_same_size is_floating_point is_complex is_signed is_pinned is_leaf result_type can_cast promote_types
    _assert_async _assert_tensor_metadata _assert_scalar _functional_assert_async _functional_assert_scalar
    sym_constrain_range sym_constrain_range_for_size _functional_sym_constrain_range device _nested_tensor_size
"""


@operator(*packets(aten, VIEWS), *packets(aten, QUESTIONS))
def view(call: Call) -> None:
    """A view, or a question about a tensor's shape or type."""
    return None


operator(*packets(torch.ops.prims, "device view_of"))(view)
