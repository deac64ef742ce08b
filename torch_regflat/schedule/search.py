"""The best mapping of every distinct kernel, whatever the memory system of the chip."""

from __future__ import annotations

from ..cost.shapes import KernelShape
from ..hardware.chip import Chip
from ..hardware.software import Software
from . import managed, select
from .mapper import Objective
from .select import Adjust, Choice, Shuffle


def choose(
    shapes: list[KernelShape],
    chip: Chip,
    software: Software,
    objective: Objective = "latency",
    shuffle: Shuffle | None = None,
    adjust: Adjust | None = None,
) -> list[Choice]:
    """The best mapping of each shape: of a library's menu on a cache hierarchy, else of the mapper's space.

    `shuffle` reorders the candidates of a menu, which must not change anything; `adjust` changes the chip's numbers
    before they are used. Raises `CapacityError` where no mapping fits.
    """
    if chip.memory_system == "cache":
        return select.choose(shapes, chip, software, objective, shuffle, adjust)
    return managed.choose(shapes, chip, software, objective, adjust)
