"""Exchanges between ranks as they arrive at a recorder: nothing is sent, and the group's ranks are noted.

Operators of `c10d` write into tensors without saying so and take objects that no graph can hold, so they are recorded
as the functional collectives that do the same (`_c10d_functional`). These are recorded as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..errors import CaptureError
from ._torch_distributed import finished_work, group_name, group_of, ranks_of
from ._torch_private import op_info

if TYPE_CHECKING:
    from .recorder import Recorder


def ranks_in(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...] | None:
    """The ranks of the group that a functional collective names; None for one that names none (waiting)."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.name in ("group_name", "group"):
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            ranks = ranks_of(value)
            other = _other_rank(func, args)
            return ranks if other is None else (torch.distributed.get_rank(), other)
    return None


def _other_rank(func: Any, args: tuple[Any, ...]) -> int | None:
    """Whom a message of its own goes to or comes from."""
    name = func._schema.name.partition("::")[2]
    return int(args[1]) if name in ("isend", "irecv") else None


def record(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record an operator of c10d; returns what it does, with nothing left to wait for."""
    name = func._schema.name.partition("::")[2]
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    if name == "barrier":
        return finished_work()
    if name not in _AS:
        raise CaptureError(f"{recorder.here()}: c10d.{name} between ranks cannot be captured; use {_INSTEAD}")
    _AS[name](recorder, given, group_of(given["process_group"]))
    returns = [given[out] for out in _RETURNED.get(name, ())]
    work = finished_work()
    return (*returns, work) if returns else work


_INSTEAD = "all_reduce, all_gather_into_tensor, reduce_scatter_tensor, all_to_all_single, broadcast, send or recv"
_functional = torch.ops._c10d_functional


def _call(recorder: Recorder, func: Any, *args: Any, out: torch.Tensor | None = None) -> Any:
    """Record one functional collective on the tensors of the caller."""
    return recorder.call(func, args, {} if out is None else {"out": out})


_SUM = "sum"
"""How tensors are reduced: an operator of c10d has that in an object that cannot be asked. The bytes are the same."""


def _all_reduce(recorder: Recorder, given: dict[str, Any], group: Any) -> None:
    for tensor in given["tensors"]:
        _call(recorder, _functional.all_reduce_.default, tensor, _SUM, group_name(group))


def _broadcast(recorder: Recorder, given: dict[str, Any], group: Any) -> None:
    for tensor in given["tensors"]:
        _call(recorder, _functional.broadcast_.default, tensor, given["root_rank"], group_name(group))


def _gather(recorder: Recorder, given: dict[str, Any], group: Any) -> None:
    outs, ins = _pairs(given)
    for out, tensor in zip(outs, ins, strict=True):
        func = _functional.all_gather_into_tensor_out.default
        _call(recorder, func, tensor, group.size(), group_name(group), out=out)


def _scatter(recorder: Recorder, given: dict[str, Any], group: Any) -> None:
    outs, ins = _pairs(given)
    for out, tensor in zip(outs, ins, strict=True):
        func = _functional.reduce_scatter_tensor_out.default
        _call(recorder, func, tensor, _SUM, group.size(), group_name(group), out=out)


def _pairs(given: dict[str, Any]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    if "outputs" in given:
        return given["outputs"], given["inputs"]
    return [given["output_tensor"]], [given["input_tensor"]]


def _all_to_all(recorder: Recorder, given: dict[str, Any], group: Any) -> None:
    size, out, tensor = group.size(), given["output"], given["input"]
    receives = given["output_split_sizes"] or [out.shape[0] // size] * size
    sends = given["input_split_sizes"] or [tensor.shape[0] // size] * size
    func = _functional.all_to_all_single.default
    # It has no version that writes into a tensor, so the tensor counts as made by it from here on.
    recorder.node(out)
    nodes = (recorder.node(tensor), list(receives), list(sends), group_name(group))
    recorder.append(func, op_info(func), nodes, {}, recorder.twin(out))


_AS: dict[str, Callable[[Recorder, dict[str, Any], Any], None]] = {
    "allreduce_": _all_reduce,
    "allreduce_coalesced_": _all_reduce,
    "broadcast_": _broadcast,
    "_allgather_base_": _gather,
    "allgather_into_tensor_coalesced_": _gather,
    "_reduce_scatter_base_": _scatter,
    "reduce_scatter_tensor_coalesced_": _scatter,
    "alltoall_base_": _all_to_all,
}
_RETURNED: dict[str, tuple[str, ...]] = {
    "allreduce_": ("tensors",),
    "broadcast_": ("tensors",),
    "_allgather_base_": ("output_tensor",),
    "_reduce_scatter_base_": ("output_tensor",),
}
