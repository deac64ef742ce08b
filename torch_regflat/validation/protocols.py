"""How a source measured: the table `protocols.toml`, from a row to `Conditions`."""

from __future__ import annotations

import fnmatch
import functools
import math
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..conditions import Conditions
from ..hardware.chip import Chip
from ..schedule.modes import Mode, named
from ..units import parse
from .rows import Gemm, Row

_TABLE = Path(__file__).parent / "protocols.toml"
PAST_L2 = "past-l2"
MOST_COPIES = 5


@dataclass(frozen=True, slots=True)
class Protocol:
    """What rows whose source, kind, dtype, operator and GPU fit the patterns did.

    `software`: a variant other than the chip's.
    """

    source: str
    kind: str
    dtype: str
    op: str
    gpu: str
    conditions: Conditions
    past_l2: bool
    zero_from: float
    mode: Mode
    software: str | None
    note: str

    def fits(self, source: str, row: Row) -> bool:
        found = (source, row.kind, row.dtype, getattr(row, "op", ""), row.gpu)
        pairs = zip(found, (self.source, self.kind, self.dtype, self.op, self.gpu), strict=True)
        return all(fnmatch.fnmatchcase(value, pattern) for value, pattern in pairs)

    def conditions_of(self, row: Row, chip: Chip) -> Conditions:
        """The conditions of one row: as many copies as its weights need to exceed the last on-chip level, and zeros
        where all copies together need fresh memory.
        """
        if not isinstance(row, Gemm):
            return self.conditions
        weights, found = row.n * row.k * WEIGHT_BYTES.get(row.dtype, 2.0), self.conditions
        if self.past_l2:
            copies = math.ceil(chip.on_chip[-1].capacity_bytes / weights)
            found = replace(found, copies=max(1, min(MOST_COPIES, copies)))
        if weights * found.copies >= self.zero_from:
            found = replace(found, values="zero")
        return found


WEIGHT_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "fp8_block": 1.0, "nvfp4": 0.5}


@functools.cache
def protocols() -> tuple[Protocol, ...]:
    """The table, in the order in which patterns are tried."""
    content = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    return tuple(_protocol(entry) for entry in content["protocol"])


def _protocol(entry: dict[str, Any]) -> Protocol:
    given = {name: entry[name] for name in ("launch", "weights", "activations", "copies", "repeats") if name in entry}
    past_l2 = given.get("copies") == PAST_L2
    if past_l2:
        given["copies"] = MOST_COPIES
    return Protocol(
        source=entry["source"],
        kind=entry.get("kind", "*"),
        dtype=entry.get("dtype", "*"),
        op=entry.get("op", "*"),
        gpu=entry.get("gpu", "*"),
        conditions=Conditions(**given),
        past_l2=past_l2,
        zero_from=parse(entry["zero_from"], "bytes") if "zero_from" in entry else math.inf,
        mode=named(entry.get("mode", "graph")),
        software=entry.get("software"),
        note=entry["note"],
    )


def protocol_of(row: Row) -> Protocol:
    """The protocol of a row; one that is the median of several sources is of the source `consensus`."""
    source = "consensus" if row.is_consensus and not row.source else row.source
    return next(known for known in protocols() if known.fits(source, row))
