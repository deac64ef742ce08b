"""How the coverage benchmark tells that transformers itself cannot run a model, and what counts against us."""

from __future__ import annotations

from typing import Any

import hf_arbiter
import pytest
import torch
from hf_coverage import Row, shares, verdict
from hf_hints import HINTS
from hf_models import build, configured, shrink

transformers = pytest.importorskip("transformers")
from transformers import CONFIG_MAPPING  # noqa: E402


def judged(kind: str, name: str, phase: str = "encode") -> tuple[str, str]:
    cls, config = getattr(transformers, name), CONFIG_MAPPING[kind]
    status, shown_by, _ = hf_arbiter.verdict(kind, cls, config, build(cls, config), phase)
    return status, shown_by


def test_what_can_be_seen_without_reading_a_message() -> None:
    found = hf_arbiter.verdict("bark", transformers.BarkModel, CONFIG_MAPPING["bark"], None, "prefill")
    assert found[:2] == ("transformers", "no forward")
    assert judged("blt", "BltModel") == ("transformers", "configuration")
    assert judged("openai-gpt", "OpenAIGPTLMHeadModel", "decode") == ("transformers", "no cache")
    assert hf_arbiter.cannot_build(transformers.EsmModel, CONFIG_MAPPING["esm"])  # vocab_size is None
    assert hf_arbiter.cannot_build(transformers.BertModel, CONFIG_MAPPING["bert"]) == ""


def test_a_listed_type_has_to_raise_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    status, shown_by = judged("bamba", "BambaModel")
    assert status == "transformers" and shown_by.startswith("listed: no layer of the default configuration")
    monkeypatch.setitem(hf_arbiter.DEFAULTS, "bamba", ("another error", "another reason"))
    assert judged("bamba", "BambaModel") == ("inputs", "")
    monkeypatch.delitem(hf_arbiter.DEFAULTS, "bamba")
    assert judged("bamba", "BambaModel") == ("inputs", "")


def test_a_model_that_runs_counts_against_us() -> None:
    assert judged("bert", "BertModel") == ("refused", "")


def test_every_listed_and_hinted_type_exists() -> None:
    assert set(hf_arbiter.DEFAULTS) | {name.partition(" ")[0] for name in HINTS} <= set(CONFIG_MAPPING.keys())


@pytest.mark.parametrize(
    ("statuses", "whole"),
    [
        (["ok", "ok"], "ok"),
        (["ok", "transformers"], "ok"),
        (["transformers"], "transformers"),
        (["ok", "hinted", "transformers"], "hinted"),
        (["ok", "refused"], "not ok"),
        (["hinted", "inputs"], "not ok"),
        (["ok", "timeout"], "not ok"),
    ],
)
def test_a_class_is_as_good_as_its_worst_row(statuses: list[str], whole: str) -> None:
    rows = [Row("a", "A", "encode", status) for status in statuses]
    assert verdict(rows) == whole
    found = shares(rows, {"a": "AConfig"})
    counts = {"ok": found.ok, "hinted": found.hinted, "not ok": found.not_ok, "transformers": sum(found.shown.values())}
    assert counts == {name: int(name == whole) for name in counts}


def test_shrinking_keeps_a_layer_of_every_kind() -> None:
    deepseek: Any = shrink(transformers.DeepseekV3Config())
    assert deepseek.first_k_dense_replace == 3 and deepseek.num_hidden_layers == 4
    nllb: Any = shrink(transformers.NllbMoeConfig())
    assert nllb.encoder_layers == nllb.encoder_sparse_step == 4
    mixed: Any = shrink(transformers.Gemma2Config())
    assert set(mixed.layer_types) == {"sliding_attention", "full_attention"}
    blip: Any = configured(transformers.Blip2Model, transformers.Blip2Config)
    assert blip.image_token_index == blip.text_config.vocab_size - 1
    assert build(transformers.BertLMHeadModel, transformers.BertConfig).config.is_decoder
    assert torch.device("meta") == next(build(transformers.BertModel, transformers.BertConfig).parameters()).device
