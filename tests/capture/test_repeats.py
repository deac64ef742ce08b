"""Repeated layers that are copied give the same graph as running every layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import Interpreter

from torch_regflat.capture import capture

from .same import both, copied


class Layer(nn.Module):
    """A decoder layer of the usual kind: it knows its index and keeps state in a cache."""

    def __init__(self, index: int, width: int = 8) -> None:
        super().__init__()
        self.layer_idx = index
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor, cache: Any = None) -> torch.Tensor:
        y = self.linear(self.norm(x))
        return x + (y if cache is None else cache.update(self.layer_idx, y))


class Slot:
    def __init__(self) -> None:
        self.keys: torch.Tensor | None = None


class Cache:
    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.seen: dict[int, bool] = {}

    def update(self, index: int, x: torch.Tensor) -> torch.Tensor:
        if len(self.slots) <= index:
            self.slots.append(Slot())
        slot = self.slots[index]
        slot.keys = x if slot.keys is None else torch.cat([slot.keys, x])
        self.seen[index] = True
        return slot.keys.sum(0, keepdim=True)


class Model(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor, *args: Any) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x, *args)
        return x


X = torch.zeros(3, 8)


def layers(count: int = 4) -> list[nn.Module]:
    return [Layer(i) for i in range(count)]


def test_copies_share_the_value_and_name_their_template() -> None:
    gm = both(Model(layers()), (X,)).graph
    assert copied(gm) == 9
    copies = [node for node in gm.graph.nodes if "template" in node.meta]
    first = [node for node in gm.graph.nodes if node.op == "call_function" and "template" not in node.meta]
    assert [node.meta["template"] for node in copies] == first * 3
    assert all(node.meta["val"] is node.meta["template"].meta["val"] for node in copies)
    assert copies[0].meta["module_path"] == "layers.1.norm"
    assert [node.target for node in copies[0].all_input_nodes[1:]] == ["layers.1.norm.weight", "layers.1.norm.bias"]


def test_the_graph_with_copies_computes_the_same() -> None:
    model, x = Model(layers()), torch.randn(3, 8)
    gm = capture(model, (x,))
    assert copied(gm) > 0
    with torch.no_grad():
        torch.testing.assert_close(Interpreter(gm).run(x)[0], model(x))


def test_a_layer_is_run_once() -> None:
    class Counts(Layer):
        calls = 0

        def forward(self, x: torch.Tensor, cache: Any = None) -> torch.Tensor:
            Counts.calls += 1
            return super().forward(x, cache)

    capture(Model([Counts(i) for i in range(6)]), (X,))
    assert Counts.calls == 1


def test_state_in_a_cache_that_grows_is_followed() -> None:
    class WithCache(Model):
        def forward(self, x: torch.Tensor, *args: Any) -> Any:
            cache = args[0] if args else Cache()
            return super().forward(x, cache), cache

    first = both(WithCache(layers()), (X,))
    assert copied(first.graph) == 12
    cache = first.result[1]
    assert cache.seen == dict.fromkeys(range(4), True)
    assert [tuple(slot.keys.shape) for slot in cache.slots] == [(3, 8)] * 4
    assert len({id(slot) for slot in cache.slots}) == 4
    outputs = [node.name for node in first.graph.graph.output_node().all_input_nodes]
    assert len(outputs) == 5
    second = both(WithCache(layers()), (X[:1], cache))
    assert copied(second.graph) > 0
    roles = [node.meta["role"] for node in second.graph.graph.nodes if node.op == "placeholder"]
    assert roles == ["activation"] + ["kv_cache"] * 4


def test_a_cache_written_in_place_is_followed() -> None:
    class Static:
        def __init__(self) -> None:
            self.slots = [torch.zeros(4, 8) for _ in range(4)]

        def update(self, index: int, x: torch.Tensor) -> torch.Tensor:
            self.slots[index][:3].copy_(x)
            return self.slots[index].sum(0)

    gm = both(Model(layers()), (X, Static())).graph
    assert copied(gm) > 0
    assert len({n.meta["storage"] for n in gm.graph.nodes if n.target == torch.ops.aten.copy_.default}) == 4


class Adds(nn.Module):
    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.amount


def test_layers_that_differ_are_not_merged() -> None:
    gm = both(Model([Adds(1.0), Adds(2.0), Adds(1.0), Layer(3), Layer(4, 8).eval()]), (X,)).graph
    assert [n.args[1] for n in gm.graph.nodes if n.target == torch.ops.aten.add.Tensor][:3] == [1.0, 2.0, 1.0]
    assert copied(gm) == 1  # the second Adds(1.0)


def test_an_index_is_only_ignored_by_name_and_value() -> None:
    class Pool(nn.Module):
        def __init__(self, stride: int) -> None:
            super().__init__()
            self.stride = stride

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:: self.stride + 1]

    assert copied(both(Model([Pool(i) for i in range(3)]), (X,)).graph) == 0


def test_a_layer_that_computes_with_its_index_is_not_merged() -> None:
    class Scaled(Layer):
        def forward(self, x: torch.Tensor, cache: Any = None) -> torch.Tensor:
            return super().forward(x, cache) / (self.layer_idx + 1)

    class Alternates(Layer):
        def forward(self, x: torch.Tensor, cache: Any = None) -> torch.Tensor:
            return super().forward(x, cache) if self.layer_idx % 2 else x * 2

    for kind in (Scaled, Alternates):
        assert copied(both(Model([kind(i) for i in range(4)]), (X,)).graph) == 0


def test_one_tensor_with_the_state_of_all_layers_is_not_merged() -> None:
    class Stacked:
        def __init__(self) -> None:
            self.keys = torch.zeros(4, 3, 8)

        def update(self, index: int, x: torch.Tensor) -> torch.Tensor:
            self.keys[index] = x
            return self.keys[index]

    assert copied(both(Model(layers()), (X, Stacked())).graph) == 0


def test_the_index_is_a_plain_int_afterwards() -> None:
    model = Model(layers())
    capture(model, (X,))
    assert [type(layer.layer_idx) for layer in model.layers] == [int] * 4


def test_settings_of_each_layer_in_a_config_are_compared() -> None:
    class SomeConfig:
        def __init__(self) -> None:
            self.kinds = ["relu", "relu", "gelu", "relu"]

    class Configured(Layer):
        def __init__(self, index: int, config: SomeConfig) -> None:
            super().__init__(index)
            self.config = config

        def forward(self, x: torch.Tensor, cache: Any = None) -> torch.Tensor:
            return getattr(nn.functional, self.config.kinds[self.layer_idx])(super().forward(x))

    config = SomeConfig()
    gm = both(Model([Configured(i, config) for i in range(4)]), (X,)).graph
    assert copied(gm) == 8


def test_other_shapes_make_another_template() -> None:
    class Shrinks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu()[: max(2, x.shape[0] - 1)]

    gm = both(Model([Shrinks() for _ in range(5)]), (torch.zeros(4, 2),)).graph
    assert copied(gm) == 4


def test_tied_layers_are_copied_with_the_same_parameters() -> None:
    layer = Layer(0)
    gm = both(Model([layer, layer, layer]), (X,)).graph
    assert copied(gm) == 6
    assert {n.target for n in gm.graph.nodes if n.op == "get_attr"} == {
        f"layers.0.{part}.{name}" for part in ("norm", "linear") for name in ("weight", "bias")
    }


def test_a_submodule_shared_by_all_layers_keeps_its_name() -> None:
    made = layers()
    for layer in made[1:]:
        layer.norm = made[0].norm
    gm = both(Model(made), (X,)).graph
    assert copied(gm) == 9
    assert sum(str(n.target) == "layers.0.norm.weight" for n in gm.graph.nodes) == 1


def test_layers_inside_layers() -> None:
    outer = [nn.Sequential(Layer(0), Layer(1), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))) for _ in range(3)]
    gm = both(Model(outer), (X,)).graph
    first = {id(n.meta["template"]) for n in gm.graph.nodes if "template" in n.meta}
    assert len(first) == 4  # the first inner layer, and the first inner linear
    assert all("template" not in n.meta["template"].meta for n in gm.graph.nodes if "template" in n.meta)


def test_in_place_changes_of_inputs_and_buffers() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(8)
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.steps.add_(1)
            x += self.norm(x) * self.steps
            return x.view(-1, 8)

    assert copied(both(Model([InPlace() for _ in range(3)]), (X,)).graph) > 0


def test_constants_are_made_anew_for_each_layer() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.tensor([2.0], device=x.device)

    gm = both(Model([Constant() for _ in range(3)]), (X,)).graph
    assert copied(gm) == 4


def test_hooks_are_run_every_time() -> None:
    made, seen = layers(), []
    for layer in made:
        layer.register_forward_hook(lambda module, *_: seen.append(module.layer_idx))
    gm = capture(Model(made), (X,))
    assert seen == [0, 1, 2, 3]
    assert copied(gm) == 0


def test_a_tensor_that_leaks_out_of_a_layer_makes_all_layers_run() -> None:
    kept: list[torch.Tensor] = []

    class Leaks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept.append(x * 2)
            return kept[-1] + 1

    class Uses(Model):
        def forward(self, x: torch.Tensor, *args: Any) -> torch.Tensor:
            kept.clear()
            return super().forward(x) + kept[0] + kept[-1]

    assert copied(both(Uses([Leaks() for _ in range(3)]), (X,)).graph) == 0


def test_state_shared_by_all_layers_is_not_copied() -> None:
    class Shared:
        def __init__(self) -> None:
            self.total: Any = None

        def update(self, index: int, x: torch.Tensor) -> torch.Tensor:
            self.total = x if self.total is None else self.total + x
            return self.total

    assert copied(both(Model(layers()), (X, Shared())).graph) == 0


def test_a_layer_that_changes_itself_is_run_every_time() -> None:
    class Remembers(Layer):
        def forward(self, x: torch.Tensor, cache: Any = None) -> torch.Tensor:
            self.last = super().forward(x, cache)
            return self.last

    assert copied(both(Model([Remembers(i) for i in range(3)]), (X,)).graph) == 0


def test_results_keep_their_relation_to_inputs() -> None:
    class Returns(nn.Module):
        def forward(self, x: torch.Tensor, pair: Any) -> Any:
            assert pair[0] is x
            return {"same": x, "view": x[1:], "new": x + 1, "none": None}

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Returns() for _ in range(3))

        def forward(self, x: torch.Tensor) -> Any:
            for layer in self.layers:
                out = layer(x, (x, 1))
                assert out["same"] is x
                out["view"].add_(1)
                x = out["new"]
            return out

    assert copied(both(Chain(), (X,)).graph) > 0


# --- transformers --------------------------------------------------------------------------------------------------

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 64, "num_attention_heads": 4, "vocab_size": 128}
DECODER = {**SMALL, "num_hidden_layers": 4, "intermediate_size": 96, "num_key_value_heads": 2}
DEEPSEEK = {
    **DECODER, "num_hidden_layers": 5, "num_key_value_heads": 4, "first_k_dense_replace": 2, "n_routed_experts": 8,
    "moe_intermediate_size": 32, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "q_lora_rank": 16,
    "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
WINDOWED = {**DECODER, "num_hidden_layers": 6, "head_dim": 16, "sliding_window": 8}
CAUSAL = {
    "Llama": DECODER,
    "Mixtral": {**DECODER, "num_local_experts": 4},
    "DeepseekV3": DEEPSEEK,
    "GPT2": {"n_layer": 4, "n_embd": 64, "n_head": 4, "vocab_size": 128},
    "Gemma2": WINDOWED,
    "GptOss": {**WINDOWED, "num_local_experts": 4},
    "Qwen3": {**DECODER, "head_dim": 16},
}
SLOW = {
    "Mistral": {**DECODER, "sliding_window": 8},
    "Qwen2": DECODER,
    "Qwen3Moe": {**DECODER, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "Phi": {**DECODER, "num_key_value_heads": 4},
    "Phi3": {**DECODER, "pad_token_id": 0},
    "Gemma": {**DECODER, "head_dim": 16},
    "Olmo2": DECODER,
    "StableLm": DECODER,
    "Cohere": DECODER,
    "Starcoder2": DECODER,
    "Granite": DECODER,
    "OPT": {**SMALL, "num_hidden_layers": 4, "ffn_dim": 96, "word_embed_proj_dim": 64},
    "GPTNeoX": {**SMALL, "num_hidden_layers": 4, "intermediate_size": 96},
}
"""With those above, twenty language models, each in prefill and decode; `test_training_models` has them in training."""
IDS = torch.zeros((2, 16), dtype=torch.long, device="meta")


def on_meta(config: Any, kind: str = "AutoModelForCausalLM") -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = getattr(transformers, kind).from_config(config, dtype=torch.bfloat16).eval()
    if any(hasattr(config, name) for name in ("num_local_experts", "n_routed_experts", "num_experts")):
        model.set_experts_implementation("grouped_mm")  # type: ignore[operator]
    return model


@pytest.mark.parametrize("name", [*CAUSAL, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_prefill_and_decode_of_language_models(name: str) -> None:
    model = on_meta(getattr(transformers, f"{name}Config")(**{**CAUSAL, **SLOW}[name]))
    prefill = both(model, (), {"input_ids": IDS, "use_cache": True})
    assert copied(prefill.graph) > 50
    cache = prefill.result.past_key_values
    states = [(layer.keys, layer.values) for layer in cache.layers]
    decode = both(model, (), {"input_ids": IDS[:, :1], "past_key_values": cache}, kv_cache=cache)
    assert copied(decode.graph) > 50
    kv = [node for node in decode.graph.graph.nodes if node.meta.get("role") == "kv_cache"]
    assert len([node for node in kv if node.meta["val"].dim() > 2]) == 2 * len(cache.layers)
    assert all(
        a is b for x, y in zip(states, cache.layers, strict=True) for a, b in zip(x, (y.keys, y.values), strict=True)
    )


def test_an_encoder_and_a_vision_model() -> None:
    shape = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 4, "intermediate_size": 96}
    bert = on_meta(transformers.BertConfig(vocab_size=128, **shape), "AutoModel")
    mask = torch.ones(2, 16, dtype=torch.long)  # real: the model asks whether it masks anything
    assert copied(both(bert, (IDS,), {"attention_mask": mask}).graph) > 50
    vit = on_meta(transformers.ViTConfig(image_size=32, patch_size=8, **shape), "AutoModel")
    assert copied(both(vit, (torch.zeros(2, 3, 32, 32, dtype=torch.bfloat16, device="meta"),)).graph) > 50


def test_an_encoder_decoder_with_its_two_caches() -> None:
    config = transformers.WhisperConfig(
        encoder_layers=4, decoder_layers=4, d_model=64, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=96, decoder_ffn_dim=96, vocab_size=128, max_source_positions=50, num_mel_bins=8,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
    )  # fmt: skip
    model = on_meta(config, "AutoModelForSpeechSeq2Seq")
    sound = torch.zeros(2, 8, 100, dtype=torch.bfloat16, device="meta")
    first = both(model, (), {"input_features": sound, "decoder_input_ids": IDS, "use_cache": True})
    assert copied(first.graph) > 200
    result = first.result
    step = {
        "encoder_outputs": (result.encoder_last_hidden_state,),
        "decoder_input_ids": IDS[:, :1],
        "past_key_values": result.past_key_values,
    }
    second = both(model, (), step)
    assert copied(second.graph) > 50
    assert sum(node.meta.get("role") == "kv_cache" for node in second.graph.graph.nodes) == 16


def test_a_small_llama_on_the_cpu_computes_the_same() -> None:
    model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**DECODER)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = torch.randint(0, 128, (2, 16))
    gm = capture(model, (), {"input_ids": ids, "use_cache": False})
    assert copied(gm) > 50
    with torch.no_grad():
        torch.testing.assert_close(Interpreter(gm).run(ids)[0], model(ids).logits)
    torch.testing.assert_close(dict(model.state_dict()), before)
