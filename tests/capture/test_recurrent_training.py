"""Recurrent layers in training: one operator forward and one backward, with the work of the unrolled steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode

from torch_regflat.capture.training import capture_training
from torch_regflat.operators.lowering import workload

STEPS, BATCH, WIDTH = 5, 3, 16


def counted(model: nn.Module, *args: Any) -> int:
    """What torch's counter gives for the products of all steps, which meta tensors are run through one by one."""
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), model).to("meta")
    with FlopCounterMode(display=False) as counter:
        out, states = model(*(arg.to("meta") for arg in args))
        (out.sum() + sum(s.sum() for s in (states if isinstance(states, tuple) else (states,)))).backward()
    return int(counter.get_total_flops())


def captured(model: nn.Module, *args: Any) -> Any:
    def step(*inner: Any) -> torch.Tensor:
        out, states = nn.Sequential.forward(wrapped, *inner)
        return out.sum() + sum(s.sum() for s in (states if isinstance(states, tuple) else (states,)))  # type: ignore[no-any-return]

    wrapped = nn.Sequential(nn.Linear(WIDTH, WIDTH), model)
    wrapped.forward = step  # type: ignore[method-assign]
    return capture_training(wrapped, args, optimizer=None)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN], ids=["lstm", "gru", "rnn"])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2}, {"bidirectional": True, "num_layers": 2}, {"batch_first": True}, {"bias": False}],
    ids=["plain", "layers", "bidirectional", "batch_first", "no_bias"],
)
def test_flops_equal_those_of_the_unrolled_steps(kind: Any, options: dict[str, Any]) -> None:
    x = torch.randn(STEPS, BATCH, WIDTH)
    graph = captured(kind(WIDTH, 24, **options), x)
    whole = [n for n in graph.graph.nodes if "regflat" in str(n.target)]
    assert [n.meta["phase"] for n in whole] == ["forward", "backward"]
    assert {n.meta["module_path"] for n in whole} == {"1"}
    assert workload(graph).flops == counted(kind(WIDTH, 24, **options), x)


def test_a_projection_and_first_states_with_gradients() -> None:
    x = torch.randn(STEPS, BATCH, WIDTH)
    model = nn.LSTM(WIDTH, 24, proj_size=8)
    assert workload(captured(model, x)).flops == counted(nn.LSTM(WIDTH, 24, proj_size=8), x)

    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.first = nn.GRU(WIDTH, 24), nn.Parameter(torch.zeros(1, BATCH, 24))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gru(x, self.first)[0]  # type: ignore[no-any-return]

    with FlopCounterMode(display=False) as counter:
        Learned().to("meta")(x.to("meta")).sum().backward()
    graph = capture_training(Learned(), (x,), optimizer=None)
    assert workload(graph).flops == counter.get_total_flops()
    gradients = next(n for n in graph.graph.nodes if n.op == "output").args[0][1:]
    assert [tuple(g.meta["val"].shape) for g in gradients] == [tuple(p.shape) for p in Learned().parameters()]


def test_a_packed_batch_is_one_operator_too() -> None:
    packed = pack_padded_sequence(torch.randn(STEPS, BATCH, WIDTH), torch.tensor([5, 5, 5]))

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(WIDTH, 24)

        def forward(self, data: torch.Tensor) -> torch.Tensor:
            out, _ = self.lstm(PackedSequence(data, packed.batch_sizes))
            return out.data  # type: ignore[no-any-return]

    graph = capture_training(Packed(), (packed.data,), optimizer=None)
    assert sum("regflat.rnn" in str(n.target) for n in graph.graph.nodes) == 2
    points = STEPS * BATCH
    forward = 2 * points * 4 * 24 * (WIDTH + 24)
    # No gradient for the input and for the first state.
    backward = forward + 2 * (points - BATCH) * 4 * 24 * 24
    assert workload(graph).flops == forward + backward


def test_training_a_long_sequence_is_captured_in_a_few_operators() -> None:
    with torch.device("meta"):
        model, x = nn.LSTM(64, 64, num_layers=2), torch.empty(2048, 8, 64)
    graph = capture_training(model, (x,), loss=lambda out: out[0].sum())
    assert len(graph.graph.nodes) < 80
