"""`gpt4-moe-estimate`: a mixture of experts of GPT-4's reported size. An estimate; its maker has published nothing.

Reported in July 2023 (SemiAnalysis): about 1.8 T parameters, 120 layers, 16 experts of about 111 B, two chosen a
token, about 55 B shared attention, 8192 positions. Hidden 10752, feed-forward 43008 with two matrices and 84 heads of
128 reproduce it: 120 * 4 * 10752^2 = 55.5 B attention and 120 * 16 * 2 * 10752 * 43008 = 1.776 T experts. What is not
reported is taken from GPT-2: learned positions, GELU, layer norm before each block, tied embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Gpt4MoeConfig:
    """Sizes; the defaults are the estimate. The names are those of Hugging Face configurations."""

    vocab_size: int = 100352
    hidden_size: int = 10752
    intermediate_size: int = 43008
    num_hidden_layers: int = 120
    num_attention_heads: int = 84
    num_local_experts: int = 16
    num_experts_per_tok: int = 2
    max_position_embeddings: int = 8192
    is_encoder_decoder: bool = False
    name_or_path: str = "gpt4-moe-estimate"

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> Gpt4MoeConfig:
        return cls(**{key: value for key, value in config.items() if key in cls.__dataclass_fields__})


@dataclass
class CacheLayer:
    """Keys and values of one layer, `[batch, heads, tokens, head_dim]`; None before the first token."""

    keys: Tensor | None = None
    values: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new tokens and return all keys and all values."""
        # The first ones are views of the projection of all three; a cache owns its memory.
        self.keys = keys.contiguous() if self.keys is None else torch.cat([self.keys, keys], dim=-2)
        self.values = values.contiguous() if self.values is None else torch.cat([self.values, values], dim=-2)
        return self.keys, self.values


@dataclass
class KVCache:
    """One `CacheLayer` a layer."""

    layers: list[CacheLayer] = field(default_factory=list)

    def get_seq_length(self) -> int:
        keys = self.layers[0].keys if self.layers else None
        return 0 if keys is None else keys.shape[-2]


class Attention(nn.Module):
    """Causal multi-head attention over `[batch, tokens, hidden]`."""

    def __init__(self, config: Gpt4MoeConfig, layer_idx: int) -> None:
        super().__init__()
        self.head_dim, self.layer_idx = config.hidden_size // config.num_attention_heads, layer_idx
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor, past_key_values: KVCache | None) -> Tensor:
        batch, tokens, _ = hidden.shape
        query, key, value = (
            part.view(batch, tokens, -1, self.head_dim).transpose(1, 2) for part in self.qkv_proj(hidden).chunk(3, -1)
        )
        if past_key_values is not None:
            key, value = past_key_values.layers[self.layer_idx].update(key, value)
        # The causal mask of torch starts at the top left, so one new token against a cache needs none, and several
        # need one of their own.
        cached = key.shape[-2] - tokens
        mask = query.new_ones(tokens, tokens + cached, dtype=torch.bool).tril(cached) if cached and tokens > 1 else None
        is_whole = tokens > 1 and not cached
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_whole)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))
        return out


