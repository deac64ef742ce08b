"""A recorder small enough to trust, so that the operators' tests do not depend on the capture they feed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


class _Mode(TorchDispatchMode):
    def __init__(self, root: torch.nn.Module, graph: fx.Graph) -> None:
        super().__init__()
        self.graph, self.nodes, self.kept = graph, {}, []
        self.state = {id(t): name for name, t in [*root.named_parameters(), *root.named_buffers()]}

    def node_of(self, tensor: torch.Tensor) -> fx.Node:
        node = self.nodes.get(id(tensor))
        if node is None:
            name = self.state.get(id(tensor))
            if name is None:
                node = self.graph.placeholder(f"x{len(self.nodes)}")
                node.meta["role"] = "activation"
            else:
                node = self.graph.get_attr(name)
                node.meta["role"] = "weight"
            self.keep(node, tensor)
        return node

    def keep(self, node: fx.Node, value: Any) -> None:
        node.meta["val"] = value
        self.kept.append(value)
        if isinstance(value, torch.Tensor):
            self.nodes[id(value)] = node

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "profiler":
            return func(*args, **kwargs)
        given = tree_map(lambda t: self.node_of(t) if isinstance(t, torch.Tensor) else t, (args, kwargs))
        result = func(*args, **kwargs)
        node = self.graph.call_function(func, *given)
        if isinstance(result, (tuple, list)):
            node.meta["val"] = result
            self.kept.append(result)
            for i, item in enumerate(result):
                if isinstance(item, torch.Tensor):
                    self.keep(self.graph.call_function(__import__("operator").getitem, (node, i)), item)
        else:
            self.keep(node, result)
        return result


def trace(fn: Callable[..., Any], *args: Any, inference: bool = True, **kwargs: Any) -> fx.GraphModule:
    """The fx graph of the ATen operators that `fn` runs on meta tensors, composite operators whole."""
    root = fn if isinstance(fn, torch.nn.Module) else torch.nn.Module()
    graph = fx.Graph()
    mode = _Mode(root, graph)
    with torch.inference_mode(inference), mode:
        result = fn(*args, **kwargs)
    tensors = [t for t in torch.utils._pytree.tree_leaves(_plain(result)) if isinstance(t, torch.Tensor)]
    graph.output(tuple(mode.node_of(t) for t in tensors))
    return fx.GraphModule(root, graph)


def _plain(result: Any) -> Any:
    return list(result.values()) if isinstance(result, dict) else result
