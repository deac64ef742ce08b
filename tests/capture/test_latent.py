"""Decoding over a compressed cache as serving engines do it: the same numbers, without expanding the cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torch_regflat as regflat
from torch_regflat.capture.latent import absorbing
from torch_regflat.capture.replaced import replaced

transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 16,
    "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 10, "intermediate_size": 48,
    "vocab_size": 50, "pad_token_id": 0,
}  # fmt: skip
TOKENS = 7


def decoder(family: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SMALL, **changes)
    return getattr(transformers, f"{family}ForCausalLM")(config).double().eval()


def next_token(model: Any, wanted: bool) -> torch.Tensor:
    ids = torch.arange(1, 2 * TOKENS + 1).reshape(2, TOKENS)
    with torch.no_grad(), replaced(), absorbing(wanted):
        cache = model(ids, use_cache=True).past_key_values
        logits: torch.Tensor = model(ids[:, :1], past_key_values=cache, use_cache=True).logits
    return logits


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("DeepseekV3", {"first_k_dense_replace": 2}),
        ("DeepseekV2", {"first_k_dense_replace": 2}),
        ("MiniCPM3", {}),
        ("Youtu", {}),
    ],
)
def test_the_absorbed_step_gives_the_same_numbers(family: str, changes: dict[str, Any]) -> None:
    model = decoder(family, **changes)
    calls: list[int] = []
    for layer in model.model.layers:
        layer.self_attn.kv_b_proj.register_forward_hook(lambda *_: calls.append(1))
    written = next_token(model, False)
    expanded = len(calls)
    absorbed = next_token(model, True)
    torch.testing.assert_close(absorbed, written)
    assert len(calls) - expanded == 2, "the prompt alone expands, once a layer"


def test_after_the_capture_transformers_is_as_before() -> None:
    before = transformers.models.deepseek_v3.modeling_deepseek_v3.DeepseekV3Attention.expand_kv
    with replaced():
        pass
    assert transformers.models.deepseek_v3.modeling_deepseek_v3.DeepseekV3Attention.expand_kv is before


def test_serving_reads_the_compressed_cache_once() -> None:
    """DeepSeek-V3: 61 layers, 512 + 64 elements of two bytes a token; written out, keys and values of 128 heads."""
    options = {"phase": "decode", "batch": 4, "context": 1024, "chips": "h200"}
    served = regflat.profile_model("deepseek-v3", mode="serving", **options)
    written = regflat.profile_model("deepseek-v3", mode="graph", **options)
    cache = 61 * 4 * 1025 * 576 * 2
    moved = sum(kernel.operand_bytes.get("kv_cache", 0.0) for kernel in served.chips[0].kernels)
    assert cache <= moved <= 1.01 * cache + 61 * 4 * 576 * 2
    rows = {row.path: row for row in served.chips[0].rows(by="module")}
    assert not any("kv_b_proj" in path for path in rows)
    assert served.total.flops < 0.2 * written.total.flops
    assert served.total.latency_s < written.total.latency_s
    assert not any("expands the compressed cache" in note for note in served.result.notes)
    assert any("expands the compressed cache" in note and "mode serving" in note for note in written.result.notes)


def test_the_prompt_is_expanded_in_every_mode() -> None:
    flops = [
        regflat.profile_model("deepseek-v3", phase="prefill", seq_len=64, chips="h200", mode=mode).total.flops
        for mode in ("graph", "serving")
    ]
    assert flops[0] == flops[1]


def test_flops_of_latent_attention() -> None:
    """2 b h q s (2 r + p): scores over latents and rotary keys, values over latents."""
    shapes = ((2, 4, 1, 24), (2, 1, 9, 16), (2, 1, 9, 8))
    query, latent, rope = (torch.empty(shape, device="meta") for shape in shapes)
    prof = regflat.profile(torch.ops.regflat.latent_attention, (query, latent, rope, 1.0))
    assert prof.total.flops == 2 * 2 * 4 * 1 * 9 * (2 * 16 + 8)
