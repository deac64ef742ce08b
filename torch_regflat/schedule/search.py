"""The best mapping of every distinct kernel, whatever the memory system of the chip."""

from __future__ import annotations

from ..conditions import SCHEDULED, Conditions
from ..cost.shapes import KernelShape
from ..hardware.chip import Chip
from ..hardware.software import Software
from . import managed, select
from .exchanges import exchanged
from .mapper.found import Objective
from .select import Adjust, Choice, Shuffle


def choose(
    shapes: list[KernelShape],
    chip: Chip,
    software: Software,
    objective: Objective = "latency",
    shuffle: Shuffle | None = None,
    adjust: Adjust | None = None,
    conditions: Conditions = SCHEDULED,
) -> list[Choice]:
    """The best mapping of each shape: of a library's menu on a cache hierarchy, else of the mapper's space.

    `shuffle` reorders the candidates of a menu, which must not change anything; `adjust` changes the chip's numbers
    before they are used, and `conditions` say how kernels are launched. Raises `CapacityError` where no mapping fits.
    """
    if chip.memory_system == "cache":
        found = select.choose(shapes, chip, software, objective, shuffle, adjust, conditions)
    else:
        found = managed.choose(shapes, chip, software, objective, adjust, conditions=conditions)
    return exchanged(found, chip, software)


def rechosen(
    choices: list[Choice], chip: Chip, software: Software, conditions: Conditions = SCHEDULED
) -> list[Choice]:
    """The same mappings of explicitly managed memories on a chip of other numbers (`managed.rechosen`)."""
    return exchanged(managed.rechosen(choices, chip, software, conditions), chip, software)
