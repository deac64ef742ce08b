"""State-space and linear-attention layers as one operator each: the scan over the tokens is a single kernel.

Libraries run these recurrences as one kernel (mamba-ssm, flash-linear-attention); transformers without them runs a
Python loop over tokens or chunks. `torch_regflat.capture.scans` has these operators run in place of the loop. They have
reference implementations, so that a captured graph can still be run.

Work, with b batch, t tokens, d channels, n state size, h heads, p head size, g groups, L tokens a chunk:

- `selective_scan` (Mamba; Gu & Dao 2023, algorithm 2): b·d·n·t points of 7 vector operations (A·dt; B·dt·x, 2;
  state, 2; C·state, 2) and one exponential. Nothing of it is a matrix product, so it has no `flops`.
- `ssd_scan` (Mamba-2; Dao & Gu 2024, section 6): products a chunk of C·Bᵀ (2·L²·n a group), scores times values
  (2·L²·p a head), Bᵀ·x and C·state (2·L·n·p each): flops = b·t·(g·2·L·n + h·(2·L·p + 4·n·p)); of the squares half is
  executed.
- `gated_delta_rule` (Yang et al. 2024): the same with k and v sizes n and p, two L² products of keys, a triangular
  solve against p + n columns (L²·(p + n)) and one more product with the state:
  flops = b·t·h·(4·L·n + 2·L·p + L·(p + n) + 6·n·p).
- `linear_recurrence` (RG-LRU of Griffin): per channel and token a product and an addition.
- `wkv` (RWKV-4): per channel and token 13 vector operations and 4 exponentials.

A chunk waits for the one before: `sequential` is the number of chunks. The selective scan's kernel works through 2048
tokens at once (mamba-ssm, selective_scan_fwd_kernel.cuh), wkv's through all tokens in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.nn import functional as F

from ..workload import LoopNest
from .registry import Call, Nests, operator
from .shapes import Loop, dtype_name, same_storage

_Function = TypeVar("_Function", bound=Callable[..., Any])
_library: Any = torch.library.Library("regflat", "DEF")  # type: ignore[no-untyped-call]
_library.define(
    "selective_scan(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dt_bias, "
    "bool softplus) -> (Tensor, Tensor)"
)
_library.define(
    "ssd_scan(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? dt_bias, Tensor? state, "
    "int chunk, bool softplus, float dt_min, float dt_max) -> (Tensor, Tensor)"
)
_library.define(
    "selective_state_update(Tensor(a!) state, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
    "Tensor? dt_bias, bool softplus) -> Tensor"
)
_library.define(
    "gated_delta_rule(Tensor query, Tensor key, Tensor value, Tensor g, Tensor beta, Tensor? state, int chunk, "
    "bool normalize) -> (Tensor, Tensor)"
)
_library.define(
    "wkv(Tensor decay, Tensor first, Tensor key, Tensor value, Tensor? num, Tensor? den, Tensor? max) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define("linear_recurrence(Tensor x, Tensor gate, Tensor? state) -> (Tensor, Tensor)")
regflat = torch.ops.regflat
SCAN_TOKENS = 2048
"""Tokens that one block of the selective scan's kernel holds at once."""


def _kernel(name: str, key: str = "CompositeExplicitAutograd") -> Callable[[_Function], _Function]:
    """Register the implementation of an operator."""

    def register(function: _Function) -> _Function:
        _library.impl(name, function, key)
        return function

    return register


def _step_size(dt: torch.Tensor, bias: torch.Tensor | None, softplus: bool) -> torch.Tensor:
    dt = dt if bias is None else dt + bias.to(dt.dtype)
    return F.softplus(dt) if softplus else dt


# --- reference implementations and shapes --------------------------------------------------------------------------


