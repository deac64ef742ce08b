"""Exchanges between ranks: what this rank puts in, and with whom.

`_c10d_functional` and `_c10d_functional_autograd` (those of torch and of DTensor) and `c10d`, which capture rewrites.
Waiting for one is a view. What an exchange costs is no loop nest: it is a `Collective`, priced on the links of a chip.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..errors import InputError
from ..workload import Collective, CollectiveKind
from .registry import Call, Nests, operator
from .shapes import flat, tensors_in

KINDS: dict[str, CollectiveKind] = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "all_to_all": "all_to_all",
    "shard_dim_alltoall": "all_to_all",
    "broadcast": "broadcast",
    "isend": "send",
    "irecv": "send",
}
_NAMESPACES = ("_c10d_functional::", "_c10d_functional_autograd::", "_dtensor::")


def kind_of(target: Any) -> CollectiveKind | None:
    """Which exchange an operator is; None for any other."""
    schema = getattr(target, "_schema", None)
    if schema is None or not schema.name.startswith(_NAMESPACES):
        return None
    name = schema.name.partition("::")[2]
    return next((kind for start, kind in KINDS.items() if name.startswith(start)), None)


def collective_of(node: fx.Node, kind: CollectiveKind, inputs: Sequence[torch.Tensor]) -> Collective:
    """The exchange of a node. `meta["ranks"]` are the ranks of its group, which capture notes."""
    ranks = node.meta.get("ranks") or _counted(node)
    nbytes = sum(t.numel() * t.dtype.itemsize for t in inputs)
    return Collective(kind, float(nbytes), len(ranks), stride_of(ranks))


def stride_of(ranks: Sequence[int]) -> int:
    """How far apart the ranks of a group are in the numbering; of ranks unevenly spread, as they are on average."""
    if len(ranks) < 2:
        return 1
    gaps = {abs(b - a) for a, b in itertools.pairwise(ranks)}
    return gaps.pop() if len(gaps) == 1 else max(1, round((max(ranks) - min(ranks)) / (len(ranks) - 1)))


def _counted(node: fx.Node) -> tuple[int, ...]:
    """Neighbouring ranks, as many as the operator itself says."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    size = node.args[names.index("group_size")] if "group_size" in names else None
    if isinstance(size, int):
        return tuple(range(size))
    raise InputError(
        f"node {node.name} ({node.target}) exchanges between ranks, and the graph does not say which; "
        "put the ranks of its group into the node's meta['ranks']"
    )


@operator("_c10d_functional::wait_tensor", "_c10d_functional::_wrap_tensor_autograd")
def wait(call: Call) -> None:
    """Waiting for an exchange moves nothing; the exchange itself is priced."""
    return None




# FSDP2 gathers shards of many parameters at once: it copies them together before, and apart afterwards.


def writes_unsaid(target: Any) -> bool:
    """Whether an operator writes into a tensor without its schema saying so."""
    schema = getattr(target, "_schema", None)
    return schema is not None and schema.name == "fsdp::all_gather_copy_in"


@operator("fsdp::all_gather_copy_in")
def copy_in(call: Call) -> Nests:
    """Shards side by side into the part of the gathered tensor that is this rank's own."""
    return flat(call, tensors_in(call.args[0]), call.out[:1])


@operator("fsdp::split_with_sizes_copy", "fsdp::chunk_cat")
def copy_out(call: Call) -> Nests:
    """Gathered parameters apart; gradients together, in the order of the ranks that get them."""
    return flat(call, call.inputs, call.out)


@operator("fsdp::copy_")
def copy_into(call: Call) -> Nests:
    """One tensor into another."""
    return flat(call, call.inputs[1:], call.out)
