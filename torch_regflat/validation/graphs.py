"""A graph of ATen operators on meta tensors, built call by call: what capturing a module that makes them gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..workload import Role


class Builder:
    """Collects calls; `graph` is then as one of `torch_regflat.capture`."""

    def __init__(self) -> None:
        self._graph = fx.Graph()
        self._tensors = 0

    def tensor(self, *shape: int, dtype: torch.dtype, role: Role = "activation") -> fx.Node:
        """A tensor that exists before the first call."""
        node = self._graph.placeholder(f"x{self._tensors}")
        self._tensors += 1
        node.meta.update(val=torch.empty(shape, dtype=dtype, device="meta"), role=role)
        return node

    def call(self, target: Any, *args: Any, out: Sequence[int] | None = None, **kwargs: Any) -> fx.Node:
        """One operator. `out` gives the shape of the result where the operator's own meta function is stricter than
        the kernels that were measured (of the dtype of the first tensor).
        """
        node = self._graph.call_function(target, args, kwargs)
        if out is None:
            given = fx.node.map_arg(args, _value), fx.node.map_arg(kwargs, _value)
            with torch.inference_mode():
                node.meta["val"] = target(*given[0], **given[1])
        else:
            dtype = _value(args[0]).dtype
            node.meta["val"] = torch.empty(tuple(out), dtype=dtype, device="meta")
        return node

    def graph(self, *results: fx.Node) -> fx.GraphModule:
        self._graph.output(results)
        return fx.GraphModule(torch.nn.Module(), self._graph)


def _value(node: fx.Node) -> Any:
    return node.meta["val"]
