"""Names of modules, parameters and buffers as the user would write them."""

from __future__ import annotations

import os
import re
import sys

import torch

from ._torch_distributed import is_dtensor, local

Containers = (torch.nn.ModuleList, torch.nn.Sequential, torch.nn.ModuleDict)


class Place:
    """Where a module stands among siblings of its class: its index and how many children the container has."""

    __slots__ = ("count", "index")

    def __init__(self, index: int, count: int) -> None:
        self.index, self.count = index, count


class Names:
    """Paths below the root; modules that are not below it are named by their class (`Linear`, `Linear_1`)."""

    def __init__(self, root: torch.nn.Module | None) -> None:
        self._modules: dict[int, str] = {}
        self._tensors: dict[int, str] = {}
        self._shards: set[int] = set()
        """What this rank holds of parameters that are DTensors."""
        self._taken: set[str] = set()
        self.places: dict[int, Place] = {}
        self.keep: list[torch.nn.Module] = []
        if root is not None:
            self.add(root, "")

    def module(self, module: torch.nn.Module) -> str | None:
        """The path of a module, None if it has not been met."""
        return self._modules.get(id(module))

    def tensor(self, tensor: torch.Tensor) -> str | None:
        """The state-dict name of a parameter or buffer, None if it is neither."""
        return self._tensors.get(id(tensor))

    def is_parameter(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is a parameter, or what this rank holds of one."""
        return isinstance(tensor, torch.nn.Parameter) or id(tensor) in self._shards

    def also(self, tensor: torch.Tensor, shard: torch.Tensor) -> None:
        """Say that a tensor is another view of what this rank holds of a parameter."""
        if id(shard) in self._tensors:
            self._tensors[id(tensor)] = self._tensors[id(shard)]
            self._shards.add(id(tensor))

    def add(self, module: torch.nn.Module, path: str) -> list[torch.nn.Module]:
        """Name a module and everything below it; returns those that are new."""
        pending, new = [(path, module)], []
        while pending:
            path, module = pending.pop()
            if id(module) in self._modules:
                continue
            self._modules[id(module)] = path
            new.append(module)
            prefix = f"{path}." if path else ""
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        self._tensors.setdefault(id(tensor), prefix + name)
                        if is_dtensor(tensor):
                            self._tensors.setdefault(id(local(tensor)), prefix + name)
                            self._shards |= {id(local(tensor))} if table is module._parameters else set()
            children = [(name, child) for name, child in module._modules.items() if child is not None]
            if isinstance(module, Containers):
                self._note_siblings([child for _, child in children])
            # Reversed: taken from the end, a module that is reachable twice gets its first name, as in a state dict.
            pending += [(prefix + name, child) for name, child in reversed(children)]
        self.keep += new
        return new

    def add_stranger(self, module: torch.nn.Module) -> list[torch.nn.Module]:
        """Name a module that is not below the root by its class."""
        return self.add(module, self.unique(type(module).__name__))

    def unique(self, name: str) -> str:
        """`name`, or `name_1`, `name_2`, ... if it is taken."""
        found, count = name, 0
        while found in self._taken:
            count += 1
            found = f"{name}_{count}"
        self._taken.add(found)
        return found

    def _note_siblings(self, children: list[torch.nn.Module]) -> None:
        classes = [type(child) for child in children]
        for index, child in enumerate(children):
            if classes.count(classes[index]) > 1:
                self.places.setdefault(id(child), Place(index, len(children)))


def attribute_name(module: torch.nn.Module, tensor: torch.Tensor) -> str | None:
    """The name of a plain attribute of `module` that is this very tensor."""
    for name, value in module.__dict__.items():
        if value is tensor:
            return name
    return None


def readable(path: str, module: torch.nn.Module | None, fallback: str) -> str:
    """How messages name a place: `model.layers.0 (LlamaDecoderLayer)`; the class alone for the root."""
    if module is None:
        return fallback
    kind = type(module).__name__
    return f"{path} ({kind})" if path and path != kind else kind


_OURS = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep)


def user_line() -> str:
    """`file:line` of the innermost line of Python that is neither torch's nor ours."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back  # type: ignore[assignment]
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "the code"


SAFE_SITES = {
    ("transformers", "torch_compilable_check"): True,
    ("transformers", "warn_if_padding_and_no_attention_mask"): False,
    ("transformers", "_ignore_causal_mask_sdpa"): False,
    ("transformers", "_ignore_bidirectional_mask_sdpa"): False,
    ("torch.distributions", "__init__"): True,
    ("torch.distributions", "_validate_sample"): True,
}
"""Functions of a package where an unknown value may be answered: a check of the inputs, which is taken to pass; a
warning, which is not given; and whether a mask may be left out because it masks nothing, where it is kept. The result
of the model is the same with either answer."""
_SITE_NAMES = frozenset(name for _, name in SAFE_SITES)


def safe_answer(frames: int = 12) -> bool | None:
    """The answer of the site of SAFE_SITES that asks, or None where nothing is safe."""
    frame = sys._getframe(1)
    for _ in range(frames):
        name = frame.f_code.co_name
        if name in _SITE_NAMES:
            module = str(frame.f_globals.get("__name__"))
            for (package, site), answer in SAFE_SITES.items():
                if site == name and (module == package or module.startswith(package + ".")):
                    return answer
        if frame.f_back is None:
            break
        frame = frame.f_back
    return None


def stack_path(node: torch.fx.Node) -> str | None:
    """The dotted path of the innermost module in a node's `nn_module_stack`, None where it has none.

    torch.export writes `layers.0.mlp`; Dynamo writes `L['self'].layers.0.mlp` or `L['self']._modules['layers']`, with
    the name of the local variable that held the module.
    """
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack")
    if not stack:
        return None
    innermost = list(stack.values())[-1]
    return plain_path(str(innermost[0] if isinstance(innermost, tuple) else innermost))


def plain_path(path: str) -> str:
    """`layers.0.mlp` for `L['self']._modules['layers']._modules['0'].mlp` and the like."""
    path = re.sub(r"^[LG]\[(['\"])\w+\1\]\.?", "", path)
    path = re.sub(r"\.?_(modules|parameters|buffers)(?=\[)", "", path)
    path = re.sub(r"\[(['\"]?)([^\]'\"]+)\1\]", r".\2", path)
    return re.sub(r"@\d+$", "", path).removeprefix(".")
