"""State-space and linear-attention models: the scan is one operator, equal to the loop that it replaces."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from torch_regflat.capture import capture, scans
from torch_regflat.capture.huggingface import build_class
from torch_regflat.capture.phases import prepare_model
from torch_regflat.capture.record import capture as record
from torch_regflat.capture.replaced import replaced
from torch_regflat.operators import workload

transformers = pytest.importorskip("transformers")
B, D, T, N, H, P, G = 2, 6, 10, 4, 4, 3, 2


def rand(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype)


def modeling(name: str) -> Any:
    return importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for part in value for t in tensors(part)] if isinstance(value, (tuple, list)) else []


def delta_inputs(heads: int, *gate: int) -> tuple[torch.Tensor, ...]:
    key = rand(B, T, heads, N), rand(B, T, heads, N)
    return (*key, rand(B, T, H, P), -rand(B, T, H, *gate).abs(), rand(B, T, H).sigmoid())


DELTA = {"output_final_state": True, "use_qk_l2norm_in_kernel": True}
CASES: dict[str, tuple[str, str, Callable[[], tuple[Any, ...]], dict[str, Any]]] = {
    "mamba": (
        "mamba",
        "mamba_selective_scan",
        lambda: (rand(B, D, T), rand(B, D, T), -rand(D, N).abs(), rand(B, N, T), rand(B, N, T), rand(D), rand(B, D, T)),
        {"delta_softplus": True, "return_last_state": True},
    ),
    "mamba step": (
        "mamba",
        "mamba_selective_state_update",
        lambda: (rand(B, D, N), rand(B, D), rand(B, D), -rand(D, N).abs(), rand(B, N), rand(B, N), rand(D), rand(D)),
        {"dt_softplus": True},
    ),
    "mamba2": (
        "mamba2",
        "mamba2_chunk_scan",
        lambda: (rand(B, T, H, P), rand(B, T, H), -rand(H).abs(), rand(B, T, G, N), rand(B, T, G, N), 4, rand(H)),
        {"dt_softplus": True, "return_final_states": True},
    ),
    "mamba2 step": (
        "mamba2",
        "mamba2_selective_state_update",
        lambda: (rand(B, H, P, N), rand(B, H, P), rand(B, H, P), -rand(H, P, N).abs(), rand(B, G, N), rand(B, G, N)),
        {"dt_softplus": True},
    ),
    "delta rule": ("qwen3_next", "torch_chunk_gated_delta_rule", lambda: delta_inputs(G), {**DELTA, "chunk_size": 4}),
    "delta rule step": ("qwen3_next", "torch_recurrent_gated_delta_rule", lambda: delta_inputs(G), DELTA),
    "kimi": ("kimi_linear", "chunk_kimi_delta_attention", lambda: delta_inputs(H, N), {**DELTA, "chunk_size": 4}),
    "rwkv": (
        "rwkv",
        "rwkv_linear_attention",
        lambda: (rand(D), rand(D), rand(B, T, D), rand(B, T, D)),
        {"return_state": True},
    ),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_the_operator_computes_what_the_loop_of_transformers_does(case: str) -> None:
    module, name, make, kwargs = CASES[case]
    torch.manual_seed(0)
    args = make()
    ours = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
    expected = tensors(getattr(modeling(module), name)(*args, **kwargs))
    got = tensors(scans.SCANS[name](*ours, **kwargs))
    meta = tensors(scans.SCANS[name](*[a.to("meta") if isinstance(a, torch.Tensor) else a for a in args], **kwargs))
    for one, other, shape in zip(expected, got, meta, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)
        assert (shape.shape, shape.dtype) == (one.shape, one.dtype)
    for before, after in zip(tensors(args), tensors(ours), strict=True):
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)  # a state is updated in place by both


SMALL = {
    "MambaForCausalLM": ({"num_hidden_layers": 2}, "selective_scan", "backbone.layers.{}.mixer"),
    "Mamba2ForCausalLM": ({"num_hidden_layers": 2}, "ssd_scan", "backbone.layers.{}.mixer"),
    "FalconMambaForCausalLM": ({"num_hidden_layers": 2}, "selective_scan", "backbone.layers.{}.mixer"),
    "JambaForCausalLM": ({"num_hidden_layers": 8}, "selective_scan", "model.layers.{}.mamba"),
    "BambaForCausalLM": ({"num_hidden_layers": 2, "attn_layer_indices": [1]}, "ssd_scan", "model.layers.{}.mamba"),
    "RwkvForCausalLM": ({"num_hidden_layers": 2}, "wkv", "rwkv.blocks.{}.attention"),
    "Qwen3NextForCausalLM": ({"num_hidden_layers": 4}, "gated_delta_rule", "model.layers.{}.linear_attn"),
}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_prefill_and_decode_have_one_scan_a_layer(name: str) -> None:
    settings, scan, path = SMALL[name]
    cls = getattr(transformers, name)
    model = build_class(cls, cls.config_class(**settings), torch.bfloat16)
    original = vars(modeling("mamba"))["mamba_selective_scan"]
    prefill = prepare_model(model, name, "prefill", 1, 1000, None, None)
    ops = workload(record(model, (), prefill.kwargs)).operations
    found = [op for op in ops if op.target.startswith("regflat.")]
    assert found and {op.target for op in found} == {f"regflat.{scan}.default"}
    assert len({op.path for op in found}) == len(found) and found[0].path == path.format(0)
    assert len(ops) < 2000
    nest = found[0].nests[0]
    assert nest.kind == "sequential" and (nest.flops > 0 or nest.vector_ops > 0)
    decode = prepare_model(model, name, "decode", 1, None, 1000, None)
    steps = [
        op for op in workload(record(model, (), decode.kwargs, kv_cache=decode.kv_cache)) if "regflat." in op.target
    ]
    assert len(steps) == len(found)
    if scan in ("selective_scan", "ssd_scan"):
        assert {op.target for op in steps} == {"regflat.selective_state_update.default"}
    assert vars(modeling("mamba"))["mamba_selective_scan"] is original


def test_work_of_the_selective_scan_by_hand() -> None:
    def scan(x: torch.Tensor, A: torch.Tensor, B: torch.Tensor) -> Any:
        return torch.ops.regflat.selective_scan(x, x, A, B, B, None, None, None, False)

    meta = {"device": "meta"}
    graph = capture(scan, (torch.empty(B, D, T, **meta), torch.empty(D, N, **meta), torch.empty(B, N, T, **meta)))
    nest = next(op for op in workload(graph) if "selective" in op.target).nests[0]
    points = B * D * T * N
    assert (nest.flops, nest.vector_ops, nest.special_ops) == (0, 7 * points, points)
    assert nest.compulsory_bytes() == 4 * (B * D * T + D * N + B * N * T + B * D * T + B * D * N)


def test_a_graph_with_a_scan_runs() -> None:
    def scan(x: torch.Tensor, gate: torch.Tensor) -> Any:
        return torch.ops.regflat.linear_recurrence(x, gate, None)[0]

    x, gate = rand(B, T, D), rand(B, T, D)
    graph = capture(scan, (x, gate))
    (got,) = torch.fx.Interpreter(graph).run(x, gate)
    torch.testing.assert_close(got, scan(x, gate))


def test_gradients_go_through_the_loop() -> None:
    with replaced(), torch.enable_grad():
        x = rand(B, D, 3).requires_grad_()
        step, b = rand(B, D, 3), rand(B, N, 3)
        y = modeling("mamba").mamba_selective_scan(x, step, -rand(D, N).abs(), b, b)
        assert y.requires_grad
