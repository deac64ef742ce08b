"""Values that the user supplies, masks that are taken to mask nothing, and what errors of the model look like."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import torch_regflat as regflat
from torch_regflat.capture import capture
from torch_regflat.errors import CaptureError, InputError

META = torch.zeros(4, device="meta")


class Routes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(4, 4), nn.ReLU()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.experts[int(x.argmax())](x)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Routes(), Routes()])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            hidden = layer(hidden * 2)
        return hidden


LINE = Routes.forward.__code__.co_firstlineno + 1


def names(hints: dict[str, Any]) -> list[str]:
    graph = capture(Model(), (META,), hints=hints)
    return [str(n.target).split(".")[1] for n in graph.graph.nodes if n.op == "call_function"]


def test_the_refusal_says_how_to_give_the_value() -> None:
    with pytest.raises(CaptureError, match=r"or give the value with hints=\{'layers.0': ...\}"):
        capture(Model(), (META,))


@pytest.mark.parametrize(
    ("hints", "last"),
    [
        ({"layers.0": 0, "layers.1": 1}, ["linear", "mul", "argmax", "relu"]),
        ({"layers.*": 0}, ["linear", "mul", "argmax", "linear"]),
        ({f"test_hints.py:{LINE}": 1}, ["relu", "mul", "argmax", "relu"]),
        ({f"{__file__}:{LINE}": torch.tensor(1)}, ["relu", "mul", "argmax", "relu"]),
        ({"layers.*": iter([1, 0])}, ["relu", "mul", "argmax", "linear"]),
        ({"layers.*": 0, f"test_hints.py:{LINE}": 1}, ["relu", "mul", "argmax", "relu"]),
    ],
)
def test_a_hint_is_found_by_path_or_line(hints: dict[str, Any], last: list[str]) -> None:
    assert names(hints) == ["mul", "argmax", *last]


def test_hints_for_values_and_numbers_of_rows() -> None:
    line = f"test_hints.py:{(lambda: None).__code__.co_firstlineno + 3}"

    def ask(x: torch.Tensor) -> Any:
        return x.tolist(), x.nonzero().shape, x[x > 0].shape, x.masked_select(x > 0).shape, x.unique().shape

    found: list[Any] = []
    with pytest.raises(InputError, match="has to be the number of rows that are found, got \\[1, 2, 3, 4\\]"):
        capture(lambda x: found.append(ask(x)), (META,), hints={line: [1, 2, 3, 4]})
    hints = {line: iter([[1, 2, 3, 4], 3, 2, 1, 2])}
    capture(lambda x: found.append(ask(x)), (META,), hints=hints)
    assert found == [([1.0, 2.0, 3.0, 4.0], (3, 1), (2,), (1,), (2,))]


def test_hints_that_do_not_fit() -> None:
    with pytest.raises(InputError, match=r"the hint for .*test_hints.py:\d+ has to be a number, found str"):
        names({"layers.*": "first"})
    with pytest.raises(InputError, match=r"the hint 'layers\.\*' has no more values"):
        names({"layers.*": iter([0])})
    with pytest.raises(InputError, match="a hint is named by a module path or file:line, found 3"):
        capture(Model(), (META,), hints={3: 1})  # type: ignore[dict-item]


def test_profile_takes_hints() -> None:
    made = regflat.profile(Model(), (META,), hints={"layers.*": 0})
    assert made.total.flops == 2 * 2 * 4 * 4


def test_a_training_step_takes_hints() -> None:
    with pytest.raises(regflat.CaptureError, match="or give the value with hints="):
        regflat.profile_training(Model(), META)
    made = regflat.profile_training(Model(), META, optimizer=None, hints={"layers.*": 0})
    forward = sum(kernel.flops for kernel in made.chips[0].kernels if kernel.phase == "forward")
    assert forward == 2 * 2 * 4 * 4


def test_a_boolean_index_of_unknown_numbers_by_a_known_mask() -> None:
    graph = capture(lambda x: x[torch.tensor([True, False, True, True])], (META,))
    assert graph.graph.output_node().meta["val"][0].shape == (3,)


def test_repeating_unknown_numbers_known_times() -> None:
    graph = capture(lambda x: x.repeat_interleave(torch.tensor([1, 0, 2, 3])), (META,))
    assert graph.graph.output_node().meta["val"][0].shape == (6,)


def test_writing_through_an_unknown_mask_keeps_the_shape() -> None:
    def write(x: torch.Tensor) -> torch.Tensor:
        x = x + 1
        x[x > 2] = 0.0
        return x

    graph = capture(write, (META,))
    assert graph.graph.output_node().meta["val"][0].shape == (4,)


def masked(x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    return x if bool(attention_mask.all()) else x * attention_mask


def test_an_attention_mask_without_values_masks_nothing_and_that_is_said() -> None:
    mask = torch.ones(1, 4, dtype=torch.int64, device="meta")
    made = regflat.profile(masked, (META, mask))
    assert "attention_mask has no values; taken as all ones (no padding)" in made.result.notes
    with pytest.raises(CaptureError, match="depends on the input 'other'"):
        capture(lambda x, other: masked(x, other), (META, mask))


def test_real_masks_are_read() -> None:
    graph = capture(masked, (META, torch.tensor([[1, 1, 0, 0]])))
    assert "aten.mul.Tensor" in {str(n.target) for n in graph.graph.nodes}
    assert graph.meta["notes"] == ()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.mlp(x)
        return out


def test_a_wrong_shape_repeats_the_models_error_with_its_path() -> None:
    with pytest.raises(CaptureError, match=r"^mlp\.0 \(Linear\): RuntimeError: .*(3|\[1, 5\]).*"):
        regflat.profile(Block(), (torch.zeros(1, 5),))


def test_a_wrong_number_of_inputs_repeats_the_models_error() -> None:
    with pytest.raises(CaptureError, match=r"^Block: TypeError: Block\.forward\(\) takes 2 positional arguments but 3"):
        regflat.profile(Block(), (META, META))
    with pytest.raises(CaptureError, match=r"^Block: TypeError: .*missing 1 required positional argument: 'x'"):
        regflat.profile(Block(), ())


@pytest.mark.parametrize("good", [True, False])
def test_a_model_in_memory_is_left_as_it_was(good: bool) -> None:
    model, x = Block(), torch.zeros(2, 4 if good else 5)
    calls = nn.Module.__call__
    before = {k: (v, v.data_ptr(), v.clone()) for k, v in model.state_dict(keep_vars=True).items()}
    keys = {name: set(vars(part)) for name, part in model.named_modules()}
    try:
        regflat.profile(model, (x,))
    except CaptureError:
        assert not good
    assert nn.Module.__call__ is calls
    for name, value in model.state_dict(keep_vars=True).items():
        old, pointer, numbers = before[name]
        assert value is old and value.data_ptr() == pointer and torch.equal(value, numbers)
    assert {name: set(vars(part)) for name, part in model.named_modules()} == keys
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert model(torch.ones(1, 4)).shape == (1, 4)
