"""Graphs that are equal have equal fingerprints, whatever the weights hold; others have others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torch_regflat as regflat


class Net(nn.Module):
    def __init__(self, width: int = 16, slope: float = 0.1, bias: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(8, width, bias=bias)
        self.slope = slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(self.up(x), self.slope)


def of(net: nn.Module, x: torch.Tensor | None = None) -> str:
    return regflat.profile(net, torch.zeros(4, 8) if x is None else x).result.graph_hash


def test_equal_graphs() -> None:
    first = of(Net())
    assert len(first) == 16
    assert of(Net()) == first  # other random weights
    assert regflat.profile(Net(), torch.zeros(4, 8), chip=["l4", "h200"], mode="eager").result.graph_hash == first


@pytest.mark.parametrize(
    "net", [Net(width=32), Net(slope=0.2), Net(bias=False), Net().to(torch.bfloat16).float().double()], ids=str
)
def test_other_graphs(net: nn.Module) -> None:
    x = torch.zeros(4, 8, dtype=next(net.parameters()).dtype)
    assert of(net, x) != of(Net())


def test_other_inputs_and_other_names() -> None:
    assert of(Net(), torch.zeros(5, 8)) != of(Net())
    assert of(nn.Sequential(Net())) != of(Net())


def test_it_is_kept_with_the_result(tmp_path: object) -> None:
    made = regflat.profile(Net(), torch.zeros(4, 8))
    assert regflat.Result.from_dict(made.to_dict()).graph_hash == made.result.graph_hash
    assert len(made.chips[0].software_hash) == 16
