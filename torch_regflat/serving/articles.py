"""The arithmetic of two articles about what queries cost, done again: each figure from the others that they give.

L. Rizzatti, The Mind-Boggling Cost of Generative AI Ownership, EE Times Europe, November 2023, p. 23 (table 2, source:
VSORA), and what press reported of searches. A figure "agrees" where it is within a tenth of what follows from others.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..units import YEAR, format_si, significant

HOUR = 3600.0
DAY = 24 * HOUR

# As printed, in SI and dollars.
QUERIES_PER_S = 100_000.0
QUERIES_PER_S_SYSTEM = 0.055
SYSTEMS = 1.8e6
CAPITAL = 900e9
WATTS = 363.7e6
ELECTRICITY_A_DAY = 1e6
USD_PER_KWH = 0.11
GPT3_QUERY = 0.03
SEARCHES_A_YEAR = 3.3e12

# Of other sources.
NODE_WATTS = 10.2e3
"""Eight H100 with their server, https://v2-pseo-ai.pages.dev/tools/gpu-tco-analysis."""
A100_RENT = 1.5
"""USD an hour, the least of hyperscalers, https://www.mercatus-ai.com/blog/cloud-gpu-pricing."""
LIFE_YEARS = 5.0
"""https://www.aiinframap.com/tools/chips/h100-vs-h200-vs-b200-tco."""

_POWER = "1.8 million systems of eight GPUs, 10.2 kW each (363.7 MW leave 202 W for each)"
_CAPITAL = "900 billion USD over five years, nothing else (0.03 would take 9.5 years)"


@dataclass(frozen=True, slots=True)
class Line:
    """A figure, what follows in its place, and from what."""

    what: str
    stated: float
    follows: float
    unit: str
    how: str

    @property
    def ratio(self) -> float:
        """What follows over what is stated."""
        return self.follows / self.stated

    @property
    def agrees(self) -> bool:
        return abs(self.ratio - 1.0) <= 0.1


def arithmetic() -> list[Line]:
    """Every figure that others of the same source determine."""
    searches = SEARCHES_A_YEAR / YEAR
    queries = QUERIES_PER_S * DAY  # a day
    written_off = CAPITAL / (LIFE_YEARS * YEAR / DAY)  # a day
    rented = 8 * A100_RENT
    power_cost = WATTS * DAY / 3.6e6 * USD_PER_KWH
    return [
        Line("systems", SYSTEMS, QUERIES_PER_S / QUERIES_PER_S_SYSTEM, "", "100,000 queries/s at 0.055 a system"),
        Line("electricity", ELECTRICITY_A_DAY, power_cost, "USD a day", "363.7 MW at 0.11 USD/kWh"),
        Line("power", WATTS, SYSTEMS * NODE_WATTS, "W", _POWER),
        Line("GPT-3 query", GPT3_QUERY, written_off / queries, "USD", _CAPITAL),
        Line("GPT-3 query", GPT3_QUERY, rented / (QUERIES_PER_S_SYSTEM * HOUR), "USD", "eight A100 rented by the hour"),
        Line("GPT-3 query", GPT3_QUERY, power_cost / queries, "USD", "the electricity of 363.7 MW alone"),
        Line("searches a second", QUERIES_PER_S, searches, "/s", "3.3 trillion searches in 2022, each at 0.002 USD"),
    ]


def markdown() -> str:
    """The table of docs/serving.md."""
    head = ["| figure | as printed | follows | from | |", "|---|---:|---:|---|---|"]
    return "\n".join([*head, *map(_row, arithmetic())]) + "\n"


def _row(line: Line) -> str:
    stated, follows = (_shown(value, line.unit) for value in (line.stated, line.follows))
    verdict = "agrees" if line.agrees else f"{line.ratio:.2g} times"
    return f"| {line.what} | {stated} | {follows} | {line.how} | {verdict} |"


def _shown(value: float, unit: str) -> str:
    if unit.startswith("USD"):
        return f"${significant(value)}{unit[3:]}" if value < 1e3 else f"${value:,.0f}{unit[3:]}"
    return format_si(value, unit) if unit == "W" else f"{value:,.0f}{unit}"
