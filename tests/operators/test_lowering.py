"""The pass over graphs: sharing, storages, roles, fallbacks and errors."""

from __future__ import annotations

import operator as python_operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.infra.pass_manager import PassManager

from torch_regflat.errors import InputError
from torch_regflat.operators import Call, Lower, lower_call, operator, workload

from .tracing import trace

aten = torch.ops.aten


def x(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32, device="meta"), nn.Linear(32, 16, device="meta")

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.down(F.gelu(self.up(hidden)))


def test_works_in_a_pass_manager() -> None:
    graph = trace(nn.Sequential(Block(), Block()), x(4, 16))
    result = PassManager(passes=[Lower()])(graph)
    nodes = [n for n in result.graph_module.graph.nodes if n.op == "call_function"]
    assert nodes and all(n.meta["operation"].node == n.name for n in nodes)


def test_equal_calls_share_their_nests() -> None:
    found = workload(trace(nn.Sequential(Block(), Block()), x(4, 16)))
    first, second = found.operations[: len(found.operations) // 2], found.operations[len(found.operations) // 2 :]
    assert len(first) == 4
    for a, b in zip(first, second, strict=True):
        assert a.nests is b.nests and a.inputs != b.inputs


def test_other_scalars_layouts_and_aliases_do_not_share() -> None:
    def fn(a: torch.Tensor, b: torch.Tensor) -> list[torch.Tensor]:
        return [a * b, a * a, a**2, a**2.5, a * b.t()]

    operations = [op for op in workload(trace(fn, x(8, 8), x(8, 8))) if op.nests]
    assert len({id(op.nests) for op in operations}) == 5
    assert [len(op.inputs) for op in operations] == [2, 1, 1, 1, 2]


def test_slots_are_inputs_then_outputs() -> None:
    found = workload(trace(Block(), x(4, 16)))
    linear = found.operations[0]
    sizes = [found.tensors[linear.tensors[o.slot]].nbytes for o in linear.nests[0].operands]
    footprints = [o.footprint_bytes(linear.nests[0].sizes) for o in linear.nests[0].operands]
    assert footprints == sizes == [4 * 64, 4 * 512, 4 * 128, 4 * 32]


def test_roles_follow_views_and_tensors_are_storages() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(x(32, 16))

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return (hidden @ self.weight.t()) @ self.weight

    found = workload(trace(Tied(), x(4, 16)))
    assert found.role_bytes("weight") == 4 * 32 * 16
    products = [op for op in found if op.nests]
    assert [o.role for o in products[0].nests[0].operands] == ["activation", "weight", "activation"]
    result = found.tensors[products[-1].outputs[0]]
    assert result.is_output and found.operations[result.producer or 0] is products[-1]


def test_in_place_keeps_the_storage() -> None:
    found = workload(trace(lambda a: a.add_(1).mul_(2), x(8)))
    assert {s for op in found for s in op.tensors} == {found.operations[0].inputs[0]}
    assert [n.compulsory_bytes() for op in found for n in op.nests] == [64, 64]


def test_what_is_written_but_not_returned_is_an_output() -> None:
    a, b = x(8), x(4)
    lowered = lower_call(aten._foreach_add_.Scalar, ([a, b], 1.0), {}, None)
    assert len(lowered.inputs) == len(lowered.outputs) == 2
    assert sum(n.compulsory_bytes() for n in lowered.nests) == 2 * 4 * 12


def test_an_out_argument_is_written_only() -> None:
    a, out = x(8), x(8)
    lowered = lower_call(aten.add.out, (a, a), {"out": out}, out)
    assert sum(n.compulsory_bytes() for n in lowered.nests) == 4 * 16


def _own(name: str, schema: str) -> Any:
    library = torch.library.Library("regflat_tests", "FRAGMENT")
    library.define(f"{name}{schema}")
    _own.kept.append(library)  # type: ignore[attr-defined]
    return getattr(torch.ops.regflat_tests, name)


_own.kept = []  # type: ignore[attr-defined]


def test_an_operator_without_a_formula_is_priced_by_its_traffic() -> None:
    target = _own("mystery", "(Tensor a, Tensor b) -> Tensor").default
    lowered = lower_call(target, (x(8, 4), x(1, 4).expand(8, 4)), {}, x(8))
    (nest,) = lowered.nests
    assert not lowered.modelled and nest.kind == "movement" and nest.flops == 0
    assert nest.compulsory_bytes() == 4 * (32 + 4 + 8)


def test_a_second_formula_is_refused() -> None:
    target = _own("twice", "(Tensor a) -> Tensor").default

    def formula(call: Call) -> None:
        return None

    operator(target)(formula)
    with pytest.raises(InputError, match=r"regflat_tests::twice.default already has a formula.*can have only one"):
        operator(target)(formula)
    assert lower_call(target, (x(8),), {}, x(8)).modelled


def test_module_calls_are_refused_by_name() -> None:
    graph = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(Exception, match=r"node _0 is a call_module of '0'.*torch_regflat\.capture first"):
        Lower()(graph)


def test_make_fx_graph() -> None:
    def fn(a: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        first, second = (a @ w).split(2, dim=-1)
        return F.layer_norm(first * second, (2,))

    graph = make_fx(fn, tracing_mode="fake")(torch.empty(3, 8), torch.empty(8, 4))
    found = workload(graph)
    assert found.flops == 2 * 3 * 8 * 4
    assert all(op.modelled for op in found)
    split = next(op for op in found if "split" in op.target)
    product = next(op for op in found if op.flops)
    assert split.is_view and set(split.tensors) == set(product.outputs)
    product_of_parts = next(op for op in found if "mul" in op.target)
    assert product_of_parts.inputs == product.outputs * 2


def test_paths_of_exported_programs() -> None:
    model = nn.Sequential(Block(), nn.LayerNorm(16, device="meta"))
    program = torch.export.export(model, (x(4, 16),))
    found = workload(program.graph_module)
    assert [op.path for op in found if op.nests] == ["0.up", "0", "0.down", "0", "1"]
    assert found.flops == 2 * 2 * 4 * 16 * 32


def test_templates_give_their_nests_and_keep_their_own_tensors() -> None:
    graph = fx.Graph()
    hidden = graph.placeholder("hidden")
    hidden.meta.update(val=x(4, 8), storage=0, role="activation")
    weights = []
    for i in range(2):
        weight = graph.placeholder(f"w{i}")
        weight.meta.update(val=x(8, 8), storage=10 + i, role="weight")
        weights.append(weight)
    out, nodes = hidden, []
    for i in range(2):
        out = graph.call_function(aten.mm.default, (out, weights[i]))
        out.meta.update(val=x(4, 8), storage=20 + i, module_path=f"layers.{i}")
        nodes.append(out)
    nodes[1].meta.update(template=nodes[0], val=nodes[0].meta["val"])
    both = graph.call_function(aten.cat.default, ([nodes[0], nodes[1]],))
    both.meta.update(val=x(8, 8), storage=30, module_path="")
    graph.output((both,))
    found = workload(fx.GraphModule(nn.Module(), graph))
    first, second, cat = found.operations
    assert first.nests is second.nests
    assert (first.tensors, second.tensors) == ((0, 10, 20), (20, 11, 21))
    assert (first.path, second.path) == ("layers.0", "layers.1")
    assert cat.tensors == (20, 21, 30) and cat.nests[0].compulsory_bytes() == 4 * 2 * 64
    assert found.role_bytes("weight") == 2 * 4 * 64


def test_getitem_touches_only_the_element_it_takes() -> None:
    found = workload(trace(lambda a: a.max(-1)[0], x(4, 8)))
    item = next(op for op in found if op.target == python_operator.getitem.__name__)
    assert item.inputs == item.outputs
