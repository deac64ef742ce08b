"""Every way in gives the same work for the same model as the main road, `profile(model, args)`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

import torch_regflat as regflat
import zoo
from torch_regflat import InputError, Profile, backend

Model = tuple[nn.Module, tuple[Any, ...]]


def moved(profile: Profile) -> float:
    """Compulsory bytes of all loop nests."""
    return sum(nest.compulsory_bytes() for operation in profile.workload for nest in operation.nests)


def is_same_work(door: Profile, road: Profile, more: float = 0.0) -> None:
    """`more` is the bytes that the door's program really moves and the main road's does not."""
    assert door.workload.flops == road.workload.flops > 0
    assert moved(door) == pytest.approx(moved(road) + more, rel=0.01)
    assert door.coverage.modelled_bytes_share == 1.0
    for role in ("weight", "state"):
        assert door.workload.role_bytes(role) == pytest.approx(road.workload.role_bytes(role), rel=0.01)


def through_export(model: nn.Module, args: tuple[Any, ...]) -> Profile:
    return regflat.profile(torch.export.export(model, args))


def through_its_own_graph(model: nn.Module, args: tuple[Any, ...]) -> Profile:
    return regflat.profile(regflat.profile(model, args).graph, args)


def through_compile(model: nn.Module, args: tuple[Any, ...]) -> Profile:
    torch._dynamo.reset()
    session = backend.Compiled()
    with torch.no_grad():
        torch.compile(model, backend=session)(*args)
    return session.profile


def through_profiled(model: nn.Module, args: tuple[Any, ...]) -> Profile:
    wrapped = regflat.profiled(model)
    wrapped(*args)
    profile: Profile = wrapped.profile
    return profile


def through_profiling(model: nn.Module, args: tuple[Any, ...]) -> Profile:
    with torch.no_grad(), regflat.profiling(model) as recorded:
        model(*args)
    return recorded.profile


def through_profiling_with_gradients(model: nn.Module, args: tuple[Any, ...]) -> Profile:
    with regflat.profiling(model) as recorded:
        model(*args)
    return recorded.profile


DOORS = [
    through_export, through_its_own_graph, through_compile, through_profiled,
    through_profiling, through_profiling_with_gradients,
]  # fmt: skip


@functools.cache
def main_road(build: Callable[[], Model]) -> Profile:
    return regflat.profile(*zoo.real(build))


@pytest.mark.parametrize("door", DOORS, ids=zoo.ids(DOORS))
@pytest.mark.parametrize("build", zoo.SMALL, ids=zoo.ids(zoo.SMALL))
def test_the_same_work(build: Callable[[], Model], door: Callable[..., Profile]) -> None:
    profile, road = door(*zoo.real(build)), main_road(build)
    # With gradients on, a max pool also writes where each maximum was: int64 for its 16x16x16 results of 2 images.
    pooled = 2 * 16**3 * 8 if build is zoo.small_cnn and door is through_profiling_with_gradients else 0
    is_same_work(profile, road, pooled)
    products = [{op.path for op in p.workload if op.flops} for p in (profile, road)]
    assert products[0] == products[1]


@pytest.mark.parametrize("door", [through_compile, through_profiling], ids=["compile", "profiling"])
def test_the_same_work_with_grouped_queries_and_a_cache(door: Callable[..., Profile]) -> None:
    if door is through_compile and torch.__version__ < "2.13":
        pytest.skip("Dynamo before torch 2.13 repeats keys and values of grouped queries: 3 % more bytes")
    model, args = zoo.real(lambda: zoo.small_llama(num_key_value_heads=4, use_cache=True))
    road, profile = regflat.profile(model, args), door(model, args)
    is_same_work(profile, road)
    assert profile.total.latency_s == pytest.approx(road.total.latency_s, rel=0.01)
    assert profile.total.energy_j == pytest.approx(road.total.energy_j, rel=0.01)


def test_a_symbolic_trace_keeps_modules() -> None:
    model, args = zoo.real(zoo.small_cnn)
    is_same_work(regflat.profile(fx.symbolic_trace(model), args), main_road(zoo.small_cnn))


def test_a_graph_of_aten_operators() -> None:
    model, args = zoo.real(zoo.mlp)
    with torch.no_grad():
        graph = make_fx(model)(*args)
    is_same_work(regflat.profile(graph, args), main_road(zoo.mlp))


def test_a_compiled_model_is_profiled_as_what_it_was_made_of() -> None:
    model, args = zoo.real(zoo.mlp)
    is_same_work(regflat.profile(torch.compile(model, backend="eager"), args), main_road(zoo.mlp))


# --- ExportedProgram -------------------------------------------------------------------------------------------------


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, pair: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            weight = pair["weight"] * 2
        return x @ weight


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    return torch.export.export(TwoInputs(), (torch.randn(4, 8), {"weight": torch.randn(8, 2)}))


def test_exported_with_inputs_of_ones_own(program: torch.export.ExportedProgram) -> None:
    profile = regflat.profile(program)
    assert profile.result.model == "TwoInputs"
    assert profile.workload.flops == 2 * 4 * 8 * 2
    weight = {"weight": torch.randn(8, 2)}
    assert regflat.profile(program, (torch.randn(4, 8), weight)).workload.flops == 2 * 4 * 8 * 2
    assert regflat.profile(program, (torch.randn(4, 8), weight), name="mine").result.model == "mine"
    by_name = torch.export.export(TwoInputs(), (torch.randn(4, 8),), {"pair": weight})
    assert regflat.profile(by_name, torch.randn(4, 8), {"pair": weight}).workload.flops == 2 * 4 * 8 * 2


def test_exported_with_wrong_inputs(program: torch.export.ExportedProgram) -> None:
    with pytest.raises(
        InputError, match=r"this ExportedProgram was exported for 2 inputs \(x, pair_weight\) and got 1 in another"
    ):
        regflat.profile(program, (torch.randn(4, 8),))
    program_without = torch.export.export(TwoInputs(), (torch.randn(4, 8), {"weight": torch.randn(8, 2)}))
    program_without._example_inputs = None
    with pytest.raises(InputError, match="this ExportedProgram keeps no example inputs; give args and kwargs"):
        regflat.profile(program_without)


# --- GraphModule -----------------------------------------------------------------------------------------------------


def test_graph_modules_take_names_and_defaults() -> None:
    def function(x: Tensor, y: Tensor, scale: float = 2.0) -> Tensor:
        return (x @ y) * scale

    graph = fx.symbolic_trace(function)
    x = torch.randn(4, 4)
    for args, kwargs in (((x, x), {}), ((x,), {"y": x}), ((), {"x": x, "y": x, "scale": 3.0})):
        assert regflat.profile(graph, args, kwargs).workload.flops == 2 * 4**3
    with pytest.raises(InputError, match=r"takes 3 inputs \(x, y, scale\), found 1 positional; 'y' is missing"):
        regflat.profile(graph, (x,))
    with pytest.raises(InputError, match=r"found 2 positional and 1 by name; 'z' is not among them"):
        regflat.profile(graph, (x, x), {"z": x})
    with pytest.raises(InputError, match=r"takes 3 inputs \(x, y, scale\), found 4 positional"):
        regflat.profile(graph, (x, x, 1.0, x))


def test_what_is_no_model() -> None:
    with pytest.raises(
        InputError, match="a GraphModule or an ExportedProgram, found the name 'llama-3-8b'; profile_mo"
    ):
        regflat.profile("llama-3-8b", (torch.ones(1),))
    with pytest.raises(InputError, match="a GraphModule or an ExportedProgram, found int"):
        regflat.profile(3, ())
