"""The models behind rows of whole models: built from classes of transformers on meta, traced by the ordinary recorder.

`neusight` rows: Hugging Face classes in fp32 with attention written out; the operator traces of the source show which
class ran. `gpt-fast` and served rows: one decode step, or one prefill, of a causal language model.

Of several GPUs a row is what the first does. A decode of `gpt-fast` is divided by transformers' plan, but for
embedding and head, which that leaves whole; GPT-2 as Megatron does it (`megatron`); data parallel training averages
gradients in buckets. Of served models, whose engines also run where a plan does not divide heads, the configuration is
divided.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from typing import Any

import torch
from torch import Tensor, nn

from ..capture._torch_distributed import fake_ranks
from ..capture.huggingface import build_class
from ..capture.parallel import divided, gradient_group
from ..capture.phases import prepare_model
from ..capture.record import capture
from ..capture.training import capture_training
from ..errors import InputError, near
from ..layout import Layout
from ..models import facts, plain
from ..operators.lowering import workload
from ..workload import Workload

GPT = {
    "gpt2_large": {"n_layer": 36, "n_embd": 1280, "n_head": 20, "n_positions": 1024},
    "gpt3_xl": {"n_layer": 24, "n_embd": 3072, "n_head": 24, "n_positions": 2048},
    "gpt3_27": {"n_layer": 32, "n_embd": 2560, "n_head": 32, "n_positions": 2048},
}
BERT = {
    "num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096,
    "vocab_size": 30522, "max_position_embeddings": 512,
}  # fmt: skip
OPT = {
    "num_hidden_layers": 24, "hidden_size": 2048, "word_embed_proj_dim": 2048, "num_attention_heads": 32,
    "ffn_dim": 8192, "vocab_size": 50272, "max_position_embeddings": 2048,
}  # fmt: skip
SWITCH = {
    "num_layers": 24, "num_decoder_layers": 24, "d_model": 1024, "num_heads": 32, "d_kv": 128, "d_ff": 16384,
    "vocab_size": 32128, "num_experts": 4, "num_sparse_encoder_layers": 12, "num_sparse_decoder_layers": 12,
}  # fmt: skip
LONG = {"max_position_embeddings": 131072}
LANGUAGE_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama-2-7B": ("llama-3-8b", {
        "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 32,
        "intermediate_size": 11008, "vocab_size": 32000,
    }),
    "Llama-2-70B": ("llama-3-70b", {"intermediate_size": 28672, "vocab_size": 32000}),
    "Llama-3.1-8B": ("llama-3-8b", LONG),
    "Llama-3.1-70B": ("llama-3-70b", LONG),
    "Mixtral-8x7B": ("mixtral-8x7b", {}),
    "Llama-3.1-8B-Instruct": ("llama-3-8b", LONG),
    "Llama-3.1-8B-Instruct-FP8": ("llama-3-8b", LONG),
    "Qwen3-32B": ("qwen3-32b", {}),
    "DeepSeek-R1": ("deepseek-v3", {}),
    "DeepSeek-V3": ("deepseek-v3", {}),
    "gpt-oss-120b": ("gpt-oss-120b", {}),
    "Kimi-K2.5": ("kimi-k2", {}),
    "Qwen3-235B-A22B-FP8": ("qwen3-235b-a22b", {}),
    "MiniMax-M2.5": ("minimax-m2.5", {}),
}  # fmt: skip
"""Configurations that ship, and what of them differs (published `config.json` files)."""

WHOLE = Layout()
NEUSIGHT = (*GPT, "bert_large", "opt_13", "switchxl4")


@functools.lru_cache(maxsize=64)
def forward(model: str, batch: int, tokens: int, training: bool, layout: Layout = WHOLE) -> Workload:
    """A `neusight` model: one forward, or the forward and backward of a training step without an optimizer.

    `batch` is that of one rank. Of a layout with `tp`, which GPT-2 alone has, or with `dp`, the first rank.
    """
    module, inputs = _neusight(model, batch, tokens, training)
    with fake_ranks(layout.chips) if layout.chips > 1 else contextlib.nullcontext():
        if layout.tp > 1:
            if model not in GPT:
                raise InputError(f"{model} is not divided among GPUs here; {', '.join(GPT)} are")
            from .megatron import divide

            divide(module, layout.tp)
        if training:
            group = gradient_group(layout)
            return workload(
                capture_training(module, (), inputs, optimizer=None, train_mode=True, average_over=group)
            )
        return workload(capture(module, (), inputs))


def _neusight(model: str, batch: int, tokens: int, training: bool) -> tuple[nn.Module, dict[str, Any]]:
    ids = torch.empty(batch, tokens, dtype=torch.int64, device="meta")
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones(batch, tokens, dtype=torch.int64)}
    if model in GPT:
        config = _config("GPT2Config", vocab_size=50257, use_cache=False, **GPT[model])
        return _build("GPT2LMHeadModel", config), inputs
    if model == "bert_large":
        name = "BertForPreTraining" if training else "BertForSequenceClassification"
        return _build(name, _config("BertConfig", **BERT)), inputs
    if model == "opt_13":
        return _build("OPTForCausalLM", _config("OPTConfig", use_cache=False, **OPT), _opt_attention), inputs
    if model == "switchxl4":
        found = _build("SwitchTransformersForConditionalGeneration", _config("SwitchTransformersConfig", **SWITCH))
        for child in found.modules():
            if type(child).__name__ == "SwitchTransformersExperts":
                child.forward = functools.partial(_even_experts, child)
        return found, {"input_ids": ids, "decoder_input_ids": ids.clone(), "use_cache": False}
    known = (*NEUSIGHT, *plain.NAMES)
    raise InputError(f"no model is known by the name {model!r}{near(model, known)}; known are {', '.join(known)}")


def _config(name: str, **options: Any) -> Any:
    return getattr(importlib.import_module("transformers"), name)(**options)


def _build(name: str, config: Any, attention: Any = None) -> nn.Module:
    """A class of transformers in fp32 with attention written out, or with an attention function of ours."""
    transformers = importlib.import_module("transformers")
    model = build_class(getattr(transformers, name), config)
    chosen = "eager"
    if attention is not None:
        chosen = "regflat" + attention.__name__
        transformers.AttentionInterface.register(chosen, attention)
        masks = importlib.import_module("transformers.masking_utils")
        masks.AttentionMaskInterface.register(chosen, masks.eager_mask)
    set_implementation: Any = model.set_attn_implementation
    set_implementation(chosen)
    return model


_DIVIDED = (
    "num_attention_heads", "num_key_value_heads", "intermediate_size", "moe_intermediate_size",
    "shared_expert_intermediate_size",
)  # fmt: skip


def _divide(config: Any, shards: int) -> None:
    """Tensor parallelism: make the configuration that of one of so many GPUs; widths are padded to multiples of 8."""
    if shards > 1 and getattr(config, "head_dim", None) is None:
        config.head_dim = config.hidden_size // config.num_attention_heads
    for name in _DIVIDED:
        value = getattr(config, name, None)
        if isinstance(value, int):
            setattr(config, name, max(1, value // shards) if "heads" in name else -(-value // shards // 8) * 8)


def _opt_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as the OPT class of 2023 wrote it: batched products, mask, a maximum with the least number, softmax."""
    batch, heads, length, size = query.shape
    flat = (batch * heads, -1, size)
    scaled = (query * (size**-0.5 if scaling is None else scaling)).reshape(flat)
    scores = torch.bmm(scaled, key.reshape(flat).transpose(1, 2))
    if attention_mask is not None:
        masked = scores.view(batch, heads, length, -1) + attention_mask
        scores = torch.max(masked, torch.empty((), dtype=masked.dtype, device=masked.device))
        scores = scores.view(batch * heads, length, -1)
    weights = torch.nn.functional.dropout(torch.softmax(scores, dim=-1), p=dropout, training=module.training)
    result = torch.bmm(weights, value.reshape(flat)).view(batch, heads, length, size)
    return result.transpose(1, 2), None