@_kernel("selective_scan")
def _selective_scan(x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, z: Any, dt_bias: Any, softplus: bool) -> Any:
    """x, dt [b, d, t]; A [d, n]; B, C [b, n, t] -> y [b, d, t], last state [b, d, n]."""
    dt = _step_size(dt, None if dt_bias is None else dt_bias[..., None], softplus)
    decay = torch.exp(A[None, :, None, :] * dt[..., None])
    added = dt[..., None] * B.transpose(1, 2)[:, None].float() * x[..., None].float()
    state = torch.zeros_like(decay[:, :, 0])
    outputs = []
    for i in range(x.shape[2]):
        state = decay[:, :, i] * state + added[:, :, i]
        outputs.append((state.to(x.dtype) * C[:, None, :, i].to(x.dtype)).sum(-1))
    y = torch.stack(outputs, dim=-1)
    y = y if D is None else y + x * D[None, :, None]
    return (y if z is None else y * F.silu(z)), state


@_kernel("selective_scan", "Meta")
def _selective_scan_meta(x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, z: Any, dt_bias: Any, softplus: bool) -> Any:
    dtype = x.dtype
    for other in (D, z):
        dtype = dtype if other is None else torch.promote_types(dtype, other.dtype)
    state = torch.promote_types(torch.promote_types(A.dtype, dt.dtype), torch.float32)
    return x.new_empty(x.shape, dtype=dtype), x.new_empty(*x.shape[:2], A.shape[-1], dtype=state)


@_kernel("selective_state_update")
def _selective_state_update(
    state: Any, x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, z: Any, dt_bias: Any, softplus: bool
) -> Any:
    """state [b, d, n], x and dt [b, d], A [d, n], B and C [b, n]; or with heads [b, h, p, n], [b, h, p], [h, p, n],
    [b, g, n] -> y like x."""
    if x.dim() == 3:
        groups = x.shape[1] // B.shape[1]
        B, C = (v.repeat_interleave(groups, dim=1)[:, :, None] for v in (B, C))
    else:
        B, C = B[:, None], C[:, None]
    dt = _step_size(dt, dt_bias, softplus).float()[..., None]
    new = state.float() * torch.exp(dt * A.float()) + dt * B.float() * x.float()[..., None]
    state.copy_(new.to(state.dtype))
    y = (new.to(C.dtype) * C).sum(-1)
    y = y if D is None else y + x * D
    return (y if z is None else y * F.silu(z)).to(x.dtype)


@_kernel("selective_state_update", "Meta")
def _selective_state_update_meta(
    state: Any, x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, z: Any, dt_bias: Any, softplus: bool
) -> Any:
    return x.new_empty(x.shape)


@_kernel("ssd_scan")
def _ssd_scan(
    x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, dt_bias: Any, state: Any, chunk: int, softplus: bool,
    dt_min: float, dt_max: float,
) -> Any:  # fmt: skip
    """x [b, t, h, p], dt [b, t, h], A [h], B and C [b, t, g, n] -> y [b, t, h, p], last state [b, h, p, n]; float32."""
    dt = _step_size(dt, dt_bias, softplus).clamp(dt_min, dt_max).float()
    groups = x.shape[2] // B.shape[2]
    x, B, C = x.float(), *(v.float().repeat_interleave(groups, dim=2) for v in (B, C))
    new = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1]) if state is None else state.float()
    outputs = []
    for i in range(x.shape[1]):
        step = dt[:, i, :, None, None]
        new = new * torch.exp(step * A.float()[:, None, None]) + step * x[:, i, :, :, None] * B[:, i, :, None, :]
        outputs.append((new * C[:, i, :, None, :]).sum(-1))
    y = torch.stack(outputs, dim=1)
    return (y if D is None else y + x * D[..., None]), new


@_kernel("ssd_scan", "Meta")
def _ssd_scan_meta(
    x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, dt_bias: Any, state: Any, chunk: int, softplus: bool,
    dt_min: float, dt_max: float,
) -> Any:  # fmt: skip
    last = x.new_empty(x.shape[0], *x.shape[2:], B.shape[-1], dtype=torch.float32)
    return x.new_empty(x.shape, dtype=torch.float32), last


