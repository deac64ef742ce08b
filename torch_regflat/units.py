"""Units at the edges: parse what people write into SI floats, and format SI floats for people.

Inside the package every number is a plain float in SI: seconds, joules, watts, bytes, hertz, metres. The table `UNITS`
is fixed; a unit that is not in it is refused with the list of those that fit. Three dimensions are deliberately not
reduced further, because the factor depends on the chip: `cycles`, and rates per clock (`B/clk`, `FLOP/clk/core`).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import InputError


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit people write: multiply a value in it by `factor` to get the SI value of its dimension."""

    symbol: str
    dimension: str
    factor: float


DIMENSIONS: dict[str, str] = {
    "number": "a plain number",
    "frequency": "a frequency",
    "bytes": "bytes",
    "bits": "bits",
    "bytes/s": "bytes per second",
    "bits/s": "bits per second",
    "bytes/clk": "bytes per clock of the whole chip",
    "bytes/clk/core": "bytes per clock and core",
    "time": "a time",
    "cycles": "clock cycles",
    "delay/length": "a delay per length",
    "energy": "an energy",
    "energy/bit": "an energy per bit",
    "energy/bit/length": "an energy per bit and length",
    "energy/op": "an energy per operation",
    "power": "a power",
    "area": "an area",
    "length": "a length",
    "flop": "arithmetic operations",
    "flop/s": "arithmetic operations per second",
    "flop/clk/core": "arithmetic operations per clock and core",
    "money": "money",
    "money/hour": "money per hour",
    "money/energy": "money per energy",
    "money/power/time": "money per power and time",
}
"""Every dimension, with the words that an error message uses for it."""

YEAR = 365.25 * 86400.0
"""Seconds."""

_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_SMALL = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}


