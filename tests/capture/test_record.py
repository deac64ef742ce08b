"""Recording: any module or function, executable graphs, nothing of the user's changed, errors that say where."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, Interpreter

from torch_regflat.capture import capture, capture_with_result
from torch_regflat.errors import CaptureError

aten = torch.ops.aten


def targets(gm: GraphModule) -> list[Any]:
    return [node.target for node in gm.graph.nodes if node.op == "call_function"]


def node_of(gm: GraphModule, target: Any) -> torch.fx.Node:
    return next(node for node in gm.graph.nodes if node.target == target)


def run(gm: GraphModule, *tensors: torch.Tensor) -> Any:
    with torch.no_grad():
        return Interpreter(gm).run(*tensors)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.register_buffer("scale", torch.full((8,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x)))) * self.scale


def test_a_module_is_recorded_whole_with_paths_roles_and_meta_values() -> None:
    gm = capture(nn.Sequential(Block(), nn.Softmax(-1)), (torch.zeros(2, 8),))
    assert targets(gm) == [
        aten.layer_norm.default,
        aten.linear.default,
        aten.relu.default,
        aten.linear.default,
        aten.mul.Tensor,
        aten.add.Tensor,
        aten.softmax.int,
    ]
    linear = node_of(gm, aten.linear.default)
    assert linear.meta["module_path"] == "0.up"
    assert linear.meta["val"].shape == (2, 16)
    assert linear.meta["val"].device.type == "meta"
    assert linear.args[1].target == "0.up.weight"
    assert linear.args[1].meta["role"] == "weight"
    roles = {node.name: node.meta["role"] for node in gm.graph.nodes if node.op == "placeholder"}
    assert roles == {"input_1": "activation"}
    scale = next(node for node in gm.graph.nodes if node.target == "0.scale")
    assert scale.meta["role"] == "state"


def test_the_graph_computes_what_the_module_computes_without_copying_parameters() -> None:
    model = nn.Sequential(Block(), Block(), nn.Softmax(-1))
    x = torch.randn(2, 8)
    gm = capture(model, (x,))
    assert gm.get_parameter("0.up.weight") is model[0].up.weight
    torch.testing.assert_close(run(gm, x), (model(x),))
    torch.testing.assert_close(gm(x), (model(x),))


def test_meta_tensors_suffice() -> None:
    with torch.device("meta"):
        model, x = Block(), torch.zeros(2, 8)
    assert run(capture(model, (x,)), x)[0].shape == (2, 8)


def test_functions_name_modules_by_their_class() -> None:
    one, two, block = nn.Linear(8, 8), nn.Linear(8, 8), Block()
    gm = capture(lambda x: two(one(block(x)).sin()), (torch.zeros(2, 8),))
    paths = [node.meta["module_path"] for node in gm.graph.nodes if node.target == aten.linear.default]
    assert paths == ["Block.up", "Block.down", "Linear", "Linear_1"]
    assert node_of(gm, aten.sin.default).meta["module_path"] == ""
    x = torch.randn(2, 8)
    torch.testing.assert_close(run(gm, x)[0], two(one(block(x)).sin()))


def test_a_bound_method_is_recorded_below_its_module() -> None:
    gm = capture(Block().forward, (torch.zeros(2, 8),))
    assert node_of(gm, aten.linear.default).meta["module_path"] == "up"


@dataclasses.dataclass
class Pair:
    left: torch.Tensor
    right: torch.Tensor


def test_nested_inputs_and_outputs_are_flattened_in_order() -> None:
    def f(batch: dict[str, Any], scale: float, *, extra: tuple[torch.Tensor, ...]) -> Any:
        return {"pair": Pair(batch["a"] * scale, batch["b"][0]), "list": [extra[0] + 1, None, 3]}

    a, b, c = torch.randn(2), torch.randn(3), torch.randn(4)
    gm = capture(f, ({"a": a, "b": [b]}, 2.0), {"extra": (c,)})
    assert [node.name for node in gm.graph.nodes if node.op == "placeholder"] == ["batch_a", "batch_b_0", "extra_0"]
    torch.testing.assert_close(run(gm, a, b, c), (a * 2, b, c + 1))


def test_in_place_operators_share_the_storage_and_leave_the_input_alone() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        y[0].add_(1)
        y.unsqueeze_(0)
        return y.relu_()

    x = torch.randn(3, 2)
    kept = x.clone()
    gm = capture(f, (x,))
    storages = {node.target: node.meta["storage"] for node in gm.graph.nodes if node.op == "call_function"}
    assert len({storages[t] for t in (aten.mul.Tensor, aten.select.int, aten.add_.Tensor, aten.relu_.default)}) == 1
    assert node_of(gm, aten.mul.Tensor).meta["val"].shape == (3, 2)
    assert node_of(gm, aten.unsqueeze_.default).meta["val"].shape == (1, 3, 2)
    assert torch.equal(x, kept)
    torch.testing.assert_close(run(gm, x)[0], f(x))


def test_out_variants_and_views_of_one_storage() -> None:
    weight = torch.randn(6)
    first, second = weight[:3], weight[3:]

    def f(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty(3)
        torch.add(x, first, out=out)
        return out * second

    x = torch.randn(3)
    gm = capture(f, (x,))
    outside = [node for node in gm.graph.nodes if node.op == "get_attr"]
    assert len(outside) == 2
    assert outside[0].meta["storage"] == outside[1].meta["storage"]
    assert node_of(gm, aten.add.out).meta["storage"] == node_of(gm, aten.empty.memory_format).meta["storage"]
    torch.testing.assert_close(run(gm, x)[0], f(x))


def test_several_outputs_become_getitem_nodes() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        values, indices = x.topk(2)
        a, b = values.chunk(2, -1)
        return a + b + indices

    x = torch.randn(3, 4)
    gm = capture(f, (x,))
    topk = node_of(gm, aten.topk.default)
    assert isinstance(topk.meta["storage"], tuple)
    torch.testing.assert_close(run(gm, x)[0], f(x))


def test_an_operator_that_does_nothing_is_no_node() -> None:
    gm = capture(lambda x: nn.functional.dropout(x.float(), 0.5, training=False).contiguous() + 1, (torch.zeros(3),))
    assert targets(gm) == [aten.add.Tensor]


def test_the_device_of_the_user_is_recorded_not_meta() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        return y + torch.arange(3, device=y.device) + torch.tensor([1, 2, 3], device=y.device) + y.to("cpu")

    x = torch.randn(3)
    gm = capture(f, (x,))
    assert node_of(gm, aten.arange.default).kwargs["device"] == torch.device("cpu")
    torch.testing.assert_close(run(gm, x)[0], f(x))


class Busy(nn.Module):
    """Changes itself in every way that a forward can."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.Linear(4, 4)
        self.calls: list[int] = []
        self.last: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, fail: bool = False) -> torch.Tensor:
        self.calls.append(1)
        self.linear.register_forward_hook(lambda *_: None)
        self.last = self.linear(self.norm(x))
        self.norm.running_mean.mul_(2)
        self.extra = 3
        if fail:
            raise ValueError("no luck")
        return self.last


