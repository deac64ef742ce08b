"""Deep models from shallow ones: which depths are taken, and that costs are those of all layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from torch_regflat.layout import Layout
from torch_regflat.serving.layouts import candidates
from torch_regflat.serving.shallow import Depths, ShallowSteps, chosen_depths, depths_of
from torch_regflat.serving.steps import Model, Step, Steps

CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 256, "intermediate_size": 512,
    "moe_intermediate_size": 128, "num_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 14,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32, "vocab_size": 2000, "torch_dtype": "bfloat16",
    "max_position_embeddings": 4096, "mlp_only_layers": [0],
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A mixture whose first layer is dense."""
    folder = Path(tmp_path_factory.mktemp("deep"))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return Model(str(folder))


@pytest.mark.parametrize(
    ("layers", "depths"),
    [
        ("a" * 32, Depths(32, 4, 8)),
        ("ddd" + "m" * 58, Depths(61, 7, 11)),
        ("ab" * 21, Depths(42, 4, 8)),
        ("aaaaag" * 5 + "aaaa", Depths(34, 10, 16)),
        ("a" * 10, None),
        ("abcdefghijklmnopqrstuvwxyz", None),
    ],
)
def test_depths(layers: str, depths: Depths | None) -> None:
    """The smallest two between which whole periods lie, and beyond the second as well."""
    found = chosen_depths(list(layers))
    assert found == depths
    if found is not None:
        tail = layers[found.shallow :]
        group = found.deep - found.shallow
        assert all(tail[i] == tail[i - group] for i in range(group, len(tail)))


def test_all_layers_are_priced(model: Model) -> None:
    depths = depths_of(model)
    assert depths == Depths(14, 5, 9)
    whole, shallow = Steps(model, "h100-sxm"), ShallowSteps(model, "h100-sxm", depths)
    for layout in (Layout(), Layout(tp=2, ep=2), Layout(dp=2, ep=2)):
        for step in (Step(8, 1, 300), Step(2, 64, 200), Step(2, 128)):
            one, other = whole.cost(step, layout), shallow.cost(step, layout)
            for name in ("seconds", "joules", "executed_flops", "weights_bytes", "kv_cache_bytes"):
                assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-3, abs=1e-9), name
    staged = Layout(tp=2, ep=2, pp=2)
    one, other = (steps.cost(Step(64, 1, 300), staged) for steps in (whole, shallow))
    assert other.seconds == pytest.approx(one.seconds, rel=0.06)
    assert other.weights_bytes == pytest.approx(one.weights_bytes, rel=0.1)


def test_layouts_worth_a_look(model: Model) -> None:
    none = dict.fromkeys(("tp", "ep", "pp", "dp"))
    eight = candidates(model, 8, none, 1)
    assert all(layout.chips == 8 for layout in eight) and len(set(eight)) == len(eight)
    assert Layout(tp=2, dp=4, ep=8) in eight and Layout(tp=8) in eight and Layout(pp=8) in eight
    assert Layout(tp=2, dp=4) not in eight  # the same as four instances of two chips
    assert candidates(model, None, {**none, "tp": 2}, 1) == [Layout(tp=2)]
    assert {layout.chips for layout in candidates(model, None, none, 3)} == {4, 8}
