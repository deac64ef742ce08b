"""What a model is given to do in a phase: prefill, decode, extend, encode, a plain forward or a training step.

Inputs are made on meta tensors, from the model's own declarations: `whole` has those of a whole sequence, image or
sound, `decode` those of one new token, or some, against a filled cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, near
from ._torch_private import storage_key
from .decode import decode
from .hints import Hints
from .request import Call, Phase, checked, phases_of, positions_of
from .whole import whole

__all__ = [
    "Call", "Phase", "Prepared", "cache_tensors", "phases_of", "positions_of", "prepare_model", "torch_dtype",
]  # fmt: skip

DTYPES: dict[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
    "fp32": torch.float32,
    "float32": torch.float32,
    "fp64": torch.float64,
    "float64": torch.float64,
}
KV_BITS: dict[str, int] = {
    **{name: dtype.itemsize * 8 for name, dtype in DTYPES.items()},
    **{"fp8": 8, "int8": 8, "fp4": 4, "int4": 4},
}


@dataclass(frozen=True)
class Prepared:
    """A module and the meta inputs of one phase. `kv_cache` holds the model's own cache objects, filled."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str
    phase: Phase
    inputs: str
    dtype: str
    batch: int | None = None
    seq_len: int | None = None
    context: int | None = None
    kv_cache: tuple[Any, ...] = ()
    kv_dtype: str | None = None
    kv_bits: int | None = None
    notes: tuple[str, ...] = field(default=())
    fn: Callable[..., Any] | None = None
    """What is called where that is not the model itself."""
    others: Iterator[Call] = field(default=iter(()), compare=False, repr=False)
    """Other ways to call the model, to be tried in this order should it not run this way."""

    def otherwise(self, call: Call, note: str) -> Prepared:
        """The same called another way."""
        return replace(
            self, kwargs=call.kwargs, inputs=call.text, kv_cache=call.kv_cache, fn=call.fn, notes=(*self.notes, note)
        )

    @property
    def kv_bytes(self) -> int:
        """Bytes of all tensors in the caches, in the dtype they are stored in (`kv_bits` where it is overridden)."""
        tensors = cache_tensors(self.kv_cache)
        bits = sum(t.numel() * (t.dtype.itemsize * 8 if self.kv_bits is None else self.kv_bits) for t in tensors)
        return (bits + 7) // 8


def torch_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of a name such as `bf16` or `float32`."""
    found = DTYPES.get(name.lower().removeprefix("torch."))
    if found is None:
        raise InputError(f"unknown dtype {name!r}{near(name, DTYPES) or ';'} it must be one of {', '.join(DTYPES)}")
    return found


def cache_tensors(value: Any) -> list[Tensor]:
    """Return the tensors with at least one dimension inside cache objects, each piece of memory once."""
    found: dict[tuple[int, int], Tensor] = {}
    for tensor in _walk(value, set()):
        if tensor.dim():
            found.setdefault((storage_key(tensor), int(tensor.storage_offset())), tensor)
    return list(found.values())


def _walk(value: Any, visited: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if id(value) in visited:
        return
    visited.add(id(value))
    if isinstance(value, dict):
        children: list[Any] = list(value.values())
    elif isinstance(value, (list, tuple)):
        children = list(value)
    else:
        children = list(vars(value).values()) if hasattr(value, "__dict__") else []
    for child in children:
        yield from _walk(child, visited)


def prepare_model(
    model: nn.Module,
    name: str,
    phase: str | None,
    batch: int,
    seq_len: int | None,
    context: int | None,
    kv_dtype: str | None,
    notes: tuple[str, ...] = (),
    hints: Hints | None = None,
    logits: int | None = None,
) -> Prepared:
    """Make the inputs of `phase` (the model's usual one when None) for a module that declares its own inputs."""
    request = checked(model, name, phase, batch, seq_len, context)
    request.hints, request.logits = hints, logits
    if kv_dtype is not None and kv_dtype not in KV_BITS:
        raise InputError(
            f"unknown kv_dtype {kv_dtype!r}{near(kv_dtype, KV_BITS)} it must be one of {', '.join(KV_BITS)}"
        )
    ways = decode(request) if request.phase in ("decode", "extend") else whole(request)
    first = next(ways)
    return Prepared(
        model=model,
        args=(),
        kwargs=first.kwargs,
        name=name,
        phase=request.phase,
        inputs=first.text,
        dtype=str(request.dtype).removeprefix("torch."),
        batch=batch,
        seq_len=request.seq_len,
        context=request.context,
        kv_cache=first.kv_cache,
        kv_dtype=kv_dtype,
        kv_bits=None if kv_dtype is None else KV_BITS[kv_dtype],
        notes=notes,
        fn=first.fn,
        others=ways,
    )
