"""While capturing, loops over the experts that were hit do the expected work instead of asking which were hit.

Most mixtures of experts in transformers can run as grouped products (`set_experts_implementation("grouped_mm")`), whose
work needs no values. The ones here only have a Python loop over `nonzero`. Experts whose weights are stacked become the
same grouped products (`operators.products.grouped_mm` has the work). Experts that are modules of their own are called:
of E experts as many as T tokens that pick k each are expected to hit, `E·(1 - (1 - k/E)^T)`, rounded up, which share
the T·k rows evenly. What is recorded has the work of the model, not its values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..operators.shapes import expected_distinct

__all__ = ["METHODS"]


def _sorted(ids: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """Rows in the order of their experts, and where those of each expert end. [tokens x k], [experts]"""
    sorted_ids, order = torch.sort(ids.reshape(-1))
    counts = torch.histc(sorted_ids.int(), bins=experts, min=0, max=experts - 1)
    return order, torch.cumsum(counts, dim=0, dtype=torch.int32)


def _grouped(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Each row times the weights of its expert. [rows, in], [experts, in, out] -> [rows, out]"""
    return torch.nn.functional.grouped_mm(rows.to(weight.dtype), weight, offs=ends)


def _combined(out: Tensor, order: Tensor, weights: Tensor, tokens: Tensor) -> Tensor:
    """Weighted results added up for each token. [tokens, out]"""
    k = weights.shape[-1]
    scaled = out * weights.reshape(-1)[order, None].to(out.dtype)
    return torch.zeros_like(tokens).index_add_(0, order // k, scaled.to(tokens.dtype))


def _gated(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Step-3.7: stacked `gate_up_proj` and `down_proj`."""
    order, ends = _sorted(top_k_index, self.num_experts)
    rows = hidden_states[order // top_k_index.shape[-1]]
    inner = self._apply_gate(_grouped(rows, self.gate_up_proj.transpose(1, 2), ends))
    out = _grouped(inner, self.down_proj.transpose(1, 2), ends)
    return _combined(out, order, top_k_weights, hidden_states)


def _with_identities(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """LongCat-Flash: some experts hand their rows on as they are, on average their share of all experts."""
    experts = self.num_routed_experts
    order, ends = _sorted(top_k_index, self.total_experts)
    rows = hidden_states[order // top_k_index.shape[-1]]
    computed = round(rows.shape[0] * experts / self.total_experts)
    ends = ends[:experts]
    gate, up = _grouped(rows[:computed], self.gate_up_proj[:experts].transpose(1, 2), ends).chunk(2, dim=-1)
    out = _grouped(self.act_fn(gate) * up, self.down_proj.transpose(1, 2), ends)
    return _combined(torch.cat([out, rows[computed:]]), order, top_k_weights, hidden_states)


def _dbrx(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """DBRX: the weights of all experts in one matrix each."""
    batch, tokens = hidden_states.shape[0], hidden_states.reshape(-1, self.hidden_size)
    order, ends = _sorted(top_k_index, self.num_experts)
    rows = tokens[order // top_k_index.shape[-1]]
    shape = (self.num_experts, self.ffn_hidden_size, self.hidden_size)
    w1, v1, w2 = (getattr(self.mlp, name).view(shape) for name in ("w1", "v1", "w2"))
    inner = self.mlp.activation_fn(_grouped(rows, w1.transpose(1, 2), ends)) * _grouped(rows, v1.transpose(1, 2), ends)
    return _combined(_grouped(inner, w2, ends), order, top_k_weights, tokens).view(batch, -1, self.hidden_size)


def _jetmoe_gating(self: Any, hidden_states: Tensor) -> tuple[Any, ...]:
    """JetMoE's router; in place of a list of sizes it hands on where the rows of each expert end."""
    logits = self.layer(hidden_states).float()
    top_k_logits, top_k_indices = logits.topk(self.top_k, dim=1)
    gates = torch.softmax(top_k_logits, dim=1).type_as(hidden_states).flatten()
    order, ends = _sorted(top_k_indices, self.num_experts)
    return order, order.div(self.top_k, rounding_mode="trunc"), gates[order], ends, logits


def _jetmoe_experts(self: Any, inputs: Tensor, expert_size: Tensor) -> Tensor:
    return _grouped(inputs, self.weight.transpose(1, 2), expert_size)


def _modules(self: Any, hidden_states: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Call the expected number of experts on their share of the rows. ids, weights: [tokens, k]"""
    (tokens, k), count = ids.shape, self.num_experts
    hit = max(1, min(count, tokens * k, math.ceil(expected_distinct(count, tokens, k) - 1e-9)))
    order = ids.reshape(-1).argsort()
    scale = weights.reshape(-1)
    result = torch.zeros_like(hidden_states)
    for i, chosen in enumerate(order.tensor_split(hit)):
        out = self[f"expert_{i}"](hidden_states[chosen // k]) * scale[chosen, None]
        result.index_add_(0, chosen // k, out.to(result.dtype))
    return result


def _switch(self: Any, hidden_states: Tensor, selected_experts: Tensor, routing_weights: Tensor) -> Tensor:
    """Switch Transformers: one expert a token, given as a mask. No token is beyond an expert's capacity."""
    return _modules(self, hidden_states, selected_experts.argmax(-1), routing_weights)


def _nllb(self: Any, hidden_states: Tensor, router_mask: Tensor, router_probs: Tensor) -> Tensor:
    """NLLB-MoE: two experts a token, those whose combined weight is not zero."""
    weights, ids = router_probs.topk(2, dim=-1)
    result = _modules(self, hidden_states, ids, weights)
    return result * (1 - self.moe_token_dropout) if self.moe_token_dropout > 0 else result


METHODS: dict[tuple[str, str], Callable[..., Any]] = {
    ("Step3p7Experts", "forward"): _gated,
    ("LongcatFlashExperts", "forward"): _with_identities,
    ("DbrxExperts", "forward"): _dbrx,
    ("JetMoeTopKGating", "forward"): _jetmoe_gating,
    ("JetMoeParallelExperts", "forward"): _jetmoe_experts,
    ("SwitchTransformersExperts", "forward"): _switch,
    ("NllbMoeExperts", "forward"): _nllb,
}
"""Methods of classes in transformers' modeling modules (5.x) and what runs in their place."""
