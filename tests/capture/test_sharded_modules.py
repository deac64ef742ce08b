"""Modules that users have divided themselves, with DTensor or collectives of their own, are recorded as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
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
from torch_regflat.capture.training import capture_training
from torch_regflat.operators import workload
from torch_regflat.schedule.fit import memory_of
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


def test_the_graph_computes_what_this_rank_computes(mesh: Any) -> None:
    """On the fake process group both leave partial sums as they are."""
    torch.manual_seed(0)
    model, x = tensor_parallel(net("cpu"), mesh), torch.randn(2, 8, 64)
    graph = capture(model, (x,))
    (found,) = torch.fx.Interpreter(graph).run(x)
    with torch.no_grad():
        torch.testing.assert_close(found, model(x))


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


def test_collectives_that_really_run_are_recorded_beside(mesh: Any) -> None:
    model = nn.Linear(64, 64)
    with regflat.profiling(model, chip="h100-sxm") as p:
        y = model(torch.zeros(2, 64))
        dist.all_reduce(y, group=mesh["tp"].get_group())
        y = y * 2
    (reduced,) = [op for op in p.profile.workload if op.collective]
    assert reduced.collective == Collective("all_reduce", 2 * 64 * 4.0, RANKS, stride=1)
    read = next(op for op in p.profile.workload if op.target.startswith("aten.mul"))
    assert read.inputs == reduced.outputs


def test_dtensors_that_really_run_are_refused(mesh: Any) -> None:
    model = tensor_parallel(net("cpu"), mesh)
    said = "operators on DTensors cannot be recorded while they run; pass the module to profile()"
    with pytest.raises(regflat.CaptureError, match=said), regflat.profiling(model, chip="h100-sxm"):
        model(torch.zeros(2, 8, 64))


def test_what_cannot_be_captured_says_what_can(mesh: Any) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(x) for _ in range(2 * RANKS)] if dist.get_rank() == 0 else None
        dist.gather(x, parts)
        return x

    with pytest.raises(regflat.CaptureError, match="c10d.gather_ between ranks cannot be captured; use all_reduce,"):
        capture(function, (X,))


def test_profile_prices_the_links(mesh: Any) -> None:
    prof = regflat.profile(tensor_parallel(net(), mesh), (X,), chip="h100-sxm")
    (link,) = prof.chips[0].links
    kernels = [kernel for kernel in prof.chips[0].kernels if link.name in kernel.traffic_bytes]
    assert [kernel.name for kernel in kernels] == ["all_reduce"] * 3
    assert link.traffic_bytes == sum(kernel.traffic_bytes[link.name] for kernel in kernels) > 0
    assert link.energy_j == pytest.approx(sum(kernel.memory_energy_j[link.name] for kernel in kernels))
    assert sum(row.energy_j for row in prof.chips[0].rows("layer")) == pytest.approx(prof.total.energy_j)


def test_dtensors_come_in_and_go_out(mesh: Any) -> None:
    model = net()
    for block in model.layers:
        plan = {"up": ColwiseParallel(use_local_output=False), "down": RowwiseParallel(use_local_output=False)}
        norm = SequenceParallel(sequence_dim=0, use_local_output=False)
        parallelize_module(block, mesh["tp"], {"norm": norm, **plan})
    whole = DTensor.from_local(torch.empty(2, 8, 64, device="meta"), mesh["tp"], [Replicate()], run_check=False)
    graph, alone = (capture(model, (whole,), repeats=repeats) for repeats in (True, False))
    (given,) = [n for n in graph.graph.nodes if n.op == "placeholder"]
    assert tuple(given.meta["val"].shape) == (2, 8, 64)
    assert [str(n.target) for n in graph.graph.nodes] == [str(n.target) for n in alone.graph.nodes]
    assert exchanges(graph) == exchanges(alone)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(64, 64) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        q, k, v = (f(x).view(batch, tokens, -1, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(mixed.transpose(1, 2).reshape(batch, tokens, -1))


@pytest.mark.parametrize("use_local", [True, False])
def test_attention_stays_whole(mesh: Any, use_local: bool) -> None:
    with torch.device("meta"):
        model = Attention().eval()
    heads = {name: ColwiseParallel(use_local_output=use_local) for name in "qkv"}
    parallelize_module(model, mesh["tp"], {**heads, "o": RowwiseParallel()})
    work = workload(capture(model, (X,)))
    (attention,) = [op for op in work if "scaled_dot_product_attention" in op.target]
    assert attention.shapes.split()[0] == "2x2x8x8"  # 2 of 8 heads
    assert [op.collective.kind for op in work if op.collective] == ["all_reduce"]


def phases(graph: torch.fx.GraphModule, kind: str) -> list[tuple[str, float]]:
    return [(op.phase, op.collective.nbytes) for op in workload(graph) if op.collective and op.collective.kind == kind]


def test_tensor_parallel_training_reduces_forward_and_backward(mesh: Any) -> None:
    graph = capture_training(tensor_parallel(net(), mesh), (X,))
    size = X.numel() * 4.0
    # The input of the first block needs no gradient, but its norm's parameters do.
    assert phases(graph, "all_reduce") == [("forward", size)] * 3 + [("backward", size)] * 3
    updated = [op for op in workload(graph) if op.path == "layers.1.up" and "adamw" in op.target]
    assert [op.shapes.split()[0] for op in updated] == ["64x64", "64"]


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_fsdp_training_gathers_and_scatters(mesh: Any, device: str) -> None:
    """Parameters of each block once forward and once backward, where they are gathered again; gradients once."""
    model = fully_sharded(net(device), mesh)
    block = sum(p.numel() for p in Block().parameters()) * 4.0
    graph = capture_training(model, (torch.empty(2, 8, 64, device=device),))
    assert phases(graph, "all_gather") == [("forward", block / RANKS)] * 3 + [("backward", block / RANKS)] * 3
    assert phases(graph, "reduce_scatter") == [("backward", block)] * 3
    work = workload(graph)
    assert work.role_bytes("weight") == 3 * block / RANKS
    assert all(op.modelled for op in work)
    updated = sum(work.tensors[op.inputs[0]].nbytes for op in work if op.phase == "optimizer")
    assert updated == 3 * block / RANKS
    gathered = {t for op in work if "split_with_sizes_copy" in op.target for t in op.outputs}
    assert all(gathered & set(op.inputs) for op in work if op.target == "aten.addmm.default")


def test_fsdp_over_two_dimensions_adds_up_over_both(mesh: Any) -> None:
    """Hybrid: shards within 4 ranks, which are 1 apart, copies over 2, which are 4 apart; reduced in float32."""
    block = sum(p.numel() for p in Block().parameters())
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = net()
    for part in (*model.layers, model):
        fully_shard(part, mesh=mesh, mp_policy=policy)
    found = [op.collective for op in workload(capture_training(model, (X,))) if op.collective]
    assert set(found) == {
        Collective("all_gather", block * 2 / RANKS, RANKS, 1),
        Collective("reduce_scatter", block * 4.0, RANKS, 1),
        Collective("all_reduce", block * 4 / RANKS, 2, RANKS),
    }


def test_fsdp_is_left_as_it_was(mesh: Any) -> None:
    model = fully_sharded(net("cpu"), mesh)
    first, second = (capture_training(model, (torch.empty(2, 8, 64),)) for _ in range(2))
    assert [str(n.target) for n in first.graph.nodes] == [str(n.target) for n in second.graph.nodes]
    model(torch.zeros(2, 8, 64)).sum().backward()
    assert model.layers[0].up.weight.grad is not None


def fully_sharded(model: Net, mesh: Any) -> Net:
    for block in model.layers:
        fully_shard(block, mesh=mesh["tp"])
    return fully_shard(model, mesh=mesh["tp"])


def test_fsdp_inference(mesh: Any) -> None:
    graph = capture(fully_sharded(net(), mesh), (X,))
    assert [exchange.kind for _, exchange in exchanges(graph)] == ["all_gather"] * 3


def test_fsdp_needs_no_more_memory_than_a_few_blocks(mesh: Any) -> None:
    """A block that was gathered is let go after its forward."""
    with torch.device("meta"):
        model = fully_sharded(Net(12), mesh)
    block = sum(p.numel() for p in Block().parameters()) * 4
    memory = memory_of(workload(capture_training(model, (X,), optimizer=None)))
    assert memory.weights == 12 * block // RANKS
    assert memory.peak < 8 * block


def test_waiting_is_a_view(mesh: Any) -> None:
    found = [op for op in workload(capture(tensor_parallel(net(), mesh), (X,))) if "wait_tensor" in op.target]
    assert len(found) == 3 and all(_is_free(op) for op in found)


def _is_free(op: Operation) -> bool:
    return op.is_view and op.inputs == op.outputs
