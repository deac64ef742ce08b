"""While capturing, the scans of transformers' state-space and linear-attention models are one operator each.

Without the CUDA kernels of mamba-ssm and flash-linear-attention, transformers runs a Python loop over tokens or
chunks: minutes of recording for what a GPU does in one kernel. In their place run the operators of
`operators.state_space` (`replaced` puts them there). These have no backward formula, so that the loops run where
gradients are recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..operators import state_space as _state_space  # defines the operators

__all__ = ["METHODS", "SCANS"]

regflat = torch.ops.regflat
_defined_by = _state_space.__name__


def _selective_scan(
    hidden_states: Any, dt: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None, delta_bias: Any = None,
    delta_softplus: bool = False, return_last_state: bool = False, use_mambapy: bool = False,
    use_associative_scan: bool = False, **kwargs: Any,
) -> Any:  # fmt: skip
    y, last = regflat.selective_scan(hidden_states, dt, A, B, C, D, z, delta_bias, delta_softplus)
    return (y, last) if return_last_state else y


def _state_update(
    state: Any, hidden_states: Any, dt: Any, A: Any, B: Any, C: Any, D: Any = None, dt_bias: Any = None,
    dt_softplus: bool = False, z: Any = None, **kwargs: Any,
) -> Any:  # fmt: skip
    return regflat.selective_state_update(state, hidden_states, dt, A, B, C, D, z, dt_bias, dt_softplus)


def _chunk_scan(
    hidden_states: Any, dt: Any, A: Any, B: Any, C: Any, chunk_size: int, D: Any = None, dt_bias: Any = None,
    initial_states: Any = None, dt_softplus: bool = False, dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False, **kwargs: Any,
) -> Any:  # fmt: skip
    y, last = regflat.ssd_scan(
        hidden_states, dt, A, B, C, D, dt_bias, initial_states, chunk_size, dt_softplus, *map(float, dt_limit)
    )
    return (y, last) if return_final_states else y


def _chunk_delta_rule(
    query: Any, key: Any, value: Any, g: Any, beta: Any, chunk_size: int = 64, initial_state: Any = None,
    output_final_state: bool = False, use_qk_l2norm_in_kernel: bool = False, **kwargs: Any,
) -> Any:  # fmt: skip
    y, last = regflat.gated_delta_rule(query, key, value, g, beta, initial_state, chunk_size, use_qk_l2norm_in_kernel)
    return y, last if output_final_state else None


def _recurrent_delta_rule(
    query: Any, key: Any, value: Any, g: Any, beta: Any, initial_state: Any = None,
    output_final_state: bool = False, use_qk_l2norm_in_kernel: bool = False, **kwargs: Any,
) -> Any:  # fmt: skip
    y, last = regflat.gated_delta_rule(query, key, value, g, beta, initial_state, 1, use_qk_l2norm_in_kernel)
    return y, last if output_final_state else None


def _wkv(time_decay: Any, time_first: Any, key: Any, value: Any, state: Any = None, return_state: bool = False) -> Any:
    y, *new = regflat.wkv(time_decay, time_first, key, value, *(state or (None, None, None)))
    return y, new if return_state or state is not None else state


def _rnn_scan(
    self: Any, hidden_states: Any, recurrent_gate: Any, reset: Any, recurrent_states: Any,
    acc_dtype: torch.dtype = torch.float32,
) -> Any:  # fmt: skip
    return regflat.linear_recurrence(hidden_states, recurrent_gate * ~reset, recurrent_states)


SCANS: dict[str, Callable[..., Any]] = {
    "mamba_selective_scan": _selective_scan,
    "mamba_selective_state_update": _state_update,
    "mamba2_selective_state_update": _state_update,
    "mamba2_chunk_scan": _chunk_scan,
    "torch_chunk_gated_delta_rule": _chunk_delta_rule,
    "torch_recurrent_gated_delta_rule": _recurrent_delta_rule,
    "chunk_kimi_delta_attention": _chunk_delta_rule,
    "recurrent_kimi_delta_attention": _recurrent_delta_rule,
    "rwkv_linear_attention": _wkv,
}
"""Functions of transformers' modeling modules (5.x) and what runs in their place."""

METHODS: dict[tuple[str, str], Callable[..., Any]] = {("RecurrentGemmaRglru", "_rnn_scan"): _rnn_scan}
"""The same for methods of classes in those modules."""
