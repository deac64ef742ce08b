from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_regflat import units
from torch_regflat.errors import InputError


@pytest.mark.parametrize(
    ("text", "si"),
    [
        ("2 ms", 0.002),
        ("1980 MHz", 1.98e9),
        ("4.8 TB/s", 4.8e12),
        ("50 MiB", 50 * 2**20),
        ("50 MB", 50e6),
        ("3.9 pJ/bit", 3.9e-12),
        ("8 pJ/B", 1e-12),
        ("0.07 pJ/bit/mm", 0.07e-9),
        ("800 mm2", 800e-6),
        ("128 B/clk/SM", 128.0),
        ("171 ps/mm", 171e-9),
        ("1 pJ/MAC", 0.5e-12),
        ("2.5us", 2.5e-6),
        ("1 kWh", 3.6e6),
        ("75 %", 0.75),
        ("989.4 TFLOPS", 989.4e12),
        ("1e3 1", 1000.0),
        ("  7 µs ", 7e-6),
    ],
)
def test_parse(text: str, si: float) -> None:
    assert units.parse(text) == pytest.approx(si, rel=1e-12)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0435, "s", "43.5 ms"),
        (32.938e12, "FLOP", "32.9 TFLOP"),
        (15.0e9, "B", "15.0 GB"),
        (3.35e12, "B/s", "3.35 TB/s"),
        (1.47e15, "FLOP/s", "1.47 PFLOP/s"),
        (0.0, "s", "0 s"),
        (1.0, "s", "1.00 s"),
        (999.96, "s", "1.00 ks"),
        (0.00099999, "s", "1.00 ms"),
        (0.5, "B", "0.500 B"),
        (700.0, "W", "700 W"),
        (-0.002, "J", "-2.00 mJ"),
        (math.inf, "s", "inf s"),
        (3.9e-12, "J", "3.90 pJ"),
        (1e-18, "J", "0.00100 fJ"),
    ],
)
def test_format_si(value: float, unit: str, text: str) -> None:
    assert units.format_si(value, unit) == text


def test_format_bytes_energy_and_durations() -> None:
    assert units.format_bytes(16.06e9) == "16.1 GB"
    assert units.format_bytes(256 * 2**20, binary=True) == "256 MiB"
    assert units.format_bytes(1023.9, binary=True) == "1.00 KiB"
    assert units.format_bytes(1010 * 2**20, binary=True) == "1010 MiB"
    assert units.format_energy(12.34) == "12.3 J"
    assert units.format_energy(9e6) == "2.50 kWh"
    assert units.format_duration(0.0435) == "43.5 ms"
    assert units.format_duration(7200) == "2.00 h"
    assert units.format_duration(86400 * 3) == "3.00 day"
    assert units.parse_duration("2 ms") == 0.002


def test_messages() -> None:
    with pytest.raises(InputError) as wrong:
        units.parse("80 GB", "frequency")
    assert str(wrong.value) == ("unit 'GB' measures bytes; this field needs a frequency (Hz, kHz, MHz, GHz)")
    with pytest.raises(InputError) as unknown:
        units.parse("80 Mhz", "frequency")
    assert str(unknown.value) == (
        "unknown unit 'Mhz'; did you mean MHz or Hz? needed is a frequency (Hz, kHz, MHz, GHz)"
    )
    with pytest.raises(InputError) as missing:
        units.parse_duration("2")
    assert str(missing.value) == "'2' has no unit; needed is a time (s, ms, us, ns, ps, min, h, day, year)"
    with pytest.raises(InputError, match="'fast' is not a number with a unit; write a number, a space and a time"):
        units.parse_duration("fast")
    with pytest.raises(InputError, match="unknown unit 'parsec'; allowed are 1, %, Hz"):
        units.parse("3 parsec")


numbers = st.floats(min_value=1e-6, max_value=1e6, allow_nan=False).filter(lambda x: x > 0)


@given(numbers, st.sampled_from(sorted(units.UNITS)))
def test_round_trip_through_text(value: float, symbol: str) -> None:
    parsed, unit = units.split(f"{value!r} {symbol}")
    assert (parsed, unit.symbol) == (value, symbol)
    assert units.to_unit(units.parse(f"{value!r} {symbol}"), symbol) == pytest.approx(value, rel=1e-12)


@given(st.floats(min_value=1e-14, max_value=1e20), st.sampled_from(["s", "J"]))
def test_format_keeps_three_digits(value: float, symbol: str) -> None:
    number, unit = units.format_si(value, symbol).split(" ")
    prefix = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15, "k": 1e3, "M": 1e6, "G": 1e9}
    prefix |= {"T": 1e12, "P": 1e15, "E": 1e18}
    back = float(number) * prefix[unit.removesuffix(symbol)]
    assert back == pytest.approx(value, rel=0.0051)


@given(st.floats(min_value=1.0, max_value=1e15), st.booleans())
def test_formatted_bytes_parse_back(value: float, binary: bool) -> None:
    assert units.parse(units.format_bytes(value, binary), "bytes") == pytest.approx(value, rel=0.0051)
