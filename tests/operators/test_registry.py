"""The door for a user's own operators: names, checks, and the tensors a formula may describe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import torch_regflat as regflat
from torch_regflat.operators import lower_call, registry, workload


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    before = dict(registry._formulas)
    yield
    registry._formulas.clear()
    registry._formulas.update(before)


@torch.library.custom_op("regflat_door::scale_add", mutates_args=())
def scale_add(a: torch.Tensor, b: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
    return a + scale * b


@scale_add.register_fake
def _(a: torch.Tensor, b: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
    return torch.empty_like(a)


def x(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


def run() -> Any:
    return regflat.profile(scale_add, (x(8, 16), x(16)))


KEYS: list[Any] = [
    "regflat_door::scale_add",
    "regflat_door::scale_add.default",
    torch.ops.regflat_door.scale_add,
    torch.ops.regflat_door.scale_add.default,
    scale_add,
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_an_own_operator_is_priced(key: Any) -> None:
    assert run().coverage.unmodelled

    @regflat.operator(key)
    def formula(call: regflat.Call) -> regflat.LoopNest:
        assert call.arg("scale") == 2.0
        return regflat.elementwise(call, vector_ops=2)

    profile = run()
    assert not profile.coverage.unmodelled
    (nest,) = profile.workload.operations[0].nests
    assert nest.vector_ops == 2 * 8 * 16
    assert nest.compulsory_bytes() == 4 * (8 * 16 + 16 + 8 * 16)


def test_stream_and_matmul_and_loop() -> None:
    call = registry.Call(torch.ops.aten.mm.default, (x(4, 8), x(8, 5)), {}, [x(4, 5)])
    assert regflat.stream(call, 7).compulsory_bytes() == 4 * (32 + 40 + 20)
    assert regflat.stream(call, reads=call.inputs[:1], writes=()).compulsory_bytes() == 4 * 32
    product = regflat.matmul(call, *call.args)
    assert (product.flops, product.kind) == (2 * 4 * 8 * 5, "product")
    loop = regflat.Loop(call, m=4, n=5, k=8).read(call.args[0], "m", "k").write(call.out[0], "m", "n")
    assert loop.nest("product", flops=1).compulsory_bytes() == 4 * (32 + 20)


def test_an_operator_of_a_library_that_is_not_there_yet() -> None:
    regflat.operator("regflat_later::op")(lambda call: regflat.elementwise(call, 3))
    library = torch.library.Library("regflat_later", "DEF")
    library.define("op(Tensor a) -> Tensor")
    library.impl("op", lambda a: torch.empty_like(a), "Meta")
    (nest,) = lower_call(torch.ops.regflat_later.op.default, (x(8),), {}, x(8)).nests
    assert nest.vector_ops == 24


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("scale_add", "'scale_add' does not name an operator; write namespace::name, as in 'mylib::op'"),
        ("aten::layer_nrm", "torch has no operator 'aten::layer_nrm'; did you mean aten::layer_norm"),
        ("aten::add.Tensr", "aten::add has no overload 'Tensr'; it has Tensor,"),
        (torch.add, "'add' is a builtin_function_or_method, not an operator; name it as in 'aten::add'"),
    ],
)
def test_what_names_no_operator(key: Any, message: str) -> None:
    with pytest.raises(regflat.InputError) as error:
        regflat.operator(key)
    assert message in str(error.value)


def test_a_misspelt_own_operator_is_found_when_the_real_one_is_met() -> None:
    regflat.operator("regflat_door::scale_ad")(lambda call: None)
    with pytest.raises(
        regflat.InputError,
        match=r"a formula was given for 'regflat_door::scale_ad', but no such operator exists; "
        r"did you mean regflat_door::scale_add\?",
    ):
        run()


@pytest.mark.parametrize(
    ("value", "found"),
    [(3, "a value of type int"), ([None], "a list with a NoneType in it"), ("x", "a value of type str")],
)
def test_a_formula_that_returns_something_else(value: Any, found: str) -> None:
    regflat.operator("regflat_door::scale_add")(lambda call: value)
    with pytest.raises(regflat.InputError) as error:
        run()
    assert f"of regflat_door.scale_add.default returned {found}; it must return a LoopNest, a list" in str(error.value)


def test_a_second_formula_replaces_only_when_told() -> None:
    regflat.operator("regflat_door::scale_add")(lambda call: None)
    with pytest.raises(regflat.InputError, match=r"already has a formula, .*<lambda>; it can have only one"):
        regflat.operator(torch.ops.regflat_door.scale_add)(lambda call: None)
    regflat.operator("regflat_door::scale_add", replace=True)(lambda call: regflat.elementwise(call, 9))
    assert run().workload.operations[0].nests[0].vector_ops == 9 * 128


def test_a_tensor_that_is_not_of_the_call() -> None:
    regflat.operator("regflat_door::scale_add")(lambda call: regflat.stream(call, reads=[x(3)]))
    with pytest.raises(regflat.InputError, match=r"describes a tensor of shape \(3,\) that is neither an input nor"):
        run()


def test_a_result_that_is_also_an_input_has_two_slots() -> None:
    own, other = x(8), x(8)
    call = registry.Call(torch.ops.aten.add_.Tensor, (own, other), {}, [own])
    assert [call.operand(own, (0,)).slot, call.operand(other, (0,)).slot] == [0, 1]
    assert call.operand(own, (0,), "write").slot == 2
    found = workload(regflat.trace(lambda a, b: a.add_(b), (x(8), x(8))))
    assert [o.slot for o in found.operations[0].nests[0].operands] == [0, 1, 2]
