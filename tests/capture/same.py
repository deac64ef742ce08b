"""Compare the graph with repeated layers copied to the full trace of the same call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from torch_regflat.capture import Captured, capture_with_result


def both(
    fn: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **options: Any
) -> Captured:
    """Capture with and without repeats, check that the graphs are the same, and return the one with repeats."""
    quick = capture_with_result(fn, args, kwargs, repeats=True, **options)
    full = capture_with_result(fn, args, kwargs, repeats=False, **options)
    assert_same(quick.graph, full.graph)
    return quick


def assert_same(quick: GraphModule, full: GraphModule) -> None:
    """Same operators, shapes, scalars, edges, module paths, roles, and the same partition into storages."""
    ours, theirs = list(quick.graph.nodes), list(full.graph.nodes)
    for a, b in zip(describe(ours), describe(theirs), strict=False):
        assert a == b, f"\n{a}\n{b}"
    assert len(ours) == len(theirs)


def copied(gm: GraphModule) -> int:
    """How many nodes were copied from a template."""
    return sum("template" in node.meta for node in gm.graph.nodes)


def describe(nodes: list[Node]) -> list[Any]:
    index = {node: i for i, node in enumerate(nodes)}
    storages: dict[int, int] = {}
    return [
        (
            node.op,
            str(node.target),
            str(map_arg((node.args, node.kwargs), lambda used: f"%{index[used]}")),  # type: ignore[arg-type, return-value]
            _shapes(node.meta["val"]),
            node.meta["module_path"],
            node.meta.get("role"),
            _renamed(node.meta["storage"], storages),
        )
        for node in nodes
    ]


def _shapes(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.stride(), value.storage_offset(), value.dtype, value.device.type
    return tuple(map(_shapes, value)) if isinstance(value, (list, tuple)) else value


def _renamed(storage: Any, storages: dict[int, int]) -> Any:
    if isinstance(storage, (list, tuple)):
        return tuple(_renamed(part, storages) for part in storage)
    return storage if storage is None else storages.setdefault(storage, len(storages))
