"""What the nodes of an fx graph tell: storages, roles, module paths, routing; recorded or worked out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..workload import Role


def input_nodes(node: fx.Node) -> list[fx.Node]:
    """`node.all_input_nodes`, whose getter takes 60 us a call in torch 2.13."""
    return list(node._input_nodes)


def storage_ids(storage: Any) -> list[int]:
    if isinstance(storage, int):
        return [storage]
    return [s for part in storage for s in storage_ids(part)] if storage else []


def storages_of(node: fx.Node, number: Any = None) -> list[int]:
    """Ids of the storages of a node's tensors; `number(node, tensor)` gives those that the graph does not."""
    known = node.meta.get("storage")
    if known is None and number is not None:
        val = node.meta.get("val")
        if isinstance(val, torch.Tensor):
            known = node.meta["storage"] = number(node, val)
        elif isinstance(val, (list, tuple)):
            known = tuple(number(node, t) if isinstance(t, torch.Tensor) else None for t in val)
            node.meta["storage"] = known
    return storage_ids(known)


def role_of(node: fx.Node) -> Role:
    """What a placeholder or attribute is: as recorded, else a parameter is a weight and an attribute state."""
    role: Role | None = node.meta.get("role")
    if role is not None:
        return role
    if isinstance(node.meta.get("val"), torch.nn.Parameter):
        return "weight"
    if node.op == "placeholder":
        return "activation"
    owner: Any = node.graph.owning_module
    for part in str(node.target).split("."):
        owner = getattr(owner, part, None)
    return "weight" if isinstance(owner, torch.nn.Parameter) else "state"


def path_of(node: fx.Node) -> str:
    """The dotted path of the innermost module that ran a node, from the recorder or from `nn_module_stack`."""
    path = node.meta.get("module_path")
    if path is not None:
        return str(path)
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    innermost = list(stack.values())[-1]
    path = str(innermost[0] if isinstance(innermost, tuple) else innermost)
    return path.removeprefix("L['self']").removeprefix(".")


@dataclass(frozen=True, slots=True)
class Routing:
    """How many experts a token picks (None: not seen), of how many in all, and how many tokens there are (0: those of
    the product)."""

    per_token: int | None = None
    experts: int = 0
    tokens: int = 0


def routing(node: fx.Node, limit: int = 64) -> Routing | None:
    """The routing of a grouped product: the topk nearest above its offsets, or what says what a rank gets of it."""
    queue = [arg for arg in (*node.args[2:3], node.kwargs.get("offs")) if isinstance(arg, fx.Node)]
    for step in range(limit):
        if step >= len(queue):
            return None
        current = queue[step]
        packet = getattr(current.target, "overloadpacket", None)
        if packet is torch.ops.aten.topk and isinstance(current.args[1], int):
            return Routing(current.args[1])
        if packet is not None and packet._qualified_op_name == "regflat::rows_here":
            chosen, _, experts, _, tokens = current.args
            return Routing(chosen.meta["val"].shape[-1], experts, tokens)  # type: ignore[union-attr, arg-type]
        queue += [n for n in input_nodes(current) if n not in queue]
    return None