def state_of(model: Busy) -> Any:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("fail", [False, True])
def test_the_model_is_as_it_was(fail: bool) -> None:
    model = Busy()
    before, parameters = state_of(model), dict(model.named_parameters())
    call, tolist, tensor = nn.Module.__call__, torch.Tensor.tolist, torch.tensor
    try:
        capture(model, (torch.randn(3, 4), fail))
    except CaptureError as error:
        assert str(error) == "Busy: ValueError: no luck"
        assert isinstance(error.__cause__, ValueError)
    torch.testing.assert_close(state_of(model), before)
    assert all(model.get_parameter(name) is parameter for name, parameter in parameters.items())
    assert model.calls == []
    assert model.last is None
    assert not hasattr(model, "extra")
    assert not model.linear._forward_hooks
    assert nn.Module.__call__ is call
    assert torch.Tensor.tolist is tolist
    assert "tolist" not in torch.Tensor.__dict__
    assert torch.tensor is tensor


class Raises(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise self.error


class Outer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([inner])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks[0](x)


def test_an_error_names_the_innermost_module() -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Outer(Raises(KeyError("x"))), (torch.zeros(1),))
    assert str(caught.value) == "blocks.0 (Raises): KeyError: 'x'"
    assert isinstance(caught.value.__cause__, KeyError)


def test_wrong_shapes_repeat_the_error_of_torch_with_the_path() -> None:
    with pytest.raises(CaptureError, match=r"^blocks\.0 \(Linear\): RuntimeError: "):
        capture(Outer(nn.Linear(4, 4)), (torch.zeros(1, 3),))


def test_wrong_arguments_repeat_the_error_of_python() -> None:
    with pytest.raises(CaptureError, match=r"^Outer: TypeError: .*missing 1 required positional argument: 'x'"):
        capture(Outer(nn.Linear(4, 4)))


def test_an_error_in_a_function_names_the_function() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        return x @ x

    with pytest.raises(CaptureError, match="^broken: RuntimeError: "):
        capture(broken, (torch.zeros(2, 3),))


