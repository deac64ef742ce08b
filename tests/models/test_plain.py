"""The networks in plain torch: sizes and work of the models they stand for, and what they compute."""

from __future__ import annotations

import pytest
import torch

import torch_regflat as regflat
from torch_regflat.capture.record import capture
from torch_regflat.errors import InputError
from torch_regflat.models import facts, plain
from torch_regflat.operators.lowering import workload
from torch_regflat.validation.models import plain_network

TINY = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "vocab_size": 50}


@pytest.mark.parametrize("name", ["llama-3-8b", "bert-large"])
def test_parameters_and_flops_are_those_of_the_published_class(name: str) -> None:
    pytest.importorskip("transformers")
    model = plain.build(name, torch.bfloat16, "meta")
    assert sum(p.numel() for p in model.parameters()) == facts(name)["parameters"]
    found = workload(capture(model, plain.inputs(model, 2, 512, "meta")))
    assert found.flops == regflat.profile_model(name, batch=2, seq_len=512, dtype="bf16").workload.flops
    assert all(op.modelled for op in found)


def test_resnet() -> None:
    model = plain.build("resnet-50", torch.float32, "meta")
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    work = plain_network("resnet-50", "fp32", 1, 224, "inference-forward")
    assert work.flops / 2e9 == pytest.approx(4.089, abs=0.0006)


def test_a_decode_step_gives_what_a_whole_pass_gives_for_its_last_token() -> None:
    torch.manual_seed(0)
    model = plain.build("llama-3-8b", torch.float32, "cpu", **TINY, num_key_value_heads=2)
    assert isinstance(model, plain.Llama)
    with torch.inference_mode():
        whole = torch.randint(50, (3, 9))
        _, at, caches = plain.inputs(model, 3, 8, "cpu", decode=True)
        model(whole[:, :8], torch.arange(8), caches)
        step = model(whole[:, 8:], at, caches)
        torch.testing.assert_close(step[:, 0], model(whole)[:, -1])


def test_bert_and_resnet_run() -> None:
    bert = plain.build("bert-large", torch.float32, "cpu", **TINY)
    resnet = plain.build("resnet-50", torch.float32, "cpu", blocks=(1, 1))
    with torch.inference_mode():
        assert bert(*plain.inputs(bert, 2, 16, "cpu")).shape == (2, 16, 50)
        assert resnet(*plain.inputs(resnet, 2, 32, "cpu")).shape == (2, 1000)


def test_the_default_dtype_is_as_before() -> None:
    model = plain.build("resnet-50", torch.bfloat16, "meta")
    assert next(model.parameters()).dtype == torch.bfloat16 and torch.get_default_dtype() == torch.float32


def test_what_a_network_cannot_be_asked_for() -> None:
    with pytest.raises(InputError, match="bert-large cannot be run as decode in bf16; it is measured as inference"):
        plain_network("bert-large", "bf16", 1, 128, "decode")
    with pytest.raises(InputError, match="in fp32, fp16, bf16"):
        plain_network("bert-large", "fp8", 1, 128, "inference-forward")
