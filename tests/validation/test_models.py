"""The models behind rows of whole models, and the operators of their traces."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from torch_regflat.errors import InputError
from torch_regflat.hardware import library
from torch_regflat.layout import Layout
from torch_regflat.schedule.modes import MODES
from torch_regflat.validation import models, operators, works
from torch_regflat.validation.predict import predict
from torch_regflat.validation.reading import read
from torch_regflat.validation.rows import Operator, WholeModel
from torch_regflat.validation.works import narrow, work_of
from torch_regflat.workload import Workload

from . import files


def test_bert_does_the_flops_of_its_layers_and_no_vocabulary_head() -> None:
    batch, tokens, layers, hidden, inner = 8, 512, 24, 1024, 4096
    linear = 2 * batch * tokens * layers * (4 * hidden * hidden + 2 * hidden * inner)
    scores = 2 * 2 * batch * layers * tokens * tokens * hidden
    head = 2 * batch * (hidden * hidden + 2 * hidden)
    assert models.forward("bert_large", batch, tokens, False).flops == linear + scores + head


def test_a_training_step_has_no_optimizer() -> None:
    work = models.forward("bert_large", 2, 512, True)
    assert {op.phase for op in work} == {"forward", "backward"}


def test_opt_takes_the_maximum_that_its_class_of_2023_took() -> None:
    work = models.forward("opt_13", 1, 64, False)
    assert sum(op.target.startswith(("aten.max", "aten.maximum")) for op in work) == 24


def test_unknown_models_are_answered_with_near_names() -> None:
    with pytest.raises(InputError, match="no model is known by the name 'bert_larg'; did you mean bert_large"):
        models.forward("bert_larg", 1, 64, False)
    with pytest.raises(InputError, match="no language model is known by the name 'Llama-4'; did you mean"):
        models.layers("Llama-4")


def test_tensor_parallelism_divides_the_layers_and_not_the_embedding() -> None:
    one, four = (models.language_model("Llama-3.1-8B", 1, 0, 64, shards, 4) for shards in (1, 4))
    table = 2 * 2 * 128256 * 4096
    layers = [work.role_bytes("weight") - table for work in (one, four)]
    assert layers[1] == pytest.approx(layers[0] / 4, rel=0.01)


def exchanged(work: Workload) -> list[tuple[str, float, str]]:
    return [(op.collective.kind, op.collective.nbytes, op.phase) for op in work if op.collective is not None]


def test_a_decode_on_many_gpus_sums_twice_a_layer_and_has_its_whole_head() -> None:
    one, four = (models.language_model("Llama-3.1-8B", 1, 0, 64, 1, 3, ranks) for ranks in (1, 4))
    assert exchanged(one) == []
    assert exchanged(four) == [("all_reduce", 4096 * 2.0, "")] * 6
    head = [max(o.footprint_bytes(n.sizes) for o in n.operands) for n in four.operations[-1].nests]
    assert max(head, default=0.0) in (0.0, 128256 * 4096 * 2)
    assert four.role_bytes("weight") == pytest.approx(
        one.role_bytes("weight") / 4 + 2 * 2 * 128256 * 4096 * 3 / 4, rel=0.01
    )


def test_gpt2_of_megatron_sums_twice_a_layer_each_way_and_shares_all_but_embeddings_head_and_norms() -> None:
    whole, part = (models.forward("gpt2_large", 1, 128, True, Layout(tp=tp)) for tp in (1, 4))
    hidden, layers = 128 * 1280 * 4.0, 36
    found = exchanged(part)
    assert found.count(("all_reduce", hidden, "forward")) == 2 * layers
    assert found.count(("all_reduce", hidden, "backward")) == len(found) - 2 * layers == 2 * layers
    head = 3 * 2 * 128 * 1280 * 50257
    assert part.flops - head == (whole.flops - head) / 4
    with pytest.raises(InputError, match="opt_13 is not divided among GPUs here; gpt2_large, gpt3_xl, gpt3_27 are"):
        models.forward("opt_13", 1, 64, True, Layout(tp=4))
    with pytest.raises(InputError, match="20 heads cannot be divided among 8 ranks; ranks that do: 1, 2, 4, 5, 10, 20"):
        models.forward("gpt2_large", 1, 64, False, Layout(tp=8))


def test_data_parallel_training_averages_every_gradient_once() -> None:
    work = models.forward("bert_large", 1, 32, True, Layout(dp=4))
    averaged = sum(nbytes for _, nbytes, _ in exchanged(work))
    assert averaged == pytest.approx(work.role_bytes("weight"), rel=0.01)


def served(tmp_path: Path, metric: str) -> WholeModel:
    text = files.FILES["served"].replace("Qwen3-32B", "Llama-3.1-8B").replace("tp=2", "tp=1").replace("fp8", "bf16")
    rows = read(files.write(tmp_path, "served", text)).rows
    found = next(row for row in rows if isinstance(row, WholeModel) and row.metric == metric)
    return dataclasses.replace(found, n_gpus=1)


def test_two_depths_extended_give_the_whole_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = served(tmp_path, "tpot")
    (extended,) = predict([row])
    chip = library.load("h100-sxm")
    (shallow, deep) = work_of(row, chip, MODES["serving"]).parts
    assert shallow.weight + deep.weight == pytest.approx(1.0)
    monkeypatch.setattr(works, "SHALLOW", 16)
    monkeypatch.setattr(works, "DEEP", 32)
    (whole,) = predict([row])
    assert extended.value == pytest.approx(whole.value, rel=0.02)


def test_a_row_of_an_operator_has_its_backward_and_not_that_of_the_loss(tmp_path: Path) -> None:
    norm, product = read(files.write(tmp_path, "model_trace")).rows
    assert isinstance(norm, Operator) and isinstance(product, Operator)
    targets = [op.target for op in operators.operations(norm) if not op.is_view]
    assert targets == ["aten.native_layer_norm.default", "aten.native_layer_norm_backward.default"]
    assert [op.flops for op in operators.operations(product)] == [2 * 4096 * 1280 * 1280]
    with pytest.raises(InputError, match="no function is known by the name 'addm'; did you mean addmm"):
        operators.operations(dataclasses.replace(product, target="addm"))
    with pytest.raises(InputError, match="no module is known by the name 'ln_9'"):
        operators.operations(dataclasses.replace(norm, target="transformer.ln_9"))


def test_nothing_is_fitted_to_whole_models(tmp_path: Path) -> None:
    assert all(row.held_out for row in read(files.write(tmp_path, "end_to_end")).rows)


def test_formats_that_a_chip_does_not_multiply_are_widened() -> None:
    assert narrow("fp8", library.load("h100-sxm")) == ("fp8", "fp8")
    assert narrow("fp8", library.load("a40")) == ("fp8", None)
    assert narrow("int4_wo", library.load("h100-sxm")) == ("int4", None)
