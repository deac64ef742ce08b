"""Workloads split into the stages of a pipeline, and how long a batch takes through them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_regflat import pipeline
from torch_regflat.capture.huggingface import build_class
from torch_regflat.errors import InputError
from torch_regflat.layout import Layout
from torch_regflat.profiler import capture_model, profile_model
from torch_regflat.report import render
from torch_regflat.sharded import Sharded, share_of_batch, split
from torch_regflat.workload import Collective, LoopNest, Operation, Tensor, Workload

transformers = pytest.importorskip("transformers")

CONFIG = transformers.LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=4,
    vocab_size=256, max_position_embeddings=256,
)  # fmt: skip


def llama() -> Any:
    return build_class(transformers.LlamaForCausalLM, CONFIG)


def stages_of(layout: Layout, **options: Any) -> tuple[Any, Sharded]:
    found = capture_model(llama(), layout=layout, **{"phase": "prefill", "batch": 2, "seq_len": 16, **options})
    return found, found.sharded


def layers_in(work: Workload) -> list[int]:
    return sorted({int(op.path.split(".")[2]) for op in work if op.path.startswith("model.layers.")})


@pytest.mark.parametrize(("pp", "layers"), [(2, [3, 2]), (3, [2, 2, 1]), (5, [1] * 5)])
def test_whole_layers_as_even_as_can_be(pp: int, layers: list[int]) -> None:
    _, sharded = stages_of(Layout(pp=pp))
    assert list(sharded.layers) == layers
    assert [len(layers_in(stage)) for stage in sharded.stages] == layers
    assert [layer for stage in sharded.stages for layer in layers_in(stage)] == list(range(5))
    paths = [{op.path for op in stage} for stage in sharded.stages]
    assert [("model.embed_tokens" in found, "lm_head" in found) for found in paths] == [
        (stage == 0, stage == pp - 1) for stage in range(pp)
    ]


@pytest.mark.parametrize("phase", ["prefill", "decode", "train"])
def test_nothing_is_lost_between_stages(phase: str) -> None:
    length = {"seq_len": None, "context": 16} if phase == "decode" else {}
    found, sharded = stages_of(Layout(pp=3), phase=phase, **length)
    again = sum(op.flops for op in found.workload if op.path == "model.rotary_emb") * 2
    assert sum(stage.flops for stage in sharded.stages) == found.workload.flops + again
    weights = [t for stage in sharded.stages for t in stage.tensors.values() if t.role == "weight"]
    assert sum(t.nbytes for t in weights) == found.workload.role_bytes("weight")
    assert sum(stage.role_bytes("kv_cache") for stage in sharded.stages) == found.workload.role_bytes("kv_cache")


def test_hidden_states_are_sent_on_and_gradients_back() -> None:
    hidden = 2 * 16 * 64 * 4.0
    _, sharded = stages_of(Layout(pp=3, tp=2))
    sent = [[op.collective for op in stage if op.target == "send"] for stage in sharded.stages]
    assert sent == [[Collective("send", hidden, 2, stride=2)]] * 2 + [[]]
    _, sharded = stages_of(Layout(pp=3), phase="train")
    phases = [[(op.phase, op.collective) for op in stage if op.target == "send"] for stage in sharded.stages]
    link = Collective("send", hidden, 2, stride=1)
    assert phases == [[("forward", link)], [("forward", link), ("backward", link)], [("backward", link)]]


def test_a_stage_reads_only_what_it_has() -> None:
    """Everything a stage reads is from outside (weights, caches, inputs), was sent to it, or was made by it before."""
    for phase in ("prefill", "train"):
        _, sharded = stages_of(Layout(pp=3), phase=phase)
        for number, stage in enumerate(sharded.stages):
            others = [op for other in sharded.stages if other is not stage for op in other]
            sent = {t for op in others if op.target == "send" for t in op.inputs}
            made: set[int] = set()
            for op in stage:
                for tensor in op.inputs:
                    known = stage.tensors[tensor]
                    assert known.producer is None or tensor in made or tensor in sent, (number, op.path, op.target)
                made.update(op.outputs)
            assert all(op.index == index for index, op in enumerate(stage))


def test_the_result_is_all_stages_one_after_the_other() -> None:
    options: dict[str, Any] = {"phase": "prefill", "batch": 4, "seq_len": 16}
    whole = profile_model(llama(), **options)
    piped = profile_model(llama(), layout=Layout(pp=2), **options)
    sends = [k for k in piped.chips[0].kernels if k.name == "send"]
    assert len(sends) == 1
    assert whole.total.kernels < piped.total.kernels <= whole.total.kernels + 3  # positions are computed on both
    parallel = piped.chips[0].parallel
    assert parallel is not None
    assert parallel.step_s == pytest.approx(piped.total.latency_s) == pytest.approx(sum(parallel.stages_s))
    assert piped.timeline().latency_s == pytest.approx(piped.total.latency_s)
    starts = [k.start_s for k in piped.chips[0].kernels]
    assert starts == sorted(starts)
    more = profile_model(llama(), layout=Layout(pp=2), micro_batches=4, **options).chips[0].parallel
    assert more is not None and more.bubble < parallel.bubble
    assert more.step_s == pytest.approx(pipeline.batch_s(more.stages_s, 4))


def test_all_chips_take_what_each_takes() -> None:
    options: dict[str, Any] = {"phase": "prefill", "batch": 4, "seq_len": 16}
    one = profile_model(llama(), layout=Layout(tp=2, dp=2), **options)
    parallel = one.chips[0].parallel
    assert parallel is not None and parallel.chips == 4
    assert parallel.energy_j == pytest.approx(4 * one.total.energy_j)
    assert "layout: tp2 dp2, 4 chips; the table shows one chip\nall chips: step" in one.table()
    page = render(one.result, "html", timelines=one.timelines())
    assert "tp2 dp2, 4 chips" in page
    both = profile_model(llama(), layout=Layout(tp=2), chips=["h100-sxm", "a100-sxm-80gb"], **options)
    assert "energy, all chips" in both.table()
    assert type(one.result).from_dict(one.result.to_dict()) == one.result


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=5), st.integers(1, 6))
def test_a_batch_through_stages_is_a_flow_shop(stages_s: list[float], micro_batches: int) -> None:
    """Against a simulation: a stage starts a micro-batch when it is free and the stage before is done with it."""
    free = [0.0] * len(stages_s)
    for _ in range(micro_batches):
        ready = 0.0
        for stage, seconds in enumerate(stages_s):
            ready = free[stage] = max(ready, free[stage]) + seconds
    assert pipeline.batch_s(stages_s, micro_batches) == pytest.approx(free[-1])
    assert 0 <= pipeline.bubble(stages_s, micro_batches, free[-1]) < 1
    assert pipeline.round_s(stages_s, micro_batches) <= pipeline.batch_s(stages_s, micro_batches) * (1 + 1e-12)


def test_the_bubble_of_equal_stages_is_the_published_one() -> None:
    """GPipe and 1F1B: (p - 1) / (m + p - 1) of the time, (p - 1) / m of the ideal time."""
    p, m, t = 8, 24, 0.5
    step = pipeline.batch_s([t] * p, m)
    assert pipeline.bubble([t] * p, m, step) == pytest.approx((p - 1) / (m + p - 1))
    assert step / (m * t) - 1 == pytest.approx((p - 1) / m)
    assert [pipeline.in_flight(stage, p, m) for stage in (0, 7)] == [8, 1]
    assert pipeline.in_flight(0, p, 2) == 2


def test_batches_that_do_not_divide() -> None:
    assert share_of_batch(8, Layout(dp=2), 2) == (2, ())
    most, notes = share_of_batch(10, Layout(dp=4))
    assert most == 3 and "10 sequences do not divide evenly" in notes[0]
    with pytest.raises(InputError, match="over dp = 2 gives a pipeline 2 sequences, fewer than the 3 micro-batches"):
        share_of_batch(4, Layout(dp=2, pp=3), 3)
    with pytest.raises(InputError, match="micro_batches pass the stages of a pipeline; give a layout with pp of 2"):
        share_of_batch(4, None, 2)


def test_a_model_without_layers_has_one_stage() -> None:
    nest = LoopNest("pointwise", (("c", 4),), (), "fp32")
    op = Operation(0, "aten.relu.default", "act", (nest,), (0,), (1,))
    work = Workload((op,), {0: Tensor(0, "x", 16, "activation"), 1: Tensor(1, "y", 16, "activation", 0)}, name="tiny")
    with pytest.raises(InputError, match="pp is 2, more stages than the model, which has no repeated layers, of tiny"):
        split(work, Layout(pp=2))
