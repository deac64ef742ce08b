"""Three well-known networks in plain torch: what `regflat measure` runs on a GPU and the model then predicts.

One definition for both sides, so that they do the same work, and no library needed. Sizes are of the configurations
that ship; attention is `scaled_dot_product_attention`, and a decode step writes into a cache of fixed size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import facts

NAMES = ("llama-3-8b", "bert-large", "resnet-50")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def phases(name: str) -> tuple[str, ...]:
    """What a network can be asked for, in the words of files of measured rows."""
    return ("inference-forward", "decode") if name == "llama-3-8b" else ("inference-forward",)


class LlamaLayer(nn.Module):
    """Grouped-query attention with rotary positions, and a gated feed-forward, each behind an RMS norm."""

    def __init__(self, hidden: int, inner: int, heads: int, kv_heads: int, eps: float) -> None:
        super().__init__()
        size = hidden // heads
        self.heads, self.kv_heads = heads, kv_heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(hidden, eps), nn.RMSNorm(hidden, eps)
        self.query, self.out = (nn.Linear(hidden, hidden, bias=False) for _ in range(2))
        self.key, self.value = (nn.Linear(hidden, kv_heads * size, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(hidden, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor], at: Tensor | None, cache: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        batch, tokens, hidden = x.shape
        h = self.attention_norm(x)
        query = _rotated(_heads(self.query(h), self.heads), angles)
        key, value = _rotated(_heads(self.key(h), self.kv_heads), angles), _heads(self.value(h), self.kv_heads)
        if cache is not None and at is not None:
            key, value = cache[0].index_copy_(2, at, key), cache[1].index_copy_(2, at, value)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=tokens > 1, enable_gqa=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, hidden))
        h = self.mlp_norm(x)
        added: Tensor = self.down(F.silu(self.gate(h)) * self.up(h))
        return x + added


class Llama(nn.Module):
    """Token ids `[batch, tokens]` to logits `[batch, tokens, vocabulary]`.

    A decode step gives the position `at` `[1]` and of each layer the cached keys and values, both
    `[batch, kv_heads, context + 1, head_dim]`.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        sizes = (hidden, config["intermediate_size"], heads, config["num_key_value_heads"], config["rms_norm_eps"])
        self.size, self.theta = hidden // heads, float(config["rope_theta"])
        self.embed = nn.Embedding(config["vocab_size"], hidden)
        self.layers = nn.ModuleList(LlamaLayer(*sizes) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.RMSNorm(hidden, config["rms_norm_eps"])
        self.head = nn.Linear(hidden, config["vocab_size"], bias=False)

    def forward(self, ids: Tensor, at: Tensor | None = None, caches: Any = None) -> Tensor:
        x = self.embed(ids)
        positions = torch.arange(ids.shape[1], device=ids.device) if at is None else at
        scale = torch.arange(0, self.size, 2, device=ids.device) / self.size
        angle = (positions[:, None] / self.theta**scale).repeat(1, 2)
        angles = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        for index, layer in enumerate(self.layers):
            x = layer(x, angles, at, None if caches is None else caches[index])
        logits: Tensor = self.head(self.norm(x))
        return logits


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _rotated(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * angles[0] + torch.cat((-second, first), -1) * angles[1]


class BertLayer(nn.Module):
    """Attention and feed-forward, each added and then normalised."""

    def __init__(self, hidden: int, inner: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(hidden, hidden) for _ in range(4))
        self.up, self.down = nn.Linear(hidden, inner), nn.Linear(inner, hidden)
        self.attention_norm, self.mlp_norm = nn.LayerNorm(hidden, eps), nn.LayerNorm(hidden, eps)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (_heads(project(x), self.heads) for project in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(x.shape)
        x = self.attention_norm(x + self.out(mixed))
        added: Tensor = self.mlp_norm(x + self.down(F.gelu(self.up(x))))
        return added


class Bert(nn.Module):
    """Token ids `[batch, tokens]` to logits `[batch, tokens, vocabulary]` of masked tokens; tied embeddings."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden, eps = config["hidden_size"], config["layer_norm_eps"]
        self.words = nn.Embedding(config["vocab_size"], hidden)
        self.positions = nn.Embedding(config["max_position_embeddings"], hidden)
        self.types = nn.Embedding(config["type_vocab_size"], hidden)
        self.norm, self.head_norm = nn.LayerNorm(hidden, eps), nn.LayerNorm(hidden, eps)
        sizes = (hidden, config["intermediate_size"], config["num_attention_heads"], eps)
        self.layers = nn.ModuleList(BertLayer(*sizes) for _ in range(config["num_hidden_layers"]))
        self.transform = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, config["vocab_size"])
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.types(torch.zeros_like(ids)) + self.positions(positions))
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(self.head_norm(F.gelu(self.transform(x))))
        return logits


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias and its batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.reduce = convolution(inputs, width, 1)
        self.conv = convolution(width, width, 3, stride)
        self.expand = convolution(width, 4 * width, 1)
        same = inputs == 4 * width and stride == 1
        self.shortcut = nn.Identity() if same else convolution(inputs, 4 * width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.reduce(x))
        y = torch.relu(self.conv(y))
        return torch.relu(self.expand(y) + self.shortcut(x))


class ResNet(nn.Module):
    """Images `[batch, 3, side, side]` to logits (He et al., 2015, table 1; strides on the 3x3, as torchvision has it).

    `blocks` of each stage; (3, 4, 6, 3) is ResNet-50: 25.6 M parameters, 8.2 GFLOPs at 224 x 224.
    """

    def __init__(self, blocks: tuple[int, ...] = (3, 4, 6, 3), classes: int = 1000) -> None:
        super().__init__()
        self.stem = convolution(3, 64, 7, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        stages, inputs = [], 64
        for stage, count in enumerate(blocks):
            width = 64 * 2**stage
            for block in range(count):
                stages.append(Bottleneck(inputs, width, 2 if stage and not block else 1))
                inputs = 4 * width
        self.layers = nn.ModuleList(stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.stem(x)))
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def build(name: str, dtype: torch.dtype, device: torch.device | str, **changes: Any) -> nn.Module:
    """A network of `NAMES` in eval mode with random weights; `changes` replace fields of its configuration."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            if name == "resnet-50":
                return ResNet(**changes).eval()
            kind = Llama if name == "llama-3-8b" else Bert
            return kind({**facts(name)["config"], **changes}).eval()
    finally:
        torch.set_default_dtype(before)


def inputs(
    model: nn.Module, batch: int, length: int, device: torch.device | str, *, decode: bool = False
) -> tuple[Any, ...]:
    """What one call takes: `batch` sequences of `length` tokens, or images of that side; for `decode` one token each
    against `length` cached ones.
    """
    weight = next(model.parameters())
    if isinstance(model, ResNet):
        return (torch.randn(batch, 3, length, length, dtype=weight.dtype, device=device),)
    ids = torch.randint(0, weight.shape[0], (batch, 1 if decode else length), device=device)
    if not (decode and isinstance(model, Llama)):
        return (ids,)
    layer: Any = model.layers[0]
    shape = (batch, layer.kv_heads, length + 1, model.size)
    caches = [tuple(torch.randn(shape, dtype=weight.dtype, device=device) for _ in "kv") for _ in model.layers]
    return ids, torch.full((1,), length, device=device), caches
