"""The bytes of the caches that decode reads, against closed forms: one model of each kind of cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torch_regflat.capture.phases import prepare_model
from torch_regflat.capture.record import capture
from torch_regflat.operators.lowering import workload
from torch_regflat.schedule.fit import memory_of

transformers = pytest.importorskip("transformers")

BATCH, CONTEXT, BYTES = 2, 100, 2
HEADS: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96}


def built(model: str, config: str, **options: Any) -> Any:
    with torch.device("meta"):
        module = getattr(transformers, model)(getattr(transformers, config)(**options))
    return module.to(torch.bfloat16).eval()


def decoded(model: Any, **options: Any) -> int:
    """Bytes of the filled cache; in the memory of the captured step the new token may be in it already."""
    ready = prepare_model(model, "a model", "decode", BATCH, options.get("seq_len"), CONTEXT, None)
    graph = capture(ready.model, ready.args, ready.kwargs, kv_cache=ready.kv_cache)
    kept = memory_of(workload(graph)).kv_cache
    # At most a token more, or a column more in each of four convolutions of 128 channels.
    assert ready.kv_bytes <= kept <= ready.kv_bytes * (CONTEXT + 1) // CONTEXT + 4 * BATCH * 128 * BYTES
    return ready.kv_bytes


def test_dynamic() -> None:
    made = decoded(built("LlamaForCausalLM", "LlamaConfig", num_hidden_layers=4, **HEADS))
    assert made == 2 * 4 * BATCH * 2 * CONTEXT * 16 * BYTES


def test_sliding_window() -> None:
    """A window of 32 holds 31 tokens before the new one; Gemma 2 slides in every other layer."""
    made = decoded(built("MistralForCausalLM", "MistralConfig", num_hidden_layers=4, sliding_window=32, **HEADS))
    assert made == 2 * 4 * BATCH * 2 * 31 * 16 * BYTES
    config = {**HEADS, "head_dim": 16, "sliding_window": 32}
    made = decoded(built("Gemma2ForCausalLM", "Gemma2Config", num_hidden_layers=4, **config))
    assert made == 2 * 2 * BATCH * 2 * (31 + CONTEXT) * 16 * BYTES


def test_compressed() -> None:
    """DeepSeek keeps one latent and one rotary key for all heads."""
    made = decoded(
        built(
            "DeepseekV3ForCausalLM",
            "DeepseekV3Config",
            num_hidden_layers=4,
            first_k_dense_replace=1,
            n_routed_experts=8,
            num_experts_per_tok=2,
            n_group=2,
            topk_group=1,
            moe_intermediate_size=32,
            kv_lora_rank=48,
            qk_rope_head_dim=16,
            **{**HEADS, "num_key_value_heads": 4},
        )
    )
    assert made == 4 * BATCH * CONTEXT * (48 + 16) * BYTES


def test_recurrent_state() -> None:
    """Mamba keeps the last inputs of its convolution and one state a channel, whatever the context."""
    model = built("MambaForCausalLM", "MambaConfig", num_hidden_layers=4, hidden_size=64, state_size=16)
    convolution, states = 128 * 4, 128 * 16
    stored = 4 * BATCH * (convolution * BYTES + states * 4)  # the states are float32
    assert decoded(model) == stored


def test_attention_and_recurrent_state() -> None:
    """Jamba: attention in one layer of eight, Mamba in the others."""
    options = {**HEADS, "mamba_d_state": 16, "mamba_dt_rank": 4, "num_hidden_layers": 8}
    model = built("JambaForCausalLM", "JambaConfig", **options)
    attention = 2 * BATCH * 2 * CONTEXT * 16 * BYTES
    ready = prepare_model(model, "jamba", "decode", BATCH, None, CONTEXT, None)
    cache = ready.kv_cache[0]
    kept = [t for layer in cache.layers for name in ("keys", "values") if (t := getattr(layer, name, None)) is not None]
    assert sum(t.numel() * t.element_size() for t in kept) == attention
    state = next(layer for layer in cache.layers if getattr(layer, "recurrent_states", None)).recurrent_states[0]
    mamba = 7 * BATCH * (128 * 4 * BYTES + 128 * 16 * state.element_size())
    assert ready.kv_bytes == attention + mamba


def test_static() -> None:
    """A static cache is as long as it was made, however many tokens are in it."""
    model = built("LlamaForCausalLM", "LlamaConfig", num_hidden_layers=4, **HEADS)
    cache = transformers.StaticCache(config=model.config, max_cache_len=128)
    cache.early_initialization(BATCH, 2, 16, torch.bfloat16, torch.device("meta"))
    token = torch.zeros(BATCH, 1, dtype=torch.int64, device="meta")
    graph = capture(model, (), {"input_ids": token, "past_key_values": cache, "use_cache": True}, kv_cache=cache)
    counters = 4 * 8  # each layer counts its tokens
    assert memory_of(workload(graph)).kv_cache == 2 * 4 * BATCH * 2 * 128 * 16 * BYTES + counters


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("T5ForConditionalGeneration", {"num_layers": 3, "d_model": 64, "num_heads": 4, "d_kv": 16, "d_ff": 96}),
        ("BartForConditionalGeneration", {"encoder_layers": 3, "decoder_layers": 3, "d_model": 64}),
    ],
)
def test_a_generation_step_of_an_encoder_and_decoder(name: str, config: dict[str, Any]) -> None:
    """Keys and values of the tokens so far, and of the encoder's 40."""
    if "decoder_layers" in config:
        config = {**config, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    made = decoded(built(name, name.replace("ForConditionalGeneration", "Config"), **config), seq_len=40)
    assert made == 2 * 3 * BATCH * (CONTEXT + 40) * 64 * BYTES


def test_a_generation_step_of_whisper() -> None:
    config = {"encoder_layers": 3, "decoder_layers": 3, "d_model": 64}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    made = decoded(built("WhisperForConditionalGeneration", "WhisperConfig", **config, **heads))
    assert made == 2 * 3 * BATCH * (CONTEXT + 1500) * 64 * BYTES


def test_an_encoder_has_no_cache() -> None:
    model = built("BertModel", "BertConfig", **{**HEADS, "num_hidden_layers": 2})
    ready = prepare_model(model, "bert", "encode", BATCH, 16, None, None)
    assert memory_of(workload(capture(ready.model, (), ready.kwargs))).kv_cache == 0