def _table() -> dict[str, Unit]:
    rows: list[tuple[str, str, float]] = [("1", "number", 1.0), ("%", "number", 0.01)]
    rows += [(f"{p}Hz", "frequency", f) for p, f in _DECIMAL.items() if p in ("", "k", "M", "G")]
    big = {**_DECIMAL, **_BINARY}
    rows += [(f"{p}B", "bytes", f) for p, f in big.items()]
    rows += [(f"{p}bit", "bits", f) for p, f in big.items() if p in ("", "k", "M", "G", "Ki", "Mi", "Gi")]
    rows += [(f"{p}B/s", "bytes/s", f) for p, f in big.items()]
    rows += [(f"{p}bit/s", "bits/s", f) for p, f in _DECIMAL.items() if p in ("", "k", "M", "G", "T")]
    rows += [("B/clk", "bytes/clk", 1.0), ("B/clk/core", "bytes/clk/core", 1.0)]
    rows += [("B/clk/SM", "bytes/clk/core", 1.0), ("B/clk/tile", "bytes/clk/core", 1.0)]
    rows += [(f"{p}s", "time", f) for p, f in _SMALL.items() if p != "f"]
    rows += [("min", "time", 60.0), ("h", "time", 3600.0), ("day", "time", 86400.0)]
    rows += [("year", "time", YEAR)]
    rows += [("cycles", "cycles", 1.0), ("clk", "cycles", 1.0)]
    rows += [("s/m", "delay/length", 1.0), ("ps/mm", "delay/length", 1e-9), ("ns/mm", "delay/length", 1e-6)]
    rows += [(f"{p}J", "energy", f) for p, f in {**_SMALL, "k": 1e3, "M": 1e6, "G": 1e9}.items()]
    rows += [("Wh", "energy", 3600.0), ("kWh", "energy", 3.6e6), ("MWh", "energy", 3.6e9)]
    for p, f in {"": 1.0, "n": 1e-9, "p": 1e-12, "f": 1e-15}.items():
        rows += [(f"{p}J/bit", "energy/bit", f), (f"{p}J/B", "energy/bit", f / 8)]
        rows += [(f"{p}J/FLOP", "energy/op", f), (f"{p}J/op", "energy/op", f), (f"{p}J/MAC", "energy/op", f / 2)]
    rows += [("J/bit/m", "energy/bit/length", 1.0), ("pJ/bit/mm", "energy/bit/length", 1e-9)]
    rows += [("fJ/bit/mm", "energy/bit/length", 1e-12)]
    rows += [(f"{p}W", "power", f) for p, f in {"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6}.items()]
    rows += [("m2", "area", 1.0), ("mm2", "area", 1e-6), ("um2", "area", 1e-12)]
    rows += [("m", "length", 1.0), ("mm", "length", 1e-3), ("um", "length", 1e-6), ("nm", "length", 1e-9)]
    for p, f in _DECIMAL.items():
        rows += [(f"{p}FLOP", "flop", f), (f"{p}FLOP/s", "flop/s", f), (f"{p}OP/s", "flop/s", f)]
    rows += [("FLOP/clk/core", "flop/clk/core", 1.0), ("FLOP/clk/SM", "flop/clk/core", 1.0)]
    rows += [("FLOP/clk/tile", "flop/clk/core", 1.0), ("op/clk/core", "flop/clk/core", 1.0)]
    rows += [("USD", "money", 1.0), ("USD/h", "money/hour", 1.0), ("USD/kWh", "money/energy", 1.0 / 3.6e6)]
    rows += [("USD/kW/month", "money/power/time", 12.0 / 1e3 / YEAR)]
    return {symbol: Unit(symbol, dimension, factor) for symbol, dimension, factor in rows}


UNITS: dict[str, Unit] = _table()
"""All units by symbol. 1 MAC = 2 FLOP, 1 B = 8 bit, kB is 1000 B and KiB is 1024 B."""

_ALIASES = {"KB": "kB", "µs": "us", "μs": "us", "TFLOPS": "TFLOP/s", "GFLOPS": "GFLOP/s", "mm²": "mm2", "sec": "s"}
_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*")


def symbols(dimensions: str | Iterable[str]) -> list[str]:
    """The symbols of all units that measure these dimensions, in table order."""
    wanted = {dimensions} if isinstance(dimensions, str) else set(dimensions)
    return [unit.symbol for unit in UNITS.values() if unit.dimension in wanted]


def describe_dimensions(dimensions: str | Iterable[str]) -> str:
    """Words for an error message: `a frequency (Hz, kHz, MHz, GHz)`."""
    wanted = [dimensions] if isinstance(dimensions, str) else list(dimensions)
    return f"{' or '.join(DIMENSIONS[d] for d in wanted)} ({', '.join(symbols(wanted))})"


def unit(symbol: str, dimensions: str | Iterable[str] | None = None) -> Unit:
    """Look a unit up. Raises `InputError` for an unknown one, or one that measures none of `dimensions`."""
    wanted = list(DIMENSIONS) if dimensions is None else [dimensions] if isinstance(dimensions, str) else [*dimensions]
    found = UNITS.get(_ALIASES.get(symbol, symbol))
    if found is None:
        allowed = symbols(wanted) if dimensions is None else describe_dimensions(wanted)
        listed = f"allowed are {', '.join(allowed)}" if isinstance(allowed, list) else f"needed is {allowed}"
        raise InputError(f"unknown unit {symbol!r}{_near(symbol, symbols(wanted))} {listed}")
    if found.dimension not in wanted:
        raise InputError(
            f"unit {symbol!r} measures {DIMENSIONS[found.dimension]}; this field needs {describe_dimensions(wanted)}"
        )
    return found


def _near(symbol: str, known: list[str]) -> str:
    """`; did you mean MHz?`, whatever the case it was written in; `;` when nothing is close."""
    lower = [name.lower() for name in known]
    close = difflib.get_close_matches(symbol.lower(), lower, n=2, cutoff=0.6)
    found = [name for word in dict.fromkeys(close) for name in known if name.lower() == word]
    return f"; did you mean {' or '.join(found)}?" if found else ";"


def split(text: str, dimensions: str | Iterable[str] | None = None) -> tuple[float, Unit]:
    """Split `"4.8 TB/s"` into the number as written and its unit."""
    match = _NUMBER.fullmatch(text)
    wanted = "one of " + ", ".join(UNITS) if dimensions is None else describe_dimensions(dimensions)
    if match is None:
        raise InputError(f"{text!r} is not a number with a unit; write a number, a space and {wanted}")
    if not match[2]:
        raise InputError(f"{text!r} has no unit; needed is {wanted}")
    return float(match[1]), unit(match[2], dimensions)


def parse(text: str, dimensions: str | Iterable[str] | None = None) -> float:
    """Read `"4.8 TB/s"` as SI (4.8e12), refusing units that measure none of `dimensions`."""
    value, found = split(text, dimensions)
    return value * found.factor


def parse_duration(text: str) -> float:
    """Read `"2 ms"` as seconds (0.002)."""
    return parse(text, "time")


def to_unit(value: float, symbol: str) -> float:
    """Convert an SI value to a unit: `to_unit(0.002, "ms")` is 2."""
    return value / unit(symbol).factor


_UP = ("", "k", "M", "G", "T", "P", "E")
_DOWN = ("", "m", "u", "n", "p", "f")
_BINARY_UP = ("", "Ki", "Mi", "Gi", "Ti", "Pi")


def format_si(value: float, symbol: str, digits: int = 3) -> str:
    """Format an SI value with the prefix that reads best: 0.0435 s is `43.5 ms`, 32.9e12 FLOP is `32.9 TFLOP`.

    Bytes, FLOPs and other counts get no prefix below one. Zero, infinities and NaN are written without a prefix.
    """
    countable = symbol.split("/")[0] in ("B", "FLOP", "OP", "op", "bit", "kernels", "token", "tokens")
    small = ("",) if countable else _DOWN
    return _scaled(value, 1000.0, _UP, small, symbol, digits)


def format_bytes(value: float, binary: bool = False, digits: int = 3) -> str:
    """`15.0 GB` as for traffic and external memory; with `binary` `256 MiB`, as for what is built in powers of two."""
    if binary:
        return _scaled(value, 1024.0, _BINARY_UP, ("",), "B", digits)
    return format_si(value, "B", digits)


def format_energy(value: float, digits: int = 3) -> str:
    """Joules, or watt-hours from one kWh on: `12.3 J`, `2.50 kWh`."""
    if math.isfinite(value) and abs(value) >= 3.6e6:
        return format_si(value / 3600.0, "Wh", digits)
    return format_si(value, "J", digits)


def format_duration(value: float, digits: int = 3) -> str:
    """Seconds with a prefix up to a minute, then minutes, hours or days: `43.5 ms`, `2.00 h`."""
    size = abs(value)
    if math.isfinite(size):
        for symbol in ("day", "h", "min"):
            if size >= UNITS[symbol].factor:
                return f"{significant(value / UNITS[symbol].factor, digits)} {symbol}"
    return format_si(value, "s", digits)


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits and no exponent (but for 1e9 and beyond): 15 is `15.0`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    rounded = float(f"{value:.{digits - 1}e}")
    size = math.floor(math.log10(abs(rounded)))
    if size >= 9 or size < -9:
        return f"{rounded:.{digits - 1}e}"
    return f"{rounded:.{max(digits - 1 - size, 0)}f}"


def _scaled(value: float, base: float, up: tuple[str, ...], down: tuple[str, ...], symbol: str, digits: int) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {symbol}"
    power = 0
    scaled = value
    # Compare what will be printed: 999.96 must become 1.00 k and not 1000.
    while _printed(scaled, digits) >= base and power < len(up) - 1:
        scaled, power = scaled / base, power + 1
    while _printed(scaled, digits) < 1 and -power < len(down) - 1:
        scaled, power = scaled * base, power - 1
    prefix = up[power] if power >= 0 else down[-power]
    shown = significant(scaled, digits) if abs(scaled) < 1000 else f"{scaled:.0f}"
    return f"{shown} {prefix}{symbol}"


def _printed(value: float, digits: int) -> float:
    return abs(float(f"{value:.{digits - 1}e}")) if abs(value) < 1000 else round(abs(value))
