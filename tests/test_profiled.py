"""`@regflat.profiled`, used in all the ways in which `torch.compile` is."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn

import torch_regflat as regflat
from torch_regflat import CaptureError, InputError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)
        self.note = "mine"

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.dropout(self.first(x), 0.5, training=self.training)
        return self.second(x.relu())


class Decorated(Net):
    @regflat.profiled
    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())

    @regflat.profiled(chip="a100-sxm-80gb")
    def half(self, x: Tensor) -> Tensor:
        return self.first(x)


@regflat.profiled
def free(x: Tensor, scale: float = 2.0) -> Tensor:
    """Documented."""
    return (x @ x) * scale


def paths(profile: regflat.Profile) -> list[str]:
    return sorted({operation.path for operation in profile.workload})


def flops(batch: int) -> int:
    return 2 * batch * (8 * 16 + 16 * 4)


def test_a_function_computes_and_profiles_each_signature_once() -> None:
    @regflat.profiled
    def square(x: Tensor, scale: float = 2.0) -> Tensor:
        return (x @ x) * scale

    assert square.profile is None
    x = torch.randn(8, 8)
    assert torch.equal(square(x), (x @ x) * 2.0)
    first = square.profile
    assert first.workload.flops == 2 * 8**3
    square(x + 1)
    assert square.profile is first and len(square.profiles) == 1
    square(x, scale=3.0)
    square(torch.randn(4, 4))
    assert square.profile.workload.flops == 2 * 4**3 and len(square.profiles) == 3


def test_a_function_keeps_its_name_and_can_be_pickled() -> None:
    assert free.__name__ == "free" and free.__doc__ == "Documented."
    assert pickle.loads(pickle.dumps(free)) is free
    assert copy.deepcopy(free) is free


def test_options_reach_the_profile() -> None:
    chips = ("h100-sxm", "regflat-physical")

    @regflat.profiled(chip=chips)
    def double(x: Tensor) -> Tensor:
        return x * 2

    double(torch.ones(4))
    assert tuple(chip.chip for chip in double.profile.chips) == chips


def test_methods_have_the_paths_of_their_module() -> None:
    net = Decorated()
    x = torch.randn(2, 8)
    assert torch.equal(net(x), Net.forward(net.eval(), x))
    assert paths(Decorated.forward.profile) == ["", "first", "second"]
    assert Decorated.forward.profile.workload.flops == flops(2)
    net.half(x)
    assert paths(net.half.profile) == ["first"]
    assert net.half.profile.chips[0].chip == "a100-sxm-80gb"
    names = {node.target for node in net.half.profile.graph.graph.find_nodes(op="get_attr")}
    assert names == {"first.weight", "first.bias"}


def test_two_instances_are_told_apart_and_a_new_one_is_never_an_old_one() -> None:
    Decorated.forward.profiles.clear()
    for count in range(1, 4):
        Decorated()(torch.randn(2, 8))
        assert len(Decorated.forward.profiles) == count


def test_a_method_of_no_module_and_a_bound_method() -> None:
    class Plain:
        @regflat.profiled
        def run(self, x: Tensor) -> Tensor:
            return x @ x

    plain = Plain()
    plain.run(torch.ones(4, 4))
    assert plain.run.profile.workload.flops == 2 * 4**3
    net = Net().eval()
    bound = regflat.profiled(net.forward)
    x = torch.randn(2, 8)
    assert torch.equal(bound(x), net(x))
    assert paths(bound.profile) == ["", "first", "second"]


def test_a_function_that_is_given_a_module_is_not_taken_for_its_method() -> None:
    @regflat.profiled
    def forward(model: nn.Module, x: Tensor) -> Tensor:
        return model(x) + 1

    forward(Net().eval(), torch.randn(2, 8))
    assert paths(forward.profile) == ["", "Net", "Net.first", "Net.second"]


def test_a_module_computes_and_trains_as_before() -> None:
    net = Net()
    profiled = regflat.profiled(net)
    x = torch.randn(2, 8)
    torch.manual_seed(3)
    expected = net(x)
    torch.manual_seed(3)
    assert torch.equal(profiled(x), expected)
    assert profiled.profile.workload.flops == flops(2)
    expected.square().sum().backward()
    grads = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    torch.manual_seed(3)
    profiled(x).square().sum().backward()
    assert len(grads) == 4 and all(torch.equal(g, p.grad) for g, p in zip(grads, net.parameters(), strict=True))


def test_a_module_shares_everything_with_the_one_it_was_made_of() -> None:
    net = Net()
    profiled = regflat.profiled(net)
    assert isinstance(profiled, Net) and repr(profiled) == repr(net)
    assert profiled.state_dict().keys() == net.state_dict().keys()
    assert profiled.first is net.first and profiled.note == "mine"
    net.eval()
    assert not profiled.training
    profiled.train()
    assert net.training and net.first.training
    profiled.note = "changed"
    assert net.note == "changed"
    profiled.to(torch.float64)
    assert net.first.weight.dtype == torch.float64
    profiled.load_state_dict(Net().state_dict())
    assert not net._forward_pre_hooks and not hasattr(net, "profile")
    seen: list[str] = []
    net.register_forward_hook(lambda *_: seen.append("hook"))
    profiled(torch.randn(2, 8, dtype=torch.float64))
    assert seen.count("hook") >= 1


def test_train_and_eval_are_two_signatures() -> None:
    profiled = regflat.profiled(Net())
    x = torch.randn(2, 8)
    profiled(x)
    profiled.eval()
    profiled(x)
    profiled(x)
    assert len(profiled.profiles) == 2
    trained, evaluated = profiled.profiles.values()
    assert any("dropout" in op.target for op in trained.workload if op.nests)
    assert not any("dropout" in op.target for op in evaluated.workload if op.nests)


@pytest.mark.parametrize("how", ["deepcopy", "copy", "pickle", "save"])
def test_copies_of_a_module_are_profiled_modules_of_their_own(how: str) -> None:
    profiled = regflat.profiled(Net().eval(), chip="a100-sxm-80gb")
    x = torch.randn(2, 8)
    expected = profiled(x)
    if how == "pickle":
        copied = pickle.loads(pickle.dumps(profiled))
    elif how == "save":
        buffer = io.BytesIO()
        torch.save(profiled, buffer)
        buffer.seek(0)
        copied = torch.load(buffer, weights_only=False)
    else:
        copied = getattr(copy, how)(profiled)
    assert isinstance(copied, Net) and copied.profile is None
    assert torch.equal(copied(x), expected)
    assert copied.profile.chips[0].chip == "a100-sxm-80gb"
    assert (copied.first.weight is profiled.first.weight) is (how == "copy")


def test_nested() -> None:
    inner = regflat.profiled(nn.Linear(8, 8))
    outer = regflat.profiled(nn.Sequential(inner, nn.ReLU()))
    x = torch.randn(2, 8)
    assert torch.equal(outer(x), inner(x).relu())
    assert paths(outer.profile) == ["0", "1"] and paths(inner.profile) == [""]
    assert len(outer.profiles) == len(inner.profiles) == 1


def test_exceptions_of_the_users_code_are_left_as_they_are() -> None:
    class Own(ValueError):
        pass

    @regflat.profiled
    def fails(x: Tensor) -> Tensor:
        raise Own("mine")

    with pytest.raises(Own, match="mine") as caught:
        fails(torch.ones(2))
    assert caught.value.__cause__ is None
    profiled = regflat.profiled(Net())
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied") as wrong:
        profiled(torch.ones(2, 9))
    assert not isinstance(wrong.value, CaptureError)
    assert profiled.profile is None and not profiled.profiles


def test_what_cannot_be_profiled_says_why() -> None:
    calls: list[Tensor] = []

    @regflat.profiled
    def reads(x: Tensor) -> Tensor:
        calls.append(x)
        return x * float(torch.rand(1))

    with pytest.raises(CaptureError, match=r"reads: .*test_profiled.py:\d+ asks for the value of a tensor .* random"):
        reads(torch.ones(2))
    assert not calls[-1].is_meta and reads.profile is None


def test_bad_targets() -> None:
    with pytest.raises(
        InputError, match=r"profiled\(\) takes an instance, found the class Net; profile its forward or"
    ):
        regflat.profiled(Net)
    with pytest.raises(InputError, match=r"profiled\(\) takes a function or a module, found int"):
        regflat.profiled(3)
    with pytest.raises(InputError, match="found classmethod; put profiled below it"):
        regflat.profiled(classmethod(lambda cls: None))
    with pytest.raises(InputError, match="Net already has an attribute 'profile', where its profile would be"):
        net = Net()
        net.profile = 1
        regflat.profiled(net)
    with pytest.raises(InputError, match="already has an attribute 'profile'"):
        regflat.profiled(regflat.profiled(Net()))
