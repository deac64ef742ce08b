"""Mixed precision in training: autocast of meta tensors, and optimizers with float32 master weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing._internal.autocast_test_lists import AutocastTestLists
from torch.utils.checkpoint import checkpoint

import torch_regflat as regflat
from torch_regflat.capture import capture
from torch_regflat.capture.autocast import NAMES, policies
from torch_regflat.capture.training import capture_training
from torch_regflat.errors import InputError
from torch_regflat.operators.lowering import workload
from torch_regflat.schedule.fit import memory_of

aten = torch.ops.aten
BF16, FP32 = torch.bfloat16, torch.float32


def dtypes(graph: Any, *targets: Any, phase: str | None = None) -> list[torch.dtype]:
    nodes = [n for n in graph.graph.nodes if n.target in targets and (phase is None or n.meta["phase"] == phase)]
    values = [n.meta["val"] for n in nodes]
    return [(value if isinstance(value, torch.Tensor) else value[0]).dtype for value in values]


def test_every_function_of_torchs_own_lists_has_its_policy() -> None:
    lists = AutocastTestLists(torch.device("cpu"))
    named = {policy: set(names.split()) for policy, names in NAMES.items()}
    kernels_of_cudnn = {"cudnn_convolution", "cudnn_convolution_transpose"}
    lower = {case[0] for table in (lists.torch_fp16, lists.nn_fp16) for case in table}
    lower |= {case[0] for case in getattr(lists, "linalg_fp16", ())}  # torch 2.12 and later
    assert lower - kernels_of_cudnn <= named["lower"]
    wide = {case[0] for table in (lists.torch_fp32, lists.nn_fp32) for case in table}
    assert wide <= named["float32"] | named["float32 result"]
    assert {case[0] for case in lists.torch_need_autocast_promote} <= named["widest"]
    assert not named["lower"] & (named["float32"] | named["float32 result"] | named["widest"])
    assert policies()[F.linear] == policies()[torch.Tensor.__matmul__] == "lower"


class Net(nn.Module):
    def __init__(self, again: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(4))
        self.norm = nn.LayerNorm(64)
        self.again = again

    def body(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = checkpoint(self.body, x, use_reentrant=False) if self.again else self.body(x)
        return self.norm(x).softmax(-1)  # type: ignore[no-any-return]


X = torch.randn(8, 64)


def test_products_run_low_and_norms_losses_and_gradients_in_float32() -> None:
    graph = capture_training(Net(), (X,), autocast="bf16")
    assert set(dtypes(graph, aten.mm.default, aten.addmm.default)) == {BF16}
    assert set(dtypes(graph, aten._softmax.default, aten.native_layer_norm.default)) <= {FP32}
    loss, *gradients = next(n for n in graph.graph.nodes if n.op == "output").args[0]
    assert loss.meta["val"].dtype is FP32 and {g.meta["val"].dtype for g in gradients} == {FP32}


def test_the_products_and_gradients_are_those_that_torch_computes_under_autocast() -> None:
    """CPU autocast lowers the same products; the recorder of running code sees what they really are."""

    def products(profile: Any) -> Counter[str]:
        found = Counter[str]()
        for nest in (nest for op in profile.workload for nest in op.nests if nest.kind == "product"):
            found[nest.dtype] += nest.flops
        return found

    model, step = Net(), lambda x: model(x).sum()
    with regflat.profiling(model) as live, torch.autocast("cpu", dtype=BF16):
        step(X).backward()
    captured = regflat.profile_training(Net(), X, optimizer=None, autocast="bf16")
    assert products(live.profile) == products(captured)
    assert all(p.grad is not None and p.grad.dtype is FP32 for p in model.parameters())


def test_a_weight_is_cast_once_where_it_is_used_twice() -> None:
    shared = nn.Linear(64, 64, bias=False)
    graph = capture_training(nn.Sequential(shared, nn.ReLU(), shared), (X,), autocast="bfloat16", optimizer=None)
    casts = [n for n in graph.graph.nodes if n.target is aten._to_copy.default and n.meta["phase"] == "forward"]
    assert sum(n.meta["val"].shape == (64, 64) for n in casts) == 1


def test_a_checkpointed_forward_is_computed_again_in_the_lower_precision() -> None:
    graph = capture_training(Net(again=True), (X,), autocast="bf16", optimizer=None)
    assert set(dtypes(graph, aten.mm.default, phase="recompute")) == {BF16}


def _in_forward(device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    layer = nn.Linear(64, 64, device="meta")

    def forward(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, dtype=BF16):
            inside = layer(x)
            assert torch.is_autocast_enabled(device)
            with torch.autocast(device, enabled=False):
                outside = layer(x)
        return inside.float() + outside

    return forward


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_contexts_in_the_code_are_honoured_on_a_machine_without_that_device(device: str) -> None:
    graph = capture(_in_forward(device), (X.to("meta"),))
    assert dtypes(graph, aten.linear.default) == [BF16, FP32]
    assert not torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is BF16
    with torch.autocast("cpu"):
        assert F.linear(X, torch.randn(2, 64)).dtype is BF16  # torch's own again


def test_a_context_that_was_made_before_counts_too() -> None:
    layer = nn.Linear(64, 64, device="meta")
    forward = torch.autocast("cpu", dtype=BF16)(lambda x: layer(x))
    assert dtypes(capture(forward, (X.to("meta"),)), aten.linear.default) == [BF16]


def test_a_context_around_the_profile_counts_too() -> None:
    with torch.autocast("cpu", dtype=BF16):
        graph = capture(nn.Linear(64, 64, device="meta"), (X.to("meta"),))
    assert dtypes(graph, aten.linear.default) == [BF16]


PARAMETERS = 4 * 64 * 64 + 2 * 64


@pytest.mark.parametrize(
    ("dtype", "options", "weights", "state"),
    [
        (FP32, {}, 4, 8),
        (FP32, {"autocast": "bf16"}, 4, 8),
        (FP32, {"master_weights": True}, 4, 8),
        (BF16, {}, 2, 4),
        (BF16, {"master_weights": True}, 2, 12),
        (BF16, {"master_weights": True, "optimizer": "sgd"}, 2, 4),
        (BF16, {"master_weights": True, "optimizer": "sgd-momentum"}, 2, 8),
    ],
)
def test_bytes_a_parameter(dtype: torch.dtype, options: dict[str, Any], weights: int, state: int) -> None:
    memory = memory_of(workload(capture_training(Net().to(dtype), (X.to(dtype),), **options)))
    steps = 4 * 6 * (options.get("optimizer", "adamw") == "adamw")  # a counter each of 6 parameters
    assert memory.weights == weights * PARAMETERS
    assert memory.optimizer == state * PARAMETERS + steps


@pytest.mark.parametrize(
    ("optimizer", "read", "written"), [("adamw", 2 + 12, 2 + 12), ("sgd", 2 + 4, 2 + 4), ("sgd-momentum", 2 + 8, 2 + 8)]
)
def test_the_step_reads_gradients_and_state_and_writes_state_and_parameters(
    optimizer: str, read: int, written: int
) -> None:
    model = nn.Linear(256, 128, bias=False, dtype=BF16)
    graph = capture_training(model, (torch.randn(4, 256, dtype=BF16),), optimizer=optimizer, master_weights=True)
    (step,) = [op for op in workload(graph) if op.phase == "optimizer"]
    counter = 4 * (optimizer == "adamw")
    assert sum(nest.compulsory_bytes("read") for nest in step.nests) == read * 256 * 128 + counter
    assert sum(nest.compulsory_bytes("write") for nest in step.nests) == written * 256 * 128


def test_master_steps_compute_what_torchs_optimizers_do() -> None:
    own = nn.Parameter(torch.randn(5, 3))
    for made in (torch.optim.AdamW([own], lr=0.1), torch.optim.SGD([own], lr=0.1, momentum=0.9)):
        master, narrow = own.detach().clone(), own.detach().to(BF16)
        states = [torch.zeros(5, 3), torch.zeros(5, 3)]
        for count in range(1, 4):
            gradient = torch.randn(5, 3).to(BF16)
            own.grad = gradient.float()
            made.step()
            lists = ([narrow], [gradient], [master])
            if isinstance(made, torch.optim.AdamW):
                betas = {"beta1": 0.9, "beta2": 0.999, "weight_decay": 1e-2, "eps": 1e-8}
                torch.ops.regflat.adamw_master_(
                    *lists, [states[0]], [states[1]], [torch.tensor(float(count))], lr=0.1, **betas
                )
            else:
                torch.ops.regflat.sgd_master_(*lists, [states[0]], lr=0.1, weight_decay=0.0, momentum=0.9)
        torch.testing.assert_close(master, own.detach(), atol=1e-5, rtol=1e-4)
        assert torch.equal(narrow, master.to(BF16))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(InputError, match="autocast is 'int8'; it must be one of bf16, bfloat16, fp16, float16"):
        capture_training(Net(), (X,), autocast="int8")
    with pytest.raises(InputError, match="master_weights are the optimizer's, and there is no optimizer; name one"):
        capture_training(Net(), (X,), optimizer=None, master_weights=True)
    pytest.importorskip("transformers")
    with pytest.raises(InputError, match="autocast and master_weights are for the phase train, not for prefill"):
        regflat.profile_model("gpt2-xl", phase="prefill", seq_len=8, master_weights=True)


def test_the_notes_say_it() -> None:
    with torch.device("meta"):
        model = Net().to(BF16)
    found = regflat.profile_training(model, X.to(BF16), master_weights=True, autocast="bf16").result.notes
    assert "training step with adamw on float32 master weights, its state in float32" in found
    assert "forward and loss under autocast to torch.bfloat16" in found
