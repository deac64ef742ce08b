"""Training steps of Hugging Face models: repeated layers against the full trace, their own losses, speed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from torch_regflat.capture.training import capture_training

from .same import assert_same, describe

transformers = pytest.importorskip("transformers")

from torch_regflat.capture.huggingface import prepare  # noqa: E402
from torch_regflat.capture.phases import prepare_model  # noqa: E402

SMALL: dict[str, Any] = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4}
DECODER: dict[str, Any] = {**SMALL, "num_key_value_heads": 2, "intermediate_size": 96}
TWO_STACKS = {"encoder_layers": 3, "decoder_layers": 3, "d_model": 64}

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", DECODER),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", DECODER),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", DECODER),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"n_layer": 4, "n_embd": 64, "n_head": 4}),
    "mixtral": (
        "MixtralForCausalLM",
        "MixtralConfig",
        {**SMALL, "num_key_value_heads": 2, "intermediate_size": 96, "num_local_experts": 4},
    ),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**DECODER, "sliding_window": 8}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {**DECODER, "vocab_size": 100, "pad_token_id": 0}),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", DECODER),
    "starcoder2": ("Starcoder2ForCausalLM", "Starcoder2Config", DECODER),
    "granite": ("GraniteForCausalLM", "GraniteConfig", DECODER),
    "gptneox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**SMALL, "intermediate_size": 96}),
    "opt": ("OPTForCausalLM", "OPTConfig", {**SMALL, "ffn_dim": 96, "word_embed_proj_dim": 64}),
    "deepseek-v3": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **DECODER,
            **{"num_key_value_heads": 4, "first_k_dense_replace": 1, "n_routed_experts": 8, "num_experts_per_tok": 2},
            **{"n_group": 2, "topk_group": 1, "moe_intermediate_size": 32},
        },
    ),
    "gpt-oss": ("GptOssForCausalLM", "GptOssConfig", {**DECODER, "num_local_experts": 4, "head_dim": 16}),
    "qwen3-moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**DECODER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", {**SMALL, "intermediate_size": 96}),
    "distilbert": ("DistilBertForMaskedLM", "DistilBertConfig", {"n_layers": 4, "dim": 64, "n_heads": 4}),
    "swin": ("SwinForImageClassification", "SwinConfig", {"embed_dim": 16, "depths": [2] * 4, "num_heads": [2] * 4}),
    "bert": ("BertForMaskedLM", "BertConfig", {**SMALL, "intermediate_size": 96}),
    "bert, classes": ("BertForSequenceClassification", "BertConfig", {**SMALL, "intermediate_size": 96}),
    "vit": ("ViTForImageClassification", "ViTConfig", {**SMALL, "intermediate_size": 96, "image_size": 32}),
    "resnet": ("ResNetForImageClassification", "ResNetConfig", {"depths": [2, 2, 2, 2], "hidden_sizes": [16] * 4}),
}
REORDERED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "convnext": ("ConvNextForImageClassification", "ConvNextConfig", {"depths": [2] * 4, "hidden_sizes": [16] * 4}),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"num_layers": 3, "d_model": 64, "num_heads": 2, "d_kv": 32, "decoder_start_token_id": 0},
    ),
    "bart": ("BartForConditionalGeneration", "BartConfig", TWO_STACKS),
}


def prepared(name: str) -> Any:
    model, config, options = {**MODELS, **REORDERED}[name]
    with torch.device("meta"):
        module = getattr(transformers, model)(getattr(transformers, config)(**options)).to(torch.bfloat16)
    reads_images = module.main_input_name == "pixel_values"
    return prepare_model(module, name, "train", 2, None if reads_images else 16, None, None)


@pytest.mark.parametrize("name", MODELS)
def test_repeated_layers_give_the_graph_of_the_full_trace(name: str) -> None:
    ready = prepared(name)
    quick = capture_training(ready.model, (), ready.kwargs, train_mode=True)
    assert_same(quick, capture_training(ready.model, (), ready.kwargs, train_mode=True, repeats=False))
    if name not in ("resnet", "swin"):  # too few layers of a kind
        assert any("template" in n.meta for n in quick.graph.nodes if n.meta.get("phase") == "backward")


@pytest.mark.parametrize("name", REORDERED)
def test_the_same_operators_in_another_order(name: str) -> None:
    """Gradients of what all layers read (an encoder's result) are summed layer by layer; a gradient whose strides are
    not its parameter's is copied after the layer's backward and not within it."""
    ready = prepared(name)
    quick = capture_training(ready.model, (), ready.kwargs, train_mode=True)
    full = capture_training(ready.model, (), ready.kwargs, train_mode=True, repeats=False)
    kinds = [Counter((d[0], d[1], d[3]) for d in describe(list(g.graph.nodes))) for g in (quick, full)]
    assert kinds[0] == kinds[1]


def test_the_loss_is_the_models_own() -> None:
    ready = prepared("llama")
    targets = {str(n.target) for n in capture_training(ready.model, (), ready.kwargs).graph.nodes}
    assert "aten.nll_loss_backward.default" in targets
    assert ready.inputs == "input_ids [2, 16], labels [2, 16]"


def test_checkpointed_layers_run_twice() -> None:
    ready = prepared("llama")
    ready.model.activation_checkpointing_enable()
    graph = capture_training(ready.model, (), ready.kwargs, train_mode=True)
    assert_same(graph, capture_training(ready.model, (), ready.kwargs, train_mode=True, repeats=False))
    again = Counter(n.meta["module_path"] for n in graph.graph.nodes if n.meta.get("phase") == "recompute")
    assert {path.split(".")[2] for path in again if path.startswith("model.layers.")} == {"0", "1", "2", "3"}


@pytest.mark.slow
def test_most_of_a_step_of_deepseek_v3_is_copied() -> None:
    ready = prepare("deepseek-v3", "train")
    nodes = list(capture_training(ready.model, (), ready.kwargs, train_mode=True).graph.nodes)
    copied = sum("template" in node.meta for node in nodes)
    assert len(nodes) > 30_000 and copied > 0.9 * sum(node.op == "call_function" for node in nodes)
