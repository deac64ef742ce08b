"""Shipped models: the facts are complete, need no torch, and the built modules have the published sizes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from torch_regflat.capture import huggingface
from torch_regflat.errors import ModelError
from torch_regflat.models import describe, facts, names
from torch_regflat.models.gpt4_moe import Gpt4MoeConfig, Gpt4MoeEstimate

# As published: model cards and papers, in parameters. The last two are the estimates' own sums.
PUBLISHED = {
    "llama-3-8b": 8.03e9,
    "llama-3-70b": 70.6e9,
    "llama-3.1-405b": 405.9e9,
    "mistral-7b": 7.25e9,
    "mixtral-8x7b": 46.7e9,
    "qwen3-8b": 8.19e9,
    "qwen3-32b": 32.8e9,
    "qwen3-235b-a22b": 235e9,
    "minimax-m2.5": 229e9,
    "gemma-2-9b": 9.24e9,
    "gpt2-xl": 1.5576e9,
    "bert-large": 335.2e6,
    "vit-large": 304.3e6,
    "whisper-large-v3": 1.5435e9,
    "deepseek-v3": 671e9,
    "kimi-k2": 1.026e12,
    "gpt-oss-120b": 116.8e9,
    "gpt4-moe-estimate": 55.5e9 + 1.776e12,
    "dense-1.8t-estimate": 248 * (2 * 24576**2 + 2 * 24576 * 2048 + 3 * 24576 * 79872) + 2 * 128256 * 24576,
}


def test_every_shipped_model_is_named_here() -> None:
    assert names() == sorted(PUBLISHED)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_built_module_has_the_published_number_of_parameters(name: str) -> None:
    model = huggingface.build(huggingface.resolve(name))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == pytest.approx(PUBLISHED[name], rel=5e-3)
    assert count == describe(name)["parameters"]
    assert not model.training
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_facts_say_where_they_come_from(name: str) -> None:
    known = describe(name)
    assert known["source"]
    assert known["kind"] == ("estimate" if name.endswith("-estimate") else "published")
    assert known["layers"] > 0 and known["hidden"] > 0 and known["heads"] > 0
    assert known["dtype"] in ("bfloat16", "float16", "float32")


def test_describe_names_what_a_person_looks_up() -> None:
    known = describe("deepseek-v3")
    assert (known["layers"], known["hidden"], known["heads"]) == (61, 7168, 128)
    assert (known["experts"], known["experts_per_token"], known["positions"]) == (256, 8, 163840)
    assert "fp8" in known["note"]
    assert describe("llama-3-8b")["experts"] is None
    assert describe("gpt2-xl")["kv_heads"] == 25


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(ModelError, match=r"unknown model 'lama-3-8b'; did you mean llama-3-8b"):
        facts("lama-3-8b")


def test_the_facts_need_no_torch() -> None:
    code = "import sys; from torch_regflat.models import describe; describe('kimi-k2'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


class TestGpt4MoeEstimate:
    SMALL = Gpt4MoeConfig(64, 32, 64, 2, 4, 4, 2, 32)

    def test_one_token_against_the_cache_equals_the_whole_sequence(self) -> None:
        torch.manual_seed(0)
        model = Gpt4MoeEstimate(self.SMALL).eval()
        ids = torch.randint(0, 64, (2, 9))
        with torch.inference_mode():
            whole, none = model(ids)
            _, cache = model(ids[:, :8], use_cache=True)
            step, _ = model(ids[:, 8:], cache, True)
        assert none is None
        torch.testing.assert_close(step, whole[:, 8:])

    def test_experts_are_those_the_router_chose(self) -> None:
        torch.manual_seed(0)
        mixture = Gpt4MoeEstimate(self.SMALL).eval().layers[0].mlp
        experts = mixture.experts
        rows = torch.randn(5, 32)
        with torch.inference_mode():
            scores, chosen = torch.topk(mixture.router(rows).softmax(-1), 2)
            expected = torch.stack(
                [
                    sum(
                        weight * (experts.down_proj[expert] @ torch.nn.functional.gelu(experts.up_proj[expert] @ row))
                        for weight, expert in zip(scores[index], chosen[index], strict=True)
                    )
                    for index, row in enumerate(rows)
                ]
            )
            torch.testing.assert_close(mixture(rows), expected)
