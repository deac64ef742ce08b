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
        """One operator. `out` gives the shape of the result, of the dtype of the first tensor, where it is known: some
        meta functions are stricter than the kernels that were measured, and many slow.
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
        return _Unrun(torch.nn.Module(), self._graph)


class _Unrun(fx.GraphModule):
    """A graph that is only read: no Python code is made of it, which takes longer than all else here."""

    def recompile(self) -> Any:
        return None


def _value(node: fx.Node) -> Any:
    return node.meta["val"]
