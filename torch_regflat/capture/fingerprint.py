"""Whether two modules are built alike: same classes, same parameter shapes, same settings, all the way down.

The index of a layer among its siblings, which many layers remember (`layer_idx`), is left out of the comparison.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Hashable, Iterator
from typing import Any

import torch

from . import state
from ._torch_distributed import is_dtensor, is_placement, is_style, local, placed
from ._torch_private import BASE_ATTRIBUTES, hooks_of, storage_key

_INDEX_NAME = re.compile(r"(idx|index|layer|block|depth|(^|_)(id|i|n|num|number|no|pos|position))(_?(id|num|number))?$")


def fingerprint(module: torch.nn.Module, index: int, siblings: int) -> Hashable | None:
    """A value that is equal for modules built alike, at `index` among `siblings`; None if it must always be run."""
    seen: dict[int, int] = {}
    storages: dict[int, int] = {}
    found: list[Hashable] = []
    return tuple(found) if _add(module, index, siblings, seen, storages, found) else None


def submodules(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """`module` and everything below it in the order of its fingerprint, so that equal modules can be zipped."""
    seen: set[int] = set()
    pending = [module]
    while pending:
        module = pending.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield module
        pending += [child for child in reversed(module._modules.values()) if child is not None]


def index_attributes(module: torch.nn.Module, index: int) -> list[tuple[torch.nn.Module, str]]:
    """The attributes below `module` that hold its own index among its siblings."""
    return [
        (part, name)
        for part in submodules(module)
        for name, value in part.__dict__.items()
        if type(value) is int and value == index and _INDEX_NAME.search(name)
    ]


def own_tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """The parameters, buffers and plain tensor attributes below `module`, in a fixed order."""
    for part in submodules(module):
        for table in (part._parameters, part._buffers, part.__dict__):
            for value in table.values():
                if isinstance(value, torch.Tensor):
                    yield local(value)


def _add(
    module: torch.nn.Module,
    index: int,
    siblings: int,
    seen: dict[int, int],
    storages: dict[int, int],
    found: list[Hashable],
) -> bool:
    if id(module) in seen:
        found.append(seen[id(module)])
        return True
    seen[id(module)] = len(seen)
    for hook in hooks_of(module):
        if not _is_sharding(hook):
            return False
        found.append(_function(hook, module))
    found.append((type(module), module.training))
    for table in (module._parameters, module._buffers):
        for name, tensor in table.items():
            found.append((name, None if tensor is None else _tensor(tensor, storages)))
    for name, value in module.__dict__.items():
        if name not in BASE_ATTRIBUTES:
            if name == "forward" and _is_sharding(value):
                found.append((name, _function(value, module)))
            else:
                found.append((name, _attribute(name, value, index, siblings, storages)))
    for name, child in module._modules.items():
        found.append(name)
        if child is not None and not _add(child, index, siblings, seen, storages, found):
            return False
    return True


def _tensor(tensor: torch.Tensor, storages: dict[int, int]) -> Hashable:
    if is_dtensor(tensor):
        return placed(tensor), _tensor(local(tensor), storages)
    key = storage_key(tensor)
    shared = storages.setdefault(key, len(storages))
    sizes = (tensor.shape, tensor.stride()) if tensor.layout is torch.strided else (tensor.shape,)
    return type(tensor), *sizes, tensor.dtype, tensor.device, tensor.requires_grad, shared


def _attribute(name: str, value: Any, index: int, siblings: int, storages: dict[int, int]) -> Hashable:
    kind = type(value)
    if kind is int and value == index and _INDEX_NAME.search(name):
        return state.OWN
    if isinstance(value, torch.Tensor):
        return _tensor(value, storages)
    if kind.__name__.endswith("Config"):
        return id(value), _settings_of_layer(value, index, siblings)
    if kind is list and len(value) >= siblings:
        return _plain(value), _plain(value[index])
    if kind is dict and index in value:
        return _plain(value), _plain(value[index])
    return _plain(value)


def _plain(value: Any) -> Hashable:
    """The value where values decide, the identity of the object elsewhere."""
    kind = type(value)
    if state.is_plain(value) or isinstance(value, type) or is_placement(value):
        return kind, value
    if kind in (list, tuple):
        return kind, *map(_plain, value)
    if kind in (set, frozenset):
        return kind, frozenset(map(_plain, value))
    if isinstance(value, dict):
        return kind, *((_plain(key), _plain(item)) for key, item in value.items())
    if kind is functools.partial:
        return kind, _plain(value.func), _plain(value.args), _plain(value.keywords)
    if is_style(value):
        return kind, _plain(vars(value))
    return id(value)


_SHARDING = ("torch.distributed.tensor.", "transformers.distributed.", f"{__package__}.")


def _is_sharding(value: Any) -> bool:
    """Whether a function was wrapped around a module to divide it among ranks: it keeps no state of its own."""
    return isinstance(value, types.FunctionType) and value.__module__.startswith(_SHARDING)


def _function(value: Any, module: torch.nn.Module) -> Hashable:
    """A function by its code and what it closes over; the module itself is the same for all."""
    if value is module:
        return state.OWN
    if isinstance(value, types.MethodType):
        return value.__func__, _function(value.__self__, module)
    if isinstance(value, functools.partial):
        return _function(value.func, module), _plain(value.args), _plain(value.keywords)
    if not _is_sharding(value):
        return _plain(value)
    cells = [cell.cell_contents for cell in value.__closure__ or ()]
    return value.__code__, _plain(value.__defaults__), *(_function(cell, module) for cell in cells)


def _settings_of_layer(config: Any, index: int, siblings: int) -> Hashable:
    """What the lists of a configuration with an entry for each layer (`layer_types`) say of this one."""
    found = []
    for name, value in vars(config).items():
        if isinstance(value, (list, tuple)) and len(value) >= siblings:
            found.append((name, _plain(value[index])))
    return tuple(found)