def _even_experts(experts: Any, hidden: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
    """Each expert gets its share of the tokens, where the class would look at which it picked."""
    tokens = hidden.shape[0] if hidden.dim() == 2 else hidden.shape[0] * hidden.shape[1]
    rows = hidden.reshape(tokens, -1)
    result = torch.zeros_like(rows)
    share = -(-tokens // experts.num_experts)
    for index in range(experts.num_experts):
        picked = torch.arange(min(share, tokens), device=hidden.device)
        result.index_add_(0, picked, experts[f"expert_{index}"](rows[picked]) * weights.reshape(tokens, -1)[picked])
    return result.view(hidden.shape)


_WHOLE_RULES = ("lm_head", "embed_tokens")
"""Modules that gpt-fast leaves whole on every GPU."""


@functools.lru_cache(maxsize=64)
def language_model(
    model: str,
    batch: int,
    prompt: int,
    context: int | None,
    shards: int,
    depth: int | None = None,
    ranks: int = 1,
) -> Workload:
    """One prefill of `prompt` tokens, or one decode step against `context` tokens, in bf16.

    Of `shards` GPUs, the configuration is divided by so many; of `ranks`, the model by its plan, with its exchanges,
    but for embedding and head. `depth` builds only the first so many layers.
    """
    content = _content(model)
    if depth is not None:
        content["num_hidden_layers"] = depth
        if "layer_types" in content:
            content["layer_types"] = content["layer_types"][:depth]
    transformers = importlib.import_module("transformers")
    config = transformers.AutoConfig.for_model(**content)
    _divide(config, shards)
    module: Any = build_class(getattr(transformers, content["architectures"][0]), config, torch.bfloat16)
    module._tp_plan = {r: style for r, style in (module._tp_plan or {}).items() if not r.endswith(_WHOLE_RULES)}
    with divided(module, Layout(tp=ranks), model):
        if context is None:
            ready = prepare_model(module, model, "prefill", batch, prompt, None, None)
        else:
            ready = prepare_model(module, model, "decode", batch, None, context, None)
        return workload(capture(ready.model, ready.args, ready.kwargs, kv_cache=ready.kv_cache))


def plain_network(model: str, dtype: str, batch: int, length: int, phase: str) -> Workload:
    """A network of `regflat measure` (`models/plain.py`): one forward, or one decode step against `length` tokens."""
    if phase not in plain.phases(model) or dtype not in plain.DTYPES:
        raise InputError(
            f"{model} cannot be run as {phase} in {dtype}; it is measured as {' or '.join(plain.phases(model))} in "
            f"{', '.join(plain.DTYPES)}"
        )
    module = plain.build(model, plain.DTYPES[dtype], "meta")
    given = plain.inputs(module, batch, length, "meta", decode=phase == "decode")
    return workload(capture(module, given, kv_cache=given[2:]))


def layers(model: str) -> int:
    """Layers of a language model."""
    return int(_content(model)["num_hidden_layers"])


def width(model: str) -> int:
    """Hidden size of a model."""
    if model in GPT:
        return GPT[model]["n_embd"]
    known: dict[str, dict[str, Any]] = {"bert_large": BERT, "opt_13": OPT}
    found = known.get(model) or _content(model)
    return int(found["hidden_size"])


def _content(model: str) -> dict[str, Any]:
    """The configuration of a language model, without what has no bearing on its cost."""
    if model not in LANGUAGE_MODELS:
        known = ", ".join(LANGUAGE_MODELS)
        hint = near(model, LANGUAGE_MODELS) or ";"
        raise InputError(f"no language model is known by the name {model!r}{hint} known are {known}")
    shipped, changes = LANGUAGE_MODELS[model]
    content: dict[str, Any] = {**facts(shipped)["config"], **changes}
    for name in ("torch_dtype", "quantization_config", "bos_token_id", "eos_token_id", "pad_token_id"):
        content.pop(name, None)
    return content
