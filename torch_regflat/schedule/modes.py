"""How a model is executed: which operations run as one kernel, and how kernels are launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ..conditions import Conditions, Launch
from ..errors import InputError, near
from ..hardware.chip import Chip
from ..hardware.software import Software, for_chip, load

ModeName = Literal["eager", "compiled", "graph", "serving"]


@dataclass(frozen=True, slots=True)
class Mode:
    """An execution mode.

    `fused`: element-wise operations and reductions run together as a compiler such as Inductor makes them; else every
    ATen operator is a kernel. `merged`: products that read the same rows are one, and experts gather their rows
    themselves, as in serving engines. `copies_caches`: appending to a KV cache copies all of it, as a concatenation
    does. `launch` is as in `Conditions`.
    """

    name: ModeName
    fused: bool
    merged: bool
    copies_caches: bool
    launch: Launch

    @property
    def conditions(self) -> Conditions:
        return Conditions(launch=self.launch)


MODES: dict[str, Mode] = {
    "eager": Mode("eager", fused=False, merged=False, copies_caches=True, launch="stream"),
    "compiled": Mode("compiled", fused=True, merged=False, copies_caches=False, launch="stream"),
    "graph": Mode("graph", fused=True, merged=False, copies_caches=False, launch="graph"),
    "serving": Mode("serving", fused=True, merged=True, copies_caches=False, launch="graph"),
}
GRAPH = MODES["graph"]
"""What is assumed unless said otherwise: the kernels of a compiler, replayed as a graph."""


def named(name: str | Mode) -> Mode:
    """The mode of this name. Raises `InputError` naming the known ones."""
    if isinstance(name, Mode):
        return name
    found = MODES.get(str(name).lower())
    if found is None:
        known = get_args(ModeName)
        raise InputError(f"unknown mode {name!r}{near(str(name), known) or ';'} it must be one of {', '.join(known)}")
    return found


@dataclass(frozen=True)
class Execution:
    """How kernels are formed and launched, and whose kernels they are (None: each chip's own software)."""

    mode: Mode = GRAPH
    software: Software | None = None

    @classmethod
    def of(cls, mode: str | Mode, software: str | Path | Software | None, chips: Sequence[Chip]) -> Execution:
        """Checked: a known mode, and software that is for one of the chips at least."""
        chosen = None if software is None else load(software)
        if chosen is not None and all(for_chip(chip, chosen) != chosen for chip in chips):
            names = ", ".join(chip.name for chip in chips)
            raise InputError(f"software {chosen.name} is a variant of {chosen.variant_of}, which {names} does not run")
        return cls(named(mode), chosen)

    def software_of(self, chip: Chip) -> Software:
        """What runs on a chip."""
        return for_chip(chip, self.software)
