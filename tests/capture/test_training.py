"""A training step as one graph: phases, module paths, the optimizer's traffic, recomputation, repeated layers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule, Node
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from torch_regflat.capture.training import capture_training
from torch_regflat.errors import CaptureError, InputError
from torch_regflat.operators.lowering import workload

from .same import assert_same

aten = torch.ops.aten


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))


def calls(graph: GraphModule, phase: str) -> list[Node]:
    return [n for n in graph.graph.nodes if n.op == "call_function" and n.meta["phase"] == phase]


def both(model: Any, *args: Any, **options: Any) -> GraphModule:
    """Capture with and without repeats and check that the graphs are the same."""
    quick = capture_training(model, args, **options)
    assert_same(quick, capture_training(model, args, repeats=False, **options))
    quick.graph.lint()
    return quick


class Block(nn.Module):
    def __init__(self, size: int = 32, again: bool | None = None) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(size)
        self.up, self.down = nn.Linear(size, 2 * size), nn.Linear(2 * size, size, bias=False)
        self.again = again

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down(F.silu(self.up(self.norm(x))))
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.again is None:
            return x + self.mlp(x)
        return x + checkpoint(self.mlp, x, use_reentrant=self.again)  # type: ignore[no-any-return]


class Stack(nn.Module):
    def __init__(self, layers: int = 5, again: bool | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.layers = nn.ModuleList(Block(again=again) for _ in range(layers))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return F.linear(x, self.embed.weight)


IDS = torch.zeros(2, 7, dtype=torch.int64)


def test_flops_equal_torchs_counter_forward_and_backward() -> None:
    model, x = Stack(), IDS
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    assert workload(capture_training(model, (x,))).flops == counter.get_total_flops()


def test_backward_operators_lie_on_the_path_of_their_module() -> None:
    graph = capture_training(net(), (torch.randn(4, 16),))
    products = [(n.meta["module_path"], n.target) for n in calls(graph, "backward") if n.target is aten.mm.default]
    assert products == [("2", aten.mm.default), ("2", aten.mm.default), ("0", aten.mm.default)]
    assert [n.meta["module_path"] for n in calls(graph, "backward") if n.target is aten.threshold_backward.default] == [
        "1"
    ]


def test_gradients_become_grad_without_a_copy() -> None:
    graph = capture_training(net(), (torch.randn(4, 16),))
    assert not [n for n in calls(graph, "backward") if n.target in (aten.copy_.default, aten.clone.default)]


def test_the_output_is_the_loss_and_the_gradients() -> None:
    graph = capture_training(net(), (torch.randn(4, 16),), optimizer=None)
    shapes = [tuple(n.meta["val"].shape) for n in next(n for n in graph.graph.nodes if n.op == "output").args[0]]
    assert shapes == [(), (32, 16), (32,), (8, 32), (8,)]
    assert not calls(graph, "optimizer")


@pytest.mark.parametrize(
    ("optimizer", "read", "written", "state"),
    [("adamw", 4, 3, 2), ("sgd", 2, 1, 0), ("sgd-momentum", 3, 2, 1)],
)
def test_the_optimizer_reads_and_writes_exactly_what_torchs_does(
    optimizer: str, read: int, written: int, state: int
) -> None:
    model = nn.Linear(256, 128, bias=False)
    graph = capture_training(nn.Sequential(model), (torch.randn(4, 256),), optimizer=optimizer)
    (step,) = [op for op in workload(graph) if op.phase == "optimizer"]
    size, counter = 256 * 128 * 4, 4 * (optimizer == "adamw")  # the step counter is one number
    assert step.path == "0"
    assert sum(nest.compulsory_bytes("read") for nest in step.nests) == read * size + counter
    assert sum(nest.compulsory_bytes("write") for nest in step.nests) == written * size
    states = [n for n in graph.graph.nodes if n.op == "get_attr" and n.meta["phase"] == "optimizer"]
    assert sum(n.meta["val"].numel() > 1 for n in states) == state
    assert all(n.meta["role"] == "state" for n in states)


def test_attention_and_norms_stay_whole() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.RMSNorm(32)

        def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
            heads = self.norm(x).view(2, 6, 4, 8).transpose(1, 2)
            return F.scaled_dot_product_attention(heads, heads, heads, mask, is_causal=mask is None)

    x = torch.randn(2, 6, 32)
    plain = Counter(n.target for n in capture_training(Attention(), (x, None)).graph.nodes)
    assert plain[aten._scaled_dot_product_flash_attention.default] == 1
    assert plain[aten._scaled_dot_product_flash_attention_backward.default] == 1
    assert plain[aten._fused_rms_norm_backward.default] == 1
    masked = Counter(
        n.target for n in capture_training(Attention(), (x, torch.ones(6, 6, dtype=torch.bool))).graph.nodes
    )
    assert masked[aten._scaled_dot_product_cudnn_attention_backward.default] == 1


def test_operators_are_torchs_own_again_afterwards() -> None:
    capture_training(net(), (torch.randn(4, 16),))
    x = torch.randn(1, 2, 4, 8, device="meta", requires_grad=True)
    assert "Flash" not in F.scaled_dot_product_attention(x, x, x).grad_fn.name()  # type: ignore[union-attr]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_shows_as_recomputation(reentrant: bool) -> None:
    plain = both(Stack(), IDS)
    again = both(Stack(again=reentrant), IDS)
    assert not calls(plain, "recompute")
    paths = {n.meta["module_path"] for n in calls(again, "recompute") if n.target is aten.addmm.default}
    assert paths == {f"layers.{i}.up" for i in range(5)}
    assert len(calls(again, "backward")) == len(calls(plain, "backward"))


def test_repeated_layers_give_the_graph_of_the_full_trace() -> None:
    graph = both(Stack(), IDS)
    assert sum("template" in n.meta for n in calls(graph, "backward")) > len(calls(graph, "backward")) / 2


def test_repeated_layers_with_several_results_and_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.a(x) + y, self.b(y)

    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Two() for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x
            for layer in self.layers:
                x, y = layer(x, y)
            return x

    both(Pairs(), torch.randn(3, 8))


def test_layers_that_change_their_input_in_place_are_run() -> None:
    class Relu(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ReLU(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner(x)
            return out

    both(nn.Sequential(nn.Linear(8, 8), Relu(), nn.Linear(8, 8), Relu()), torch.randn(2, 8))


def test_a_tensor_that_leaves_a_layer_by_the_back_door_is_followed() -> None:
    kept: list[torch.Tensor] = []

    class Leaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.linear(x)
            kept.append(hidden)
            return F.relu(hidden)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Leaky() for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept.clear()
            for layer in self.layers:
                x = layer(x)
            return x + torch.stack(kept).sum(0)

    both(Model(), torch.randn(2, 8))


def test_nothing_of_the_model_is_changed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    parameters, copies = list(model.parameters()), [t.clone() for t in model.state_dict().values()]
    graph = capture_training(model, (torch.randn(2, 3, 8, 8),), train_mode=True)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(p.grad is None for p in parameters)
    assert all(torch.equal(a, b) for a, b in zip(copies, model.state_dict().values(), strict=True))
    assert not model.training and not model[1].training
    assert getattr(graph, "0").weight is model[0].weight


def test_nothing_of_the_model_is_changed_after_an_error() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.linear(x)
            raise ValueError("no")
            return out

    model = nn.Sequential(Broken())
    weight = model[0].linear.weight
    with pytest.raises(CaptureError, match="0 \\(Broken\\): forward: ValueError: no"):
        capture_training(model, (torch.randn(2, 8),))
    assert model[0].linear.weight is weight and weight.device.type == "cpu"


def test_a_loss_of_ones_own() -> None:
    graph = capture_training(net(), (torch.randn(4, 16),), loss=lambda out: F.mse_loss(out, torch.zeros_like(out)))
    assert [n for n in calls(graph, "backward") if n.target is aten.mse_loss_backward.default]


def test_messages() -> None:
    with pytest.raises(InputError, match="unknown optimizer 'adam'; did you mean adamw"):
        capture_training(net(), (torch.randn(4, 16),), optimizer="adam")
    with pytest.raises(CaptureError, match="the loss of Sequential is a tensor of shape \\(4, 8\\); it must be"):
        capture_training(net(), (torch.randn(4, 16),), loss=lambda out: out)
    with pytest.raises(CaptureError, match="no tensor that depends on a parameter, so there is no loss"):
        capture_training(net().requires_grad_(False), (torch.randn(4, 16),))


def test_frozen_parameters_get_no_gradient_and_no_update() -> None:
    model = Stack()
    for layer in model.layers[:3]:
        layer.requires_grad_(False)
    graph = both(model, IDS)
    updated = {n.meta["module_path"] for n in calls(graph, "optimizer")}
    assert "layers.4.up" in updated and "layers.0.up" not in updated
