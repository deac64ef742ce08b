"""All layouts of a model, priced with a few of its layers, against each of them profiled with all."""

from __future__ import annotations

import math
import types
from typing import Any

import pytest
import torch

from torch_regflat.capture.huggingface import build_class
from torch_regflat.capture.thin import Thin
from torch_regflat.errors import InputError
from torch_regflat.layout import Layout
from torch_regflat.profiler import profile_model
from torch_regflat.study.layouts import layouts, legal

transformers = pytest.importorskip("transformers")

CONFIG = transformers.DeepseekV3Config(
    hidden_size=512, intermediate_size=1024, moe_intermediate_size=256, num_hidden_layers=10, num_attention_heads=8,
    num_key_value_heads=8, n_routed_experts=16, num_experts_per_tok=4, n_group=1, topk_group=1, n_shared_experts=1,
    first_k_dense_replace=2, q_lora_rank=96, kv_lora_rank=128, qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64,
    vocab_size=4096, max_position_embeddings=4096,
)  # fmt: skip


def model() -> Any:
    return build_class(transformers.DeepseekV3ForCausalLM, CONFIG)


def test_layers_of_each_kind_are_kept() -> None:
    built = model()
    thin = Thin.of(built)
    assert thin is not None
    assert (thin.container, thin.kinds, thin.kept) == ("model.layers", (0, 0, *[1] * 8), (0, 1, 2, 3, 4))
    assert thin.counts(range(1, 5)) == {0: 1, 1: 3}
    with thin.applied(built):
        assert len(built.model.layers) == 5
    assert len(built.model.layers) == 10


def test_every_legal_layout_once() -> None:
    found = list(legal(model(), "it", 8, 8, thin=Thin.of(model())))
    assert len(set(found)) == len(found)
    assert all(layout.chips == 8 for layout in found)
    by_hand = {
        Layout(tp, ep, pp, dp)
        for tp in (1, 2, 4, 8) for pp in (1, 2, 4, 8) for dp in (1, 2, 4, 8) if tp * pp * dp == 8
        for ep in (1, 2, 4, 8) if tp * dp % ep == 0
    }  # fmt: skip
    assert set(found) == by_hand
    assert {layout.dp for layout in legal(model(), "it", 8, 2)} == {1, 2}


@pytest.mark.parametrize(
    ("chip", "phase", "some"),
    [
        ("h100-sxm", "decode", [Layout(tp=4), Layout(tp=2, ep=4, dp=2), Layout(pp=4), Layout(tp=2, ep=2, pp=2)]),
        ("regflat-physical", "prefill", [Layout(tp=2), Layout(pp=2)]),
    ],
)
def test_a_step_is_that_of_the_whole_model(chip: str, phase: str, some: list[Layout]) -> None:
    length = {"context": 512} if phase == "decode" else {"seq_len": 64}
    options: dict[str, Any] = {"batch": 8, "phase": phase, "mode": "serving", **length}
    found = {cost.layout: cost for cost in layouts(model(), chip, chips=some[0].chips, progress=False, **options)}
    for layout in some:
        whole = profile_model(model(), chips=chip, layout=layout, **options).chips[0]
        assert whole.parallel is not None
        cost = found[layout]
        close = 0.002 if layout.pp == 1 and chip == "h100-sxm" else 0.04  # a layer beside others than its kind
        assert cost.step_s == pytest.approx(whole.parallel.step_s, rel=close), layout
        assert cost.energy_j == pytest.approx(whole.parallel.energy_j, rel=close), layout
        assert cost.needs_bytes == pytest.approx(whole.fit.needs_bytes, rel=0.02), layout


class Counting(torch.nn.Module):
    """A model that takes its layers by their number."""

    main_input_name = "input_ids"

    def __init__(self) -> None:
        super().__init__()
        self.config = types.SimpleNamespace(num_hidden_layers=6)
        self.embed = torch.nn.Embedding(64, 32)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(32, 32) for _ in range(6))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        for index in range(self.config.num_hidden_layers):
            x = self.layers[index](x)
        return x


def test_a_model_that_counts_its_layers_is_priced_whole() -> None:
    with torch.device("meta"):
        counting = Counting()
    assert Thin.of(counting) is not None
    found = layouts(counting, "h100-sxm", chips=2, batch=2, phase="forward", seq_len=8, mode="graph", progress=False)
    assert {str(cost.layout) for cost in found} == {"pp2", "dp2"}
    (dp,) = [cost for cost in found if cost.layout.dp == 2]
    whole = profile_model(counting, phase="forward", batch=1, seq_len=8)
    assert dp.step_s == pytest.approx(whole.total.latency_s)


def test_the_fastest_that_fit_come_first() -> None:
    found = layouts(model(), "h100-sxm", chips=2, batch=4, phase="decode", context=128, progress=False)
    fits = [cost.fits for cost in found]
    assert fits == sorted(fits, reverse=True)
    times = [cost.step_s for cost in found if cost.fits]
    assert times == sorted(times) and all(map(math.isfinite, times))


def test_what_no_layout_divides_is_said() -> None:
    with pytest.raises(InputError, match="no layout of 77 chips divides .* with a batch of 1"):
        layouts(model(), "h100-sxm", chips=7 * 11, batch=1, phase="decode", context=16)
    with pytest.raises(InputError, match="layouts are compared for inference; price a training step with"):
        layouts(model(), "h100-sxm", chips=4, phase="train")
