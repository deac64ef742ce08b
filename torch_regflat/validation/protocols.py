"""How a source measured: the table `protocols.toml`, from the `source` column to `Conditions`."""

from __future__ import annotations

import fnmatch
import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path

from ..conditions import Conditions

_TABLE = Path(__file__).parent / "protocols.toml"


@dataclass(frozen=True, slots=True)
class Protocol:
    """What sources whose name fits `source` (a shell pattern) did. `software` is a variant other than the chip's."""

    source: str
    conditions: Conditions
    software: str | None
    note: str


@functools.cache
def protocols() -> tuple[Protocol, ...]:
    """The table, in the order in which patterns are tried."""
    content = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    return tuple(_protocol(entry) for entry in content["protocol"])


def _protocol(entry: dict[str, str | int]) -> Protocol:
    given = {name: entry[name] for name in ("launch", "weights", "activations", "copies") if name in entry}
    software = entry.get("software")
    return Protocol(
        source=str(entry["source"]),
        conditions=Conditions(**given),  # type: ignore[arg-type]
        software=None if software is None else str(software),
        note=str(entry["note"]),
    )


@functools.cache
def protocol_of(source: str, consensus: bool = False) -> Protocol:
    """The protocol of a source; rows that are the median of several sources name none."""
    name = "consensus" if consensus and not source else source
    return next(known for known in protocols() if fnmatch.fnmatchcase(name, known.source))
