"""`torch.compile(model, backend="regflat")`: true results and gradients, one report, what is missing said aloud."""

from __future__ import annotations

import copy
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torch_regflat as regflat
import zoo
from torch_regflat import CaptureError, ChipError, InputError, Profile, backend


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    backend.clear()
    yield
    torch._dynamo.reset()


class Broken(nn.Module):
    """Two graphs, for there is a break between its halves."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        torch._dynamo.graph_break()
        return self.norm(x)


class WithLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.lstm, self.last = nn.Linear(8, 8), nn.LSTM(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.lstm(self.first(x))[0])


def broken() -> zoo.Built:
    return Broken(), (torch.randn(4, 16),)


def loss_of(out: Any) -> Tensor:
    first = out if isinstance(out, Tensor) else out[0]
    return first.square().mean()


def sum_of(out: Any) -> Tensor:
    """Of all outputs: AOTAutograd goes back through those that nothing uses, eager mode does not."""
    return torch.stack([tensor.sum() for tensor in ([out] if isinstance(out, Tensor) else out.values())]).sum()


@pytest.mark.parametrize("build", [*zoo.SMALL, broken], ids=zoo.ids([*zoo.SMALL, broken]))
def test_results_and_gradients_are_true(build: Any) -> None:
    model, args = zoo.real(build)
    model.train()
    if build is zoo.small_bert:
        model.eval()  # its dropout takes random numbers in another order
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="regflat")
    for _ in range(2):  # recorded, then plainly run
        model.zero_grad()
        twin.zero_grad()
        found, expected = loss_of(compiled(*args)), loss_of(twin(*args))
        found.backward()
        expected.backward()
        assert torch.allclose(found, expected)
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            # AOTAutograd gives zeros where eager mode leaves None: outputs that nothing uses
            grads = [torch.zeros(()) if p.grad is None else p.grad for p in (ours, theirs)]
            assert torch.allclose(*grads, rtol=1e-4, atol=1e-6)
        for ours, theirs in zip(model.buffers(), twin.buffers(), strict=True):
            assert torch.allclose(ours, theirs)


@pytest.mark.parametrize("build", zoo.SMALL, ids=zoo.ids(zoo.SMALL))
def test_forward_and_backward_do_the_work_of_eager_training(build: Any) -> None:
    model, args = zoo.real(build)
    compiled = torch.compile(model, backend="regflat", options={"chip": "a100-sxm-80gb"})
    sum_of(compiled(*args)).backward()
    profile = backend.last().profile
    with regflat.profiling(model) as eager:
        sum_of(model(*args)).backward()
    assert profile.chips[0].chip == "a100-sxm-80gb" and profile.result.phase == "training"
    assert profile.workload.flops == eager.profile.workload.flops
    paths = [sorted(op.path for op in p.workload if op.flops) for p in (profile, eager.profile)]
    assert paths[0] == paths[1]


def test_one_report_over_several_graphs() -> None:
    model = Broken()
    compiled = torch.compile(model, backend="regflat")
    x = torch.randn(4, 16)
    compiled(x).sum().backward()
    session = backend.last()
    profile = session.profile
    assert (session.graphs, session.backward_graphs, session.calls) == (2, 2, 2)
    assert profile.workload.flops == (2 + 3) * 2 * 4 * 16 * 16  # the input needs no gradient
    assert {op.path for op in profile.workload} == {"", "layers.0", "layers.1", "norm"}
    weights = {node.target for node in profile.graph.graph.nodes if node.meta.get("role") == "weight"}
    assert weights == set(model.state_dict())
    assert profile.result.notes[0].startswith("2 forward graphs and 2 backward from torch.compile, 1 graph break;")
    assert any("test_backend.py:" in note and "graph_break" in note for note in profile.result.notes[1:])
    assert "1 graph break" in str(profile)
    # what the first graph hands to the second is one tensor, not an input
    assert len(profile.graph.graph.find_nodes(op="placeholder")) <= 2


def test_each_graph_counts_once_for_each_shape_and_set_of_parameters() -> None:
    layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
    session = backend.Compiled()

    @torch.compile(backend=session)
    def apply(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x)

    with torch.no_grad():
        for _ in range(2):
            x = torch.randn(2, 8)
            for layer in layers:
                x = apply(layer, x)
    assert session.calls == 6
    assert session.profile.workload.flops == 3 * 2 * 2 * 8 * 8
    with torch.no_grad():
        apply(layers[0], torch.randn(5, 8))
    assert session.profile.workload.flops == 3 * 2 * 2 * 8 * 8 + 2 * 5 * 8 * 8


def test_dynamic_shapes() -> None:
    compiled = torch.compile(nn.Linear(8, 8), backend="regflat", dynamic=True)
    with torch.no_grad():
        for batch in (2, 3):
            compiled(torch.randn(batch, 8))
    assert backend.last().profile.workload.flops == 2 * (2 + 3) * 8 * 8


LEFT = r"(Attempted to wrap RNN(.|\n)*LSTM|Unsupported function call)"
"""What Dynamo says of a recurrent layer, up to torch 2.13 and after."""


def test_skipped_frames_are_said_aloud() -> None:
    torch.compile(nn.Linear(8, 8), backend="regflat")(torch.randn(2, 8))
    quiet = backend.last()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not quiet.skipped and quiet.profile
    model = WithLSTM()
    torch.compile(model, backend="regflat", options={"name": "lstm"})(torch.randn(3, 2, 8))
    session = backend.last()
    with pytest.warns(UserWarning, match=rf"NOT in this report, Dynamo skipped a frame .*: {LEFT}"):
        notes = session.profile.result.notes
    assert any(note.startswith("NOT in this report, Dynamo skipped a frame and ran it as it is") for note in notes)


def test_nothing_but_skipped_frames() -> None:
    torch.compile(nn.LSTM(8, 8), backend="regflat")(torch.randn(3, 2, 8))
    with pytest.raises(CaptureError, match=rf"no graph was made with the regflat backend; Dynamo skipped: {LEFT}"):
        backend.last()
    session = backend.Compiled(name="mine")
    with pytest.raises(
        CaptureError, match=r"mine: no graph has run yet; Dynamo skipped: .*; call the compiled model first, and use"
    ):
        _ = session.profile


def test_sessions_and_reports() -> None:
    reported: list[Profile] = []
    options = {"report": reported.append, "name": "first"}
    first, second = nn.Linear(8, 8), nn.Linear(8, 4)
    torch.compile(first, backend="regflat", options=options)(torch.randn(2, 8)).sum().backward()
    torch.compile(second, backend="regflat", options={"name": "second"})(torch.randn(2, 8))
    assert [profile.result.model for profile in backend.profiles()] == ["first", "second"]
    assert [profile.result.phase for profile in reported] == ["forward", "training"]
    assert reported[0].workload.flops == 2 * 2 * 8 * 8 and reported[1].workload.flops == 2 * 2 * 2 * 8 * 8
    backend.clear()
    assert backend.profiles() == []


def test_other_recordings_around_a_compiled_model() -> None:
    model, x = nn.Linear(8, 8), torch.randn(2, 8)
    compiled = torch.compile(model, backend="regflat")
    with torch.no_grad():
        with regflat.profiling(model) as p:
            compiled(x)
        assert p.profile.workload.flops == 2 * 2 * 8 * 8
        assert regflat.profile(compiled, (x,)).workload.flops == 2 * 2 * 8 * 8


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"chips": "h100-sxm"},
            InputError,
            "the regflat backend has no option 'chips'; did you mean chip?; its options",
        ),
        ({"chip": "h1000-sxm"}, ChipError, "h1000-sxm"),
        ({"report": 3}, InputError, "the option 'report' takes a function of a Profile, found int"),
    ],
)
def test_bad_options(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        backend.Compiled(**options)
    assert message in str(caught.value)
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed) as through:
        torch.compile(nn.Linear(2, 2), backend="regflat", options=options)(torch.ones(1, 2))
    assert message in str(through.value)


def test_the_entry_point_names_the_backend() -> None:
    """As an installed package: torch finds the name without an import, and importing the module does not hurt."""
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    value = tomllib.loads(text)["project"]["entry-points"]["torch_dynamo_backends"]["regflat"]
    program = (
        "import importlib.metadata as m, sys\n"
        f"point = m.EntryPoint('regflat', {value!r}, 'torch_dynamo_backends')\n"
        "real = m.entry_points\n"
        "def found(**wanted):\n"
        "    mine = wanted.get('group') == 'torch_dynamo_backends'\n"
        "    return m.EntryPoints([point]) if mine else real(**wanted)\n"
        "m.entry_points = found\n"
        "import torch\n"
        "torch.compile(torch.nn.Linear(2, 2), backend='regflat')(torch.ones(1, 2))\n"
        "import torch_regflat.backend as b\n"
        "print(b.last().profile.workload.flops)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "8\n"


def test_the_name_is_known_once_the_module_is_imported() -> None:
    program = (
        "import torch, torch_regflat.backend as b\n"
        "torch.compile(torch.nn.Linear(2, 2), backend='regflat')(torch.ones(1, 2))\n"
        "print(b.last().profile.workload.flops)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "8\n"