def test_an_error_that_the_model_handles_is_not_reported() -> None:
    class Handles(Outer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                return super().forward(x)
            except KeyError:
                return x + 1

    assert targets(capture(Handles(Raises(KeyError())), (torch.zeros(1),))) == [aten.add.Tensor]


def test_keyboard_interrupt_passes_through() -> None:
    call = nn.Module.__call__
    with pytest.raises(KeyboardInterrupt):
        capture(Outer(Raises(KeyboardInterrupt())), (torch.zeros(1),))
    assert nn.Module.__call__ is call


def test_what_is_not_callable_is_refused() -> None:
    with pytest.raises(CaptureError, match="^a int cannot be captured; pass a module or a function$"):
        capture(3)  # type: ignore[arg-type]


def test_tensor_subclasses_are_refused() -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        fake = torch.zeros(3)
    with pytest.raises(CaptureError, match=r"^a FakeTensor of shape \(3,\) cannot be captured; pass a plain tensor"):
        capture(lambda x: x + 1, (fake,))


def test_changing_the_shape_of_a_buffer_in_place_is_refused() -> None:
    class Squeezes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("b", torch.zeros(1, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.b.squeeze_(0)

    with pytest.raises(CaptureError, match=r"^Squeezes: .*test_record\.py:\d+ changes the shape of a tensor"):
        capture(Squeezes(), (torch.zeros(3),))


class Cache:
    def __init__(self) -> None:
        self.layers: list[torch.Tensor] = [torch.zeros(2, 4), torch.zeros(2, 4)]
        self.length = 2


def append(x: torch.Tensor, cache: Cache) -> tuple[torch.Tensor, Cache]:
    cache.layers[0] = torch.cat([cache.layers[0], x])
    cache.layers[1].mul_(2)
    cache.length += 1
    return x.sum(), cache


def test_a_cache_gets_placeholders_and_its_state_back() -> None:
    cache = Cache()
    before = list(cache.layers)
    gm = capture(append, (torch.zeros(1, 4), cache))
    inputs = {node.name: node.meta["role"] for node in gm.graph.nodes if node.op == "placeholder"}
    assert inputs == {"x": "activation", "cache_layers_0": "kv_cache", "cache_layers_1": "kv_cache"}
    assert cache.layers[0] is before[0]
    assert cache.layers[1] is before[1]
    assert cache.length == 2
    assert [tuple(v.shape) for v in gm.graph.output_node().meta["val"]] == [(), (3, 4), (2, 4)]


def test_a_cache_can_keep_what_was_done_to_it() -> None:
    cache = Cache()
    result = capture_with_result(append, (torch.zeros(1, 4), cache), restore=False).result[1]
    assert result is cache
    assert cache.layers[0].shape == (3, 4)
    assert cache.layers[0].device.type == "meta"
    again = capture(append, (torch.zeros(1, 4), cache))
    assert again.graph.output_node().meta["val"][1].shape == (4, 4)


def test_kv_cache_marks_tensors_among_the_arguments_and_adds_others() -> None:
    x, k, v = torch.zeros(1), torch.zeros(1), torch.zeros(1)
    gm = capture(lambda x, past: x + past[0] + v, (x, (k,)), kv_cache=[k, v])
    roles = {node.name: node.meta["role"] for node in gm.graph.nodes if node.op == "placeholder"}
    assert roles == {"x": "activation", "past_0": "kv_cache", "kv_cache_1": "kv_cache"}


def test_random_operators_and_training_dropout_are_recorded() -> None:
    gm = capture(lambda x: nn.functional.dropout(x, 0.5) + torch.rand_like(x), (torch.zeros(3),))
    assert targets(gm)[:2] == [aten.dropout.default, aten.rand_like.default]


def test_other_threads_run_as_ever() -> None:
    linear, seen = nn.Linear(2, 2), []

    class Waits(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            thread = threading.Thread(target=lambda: seen.append(linear(torch.ones(2)).tolist()))
            thread.start()
            thread.join()
            return x + 1

    gm = capture(Waits(), (torch.zeros(2),))
    assert targets(gm) == [aten.add.Tensor]
    assert seen == [linear(torch.ones(2)).tolist()]


def test_attention_and_lstm_stay_whole() -> None:
    def attend(q: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)

    assert targets(capture(attend, (torch.zeros(1, 2, 4, 8),))) == [aten.scaled_dot_product_attention.default]
    lstm = capture(nn.LSTM(4, 8, batch_first=True), (torch.zeros(2, 3, 4),))
    assert aten.lstm.input in targets(lstm)
