"""How far a modelled latency may be off: the spread of measured over modelled times, by class of kernel and regime.

`uncertainty.toml` is written by `benchmarks/fit_intervals.py` from measured rows that constants may be fitted to. A
cell holds the ends of the central 80 % of measured / modelled: `low` and `high` for chips with measured rows of their
own, `wide_low` and `wide_high` for their relatives, with the spread between GPUs added. A kernel takes the most
specific cell there is.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..cost.shapes import KernelShape
from ..hardware.chip import dtype_bits, dtype_name
from .timeline.records import NETWORK

UNCERTAINTY_FILE = Path(__file__).parent / "uncertainty.toml"
ANY = "*"
SIZES = ((10e-6, "below 10 us"), (100e-6, "10 to 100 us"), (1e-3, "0.1 to 1 ms"), (float("inf"), "above 1 ms"))
"""Regimes of duration: up to so many seconds."""

Key: TypeAlias = tuple[str, str, str, str]
"""Class of kernel, family of number formats, regime of duration, regime of what bounds it."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Ends of the central 80 % of measured / modelled latency."""

    low: float
    high: float
    wide_low: float
    wide_high: float


@dataclass(frozen=True)
class Uncertainty:
    """The contents of `uncertainty.toml`, with the correlations of errors as in `result.Interval`."""

    coverage: float
    correlation: float
    class_correlation: float
    cells: dict[Key, Spread]

    def spread(self, kind: str, dtype: str, latency_s: float, bound_by: str) -> Spread | None:
        """The most specific cell for a kernel; None where nothing was measured at all."""
        keys = broader(key_of(kind, dtype, latency_s, bound_by))
        return next((self.cells[key] for key in keys if key in self.cells), None)


def kind_of(shape: KernelShape) -> str:
    """The class of a kernel: that of its nest, with products of experts told from others, or a collective."""
    if shape.exchange is not None:
        return "collective"
    if shape.kind == "product" and shape.sizes[0] > 1 and any(o.role == "weight" for o in shape.operands):
        return "experts"
    return "pointwise" if shape.kind == "movement" else shape.kind


def key_of(kind: str, dtype: str, latency_s: float, bound_by: str) -> Key:
    """The cell of a kernel."""
    size = next(name for limit, name in SIZES if latency_s < limit)
    return kind, family_of(dtype), size, regime_of(bound_by)


def broader(key: Key) -> Iterable[Key]:
    """A cell and those that contain it, ever broader: what bounds it is dropped first, then size, then format."""
    for kept in range(len(key), -1, -1):
        yield (*key[:kept], *(ANY,) * (len(key) - kept))  # type: ignore[misc]


def family_of(dtype: str) -> str:
    """Number formats whose kernels are alike: 8 bits and fewer, 16 bits, or wider."""
    bits = dtype_bits(dtype_name(dtype))
    return "8 bits or fewer" if bits <= 8 else "16 bits" if bits <= 16 else "32 bits or more"


def regime_of(bound_by: str) -> str:
    """What bounds a kernel, as far as its uncertainty goes: a memory, the launch, links, or anything else on chip."""
    if bound_by.endswith("bandwidth"):
        return "memory"
    return bound_by if bound_by in ("launch", NETWORK) else "compute"


def uncertainty() -> Uncertainty:
    """The file that ships; without cells where there is none."""
    return _read(UNCERTAINTY_FILE)


@functools.cache
def _read(path: Path) -> Uncertainty:
    if not path.is_file():
        return Uncertainty(0.8, 1.0, 1.0, {})
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    cells = {
        (cell["class"], cell["formats"], cell["size"], cell["bound"]): Spread(
            cell["low"], cell["high"], cell["wide_low"], cell["wide_high"]
        )
        for cell in data["cell"]
    }
    return Uncertainty(data["coverage"], data["correlation"], data["class_correlation"], cells)
