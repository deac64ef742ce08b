"""Every private name of torch.distributed that capture needs, beside those of `_torch_private`.

`torch.distributed.tensor` is not imported here before someone else has: without it there is no DTensor.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import InputError

NAMESPACES = frozenset({"_c10d_functional", "_c10d_functional_autograd", "c10d", "_dtensor"})
"""Where torch has its exchanges between processes."""


def available() -> bool:
    """Whether this torch was built with torch.distributed."""
    return torch.distributed.is_available()


def _dtensor() -> type | None:
    module = sys.modules.get("torch.distributed.tensor")
    return None if module is None else module.DTensor


def can_have_dtensors() -> bool:
    """Whether a DTensor can have been made: someone has imported them."""
    return _dtensor() is not None


def is_dtensor_type(kind: type) -> bool:
    """Whether tensors of this class are DTensors."""
    dtensor = _dtensor()
    return dtensor is not None and issubclass(kind, dtensor)


def is_dtensor(value: Any) -> bool:
    """Whether a tensor is sharded or replicated over a device mesh."""
    return type(value) is not torch.Tensor and is_dtensor_type(type(value))


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor: its shard, or a plain tensor itself."""
    if type(tensor) is torch.Tensor or not is_dtensor_type(type(tensor)):
        return tensor
    held: torch.Tensor = tensor._local_tensor  # type: ignore[attr-defined]
    return held


def with_local(tensor: Any, held: torch.Tensor) -> torch.Tensor:
    """A DTensor of the same mesh, placements and global shape that holds `held`."""
    made: torch.Tensor = type(tensor)(held, tensor._spec, requires_grad=tensor.requires_grad)
    return made


def from_local(held: torch.Tensor, like: Any) -> torch.Tensor:
    """A DTensor of what this rank holds, spread over the mesh of another as that one is."""
    made: torch.Tensor = type(like).from_local(held, like.device_mesh, like.placements, run_check=False)
    return made


def spread_by_head(tensors: Any) -> bool:
    """Whether queries, keys and values are DTensors that are all divided alike, by sequence of a batch or by head."""
    if not all(map(is_dtensor, tensors)) or len({(t.device_mesh, t.placements) for t in tensors}) > 1:
        return False
    return all(p.is_replicate() or p.is_shard(0) or p.is_shard(1) for p in tensors[0].placements)


def respread(tensor: Any, like: Any) -> torch.Tensor:
    """A DTensor spread as another one is."""
    if tensor.placements == like.placements:
        return tensor  # type: ignore[no-any-return]
    made: torch.Tensor = tensor.redistribute(placements=like.placements)
    return made


def is_placement(value: Any) -> bool:
    """Whether a value says how tensors lie on a mesh, or is a mesh: such values are compared, not identified."""
    tensor = sys.modules.get("torch.distributed.tensor")
    mesh = sys.modules.get("torch.distributed.device_mesh")
    return (tensor is not None and isinstance(value, tensor.Placement)) or (
        mesh is not None and isinstance(value, mesh.DeviceMesh)
    )


def is_style(value: Any) -> bool:
    """Whether a value is a style of `parallelize_module`, which is what its attributes say."""
    module = sys.modules.get("torch.distributed.tensor.parallel")
    return module is not None and isinstance(value, module.ParallelStyle)


def placed(tensor: Any) -> Hashable:
    """How a DTensor is spread: equal for tensors that are spread alike."""
    return tensor.device_mesh, tensor.placements, tensor.shape


def tracing_collectives() -> tuple[Any, str] | None:
    """Owner and name of the function that says whether functional collectives wait at once, as when traced."""
    module = sys.modules.get("torch.distributed._functional_collectives")
    return None if module is None else (module, "_are_we_tracing")


def fsdp_check() -> tuple[Any, str] | None:
    """Owner and name of the method of FSDP2 that refuses parameters on meta."""
    module = sys.modules.get("torch.distributed.fsdp._fully_shard._fsdp_param_group")
    return None if module is None else (module.FSDPParamGroup, "_validate_no_meta_params")


