"""Mixtures of experts: one expected work, whatever the model; skewed routing; loops over experts are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torch_regflat as regflat
from torch_regflat.operators.shapes import expected_distinct, expected_experts

TOKENS = 7


def monte_carlo(experts: int, tokens: int, per_token: int, skew: float, runs: int = 2000) -> float:
    """Mean number of experts hit when each token draws by weight, without putting back."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.arange(1, experts + 1, dtype=torch.float64).pow(-skew)
    drawn = torch.multinomial(weights.expand(runs * tokens, -1), per_token, generator=generator)
    hit = torch.zeros(runs, experts).scatter_(1, drawn.view(runs, -1), 1.0)
    return float(hit.sum(1).mean())


@pytest.mark.parametrize("skew", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("experts", "tokens", "per_token"), [(8, 4, 2), (64, 16, 6), (128, 3, 8)])
def test_expected_experts(experts: int, tokens: int, per_token: int, skew: float) -> None:
    expected = expected_experts(experts, tokens, per_token, skew)
    assert expected == pytest.approx(monte_carlo(experts, tokens, per_token, skew), rel=0.04)


def test_uniform_is_the_closed_form_and_skew_only_lowers() -> None:
    assert expected_experts(8, 7, 2, 0.0) == 8 * (1 - (1 - 2 / 8) ** 7)
    assert expected_experts(8, 7, 2, 1e-9) == pytest.approx(expected_distinct(8, 7, 2), rel=1e-6)
    found = [expected_experts(64, 16, 6, skew) for skew in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert found == sorted(found, reverse=True) and found[-1] >= 6
    assert expected_experts(8, 7, 8, 3.0) == 8


MODELS: dict[str, tuple[str, dict[str, Any], int, int, int]] = {
    "mixtral": ("Mixtral", {"num_local_experts": 8}, 8, 2, 96),
    "qwen3_moe": ("Qwen3Moe", {"num_experts": 16, "moe_intermediate_size": 48, "head_dim": 16}, 16, 4, 48),
    "gpt_oss": ("GptOss", {"num_local_experts": 8, "head_dim": 16}, 8, 2, 96),
    "deepseek_v3": (
        "DeepseekV3",
        {"n_routed_experts": 16, "n_group": 4, "topk_group": 2, "moe_intermediate_size": 48, "first_k_dense_replace": 0,
         "q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
         "num_key_value_heads": 4},
        16, 4, 48,
    ),
}  # fmt: skip


def build(name: str) -> Any:
    transformers = pytest.importorskip("transformers")
    prefix, options, _, per_token, _ = MODELS[name]
    shared = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": 128, "num_experts_per_tok": per_token}  # fmt: skip
    config = getattr(transformers, f"{prefix}Config")(**{**shared, **options})
    with torch.device("meta"):
        model = getattr(transformers, f"{prefix}ForCausalLM")(config).eval().to(torch.bfloat16)
    model.set_experts_implementation("grouped_mm")
    return model


ids = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("skew", [0.0, 1.0])
def test_one_work_for_all_models(name: str, skew: float) -> None:
    _, _, experts, per_token, width = MODELS[name]
    profile = regflat.profile(build(name), ids, routing_skew=skew)
    found = profile.workload
    assert (profile.result.notes == ()) is (skew == 0)
    up, down = [op for op in found if "grouped_mm" in op.target]
    hit = expected_experts(experts, TOKENS, per_token, skew)
    for operation, n, k in ((up, 2 * width, 64), (down, 64, width)):
        (nest,) = operation.nests
        assert nest.flops == 2 * TOKENS * per_token * n * k
        (weight,) = [o for o in nest.operands if o.role == "weight" and o.distinct and len(o.axes) == 3]
        assert weight.distinct == pytest.approx(hit * n * k)


@pytest.mark.parametrize("name", MODELS)
def test_a_loop_over_experts_is_refused_with_what_helps(name: str) -> None:
    model = build(name)
    model.set_experts_implementation("eager")
    with pytest.raises(
        regflat.CaptureError,
        match=r"model\.layers\.0\.mlp\.experts .*needs the values of a tensor .*; "
        r"call model\.set_experts_implementation\('grouped_mm'\), whose work needs no values",
    ):
        regflat.profile(model, ids)


def test_a_model_in_memory_and_in_float32() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        num_hidden_layers=1, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=128, num_local_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval()
    model.set_experts_implementation("grouped_mm")
    found = regflat.profile(model, torch.zeros(1, TOKENS, dtype=torch.long)).workload
    assert [op.flops for op in found if "grouped_mm" in op.target] == [
        2 * TOKENS * 2 * 64 * 192,
        2 * TOKENS * 2 * 96 * 64,
    ]
