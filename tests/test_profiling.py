"""`with regflat.profiling() as p`: results are the user's own, everything that runs is recorded."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import torch_regflat as regflat
import zoo
from torch_regflat import CaptureError, ChipError, InputError


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 4))


def train(model: nn.Module, x: Tensor, optimizer: Any, steps: int = 3) -> list[float]:
    torch.manual_seed(1)
    losses = []
    for _ in range(steps):
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW], ids=["SGD", "AdamW"])
def test_training_is_left_as_it_is(kind: Any) -> None:
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(2))
    plain, recorded = net(), net()
    expected = train(plain, x, kind(plain.parameters(), lr=0.1))
    with regflat.profiling(recorded) as p:
        found = train(recorded, x, kind(recorded.parameters(), lr=0.1))
    assert found == expected
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), recorded.parameters(), strict=True))
    with FlopCounterMode(display=False) as counter:
        train(plain, x, kind(plain.parameters(), lr=0.1))
    assert p.profile.workload.flops == counter.get_total_flops()


def test_random_numbers_continue_as_they_would() -> None:
    torch.manual_seed(0)
    first = torch.rand(3), torch.rand(3)
    torch.manual_seed(0)
    with regflat.profiling():
        again = torch.rand(3)
    assert torch.equal(again, first[0]) and torch.equal(torch.rand(3), first[1])


def test_backward_operators_are_on_the_path_of_what_caused_them() -> None:
    model = net()
    with regflat.profiling(model) as p:
        model(torch.randn(2, 8)).sum().backward()
    products = [(op.target, op.path) for op in p.profile.workload if op.flops]
    assert products == [
        ("aten.addmm.default", "0"), ("aten.addmm.default", "3"),
        ("aten.mm.default", "3"), ("aten.mm.default", "3"), ("aten.mm.default", "0"),
    ]  # fmt: skip
    assert {op.path for op in p.profile.workload if "threshold_backward" in op.target} == {"2"}


def test_checkpointing_shows_as_recomputation_on_the_same_path() -> None:
    model = net()
    with regflat.profiling(model) as p:
        checkpoint(model, torch.randn(2, 8), use_reentrant=False).sum().backward()
    # The last product is not run again, for what it saves is there before it runs.
    assert [op.path for op in p.profile.workload if "addmm" in op.target] == ["0", "3", "0"]
    assert [op.path for op in p.profile.workload if "aten.relu" in op.target] == ["2", "2"]


def test_without_a_model_paths_start_at_the_class() -> None:
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    with torch.no_grad(), regflat.profiling() as p:
        torch.relu(second(first(torch.randn(2, 8))))
    assert [op.path for op in p.profile.workload if op.nests] == ["", "Linear", "Linear_1", ""]


def test_inputs_and_weights_have_their_roles() -> None:
    model, x = net().eval(), torch.randn(2, 8)
    with torch.no_grad(), regflat.profiling(model) as p:
        out = model(x)
    nodes = p.profile.graph.graph.nodes
    assert [node.meta["role"] for node in nodes if node.op == "placeholder"] == ["activation"]
    assert {n.target for n in nodes if n.op == "get_attr"} == set(model.state_dict())
    assert p.profile.workload.role_bytes("weight") == sum(t.nbytes for t in model.state_dict().values())
    kept = [tensor for tensor in p.profile.workload.tensors.values() if tensor.is_output]
    assert [tensor.nbytes for tensor in kept] == [out.nbytes]
    rerun = torch.fx.Interpreter(p.profile.graph).run(x)
    assert torch.equal(rerun[0], out)


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
def test_decode_with_a_cache(grad: bool) -> None:
    model, (ids,) = zoo.real(lambda: zoo.small_llama(use_cache=True))
    with torch.no_grad():
        cache = model(ids).past_key_values
        again, other = copy.deepcopy(cache), copy.deepcopy(cache)
        road = regflat.profile(model, (), {"input_ids": ids[:, :1], "past_key_values": again})
        expected = model(ids[:, :1], past_key_values=again).logits
    with torch.set_grad_enabled(grad), regflat.profiling(model) as p:
        found = model(ids[:, :1], past_key_values=other).logits
    assert torch.allclose(found, expected)
    assert p.profile.workload.flops == road.workload.flops
    assert p.profile.workload.role_bytes("kv_cache") == road.workload.role_bytes("kv_cache") > 0


def test_values_can_be_read_and_steer_the_code() -> None:
    with regflat.profiling() as p:
        x = torch.arange(6.0)
        count = int((x > 2).sum())
        picked = x[x.nonzero().flatten()].tolist()
        y = torch.ones(count, count) @ torch.ones(count, count)
    assert (count, picked) == (3, [1.0, 2.0, 3.0, 4.0, 5.0]) and y.sum() == 27
    assert p.profile.workload.flops == 2 * 3**3


def test_views_writes_and_constants() -> None:
    with regflat.profiling() as p:
        x = torch.zeros(4, 4)
        x[0].add_(torch.tensor(3.0))
        x.unsqueeze_(0)
        total = (x.squeeze(0) @ x[0].t()).sum()
    assert total == 36
    rerun = torch.fx.Interpreter(p.profile.graph).run()
    assert any(torch.equal(value, total) for value in rerun)


def test_memory_is_not_kept() -> None:
    with regflat.profiling():
        x = torch.ones(1000)
        gone = weakref.ref(x * 2)
        gc.collect()
        assert gone() is None
        for _ in range(100):  # freed memory that is used again is not taken for what was there before
            assert (torch.ones(1000) + x).sum() == 2000


def test_an_address_used_again_is_another_tensor() -> None:
    with regflat.profiling() as p:
        for _ in range(10):
            (torch.ones(64) + 1).mul_(2)
    stores = [node.meta["storage"] for node in p.profile.graph.graph.nodes if "ones" in node.name]
    assert len(stores) == len(set(stores)) == 10


def test_a_recording_inside_is_its_own() -> None:
    model, x = net().eval(), torch.randn(2, 8)
    profiled = regflat.profiled(model)
    with torch.no_grad(), regflat.profiling(model) as p:
        inner = regflat.profile(model, (x,))
        profiled(x)
        with regflat.profiling(model) as q:
            model(x)
    assert inner.workload.flops == profiled.profile.workload.flops == q.profile.workload.flops
    assert p.profile.workload.flops == inner.workload.flops  # that of the profiled module; q has its own


def test_autocast() -> None:
    model = net().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), regflat.profiling(model) as p:
        assert model(torch.randn(2, 8)).dtype == torch.bfloat16
    assert {op.dtype for op in p.profile.workload if op.flops} == {"bfloat16"}


def test_hooks_and_patches_are_gone_afterwards() -> None:
    before = nn.Module.__call__, torch.tensor, torch.Tensor.tolist
    with pytest.raises(ZeroDivisionError), regflat.profiling() as p:
        torch.ones(2)
        raise ZeroDivisionError
    assert (nn.Module.__call__, torch.tensor, torch.Tensor.tolist) == before
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    with pytest.raises(InputError, match=r"block of profiling\(\) ended early with ZeroDivisionError, so there is no"):
        _ = p.profile


def test_wording() -> None:
    p = regflat.profiling(name="mine")
    with pytest.raises(InputError, match=r"the profile is there after the with block of profiling\(\), not before or"):
        _ = p.profile
    with p, pytest.raises(InputError, match="not before or inside"):
        _ = p.profile
    with pytest.raises(CaptureError, match="mine: nothing was recorded, for no operator of torch ran"):
        _ = p.profile
    with pytest.raises(InputError, match=r"this profiling\(\) was entered before; make a new one for each block"), p:
        pass
    with pytest.raises(ChipError, match="h100"):
        regflat.profiling(chip="h1000-sxm")
    with pytest.raises(InputError, match=r"profiling\(\) takes the module whose paths are wanted, found str"):
        regflat.profiling("h100-sxm")  # type: ignore[arg-type]
    assert repr(p) == "<profiling mine: done>"