def fsdp_objects(module: torch.nn.Module) -> list[Any]:
    """What FSDP2 keeps of a module that was given to `fully_shard`: its state, its groups of parameters, these."""
    find = getattr(module, "_get_fsdp_state", None)
    if find is None:
        return []
    held = find()
    single = getattr(held, "_fsdp_param_group", None)
    groups = list(getattr(held, "_fsdp_param_groups", None) or ([] if single is None else [single]))
    parameters = [parameter for group in groups for parameter in group.fsdp_params]
    return [held, held._state_ctx, held._comm_ctx, *groups, *parameters]


def group_of(value: Any) -> Any:
    """The process group that an argument of an operator names: a group, a boxed one, or its name."""
    c10d = torch.distributed.distributed_c10d
    if isinstance(value, str):
        return c10d._resolve_process_group(value)  # type: ignore[attr-defined, arg-type]
    return torch.distributed.ProcessGroup.unbox(value) if isinstance(value, torch.ScriptObject) else value


def group_name(group: Any) -> str:
    """The name under which functional collectives find a process group."""
    return str(group.group_name)


def ranks_of(value: Any) -> tuple[int, ...]:
    """The global ranks of the process group that an argument names, in order of rank within the group."""
    return tuple(torch.distributed.get_process_group_ranks(group_of(value)))


def finished_work() -> Any:
    """What an operator of c10d returns to wait for, already done."""
    from torch._C._distributed_c10d import FakeWork

    return torch.distributed.Work.boxed(FakeWork())


@contextmanager
def fake_ranks(count: int) -> Iterator[None]:
    """Within this there is a process group of `count` ranks, of which this process is the first; nothing is sent.

    One that is there already is taken as it is. Raises `InputError` where it has another number of ranks.
    """
    if not available():
        raise InputError("this torch was built without torch.distributed, so a model cannot be divided among chips")
    dist = torch.distributed
    if dist.is_initialized():
        found = dist.get_world_size()
        if found != count:
            raise InputError(
                f"a process group of {found} ranks is initialized, and the layout has {count} chips; "
                f"use a layout of {found} chips, or destroy the group first"
            )
        yield
        return
    fake = importlib.import_module("torch.testing._internal.distributed.fake_pg")
    hook = sys.excepthook  # which torch wraps, for good, to name the rank in front of every line
    dist.init_process_group("fake", store=fake.FakeStore(), rank=0, world_size=count)
    try:
        yield
    finally:
        dist.destroy_process_group()
        sys.excepthook = hook
        _forget_meshes()


_meshes: dict[tuple[int, tuple[int, ...]], Any] = {}
"""Grids of ranks that were made, by process group and sizes."""


def _forget_meshes() -> None:
    """Let go of what knows the groups of a process group that is gone: DTensor remembers placements by mesh."""
    _meshes.clear()
    tensor = sys.modules.get("torch.distributed.tensor")
    if tensor is not None:
        tensor.DTensor._op_dispatcher.sharding_propagator.propagate_op_sharding.cache_clear()
        clear = getattr(torch._C, "_clear_DTensor_sharding_propagator_cache", None)
        if clear is not None:
            clear()
    transforms = getattr(sys.modules.get("torch.distributed.tensor._redistribute"), "_gen_transform_infos", None)
    forget = getattr(transforms, "cache_clear", None)
    if forget is not None:
        forget()


class Mesh:
    """Ranks of the process group as a grid of these sizes, the last innermost."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        key = (id(torch.distributed.group.WORLD), sizes)
        if key not in _meshes:
            names = tuple(f"d{i}" for i in range(len(sizes)))
            _meshes[key] = init_device_mesh("cpu", sizes, mesh_dim_names=names)
        self.mesh = _meshes[key]

    def along(self, dim: int) -> Any:
        """The one-dimensional mesh of this rank along a dimension."""
        return self.mesh[f"d{dim}"]

    def group(self, dim: int) -> str:
        """The name of this rank's group along a dimension."""
        return group_name(self.along(dim).get_group())
