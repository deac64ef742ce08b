"""Models from names, folders, hub ids and factories, and the inputs of each phase."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from torch_regflat.capture import huggingface
from torch_regflat.capture.huggingface import ModelSpec, build, prepare, resolve
from torch_regflat.capture.phases import cache_tensors
from torch_regflat.capture.prefill import run_prefill
from torch_regflat.errors import InputError, ModelError

# Few layers, every kind of layer and cache: grouped-query, windows, compressed latents, learned positions, two stacks.
SMALL: dict[str, dict[str, Any]] = {
    "llama-3-8b": {"num_hidden_layers": 4},
    "gemma-2-9b": {"num_hidden_layers": 6},
    "gpt-oss-120b": {"num_hidden_layers": 6, "layer_types": ["sliding_attention", "full_attention"] * 3},
    "deepseek-v3": {"num_hidden_layers": 6},
    "mixtral-8x7b": {"num_hidden_layers": 4},
    "gpt2-xl": {"n_layer": 4},
    "whisper-large-v3": {"encoder_layers": 4, "decoder_layers": 4},
}


def small(name: str) -> ModelSpec:
    spec = resolve(name)
    for key, value in SMALL[name].items():
        setattr(spec.config, key, value)
    return spec


def decode_bytes(name: str, context: int, **options: Any) -> int:
    return prepare(name, "decode", context=context, **options).kv_bytes


class TestResolve:
    def test_unknown_name_lists_near_ones_and_every_way(self) -> None:
        with pytest.raises(ModelError) as caught:
            resolve("llama-3-8")
        assert str(caught.value).startswith("unknown model 'llama-3-8'; did you mean llama-3-8b")
        assert "a folder with a config.json, a hub id as owner/name, or module:factory" in str(caught.value)

    def test_folder_builds_the_model_of_its_configuration(self, tmp_path: Path) -> None:
        config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        more = {"num_attention_heads": 4, "vocab_size": 100, "architectures": ["LlamaForCausalLM"]}
        (tmp_path / "config.json").write_text(json.dumps({**config, **more, "torch_dtype": "float16"}))
        made = prepare(str(tmp_path), seq_len=8)
        assert type(made.model).__name__ == "LlamaForCausalLM"
        assert made.dtype == "float16"
        assert made.kwargs["input_ids"].shape == (1, 8)

    def test_quantised_folder_is_built_plain_and_says_so(self, tmp_path: Path) -> None:
        config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
        quantised = {"quantization_config": {"quant_method": "fp8"}, "vocab_size": 9}
        (tmp_path / "config.json").write_text(json.dumps({**config, **quantised}))
        made = prepare(str(tmp_path), seq_len=8)
        assert made.notes == ("weights are stored quantised (fp8) and built here in bfloat16",)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (None, "has no config.json"),
            ('{"a": ', r"config.json cannot be read as JSON: Expecting value: line 1"),
            ("{}", "config.json has no model_type, so its architecture is unknown"),
            ("[1]", "config.json has no model_type"),
            (
                '{"model_type": "lama"}',
                r"the model_type 'lama', which transformers .* does not know; did you mean llama",
            ),
            ('{"model_type": "llama", "hidden_size": "x"}', "cannot read the configuration of .*hidden_size"),
        ],
    )
    def test_folder_that_is_no_model(self, tmp_path: Path, content: str | None, said: str) -> None:
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError, match=said):
            resolve(str(tmp_path))

    def test_path_that_is_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"there is no folder \./nowhere"):
            resolve("./nowhere")
        file = tmp_path / "config.json"
        file.write_text("{}")
        with pytest.raises(ModelError, match=r"is a file; give the folder that holds its config\.json"):
            resolve(str(file))

    def test_hub_without_a_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: Any, **kwargs: Any) -> None:
            raise OSError("Name or service not known")

        monkeypatch.setattr(importlib.import_module("huggingface_hub"), "get_hf_file_metadata", refuse)
        with pytest.raises(ModelError) as caught:
            resolve("owner/no-such-model")
        assert str(caught.value) == (
            "cannot read the configuration of 'owner/no-such-model': the hub does not answer (Name or service not "
            "known); check the network, or give a folder with its config.json"
        )

    @pytest.mark.parametrize("trust", [False, True])
    def test_remote_code_is_trusted_only_when_asked(self, monkeypatch: pytest.MonkeyPatch, trust: bool) -> None:
        seen: dict[str, Any] = {}
        transformers = importlib.import_module("transformers")

        def read(location: str, **options: Any) -> Any:
            seen.update(options)
            return transformers.LlamaConfig(num_hidden_layers=1)

        monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", read)
        monkeypatch.setattr(huggingface, "_in_hub_cache", lambda hub_id: True)
        assert resolve("owner/model", trust_remote_code=trust).trust_remote_code is trust
        assert seen["trust_remote_code"] is trust

    def test_without_transformers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(ModelError, match=r"which is not installed; pip install 'torch_regflat\[hf\]'"):
            resolve("llama-3-8b")
        assert resolve("gpt4-moe-estimate").dtype == "bfloat16"

    def test_importing_the_module_does_not_import_transformers(self) -> None:
        code = "import sys, torch_regflat.capture.huggingface; print('transformers' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"


class TestBuild:
    def test_attention_is_fused_and_experts_are_grouped(self) -> None:
        config = build(small("mixtral-8x7b")).config
        assert (config._attn_implementation, config._experts_implementation) == ("sdpa", "grouped_mm")

    def test_attention_that_cannot_be_fused_is_said(self) -> None:
        assert "runs unfused (eager)" in prepare(small("gemma-2-9b"), seq_len=8).notes[-1]
        assert prepare(small("llama-3-8b"), seq_len=8).notes == ()

    def test_the_dtype_is_the_checkpoints_unless_asked(self) -> None:
        assert prepare(small("whisper-large-v3")).dtype == "float16"
        assert prepare(small("gpt2-xl")).dtype == "float32"
        made = prepare(small("llama-3-8b"), dtype="fp16")
        assert made.dtype == "float16"
        assert next(made.model.parameters()).dtype == torch.float16
        assert torch.get_default_dtype() == torch.float32

    def test_unknown_dtype(self) -> None:
        with pytest.raises(InputError, match="unknown dtype 'bf61'; did you mean bf16"):
            prepare("llama-3-8b", dtype="bf61")
        with pytest.raises(InputError, match="unknown kv_dtype 'fp9'; did you mean fp8"):
            prepare(small("llama-3-8b"), kv_dtype="fp9")


class TestPhases:
    def test_prefill_computes_all_logits(self) -> None:
        made = prepare(small("llama-3-8b"), batch=2, seq_len=16)
        with torch.inference_mode():
            output = made.model(*made.args, **made.kwargs)
        assert output.logits.shape == (2, 16, 128256)
        assert output.past_key_values.get_seq_length() == 16
        assert (made.phase, made.inputs) == ("prefill", "input_ids [2, 16]")

    @pytest.mark.parametrize("name", sorted(SMALL))
    def test_a_cache_filled_by_skipping_layers_is_the_models_own(self, name: str) -> None:
        made = prepare(small(name), "decode", batch=2, context=300)
        full = {**made.kwargs, "past_key_values": None}
        ids = "decoder_input_ids" if "encoder_outputs" in full else "input_ids"
        full[ids] = torch.empty(2, 300, dtype=torch.int64, device="meta")
        with torch.inference_mode():
            expected = cache_tensors(made.model(**full).past_key_values)
        got = cache_tensors(made.kv_cache)
        assert [(t.shape, t.dtype) for t in got] == [(t.shape, t.dtype) for t in expected]

    @pytest.mark.parametrize("name", sorted(SMALL))
    def test_decode_runs_and_the_cache_grows_by_one(self, name: str) -> None:
        made = prepare(small(name), "decode", context=300)
        cache = made.kv_cache[0]
        assert cache.get_seq_length() == 300
        with torch.inference_mode():
            made.model(*made.args, **made.kwargs)
        assert cache.get_seq_length() == 301

    def test_cache_bytes_equal_the_closed_form(self) -> None:
        assert decode_bytes("llama-3-8b", 4096) == 32 * 2 * 8 * 128 * 4096 * 2
        assert decode_bytes("llama-3-8b", 1000, batch=3) == 3 * 32 * 2 * 8 * 128 * 1000 * 2
        assert decode_bytes("llama-3-8b", 4096, kv_dtype="fp8") == 32 * 2 * 8 * 128 * 4096
        assert decode_bytes("deepseek-v3", 4096) == 61 * (512 + 64) * 4096 * 2
        assert decode_bytes("gpt2-xl", 1000) == 48 * 2 * 1600 * 1000 * 4
        assert decode_bytes("gpt4-moe-estimate", 100) == 120 * 2 * 10752 * 100 * 2
        # A window of 128 keeps 127 tokens for the next one; every second layer has one.
        assert decode_bytes("gpt-oss-120b", 1000) == 18 * (127 + 1000) * 2 * 8 * 64 * 2
        # 1500 encoder positions for cross-attention, 100 decoder tokens.
        assert decode_bytes("whisper-large-v3", 100) == 32 * 2 * 1280 * (1500 + 100) * 2

    def test_hooks_are_gone_after_a_prefill_that_fails(self) -> None:
        model = build(small("llama-3-8b"))
        misfit = torch.empty(1, 4, 3, device="meta")
        with pytest.raises(RuntimeError):
            run_prefill(model, {"inputs_embeds": misfit, "use_cache": True})
        assert all("forward" not in vars(module) for module in model.modules())

    def test_a_model_in_memory_stays_where_it_is(self) -> None:
        transformers = importlib.import_module("transformers")
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "vocab_size": 50}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=4, **sizes)).eval()
        made = prepare(model, "decode", context=7)
        assert made.kv_bytes == 4 * 2 * 32 * 7 * 4
        assert all(tensor.is_meta for tensor in cache_tensors(made.kv_cache))
        assert not any(parameter.is_meta for parameter in model.parameters())

    def test_encoders_and_images(self) -> None:
        text = prepare("bert-large", batch=2)
        assert (text.phase, text.inputs) == ("encode", "input_ids [2, 512]")
        image = prepare("vit-large", batch=2)
        assert (image.phase, image.inputs) == ("encode", "pixel_values [2, 3, 224, 224]")
        with torch.inference_mode():
            assert image.model(**image.kwargs).logits.shape == (2, 1000)

    def test_whisper_reads_half_a_minute_and_a_prompt(self) -> None:
        made = prepare(small("whisper-large-v3"))
        assert made.inputs == "input_features [1, 128, 3000], decoder_input_ids [1, 4]"
        with torch.inference_mode():
            assert made.model(**made.kwargs).logits.shape == (1, 4, 51866)

    @pytest.mark.parametrize(
        ("name", "options", "said"),
        [
            ("llama-3-8b", {"batch": 0}, "batch is 0; it must be 1 or more"),
            ("llama-3-8b", {"seq_len": -1}, "seq_len is -1; it must be 1 or more"),
            ("llama-3-8b", {"seq_len": 8193}, "seq_len 8193 is beyond the 8192 positions of llama-3-8b"),
            (
                "llama-3-8b",
                {"phase": "decode", "context": 8192},
                "context 8192 is beyond the 8192 positions of llama-3-8b; with the new token it can be at most 8191",
            ),
            ("llama-3-8b", {"phase": "decode", "context": 0}, "context is 0; it must be 1 or more"),
            ("llama-3-8b", {"phase": "decode", "seq_len": 4}, "decode reads a cache of length context"),
            (
                "llama-3-8b",
                {"context": 4},
                "context is the length of the cache that decode and extend read; prefill takes seq_len",
            ),
            ("llama-3-8b", {"phase": "learn"}, "unknown phase 'learn'; the phases of llama-3-8b are prefill, decode"),
            (
                "bert-large",
                {"phase": "decode"},
                "bert-large is an encoder and has no decode; its phases are encode, forward, train",
            ),
            ("bert-large", {"seq_len": 513}, "seq_len 513 is beyond the 512 positions of bert-large"),
            ("vit-large", {"seq_len": 4}, "vit-large reads pixel_values of a fixed size; it takes no seq_len"),
            ("whisper-large-v3", {"seq_len": 449}, "seq_len 449 is beyond the 448 positions"),
        ],
    )
    def test_requests_that_make_no_sense(self, name: str, options: dict[str, Any], said: str) -> None:
        with pytest.raises(InputError) as caught:
            prepare(name, **options)
        assert str(caught.value).startswith(said)


FACTORIES = """
import torch
net = torch.nn.Linear(3, 3)
number = 3
class Shy(torch.nn.Linear):
    def example_inputs(self):
        return (torch.empty(1, 4, device="meta"),)
