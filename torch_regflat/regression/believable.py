"""How large a modelled change has to be for measurements to go the same way, by class of kernel.

`believable.toml` is written by `benchmarks/believable.py` from pairs of measured rows that differ in one factor.
"""

from __future__ import annotations

import functools
import math
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

BELIEVABLE_FILE = Path(__file__).parent / "believable.toml"


@dataclass(frozen=True, slots=True)
class Validated:
    """Of `pairs` measured pairs of a class: `change` is the smallest modelled change to believe, if any."""

    label: str
    pairs: int
    change: float | None


def label_of(kind: str, dtype: str, phase: str) -> str:
    """The class of a kernel: products by number format, attention by whether one token is decoded."""
    if kind == "product":
        return f"{kind}, {formats_of(dtype)}"
    if kind == "attention":
        return f"{kind}, {'decode' if phase == 'decode' else 'prefill'}"
    return kind or "other"


def formats_of(dtype: str) -> str:
    """Number formats whose kernels are alike, as `schedule.uncertainty.family_of` has them."""
    digits = re.search(r"\d+", dtype)
    bits = int(digits.group()) if digits else 8 if dtype == "bool" else 16
    return "8 bits or fewer" if bits <= 8 else "16 bits" if bits <= 16 else "32 bits or more"


@functools.cache
def validated() -> dict[str, Validated]:
    """By class, from the file that ships."""
    data = tomllib.loads(BELIEVABLE_FILE.read_text(encoding="utf-8"))
    found = (Validated(item["label"], item["pairs"], item.get("change")) for item in data["class"])
    return {item.label: item for item in found}


def render(found: Iterable[Validated], model_version: str, source: str) -> str:
    """The text of `believable.toml`."""
    lines = [
        "# Written by benchmarks/believable.py: the smallest modelled change of latency at which 95 % of the pairs of",
        "# held-out measured rows go the way the model says: of at least ten pairs that change by as much and up to",
        "# twice that, and of all that change by more. No change: none was found.",
        "schema = 1",
        f'model_version = "{model_version}"',
        f'source = "{source}"',
    ]
    for item in found:
        lines += ["", "[[class]]", f'label = "{item.label}"', f"pairs = {item.pairs}"]
        lines += [f"change = {item.change:g}"] if item.change is not None else []
    return "\n".join(lines) + "\n"


def verdict(label: str, before: float | None, now: float | None) -> str:
    """Whether a change of latency of kernels of a class is one to believe: `yes, from 15 %`."""
    found = validated().get(label)
    if not before or not now:
        return "-"
    if found is None or found.change is None:
        return "not validated"
    large = abs(math.log(now / before)) >= math.log1p(found.change)
    return f"{'yes' if large else 'no'}, from {100 * found.change:g} %"
