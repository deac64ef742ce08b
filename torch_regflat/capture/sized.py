"""Results of operators whose number of rows depends on values, when that number is given."""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten


def sized(func: Any, actual: tuple[Any, Any], count: int) -> Any:
    """The meta result of `func(*args, **kwargs)` that finds `count` rows (elements, for flat results)."""
    args, kwargs = actual
    source: torch.Tensor = args[0]
    packet = func.overloadpacket

    def made(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    if packet is aten.nonzero:
        return made(count, source.dim())
    if packet is aten.where and len(args) == 1:
        return [made(count) for _ in range(source.dim())]
    if packet is aten.masked_select:
        return made(count, dtype=source.dtype)
    if packet is aten.index:
        positions = [_positions(index, count) for index in args[1]]
        return func(source, [part for parts in positions for part in parts])
    if packet is aten.repeat_interleave and len(args) > 1:
        return func(*args, **{**kwargs, "output_size": count})
    if packet is aten.repeat_interleave:
        return made(count)
    if packet in (aten._unique2, aten._unique):
        return made(count, dtype=source.dtype), made(*source.shape), made(count)
    if packet in (aten.unique_dim, aten.unique_consecutive, aten.unique_dim_consecutive):
        dim = args[1] if packet is not aten.unique_consecutive else kwargs.get("dim")
        shape = (count,) if dim is None else (*source.shape[:dim], count, *source.shape[dim:][1:])
        return made(*shape, dtype=source.dtype), made(source.shape[dim or 0]), made(count)
    raise NotImplementedError(f"{func} cannot be given a number of rows")


def _positions(index: Any, count: int) -> list[Any]:
    """A boolean index as positions, one for each of its dimensions."""
    if index is None or index.dtype not in (torch.bool, torch.uint8):
        return [index]
    return [torch.empty(count, dtype=torch.int64, device="meta") for _ in range(index.dim())]