def pair(): return torch.nn.Linear(4, 4), (torch.empty(2, 4),)
def triple(): return torch.nn.Linear(4, 4), (), {"input": torch.empty(2, 4)}
def shy(): return Shy(4, 4)
def three(): return 3
def boom(): raise RuntimeError("no luck")
"""


class TestFactory:
    @pytest.fixture(autouse=True)
    def in_a_folder_with_a_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a_factory_module.py").write_text(FACTORIES)
        monkeypatch.chdir(tmp_path)
        monkeypatch.delitem(sys.modules, "a_factory_module", raising=False)

    def test_what_a_factory_may_return(self) -> None:
        assert prepare("a_factory_module:pair").args[0].shape == (2, 4)
        assert prepare("a_factory_module:triple").kwargs["input"].shape == (2, 4)
        made = prepare("a_factory_module:shy")
        assert (made.args[0].shape, made.phase, made.dtype) == ((1, 4), "forward", "float32")
        assert str(Path.cwd()) not in sys.path

    @pytest.mark.parametrize(
        ("spec", "said"),
        [
            ("no_such_module_here:f", "cannot import the module 'no_such_module_here' of"),
            ("a_factory_module:pare", "the module 'a_factory_module' has no 'pare'; did you mean pair"),
            (
                "a_factory_module:three",
                "'a_factory_module:three' returned a value of type int; it must return an nn.Module",
            ),
            ("a_factory_module:number", "'a_factory_module:number' is of type int; it must be an nn.Module"),
            ("a_factory_module:boom", "calling 'a_factory_module:boom' failed: RuntimeError: no luck"),
            ("a_factory_module:net", "a_factory_module:net gave a module without inputs; return (model, args)"),
        ],
    )
    def test_factories_that_cannot_be_used(self, spec: str, said: str) -> None:
        with pytest.raises(ModelError) as caught:
            prepare(spec)
        assert str(caught.value).startswith(said)

    def test_options_that_a_factory_decides_itself(self) -> None:
        with pytest.raises(InputError, match="a_factory_module:pair brings its own inputs and has no decode"):
            prepare("a_factory_module:pair", "decode")
        with pytest.raises(
            InputError, match="brings its own inputs; choose batch, seq_len and context in that function"
        ):
            prepare("a_factory_module:pair", batch=4)
        with pytest.raises(InputError, match="cast the module itself instead"):
            prepare("a_factory_module:pair", dtype="bf16")
