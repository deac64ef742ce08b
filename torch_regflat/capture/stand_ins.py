"""Stand-ins on meta for a model's own parameters while it is recorded."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule

from . import state
from ._torch_distributed import can_have_dtensors, fsdp_objects, is_dtensor, local, with_local
from .twins import Twins, on_storage


def has_shards(root: torch.nn.Module | None) -> bool:
    """Whether a model has DTensors whose shards lie in real memory, or that FSDP2 gathers."""
    if root is None or not can_have_dtensors():
        return False
    tensors = (*root.parameters(), *root.buffers())
    return any(is_dtensor(t) and not local(t).is_meta for t in tensors) or any(map(fsdp_objects, root.modules()))


class StandIns:
    """Meta parameters in place of the model's own while it is recorded, so that no gradient reaches those.

    What is put into the modules' tables goes out again with `saved.restore()`. With `sharded`, only DTensors are
    replaced, parameters and buffers: the results of operators on them have to be where they are, which is on meta.
    """

    def __init__(self, root: torch.nn.Module | None, saved: state.Saved, sharded: bool = False) -> None:
        self.parameters: list[torch.nn.Parameter] = []
        self.views: list[tuple[torch.Tensor, torch.Tensor]] = []
        """Other tensors that are the memory of a stand-in, with what a rank holds of it."""
        self._own: dict[int, torch.Tensor] = {}
        self._made: dict[int, torch.nn.Parameter] = {}
        twins = Twins()
        modules = list(root.modules()) if root is not None else []
        for module in modules:
            saved.module(module)
            for held in fsdp_objects(module):
                saved.instance(held)
        for module in modules:
            for name, parameter in module._parameters.items():
                if parameter is not None and (is_dtensor(parameter) or not sharded):
                    module._parameters[name] = self._stand_in(parameter, twins)
            for name, buffer in module._buffers.items():
                if buffer is not None and is_dtensor(buffer):
                    module._buffers[name] = self._shard(buffer, twins)
            for name, value in list(module.__dict__.items()):
                if isinstance(value, list) and any(id(item) in self._made for item in value):
                    module.__dict__[name] = [self._made.get(id(item), item) for item in value]
                elif isinstance(value, torch.Tensor) and id(value) in self._made:
                    module.__dict__[name] = self._made[id(value)]
        for held in (held for module in modules for held in fsdp_objects(module)):
            self._follow(held)

    def _stand_in(self, parameter: torch.nn.Parameter, twins: Twins) -> torch.nn.Parameter:
        made = self._made.get(id(parameter))
        if made is None:
            twin = self._shard(parameter, twins) if is_dtensor(parameter) else twins.make(parameter)
            made = torch.nn.Parameter(twin, parameter.requires_grad)
            self._made[id(parameter)] = made
            self._own[id(local(made))] = local(parameter)
            self.parameters.append(made)
        return made

    def _follow(self, held: Any) -> None:
        """Let what FSDP2 gathers of a parameter be the stand-in's."""
        gathered = getattr(held, "_sharded_param_data", None)
        made = self._made.get(id(getattr(held, "sharded_param", None)))
        if gathered is not None and made is not None:
            held._sharded_param_data = on_storage(local(made).untyped_storage(), gathered)
            self.views.append((held._sharded_param_data, local(made)))
            self._own[id(held._sharded_param_data)] = gathered

    def _shard(self, tensor: torch.Tensor, twins: Twins) -> torch.Tensor:
        """A DTensor like this one with a twin of what this rank holds."""
        held = local(tensor)
        twin = twins.make(held)
        self._own[id(twin)] = held
        return with_local(tensor, twin)

    def put_back(self, graph: GraphModule) -> GraphModule:
        """Let the graph refer to the user's parameters."""
        for node in graph.graph.nodes:
            if node.op == "get_attr":
                *path, name = str(node.target).split(".")
                holder: Any = graph.get_submodule(".".join(path))
                own = self._own.get(id(getattr(holder, name)))
                if own is not None:
                    setattr(holder, name, own)
        return graph