@_kernel("gated_delta_rule")
def _gated_delta_rule(
    query: Any, key: Any, value: Any, g: Any, beta: Any, state: Any, chunk: int, normalize: bool
) -> Any:
    """query and key [b, t, k, n], value [b, t, h, p], g [b, t, h] (or a channel [b, t, h, n]), beta [b, t, h]
    -> y like value, last state [b, h, n, p] in float32."""
    dtype, groups = query.dtype, value.shape[2] // key.shape[2]
    query, key = (v.repeat_interleave(groups, dim=2) for v in (query, key))
    query, key, value, g, beta = (v.float() for v in (query, key, value, g, beta))
    if normalize:
        query, key = (v * torch.rsqrt((v * v).sum(-1, keepdim=True) + 1e-6) for v in (query, key))
    query = query * query.shape[-1] ** -0.5
    g = g[..., None] if g.dim() == 3 else g
    batch, _, heads, size = key.shape
    new = key.new_zeros(batch, heads, size, value.shape[-1]) if state is None else state.float()
    outputs = []
    for i in range(key.shape[1]):
        new = new * g[:, i].exp()[..., None]
        k = key[:, i, :, :, None]
        delta = (value[:, i] - (new * k).sum(-2)) * beta[:, i, :, None]
        new = new + k * delta[:, :, None]
        outputs.append((new * query[:, i, :, :, None]).sum(-2))
    return torch.stack(outputs, dim=1).to(dtype), new


@_kernel("gated_delta_rule", "Meta")
def _gated_delta_rule_meta(
    query: Any, key: Any, value: Any, g: Any, beta: Any, state: Any, chunk: int, normalize: bool
) -> Any:
    last = value.new_empty(key.shape[0], value.shape[2], key.shape[-1], value.shape[-1], dtype=torch.float32)
    return value.new_empty(value.shape, dtype=query.dtype), last


@_kernel("wkv")
def _wkv(decay: Any, first: Any, key: Any, value: Any, num: Any, den: Any, max: Any) -> Any:
    """decay and first [d], key and value [b, t, d], states [b, d] -> y like key, new states in float32."""
    decay = -torch.exp(decay)
    zero = torch.zeros_like(key[:, 0], dtype=torch.float32)
    top = zero - 1e38 if max is None else max
    num, den = (zero if v is None else v for v in (num, den))
    outputs = []
    for i in range(key.shape[1]):
        k, v = key[:, i].float(), value[:, i]
        high = torch.maximum(top, k + first)
        e1, e2 = torch.exp(top - high), torch.exp(k + first - high)
        outputs.append(((e1 * num + e2 * v) / (e1 * den + e2)).to(key.dtype))
        high = torch.maximum(top + decay, k)
        e1, e2 = torch.exp(top + decay - high), torch.exp(k - high)
        num, den, top = e1 * num + e2 * v, e1 * den + e2, high
    return torch.stack(outputs, dim=1), num, den, top


@_kernel("wkv", "Meta")
def _wkv_meta(decay: Any, first: Any, key: Any, value: Any, num: Any, den: Any, max: Any) -> Any:
    return key.new_empty(key.shape), *(key.new_empty(key[:, 0].shape, dtype=torch.float32) for _ in range(3))


@_kernel("linear_recurrence")
def _linear_recurrence(x: Any, gate: Any, state: Any) -> Any:
    """x and gate [b, t, d], state [b, d] -> y like x, last state in float32."""
    state = torch.zeros_like(x[:, 0], dtype=torch.float32) if state is None else state
    outputs = []
    for i in range(x.shape[1]):
        state = gate[:, i].float() * state + x[:, i].float()
        outputs.append(state.to(x.dtype))
    return torch.stack(outputs, dim=1), state


@_kernel("linear_recurrence", "Meta")
def _linear_recurrence_meta(x: Any, gate: Any, state: Any) -> Any:
    return x.new_empty(x.shape), x.new_empty(x[:, 0].shape, dtype=torch.float32)


# --- loop nests ----------------------------------------------------------------------------------------------------


def _nest(call: Call, dims: dict[str, int], chunks: int, **counts: Any) -> LoopNest:
    """One sequential nest that reads every input and writes every output once; a state that is updated is both."""
    loop = Loop(call, dims.items())
    updated = call.args[0] if call.target.overloadpacket is regflat.selective_state_update else None
    for tensor in call.inputs:
        (loop.update if tensor is updated else loop.read)(tensor, distinct=float(tensor.numel()))
    for tensor in call.out:
        # A state that is updated in place was counted as read and written already.
        if updated is None or not same_storage(tensor, updated):
            loop.write(tensor, distinct=float(tensor.numel()))
    return loop.nest("sequential", dtype_name(call.out[0]), sequential=max(1, chunks), **counts)


