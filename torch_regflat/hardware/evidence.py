"""What stands behind a chip's modelled times: its own measured rows, those of a relative, or data sheets alone.

`evidence.toml` is written by the validation run, never by hand: for each measured chip the rows that were predicted and
their mean absolute percentage error. The rest follows from the chip files.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from ..errors import ChipError
from .chip import Chip
from .library import read_toml, shipped
from .quantity import Frozen, quantities
from .validation import explain

EVIDENCE_FILE = Path(__file__).parent / "evidence.toml"
Kind = Literal["measured", "family", "datasheet only", "estimate"]


class Measured(Frozen):
    """Measured rows of one chip, and the mean absolute error of their predictions as a fraction."""

    rows: Annotated[int, Field(gt=0)]
    mape: Annotated[float, Field(ge=0)]


class EvidenceFile(Frozen):
    """The contents of `evidence.toml`; `model_version` is that of the model whose predictions were scored."""

    schema_: Literal[1] = Field(alias="schema")
    model_version: str = ""
    measured: dict[str, Measured] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a chip's modelled times rest on; as text `measured (1774 rows, MAPE 8.3 %)` or `family (Hopper: h200)`."""

    kind: Kind
    rows: int = 0
    mape: float = 0.0
    architecture: str = ""
    relatives: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        if self.kind == "measured":
            return f"measured ({self.rows} rows, MAPE {100 * self.mape:.1f} %)"
        if self.kind == "family":
            return f"family ({self.architecture}: {', '.join(self.relatives)})"
        return self.kind


def evidence_of(chip: Chip, path: Path | None = None) -> Evidence:
    """The evidence for `chip`, from the file that ships or from `path`.

    Changed copies of a measured chip are its family, not measured themselves. Raises `ChipError` for a broken file.
    """
    measured = read(path).measured
    if chip.name in measured and chip == shipped(chip.name):
        found = measured[chip.name]
        return Evidence("measured", found.rows, found.mape, chip.architecture)
    relatives = tuple(name for name in measured if _related(chip, shipped(name)))
    if relatives:
        return Evidence("family", architecture=chip.architecture, relatives=relatives)
    # What is new about a flat chip is its memory: where all of that is estimated, so is the chip.
    new = chip.on_chip[0] if chip.memory_system == "register-flat" else chip
    real = any(quantity.kind in ("datasheet", "measured") for _, quantity in quantities(new))
    return Evidence("datasheet only" if real else "estimate", architecture=chip.architecture)


def read(path: Path | None = None) -> EvidenceFile:
    """An evidence file, by default the one that ships; empty where there is none. `ChipError` says what is wrong."""
    path = path or EVIDENCE_FILE
    if not path.is_file():
        return EvidenceFile(schema=1)
    stat = path.stat()
    return _read(path, stat.st_mtime_ns, stat.st_size)


def render(measured: Mapping[str, Measured], model_version: str) -> str:
    """The text of an evidence file."""
    lines = ["# Written by the validation run.", "schema = 1", f'model_version = "{model_version}"']
    for name in sorted(measured):
        lines += ["", f'[measured."{name}"]', f"rows = {measured[name].rows}", f"mape = {measured[name].mape:.4f}"]
    return "\n".join(lines) + "\n"


@functools.lru_cache(maxsize=8)
def _read(path: Path, mtime_ns: int, size: int) -> EvidenceFile:
    data = read_toml(path)
    try:
        return EvidenceFile.model_validate(data)
    except ValidationError as error:
        raise ChipError(explain(error, data, EvidenceFile, path.name)) from None


def _related(chip: Chip, measured: Chip | None) -> bool:
    if measured is None or not chip.architecture:
        return False
    return (measured.architecture, measured.memory_system) == (chip.architecture, chip.memory_system)
