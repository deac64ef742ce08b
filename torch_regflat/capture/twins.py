"""Meta twins: a tensor without memory for every tensor of the user's that recording meets.

Shapes, strides and the sharing of storages are kept, the user's tensors are only looked at.
"""

from __future__ import annotations

import torch

from ..errors import CaptureError
from ._torch_private import storage_key

_PLAIN_DISPATCH = torch.Tensor.__torch_dispatch__


def has_own_dispatch(kind: type) -> bool:
    """Whether tensors of this class answer operators themselves, rather than by their memory."""
    return kind is not torch.Tensor and getattr(kind, "__torch_dispatch__", _PLAIN_DISPATCH) is not _PLAIN_DISPATCH


class Twins:
    """Memoised meta twins, and the number of every storage met (`node.meta["storage"]`).

    Everything seen is kept alive, so that an address always means the same tensor or storage.
    """

    def __init__(self) -> None:
        self._twins: dict[int, torch.Tensor] = {}
        self._users: dict[int, torch.Tensor] = {}
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._numbers: dict[int, int] = {}
        self._user_numbers: dict[int, int] = {}
        self.count = 0
        self.outside: set[int] = set()
        """Numbers of the storages that existed before recording."""
        self.keep: list[object] = []

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The twin of a user's tensor; a tensor made while recording is its own."""
        return self._twins.get(id(tensor), tensor)

    def user(self, twin: torch.Tensor) -> torch.Tensor:
        """The user's tensor that `twin` stands for, or the twin itself."""
        return self._users.get(id(twin), twin)

    def make(self, tensor: torch.Tensor) -> torch.Tensor:
        """A new twin of a user's tensor. [same sizes, same strides, shared storage where it was shared]"""
        kind = type(tensor)
        if has_own_dispatch(kind):
            raise CaptureError(
                f"a {kind.__name__} of shape {tuple(tensor.shape)} cannot be captured; "
                "pass a plain tensor of the same shape (on any device, meta included)"
            )
        if tensor.layout is not torch.strided:
            raise CaptureError(f"found {no_memory_layout(tensor)}")
        twin = self._strided(tensor)
        self._twins[id(tensor)] = twin
        self.keep.append(tensor)
        self._users[id(twin)] = tensor
        self.keep.append(twin)
        self._numbers[storage_key(twin)] = self.number_of_user(tensor)
        return twin

    def number_of_user(self, tensor: torch.Tensor) -> int:
        """The number of the storage of a user's tensor, which its twin has or will have."""
        key = storage_key(tensor)
        number = self._user_numbers.get(key)
        if number is None:
            number = self._user_numbers[key] = self.fresh()
            self.outside.add(number)
            self.keep.append(tensor)
        return number

    def release(self, twin: torch.Tensor) -> None:
        """From now on the code sees this twin itself, not the user's tensor that it stands for."""
        self._users.pop(id(twin), None)

    def _strided(self, tensor: torch.Tensor) -> torch.Tensor:
        key = storage_key(tensor)
        storage = self._storages.get(key)
        if storage is None:
            self._storages[key] = storage = new_storage(tensor.untyped_storage().nbytes())
        return on_storage(storage, tensor)

    def number(self, twin: torch.Tensor) -> int:
        """The number of a meta tensor's storage: equal for views and in-place results, never used twice."""
        key = storage_key(twin)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = self.fresh()
            self.keep.append(twin)
        return number

    def made(self, tensor: torch.Tensor) -> int | None:
        """The number of the storage of a tensor on meta where it was made while recording; None elsewhere."""
        return self._numbers.get(storage_key(tensor)) if tensor.is_meta else None

    def fresh(self) -> int:
        """A number for a storage that nothing else has."""
        self.count += 1
        return self.count

    def assign(self, twin: torch.Tensor, number: int) -> None:
        """Say that the storage of `twin` has this number."""
        self._numbers[storage_key(twin)] = number
        self.keep.append(twin)


def no_memory_layout(tensor: torch.Tensor) -> str:
    """Why a sparse tensor is refused: its memory depends on its values."""
    layout = str(tensor.layout).removeprefix("torch.")
    return (
        f"a tensor of shape {tuple(tensor.shape)} in the layout {layout}, whose size in memory depends on its values; "
        "only dense tensors are priced, so make it dense (.to_dense())"
    )


def new_storage(nbytes: int) -> torch.UntypedStorage:
    """A meta storage of `nbytes` bytes."""
    return torch.empty(nbytes, dtype=torch.uint8, device="meta").untyped_storage()


def on_storage(storage: torch.UntypedStorage, like: torch.Tensor) -> torch.Tensor:
    """A meta tensor on `storage` with the sizes, strides, offset and dtype of `like`."""
    # In inference mode a view of a normal tensor is a normal tensor, so twins have to be of the same kind.
    with torch.inference_mode(like.is_inference()):
        made = torch.empty(0, dtype=like.dtype, device="meta")
        made.set_(storage, like.storage_offset(), like.size(), like.stride())
    return made
