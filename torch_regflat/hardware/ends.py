"""The ends of a chip's ranges: the same chip with every number at its best, and with every number at its worst."""

from __future__ import annotations

import functools
from typing import Any, Literal

from .. import units
from .chip import Chip

End = Literal["best", "worst"]

_MORE_IS_BETTER = ("frequency", "bytes/s", "bytes/clk", "bytes/clk/core", "flop/clk/core", "flop/s")
_LESS_IS_BETTER = ("time", "cycles", "delay/length", "energy/bit", "energy/bit/length", "energy/op")
"""What a range of counts, capacities, areas and prices would do is left alone: those are choices, not unknowns."""


def end(chip: Chip, which: End) -> Chip:
    """The chip with the numbers of its rates, times and energies at one end of the ranges its file gives."""
    made = _MADE.get((chip.hash, which))
    if made is None:
        made = _MADE[chip.hash, which] = Chip.from_dict(_moved(chip.to_dict(), which), f"{chip.name} at its {which}")
    return made


_MADE: dict[tuple[str, End], Chip] = {}
"""What was made before, by the contents of the chip."""


def _moved(value: Any, which: End) -> Any:
    if isinstance(value, (list, tuple)):
        return [_moved(item, which) for item in value]
    if not isinstance(value, dict):
        return value
    if "unit" in value and "value" in value:
        return _quantity(value, which)
    return {key: _moved(item, which) for key, item in value.items()}


def _quantity(value: dict[str, Any], which: End) -> dict[str, Any]:
    dimension = _dimension(value["unit"])
    if dimension in _MORE_IS_BETTER:
        taken = "high" if which == "best" else "low"
    elif dimension in _LESS_IS_BETTER:
        taken = "low" if which == "best" else "high"
    else:
        return value
    return {**value, "value": value[taken], "low": None, "high": None} if value.get(taken) is not None else value


@functools.cache
def _dimension(unit: str) -> str:
    return units.UNITS[unit].dimension
