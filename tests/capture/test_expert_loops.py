"""Mixtures of experts that transformers has only as a Python loop: the expected work, without a question for values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import torch_regflat as regflat
from torch_regflat.capture import replaced
from torch_regflat.capture.huggingface import build_class
from torch_regflat.operators.shapes import expected_distinct, expected_experts

transformers = pytest.importorskip("transformers")
TOKENS, WIDTH, INNER, EXPERTS, PICKED = 12, 64, 48, 16, 2
IDS = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
SHARED: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": WIDTH, "vocab_size": 128}


def built(name: str, **options: Any) -> Any:
    config = getattr(transformers, f"{name}Config")(**options)
    kind = "Model" if name in ("NllbMoe", "SwitchTransformers") else "ForCausalLM"
    return build_class(getattr(transformers, f"{name}{kind}"), config, torch.bfloat16)


def grouped(profile: Any) -> list[Any]:
    return [nest for op in profile.workload if "grouped_mm" in op.target for nest in op.nests]


def products_of_experts(profile: Any) -> list[Any]:
    """Of the encoder, where they are modules of their own."""
    found = [op for op in profile.workload if op.path.startswith("encoder") and ".experts." in op.path]
    return [op for op in found if op.nests and op.nests[0].kind == "product"]


def test_stacked_experts_are_grouped_products() -> None:
    """DBRX: three products, with the work that every mixture of experts has."""
    ffn = {"ffn_hidden_size": INNER, "moe_num_experts": EXPERTS, "moe_top_k": PICKED}
    attention = {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8}
    options = {"d_model": WIDTH, "n_heads": 4, "n_layers": 1, "vocab_size": 128}
    model = built("Dbrx", **options, ffn_config=ffn, attn_config=attention)
    nests = grouped(regflat.profile(model, IDS))
    assert sum(nest.flops for nest in nests) == 3 * 2 * TOKENS * PICKED * WIDTH * INNER
    hit = expected_experts(EXPERTS, TOKENS, PICKED)
    read = [operand.distinct for nest in nests for operand in nest.operands if operand.distinct == hit * WIDTH * INNER]
    assert len(read) == 3


def test_experts_that_hand_on_their_rows_do_no_work() -> None:
    """LongCat-Flash: a third of the experts are identities, so a third of the rows are."""
    model = built(
        "LongcatFlash", **SHARED, num_layers=2, ffn_hidden_size=96, expert_ffn_hidden_size=INNER,
        n_routed_experts=EXPERTS, zero_expert_num=EXPERTS // 2, num_experts_per_tok=3, moe_topk=3, q_lora_rank=16,
        kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, head_dim=8,
    )  # fmt: skip
    nests = grouped(regflat.profile(model, IDS))
    layers, rows = 2, TOKENS * 3 * 2 // 3
    assert sum(nest.flops for nest in nests) == layers * 2 * rows * 3 * WIDTH * INNER


def test_a_router_that_makes_lists_hands_on_offsets() -> None:
    """JetMoE has experts in its attention too: query and output projections."""
    model = built(
        "JetMoe", hidden_size=WIDTH, num_hidden_layers=1, num_key_value_heads=4, kv_channels=16,
        intermediate_size=INNER, num_local_experts=EXPERTS, num_experts_per_tok=PICKED, vocab_size=128,
    )  # fmt: skip
    rows = TOKENS * PICKED
    attention, mlp = 2 * WIDTH * 4 * 16, 3 * WIDTH * INNER
    assert sum(n.flops for n in grouped(regflat.profile(model, IDS))) == 2 * rows * (attention + mlp)


def test_experts_that_are_modules_are_called_as_often_as_expected() -> None:
    model = built(
        "SwitchTransformers", d_model=WIDTH, d_kv=16, d_ff=INNER, num_heads=4, num_layers=2, num_decoder_layers=2,
        num_sparse_encoder_layers=1, num_sparse_decoder_layers=0, num_experts=EXPERTS, vocab_size=128,
    )  # fmt: skip
    profile = regflat.profile(model, (IDS,), {"decoder_input_ids": IDS[:, :1]})
    experts = products_of_experts(profile)
    expected = math.ceil(expected_distinct(EXPERTS, TOKENS, 1))
    assert len({op.path.rpartition(".")[0] for op in experts}) == expected
    assert sum(op.flops for op in experts) == 2 * 2 * TOKENS * WIDTH * INNER


def test_two_experts_a_token() -> None:
    model = built(
        "NllbMoe", d_model=WIDTH, encoder_layers=1, decoder_layers=1, encoder_sparse_step=1, decoder_sparse_step=0,
        encoder_ffn_dim=INNER, decoder_ffn_dim=INNER, encoder_attention_heads=4, decoder_attention_heads=4,
        num_experts=4, vocab_size=128,
    )  # fmt: skip
    profile = regflat.profile(model, (IDS,), {"decoder_input_ids": IDS[:, :1]})
    assert sum(op.flops for op in products_of_experts(profile)) == 2 * 2 * TOKENS * 2 * WIDTH * INNER


def test_a_model_that_asks_for_the_loop_by_itself_is_built_with_grouped_products() -> None:
    config = transformers.OpenAIPrivacyFilterConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, num_local_experts=EXPERTS, num_experts_per_tok=PICKED, vocab_size=128, pad_token_id=0,
    )  # fmt: skip
    model: Any = build_class(transformers.OpenAIPrivacyFilterModel, config, torch.bfloat16)
    assert model.config._experts_implementation == "grouped_mm"
    assert sum(n.flops for n in grouped(regflat.profile(model, IDS))) == 2 * TOKENS * PICKED * 3 * WIDTH * INNER


def test_transformers_is_as_it_was_afterwards() -> None:
    module = __import__("transformers.models.jetmoe.modeling_jetmoe", fromlist=["JetMoeTopKGating"])
    before = module.JetMoeTopKGating.forward
    with replaced.replaced():
        assert module.JetMoeTopKGating.forward is not before
    assert module.JetMoeTopKGating.forward is before
