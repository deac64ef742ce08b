"""The time lines that belong to a result."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ResultError
from ..result import Result
from ..timeline import Timeline


def matched(result: Result, timelines: Sequence[Timeline]) -> dict[str, Timeline]:
    """By chip. Raises `ResultError` for a time line of another profile."""
    found = {}
    for line in timelines:
        chip = next((chip for chip in result.chips if chip.chip == line.chip), None)
        if chip is None or [(k.name, k.path) for k in chip.kernels] != [(k.name, k.path) for k in line.kernels]:
            said = f"the time line of {line.chip} is not that of this profile"
            raise ResultError(f"{said}; take the one that Profile.timeline() gives")
        found[line.chip] = line
    return found
