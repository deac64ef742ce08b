"""Which shapes no constant may be fitted to: one rule for every fit and every score."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from ..errors import InputError

T = TypeVar("T")

HELD_OUT_SHARE = 0.35
"""Share of shapes that fits never see."""
TEST_GPUS = ("L4", "B200", "B300", "GB200", "GB300")
"""GPUs that no constant is fitted to and no choice is made by, as the measured files spell the start of their names."""


def is_held_out(kind: str, *shape: int | str) -> bool:
    """Whether a shape is kept out of fits: on all GPUs, from all sources and in all number formats alike.

    `kind` names the class of operation (`gemm`, `attention`, `moe`, `convolution`, `elementwise`, `norm`, `model`),
    `shape` what a row measures: sizes, and words that change the operation (the phase of an attention row).
    """
    key = "|".join((kind, *map(str, shape)))
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2.0**64


def is_test_gpu(gpu: str) -> bool:
    """Whether a GPU (`L4`, `B200-SXM`, `NVIDIA B200`) belongs to the permanent test set. An L40S is not an L4."""
    return not set(re.split(r"[^A-Z0-9]+", gpu.upper())).isdisjoint(TEST_GPUS)


class Measured(Protocol):
    """A row, as far as the split goes."""

    @property
    def held_out(self) -> bool: ...

    @property
    def place(self) -> str: ...


def fit_only(items: Iterable[T], row_of: Callable[[T], Measured]) -> Iterator[T]:
    """The items, for code that fits constants; raises `InputError` at a row that nothing may be fitted to."""
    for item in items:
        row = row_of(item)
        if row.held_out:
            raise InputError(
                f"{row.place} must not be fitted to: its shape is held out, or its GPU is one of {', '.join(TEST_GPUS)}"
            )
        yield item
