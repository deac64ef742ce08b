"""Modules that users have divided themselves, with DTensor or with collectives of their own, are recorded as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

import torch_regflat as regflat
from torch_regflat.capture import capture
from torch_regflat.operators import workload
from torch_regflat.workload import Collective, Operation

RANKS = 4


@pytest.fixture
def mesh() -> Iterator[Any]:
    """One dimension of four ranks; the process is the first of them."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2 * RANKS)
    yield init_device_mesh("cpu", (2, RANKS), mesh_dim_names=("dp", "tp"))
    dist.destroy_process_group()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.act, self.down = nn.LayerNorm(64), nn.Linear(64, 256), nn.SiLU(), nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.act(self.up(self.norm(x))))


class Net(nn.Module):
    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def net(device: str = "meta") -> Net:
    with torch.device(device):
        return Net().eval()


def tensor_parallel(model: Net, mesh: Any) -> Net:
    for block in model.layers:
        parallelize_module(block, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return model


def sequence_parallel(model: Net, mesh: Any) -> Net:
    plan = {
        "norm": SequenceParallel(),
        "up": PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)),
        "down": RowwiseParallel(output_layouts=Shard(1)),
    }
    for block in model.layers:
        parallelize_module(block, mesh["tp"], {**plan, "up": ColwiseParallel(input_layouts=Shard(1))})
    return model


def exchanges(graph: torch.fx.GraphModule) -> list[tuple[str, Collective]]:
    return [(op.path, op.collective) for op in workload(graph) if op.collective is not None]


X = torch.empty(2, 8, 64, device="meta")


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_local_shapes_and_one_all_reduce_a_block(mesh: Any, device: str) -> None:
    graph = capture(tensor_parallel(net(device), mesh), (torch.empty(2, 8, 64, device=device),))
    assert exchanges(graph) == [
        (f"layers.{i}.down", Collective("all_reduce", 2 * 8 * 64 * 4.0, RANKS, stride=1)) for i in range(3)
    ]
    weights = {str(n.target): tuple(n.meta["val"].shape) for n in graph.graph.nodes if n.meta.get("role") == "weight"}
    assert weights["layers.1.up.weight"] == (64, 64)
    assert weights["layers.2.down.weight"] == (64, 64)
    assert weights["layers.0.norm.weight"] == (64,)


def test_nothing_of_the_whole_leaks_into_the_graph(mesh: Any) -> None:
    """DTensor works out global shapes by running operators on tensors of them; none of those is the model's."""
    graph = capture(tensor_parallel(net(), mesh), (X,))
    vals = [n.meta["val"] for n in graph.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    assert not [val for val in vals if 256 in val.shape]
    dead = [n for n in graph.graph.nodes if n.op == "call_function" and not n.users]
    assert not dead


def test_repeated_blocks_are_run_once(mesh: Any) -> None:
    graph = capture(tensor_parallel(net(), mesh), (X,))
    copied = {n.meta["module_path"].split(".")[1] for n in graph.graph.nodes if "template" in n.meta}
    assert copied == {"1", "2"}
    alone = capture(tensor_parallel(net(), mesh), (X,), repeats=False)
    assert [str(n.target) for n in graph.graph.nodes] == [str(n.target) for n in alone.graph.nodes]
    assert exchanges(graph) == exchanges(alone)


def test_sequence_parallel_gathers_and_scatters(mesh: Any) -> None:
    graph = capture(sequence_parallel(net(), mesh), (X[:, : 8 // RANKS],))
    kinds = [(path, exchange.kind, exchange.nbytes) for path, exchange in exchanges(graph)]
    shard, whole = 2 * 2 * 64 * 4.0, 2 * 8 * 64 * 4.0
    assert kinds[:2] == [("layers.0.up", "all_gather", shard), ("layers.0.down", "reduce_scatter", whole)]
    assert len(kinds) == 6


def test_ranks_of_another_dimension_are_further_apart(mesh: Any) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(x, group=mesh["dp"].get_group())
        return x + 1

    (found,) = exchanges(capture(function, (X,)))
    assert found[1] == Collective("all_reduce", X.numel() * 4.0, 2, stride=RANKS)


def test_collectives_of_c10d(mesh: Any) -> None:
    """They write into tensors and return work to wait for; each is one operation, and none is a view."""

    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ranks = 2 * RANKS
        gathered = x.new_empty(ranks * x.shape[0], *x.shape[1:])
        dist.all_gather_into_tensor(gathered, x)
        scattered = torch.empty_like(x)
        dist.reduce_scatter_tensor(scattered, gathered, async_op=True).wait()
        swapped = torch.empty_like(gathered)
        dist.all_to_all_single(swapped, gathered)
        dist.broadcast(scattered, 0)
        return swapped * 2, scattered * 2

    with pytest.warns() if hasattr(dist, "all_gather_single") else _quiet():
        graph = capture(function, (X,))
    size = X.numel() * 4.0
    assert [(e.kind, e.nbytes) for _, e in exchanges(graph)] == [
        ("all_gather", size), ("reduce_scatter", 8 * size), ("all_to_all", 8 * size), ("broadcast", size),
    ]  # fmt: skip
    operations = {op.target.partition(".")[2]: op for op in workload(graph)}
    read = [op for op in workload(graph) if op.target == "aten.mul.Tensor"]
    assert read[0].inputs == operations["all_to_all_single.default"].outputs
    assert read[1].inputs == operations["broadcast_.default"].outputs


def _quiet() -> Any:
    import contextlib

    return contextlib.nullcontext()


def test_what_cannot_be_captured_says_what_can(mesh: Any) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(x) for _ in range(2 * RANKS)] if dist.get_rank() == 0 else None
        dist.gather(x, parts)
        return x

    with pytest.raises(regflat.CaptureError, match="c10d.gather_ between ranks cannot be captured; use all_reduce,"):
        capture(function, (X,))


def test_profile_prices_the_links(mesh: Any) -> None:
    prof = regflat.profile(tensor_parallel(net(), mesh), (X,), chip="h100-sxm")
    links = [kernel for kernel in prof.chips[0].kernels if "link" in kernel.busy_s]
    assert [kernel.name for kernel in links] == ["all_reduce"] * 3
    assert all(kernel.bound_by == "link" and kernel.link_energy_j > 0 for kernel in links)
    total = prof.total
    assert total.link_energy_j == pytest.approx(sum(kernel.link_energy_j for kernel in links))
    assert sum(row.energy_j for row in prof.chips[0].rows("layer")) == pytest.approx(total.energy_j)
    assert "links" in prof.table()


def test_waiting_is_a_view(mesh: Any) -> None:
    found = [op for op in workload(capture(tensor_parallel(net(), mesh), (X,))) if "wait_tensor" in op.target]
    assert len(found) == 3 and all(_is_free(op) for op in found)


def _is_free(op: Operation) -> bool:
    return op.is_view and op.inputs == op.outputs
