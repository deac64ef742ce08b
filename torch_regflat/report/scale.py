"""One unit for a column of numbers, so that they can be compared and added by eye."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_FLOP = {"EFLOP": 1e18, "PFLOP": 1e15, "TFLOP": 1e12, "GFLOP": 1e9, "MFLOP": 1e6, "kFLOP": 1e3, "FLOP": 1.0}
_PREFIXES = {
    "s": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9},
    "J": {"kJ": 1e3, "J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "nJ": 1e-9, "pJ": 1e-12},
    "B": {"PB": 1e15, "TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1.0},
    "FLOP": _FLOP,
    "FLOP/s": {f"{name}/s": factor for name, factor in _FLOP.items()},
    "W": {"MW": 1e6, "kW": 1e3, "W": 1.0, "mW": 1e-3},
}


@dataclass(frozen=True, slots=True)
class Scale:
    """A unit, with the decimals that give the largest number of a column four significant digits."""

    unit: str
    factor: float
    decimals: int

    @classmethod
    def fit(cls, unit: str, values: Iterable[float], more: int = 0) -> Scale:
        """Choose for SI values in `unit`, a key of `_PREFIXES`: the largest reads between 1 and 999 where possible.

        `more` decimals than that show parts that are small beside the largest.
        """
        largest = max((abs(value) for value in values), default=0.0)
        choices = _PREFIXES[unit]
        if not largest:
            return cls(unit, 1.0, 0)
        # 999.95 would print as 1000.0: such a value takes the next larger unit.
        name = next((name for name, factor in choices.items() if largest >= 0.99995 * factor), list(choices)[-1])
        scaled = largest / choices[name]
        whole = unit in ("B", "FLOP") and choices[name] == 1.0
        digits = 0 if whole else 3 if scaled < 9.9995 else 2 if scaled < 99.995 else 1 if scaled < 999.95 else 0
        return cls(name, choices[name], 0 if whole else digits + more)

    def number(self, value: float) -> str:
        """The value in this unit, without it; what would round to zero is shown as less than the last digit."""
        if value == 0:
            return "0"
        text = f"{value / self.factor:.{self.decimals}f}"
        if float(text) == 0:
            return f"<{10.0**-self.decimals:.{self.decimals}f}"
        return text

    def text(self, value: float) -> str:
        """The value with its unit."""
        return f"{self.number(value)} {self.unit}"