@operator(regflat.selective_scan)
def selective_scan(call: Call) -> Nests:
    """Points b·d·n·t, and the gate, the skip and the step size a channel and token."""
    (b, d, t), n = call.args[0].shape, call.args[2].shape[-1]
    points, rows = b * d * n * t, b * d * t
    vector, special = _around(call, rows)
    return _nest(
        call, {"b": b, "d": d, "n": n, "t": t}, math.ceil(t / SCAN_TOKENS),
        vector_ops=7.0 * points + vector, special_ops=points + special,
    )  # fmt: skip


@operator(regflat.selective_state_update)
def selective_state_update(call: Call) -> Nests:
    """One token of the selective scan, with the state read and written back."""
    points, rows = call.args[0].numel(), call.args[1].numel()
    vector, special = _around(call, rows)
    dims = {"b": call.args[0].shape[0], "d": points // call.args[0].shape[0]}
    return _nest(call, dims, 1, vector_ops=7.0 * points + vector, special_ops=points + special)


def _around(call: Call, rows: int) -> tuple[float, float]:
    """Vector and special operations a row: softplus 1 + 2, bias 1, skip 2, gate (silu and product) 2 + 2."""
    vector = rows * (
        (1 if call.arg("softplus") else 0)
        + (call.arg("dt_bias") is not None)
        + 2 * (call.arg("D") is not None)
        + 2 * (call.arg("z") is not None)
    )
    return float(vector), rows * 2.0 * (bool(call.arg("softplus")) + (call.arg("z") is not None))


@operator(regflat.ssd_scan)
def ssd_scan(call: Call) -> Nests:
    """The chunked form; see the module for its products."""
    (b, t, h, p), (g, n) = call.args[0].shape, call.args[3].shape[2:]
    chunk = min(int(call.arg("chunk")), t)
    square = b * t * chunk * (2 * g * n + 2 * h * p)
    flops = square + b * t * h * 4 * n * p
    return _nest(
        call, {"b": b, "h": h, "t": t, "n": n, "p": p}, math.ceil(t / chunk),
        flops=flops, executed_flops=flops - square / 2,
        vector_ops=b * t * h * (chunk / 2 * 2 + 2 * p + 4.0), special_ops=b * t * h * (chunk / 2 + 3.0),
    )  # fmt: skip


@operator(regflat.gated_delta_rule)
def gated_delta_rule(call: Call) -> Nests:
    """The chunked form of the delta rule; see the module. Token by token (chunk 1): 8 vector operations a point."""
    (b, t, h, p), n = call.args[2].shape, call.args[1].shape[-1]
    chunk = min(int(call.arg("chunk")), t)
    dims = {"b": b, "h": h, "t": t, "n": n, "p": p}
    if chunk == 1:
        return _nest(call, dims, t, vector_ops=8.0 * b * t * h * n * p, special_ops=float(b * t * h))
    square = b * t * h * chunk * (4 * n + 2 * p)
    flops = square + b * t * h * (chunk * (n + p) + 6 * n * p)
    gates = n if call.args[3].dim() == 4 else 1
    return _nest(
        call, dims, math.ceil(t / chunk),
        flops=flops, executed_flops=flops - square / 2,
        vector_ops=b * t * h * (chunk * 2.0 * gates + 4 * n + 2 * p), special_ops=b * t * h * chunk / 2.0 * gates,
    )  # fmt: skip


@operator(regflat.wkv)
def wkv(call: Call) -> Nests:
    """A channel and token: 2 maxima, 6 additions, 4 products, a division; 4 exponentials."""
    b, t, d = call.args[2].shape
    return _nest(call, {"b": b, "t": t, "d": d}, 1, vector_ops=13.0 * b * t * d, special_ops=4.0 * b * t * d)


@operator(regflat.linear_recurrence)
def linear_recurrence(call: Call) -> Nests:
    """A product and an addition a channel and token."""
    b, t, d = call.args[0].shape
    return _nest(call, {"b": b, "t": t, "d": d}, 1, vector_ops=2.0 * b * t * d)