class Experts(nn.Module):
    """All experts of a layer: a feed-forward each, with two matrices.

    Token copies are sorted by expert, so that all experts are two grouped products: rows `[tokens * k, hidden]`
    against weights `[experts, intermediate, hidden]` and back.
    """

    def __init__(self, config: Gpt4MoeConfig) -> None:
        super().__init__()
        self.num_experts, hidden, inner = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.up_proj = nn.Parameter(torch.empty(self.num_experts, inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, hidden, inner))
        if not self.up_proj.is_meta:
            nn.init.normal_(self.up_proj, std=0.02)
            nn.init.normal_(self.down_proj, std=0.02)

    def forward(self, rows: Tensor, chosen: Tensor, scores: Tensor) -> Tensor:
        """rows `[tokens, hidden]`; chosen experts and their scores `[tokens, k]`."""
        expert, order = torch.sort(chosen.reshape(-1))
        counts = torch.histc(expert.float(), bins=self.num_experts, min=0, max=self.num_experts - 1)
        ends = counts.cumsum(0, dtype=torch.int32)
        copies = rows[order // chosen.shape[-1]]
        inner = F.gelu(F.grouped_mm(copies, self.up_proj.transpose(1, 2), offs=ends))
        out = F.grouped_mm(inner, self.down_proj.transpose(1, 2), offs=ends)
        out = out * scores.reshape(-1)[order].unsqueeze(-1)
        mixed: Tensor = torch.empty_like(out).index_copy_(0, order, out)
        return mixed.view(*chosen.shape, -1).sum(1)


class Mixture(nn.Module):
    """Routed feed-forward: each token goes to its best `num_experts_per_tok` of `num_local_experts` experts."""

    def __init__(self, config: Gpt4MoeConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.router = nn.Linear(config.hidden_size, config.num_local_experts, bias=False)
        self.experts = Experts(config)

    def forward(self, hidden: Tensor) -> Tensor:
        rows = hidden.reshape(-1, hidden.shape[-1])
        scores, chosen = torch.topk(self.router(rows).softmax(-1), self.top_k, dim=-1)
        mixed: Tensor = self.experts(rows, chosen, scores)
        return mixed.view(hidden.shape)


class Layer(nn.Module):
    """Attention and experts, each behind a layer norm and added to the residual stream."""

    def __init__(self, config: Gpt4MoeConfig, layer_idx: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.self_attn = Attention(config, layer_idx)
        self.mlp_norm = nn.LayerNorm(config.hidden_size)
        self.mlp = Mixture(config)

    def forward(self, hidden: Tensor, past_key_values: KVCache | None = None) -> Tensor:
        hidden = hidden + self.self_attn(self.attention_norm(hidden), past_key_values)
        added: Tensor = self.mlp(self.mlp_norm(hidden))
        return hidden + added


class Gpt4MoeEstimate(nn.Module):
    """Causal language model; token ids `[batch, tokens]` in, logits `[batch, tokens, vocabulary]` and the cache out."""

    main_input_name = "input_ids"
    tp_plan: ClassVar = {
        "embed_tokens": "embedding_rowwise",
        "layers.*.self_attn.qkv_proj": "colwise",  # a rank has its heads' part of each of the three
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.experts.up_proj": "colwise",
        "layers.*.mlp.experts.down_proj": "rowwise",
        "layers.*.mlp.experts": "moe_tp_experts",
        "lm_head": "colwise_gather_output",
    }
    ep_plan: ClassVar = {
        "layers.*.mlp.experts.up_proj": "grouped_gemm",
        "layers.*.mlp.experts.down_proj": "grouped_gemm",
        "layers.*.mlp.experts": "ep_dispatch_experts",
    }
    """How it is divided among chips, in the styles of transformers."""

    def __init__(self, config: Gpt4MoeConfig | dict[str, Any] | None = None) -> None:
        super().__init__()
        self.config = Gpt4MoeConfig.from_dict(config) if isinstance(config, dict) else config or Gpt4MoeConfig()
        self.embed_tokens = nn.Embedding(self.config.vocab_size, self.config.hidden_size)
        self.embed_positions = nn.Embedding(self.config.max_position_embeddings, self.config.hidden_size)
        self.layers = nn.ModuleList(Layer(self.config, index) for index in range(self.config.num_hidden_layers))
        self.norm = nn.LayerNorm(self.config.hidden_size)
        self.lm_head = nn.Linear(self.config.hidden_size, self.config.vocab_size, bias=False)
        self.lm_head.weight = self.embed_tokens.weight

    def can_generate(self) -> bool:
        return True

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: KVCache | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> tuple[Tensor, KVCache | None]:
        if use_cache and past_key_values is None:
            past_key_values = KVCache([CacheLayer() for _ in self.layers])
        start = past_key_values.get_seq_length() if past_key_values is not None else 0
        positions = torch.arange(start, start + input_ids.shape[1], device=input_ids.device)
        hidden = self.embed_tokens(input_ids) + self.embed_positions(positions)
        for layer in self.layers:
            hidden = layer(hidden, past_key_values)
        return self.lm_head(self.norm(hidden[:, -logits_to_keep:])), past_key_values
