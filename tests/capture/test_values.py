"""Values are answered only when they are known exactly; elsewhere the message says where and what to pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from torch_regflat.capture import capture
from torch_regflat.errors import CaptureError

META = torch.zeros(4, device="meta")


def answered(f: Callable[[torch.Tensor], Any], x: torch.Tensor = META) -> list[Any]:
    """What `f` collects while it is captured."""
    found: list[Any] = []

    def wrapped(x: torch.Tensor) -> torch.Tensor:
        found.append(f(x))
        return x + 1

    capture(wrapped, (x,))
    return found


def packed(x: torch.Tensor) -> bool:
    # What transformers' masking_utils asks of position ids.
    ids = torch.arange(x.shape[0], device=x.device).unsqueeze(0) + 3
    steps = torch.diff(ids, prepend=ids[:, :1] - 1, dim=-1)
    return bool(((steps != 1).cumsum(-1)[:, -1] == 0).all())


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (packed, True),
        (lambda x: torch.arange(5)[3].item(), 3),
        (lambda x: int(torch.full((2, 2), 7, device=x.device).sum()), 28),
        (lambda x: torch.tensor([1, 2, 3], device=x.device).tolist(), [1, 2, 3]),
        (lambda x: float(x.new_tensor(1.5)), 1.5),
        (lambda x: torch.ones(3, device=x.device).numpy().sum(), 3.0),
        (lambda x: torch.equal(torch.eye(2), torch.eye(2)), True),
        (lambda x: torch.allclose(torch.eye(2), torch.ones(2, 2)), False),
        (lambda x: torch.linspace(0, 1, 5, device=x.device)[-1].item(), 1.0),
        (lambda x: tuple(torch.eye(3, device=x.device).nonzero().shape), (3, 2)),
        (lambda x: torch.arange(6, device=x.device)[torch.arange(6) % 2 == 0].shape[0], 3),
        (lambda x: torch.tensor([3, 1, 3]).unique().tolist(), [1, 3]),
        (lambda x: torch.nn.functional.one_hot(torch.tensor([0, 2])).shape[1], 3),
        # The shape of an unknown tensor is known.
        (lambda x: torch.full_like(x, 2.0)[1:].sum().item(), 6.0),
        (lambda x: torch.zeros_like(x, dtype=torch.bool).logical_not().nonzero().shape[0], 4),
        (lambda x: x.new_ones(2, 3).sum().item(), 6.0),
        (lambda x: torch.eye(2, 4).bool()[0].expand_as(x).nonzero().tolist(), [[0]]),
        (lambda x: torch.arange(4).type_as(x).view_as(x).sum().item(), 6.0),
        # Lists as positions, and tensors made of known numbers.
        (lambda x: torch.arange(6, device=x.device)[[4, 1]].tolist(), [4, 1]),
        (lambda x: torch.arange(6, device=x.device).view(2, 3)[:, [True, False, True]].tolist(), [[0, 2], [3, 5]]),
        (lambda x: torch.eye(3, device=x.device)[tuple(torch.tensor([0, 1])), (0, 2)].tolist(), [1.0, 0.0]),
        (lambda x: torch.tensor([0, torch.arange(9)[7], 1], device=x.device).tolist(), [0, 7, 1]),
        (lambda x: x.narrow(0, x.sum().long(), 3).shape[0], 3),
        (lambda x: torch.distributions.Categorical(logits=x).entropy().shape, ()),
    ],
)
def test_known_values_are_answered_exactly(question: Callable[[torch.Tensor], Any], answer: Any) -> None:
    assert answered(question) == [answer]


def test_changes_in_place_are_followed_in_their_order() -> None:
    def question(x: torch.Tensor) -> list[Any]:
        mask = torch.zeros(3, device=x.device)
        first = mask.sum().item()
        mask[1:].fill_(2)
        view = mask[0]
        view.add_(5)
        return [first, mask.tolist()]

    assert answered(question) == [[0.0, [5.0, 2.0, 2.0]]]


def test_inputs_and_buffers_with_real_values_are_known() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("step", torch.tensor(3))

        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            for length in lengths.tolist():
                x = x + length
            self.step.add_(1)
            return x * int(self.step)

    model = Counts()
    gm = capture(model, (META, torch.tensor([1, 2])))
    scalars = [node.args[1] for node in gm.graph.nodes if node.op == "call_function" and len(node.args) == 2]
    assert scalars == [1, 2, 1, 4]
    assert int(model.step) == 3


def refused(f: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(CaptureError) as caught:
        capture(f, args)
    return str(caught.value)


class Routes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(4, 4), nn.ReLU()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.experts[int(x.argmax())](x)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = Routes()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.mlp(hidden * 2)


def test_an_unknown_value_names_module_line_and_input() -> None:
    message = refused(Model(), META)
    line = Routes.forward.__code__.co_firstlineno + 1
    assert message == (
        f"mlp (Routes): {__file__}:{line} asks for the value of a tensor (aten.item.default) that depends on "
        "the input 'hidden', whose values are not known; pass a real CPU tensor for input 'hidden', "
        "or give the value with hints={'mlp': ...}"
    )


def test_unknown_values_asked_for_by_tolist() -> None:
    message = refused(lambda x: x.tolist(), META)
    assert "asks for the values of a tensor (tolist) that depends on the input 'x'" in message


def test_unknown_shapes_are_refused() -> None:
    message = refused(lambda x: x.nonzero(), META)
    assert "needs the values of a tensor (aten.nonzero.default) that depends on the input 'x'" in message
    assert "masked_select" in refused(lambda x: x.masked_select(x > 0), META)
    assert "_unique2" in refused(lambda x: x.unique(), META)


def test_random_numbers_and_memory_that_was_not_set_are_unknown() -> None:
    assert "depends on random numbers (aten.rand.default)" in refused(lambda x: torch.rand(()).item(), META)
    assert "depends on uninitialised memory (aten.empty" in refused(lambda x: torch.empty(()).item(), META)


def test_parameters_without_values_are_unknown() -> None:
    with torch.device("meta"):
        linear = nn.Linear(2, 2)
    assert "the parameter 'Linear.weight', whose values are not known; give the parameter" in refused(
        lambda x: linear(torch.ones(2)).sum().item(), META
    )


def test_too_many_numbers_are_not_worked_out() -> None:
    assert "depends on more than 4194304 numbers" in refused(lambda x: torch.ones(1 << 23).sum().item(), META)


def test_two_views_of_a_real_tensor_that_is_written_to_are_refused() -> None:
    base = torch.zeros(4)

    def f(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Any:
        a.add_(1)
        return x * (a + b).sum().item()

    message = refused(f, META, base[:2], base[2:])
    assert "which is changed in place; pass a tensor that shares no memory" in message


def test_nothing_is_worked_out_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_regflat.capture.values import Values

    monkeypatch.setattr(Values, "run", lambda *_: pytest.fail("evaluated"))
    capture(lambda x: x + torch.arange(4).sum(), (META,))
