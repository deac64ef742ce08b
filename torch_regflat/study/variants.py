"""What is priced on: chips as they are or with some numbers changed, each with its software."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..hardware import library
from ..hardware.chip import Chip
from ..hardware.software import Software, for_chip
from ..schedule.select import check

ChipLike = str | Path | Chip
SoftwareLike = str | Path | Software


@dataclass(frozen=True)
class Variant:
    """A chip and the software that runs on it. `changed` says which of the chip's numbers are not its file's."""

    chip: Chip
    software: Software
    changed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, chip: ChipLike | Variant, software: SoftwareLike | None = None) -> Variant:
        """A chip with the software it names, or another; a variant passes through. Raises `ChipError`.

        As everywhere, variants of other libraries than the chip's own leave it with its own.
        """
        if isinstance(chip, Variant):
            return chip
        loaded = library.load(chip)
        check(loaded)
        return cls(loaded, for_chip(loaded, software))

    def with_changes(self, changes: Mapping[str, Any]) -> Variant:
        """The same with numbers of the chip changed, by dotted paths as of `Chip.replace`."""
        if not changes:
            return self
        said = {path: str(value) for path, value in changes.items()}
        return Variant(self.chip.replace(**changes), self.software, {**self.changed, **said})

    @functools.cached_property
    def key(self) -> dict[str, Any]:
        """The columns that say which variant a row is of."""
        return {
            "chip": self.chip.name,
            "chip_hash": self.chip.hash,
            "software": self.software.name,
            "software_hash": self.software.hash,
            **{f"set {path}": value for path, value in self.changed.items()},
        }


def variants(
    chips: ChipLike | Variant | Sequence[ChipLike | Variant],
    parameters: Mapping[str, Sequence[Any]] | None = None,
    software: SoftwareLike | Sequence[SoftwareLike | None] | None = None,
) -> list[Variant]:
    """All chips, with every software, with every combination of the parameters' values. Raises for an empty axis."""
    axes = dict(parameters or {})
    for path, values in axes.items():
        if isinstance(values, str) or not list(values):
            raise InputError(f"parameters[{path!r}] must be a list of values with units, found {values!r}")
    changes = [dict(zip(axes, some, strict=True)) for some in itertools.product(*axes.values())]
    softwares: Sequence[SoftwareLike | None] = _listed(software)
    bases = [Variant.of(chip, wanted) for chip in _listed(chips) for wanted in softwares]
    if not bases:
        raise InputError("no chip given; name at least one (regflat chips lists them)")
    return [base.with_changes(some) for base in bases for some in changes]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
