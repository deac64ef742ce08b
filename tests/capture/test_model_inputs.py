"""Inputs that are made from a transformers model's own declarations, beyond token ids and pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torch_regflat as regflat
from torch_regflat.capture.huggingface import build_class
from torch_regflat.capture.model_inputs import candidates, describe
from torch_regflat.capture.phases import prepare_model

transformers = pytest.importorskip("transformers")
TEXT: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def built(name: str, config: Any, dtype: torch.dtype = torch.bfloat16) -> Any:
    return build_class(getattr(transformers, name), config, dtype)


def profiled(model: Any, phase: str, **lengths: int) -> Any:
    return regflat.profile_model(model, phase=phase, chips="h100-sxm", **lengths)


def test_two_texts_to_choose_from() -> None:
    model = built("BertForMultipleChoice", transformers.BertConfig(vocab_size=128, **TEXT))
    profile = profiled(model, "encode", seq_len=16)
    assert profile.result.inputs == "input_ids [1, 2, 16]"
    one = profiled(built("BertModel", transformers.BertConfig(vocab_size=128, **TEXT)), "encode", seq_len=16)
    assert 1.9 < profile.workload.flops / one.workload.flops < 2.1


def test_a_classifier_that_looks_for_the_end_of_the_text() -> None:
    config = transformers.BartConfig(
        vocab_size=128, d_model=64, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=96, decoder_ffn_dim=96,
        encoder_attention_heads=4, decoder_attention_heads=4,
    )  # fmt: skip
    made = next(candidates(built("BartForSequenceClassification", config), 2, 8))
    assert made["input_ids"][:, -1].tolist() == [config.eos_token_id] * 2
    assert (made["input_ids"][:, :-1] != config.eos_token_id).all()


def test_a_language_where_a_model_has_to_be_told_one() -> None:
    config = transformers.XmodConfig(vocab_size=128, languages=["en_XX", "de_DE"], **TEXT)
    assert profiled(built("XmodModel", config), "encode", seq_len=8).result.inputs == "input_ids [1, 8], lang_ids [1]"


def test_a_session_of_a_video_tracker() -> None:
    """The first frame of a clip with one click; the session is as it was afterwards."""
    model = built("Sam2VideoModel", transformers.Sam2VideoConfig())
    (made, *_) = candidates(model, 1, 8)
    session = made["inference_session"]
    assert describe(made) == "inference_session (Sam2VideoInferenceSession)" and made["frame_idx"] == 0
    profile = regflat.profile(model, (), made)
    assert profile.workload.flops > 1e11
    assert session.get_obj_num() == 1 and session.obj_with_new_inputs == [1]
    assert session.output_dict_per_obj[0]["cond_frame_outputs"] == {}


def test_patches_with_colours_last() -> None:
    config = transformers.InklingVisionConfig(num_hidden_layers=24, text_hidden_size=64)
    assert "[256, 2, 40, 40, 3]" in profiled(built("InklingVisionModel", config), "encode").result.inputs


# --- decode --------------------------------------------------------------------------------------------------------


def test_decode_as_generate_calls_the_model() -> None:
    """CPM-Ant takes the whole prompt and leaves out what is in the cache; its own preparation says so."""
    config = transformers.CpmAntConfig(
        vocab_size=128, hidden_size=64, num_attention_heads=4, dim_head=16, dim_ff=96, num_hidden_layers=2,
        prompt_types=2, prompt_length=4, segment_types=2,
    )  # fmt: skip
    profile = profiled(built("CpmAntForCausalLM", config), "decode", context=15)
    assert profile.result.inputs == "input_ids [1, 16] against a cache of 15 tokens, as generate has it"
    (note,) = profile.result.notes
    assert note.startswith("profiled with input_ids [1, 16]") and "with input_ids [1, 1] against" in note


def test_decode_by_the_language_model_inside() -> None:
    """BLIP-2 generates with its language model, on a cache that the picture's queries have filled as well."""
    config = transformers.Blip2Config(
        text_config={"model_type": "opt", "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2,
                     "num_attention_heads": 4, "vocab_size": 128, "word_embed_proj_dim": 64},
        vision_config={**TEXT, "image_size": 28, "patch_size": 14},
        qformer_config={**TEXT, "encoder_hidden_size": 64, "vocab_size": 128},
        num_query_tokens=4, image_token_index=127,
    )  # fmt: skip
    model = built("Blip2ForConditionalGeneration", config)
    ready = prepare_model(model, "BLIP-2", "decode", 1, None, 20, None)
    assert ready.inputs == "input_ids [1, 1] against a cache of 20 tokens, in the language model"
    assert ready.kv_bytes == 2 * 2 * 20 * 64 * 2
    paths = {op.path for op in profiled(model, "decode", context=20).workload}
    assert any(path.startswith("language_model.model.decoder.layers.1") for path in paths)
    assert not any(path.startswith("vision_model") for path in paths)


def test_decode_leaves_a_model_in_real_memory_as_it_was() -> None:
    model = transformers.CpmAntForCausalLM(
        transformers.CpmAntConfig(
            vocab_size=128, hidden_size=64, num_attention_heads=4, dim_head=16, dim_ff=96, num_hidden_layers=2,
            prompt_types=2, prompt_length=4, segment_types=2,
        )
    ).eval()  # fmt: skip
    before = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
    profiled(model, "decode", context=15)
    after = dict(model.named_parameters())
    assert all(id(after[name]) == ident and torch.equal(after[name], value) for name, (ident, value) in before.items())
