"""Dollars: of a chip for an hour, a request, a million tokens, a fleet. Every assumption is a number with a source."""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from ..errors import InputError, near
from ..hardware.chip import Chip
from ..hardware.quantity import Frozen, Measures, Quantity, check_sources
from ..hardware.validation import explain
from ..served import Assumption, Cost, Costs, Fleet, Serving, ServingPoint
from ..units import format_si, split

SHIPPED = Path(__file__).parent / "economics.toml"
_HOUR = 3600.0
_DAY = 86400.0

Money = Annotated[Quantity, Measures(("money",))]
Rent = Annotated[Quantity, Measures(("money/hour",))]
Span = Annotated[Quantity, Measures(("time",))]
Share = Annotated[Quantity, Measures(("number",), at_most=1.0)]
Multiple = Annotated[Quantity, Measures(("number",), zero=True)]
Power = Annotated[Quantity, Measures(("power",), zero=True)]
Tariff = Annotated[Quantity, Measures(("money/energy",), zero=True)]
Hosting = Annotated[Quantity, Measures(("money/power/time",), zero=True)]


class Economics(Frozen):
    """The assumptions. `purchase` and `rent_per_hour` of a chip come from its file unless they are given here."""

    schema_: Literal[1] = Field(alias="schema")
    purchase: Money | None = None
    rent_per_hour: Rent | None = None
    life: Span
    utilization: Share
    servers: Multiple
    server_power: Power
    pue: Multiple
    electricity: Tariff
    hosting: Hosting
    rack_power: Annotated[Quantity, Measures(("power",))]
    sources: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Economics:
        if self.pue.value < 1.0:
            raise ValueError(f"pue = {self.pue} is below 1; a building takes at least what its servers take")
        check_sources(self, self.sources)
        return self

    @classmethod
    def of(cls, file: str | Path | None = None, changes: Mapping[str, Any] | None = None) -> Economics:
        """Those that ship, with what a file has in their place, and after it `changes` ("3 year", 1.1).

        Raises `InputError` for a file that cannot be read, an unknown name or a value that does not fit.
        """
        data = {**_shipped(), **({} if file is None else _read(Path(file)))}
        data["sources"] = {**_shipped()["sources"], **data.get("sources", {})}
        for name, value in (changes or {}).items():
            if name not in NAMES:
                raise InputError(f"unknown assumption {name!r}{near(name, NAMES) or ';'} they are {', '.join(NAMES)}")
            data[name] = _changed(name, value)
        try:
            return cls.model_validate(data, context={"replacing": True})
        except ValidationError as error:
            raise InputError(explain(error, data, cls, str(file or "economics"))) from None

    def prices(self, chip: Chip) -> tuple[Quantity | None, Quantity | None]:
        """What a chip costs to buy and to rent, where that is known."""
        known = chip.price
        return (
            self.purchase or (known.purchase if known else None),
            self.rent_per_hour or (known.rent_per_hour if known else None),
        )


NAMES = tuple(name for name in Economics.model_fields if name not in ("schema_", "sources"))
"""What can be set."""

_DIMENSIONS = {
    "purchase": "money",
    "rent_per_hour": "money/hour",
    "life": "time",
    "server_power": "power",
    "electricity": "money/energy",
    "hosting": "money/power/time",
    "rack_power": "power",
}
"""What those that have a unit measure."""


def _changed(name: str, value: Any) -> Any:
    """A value as it is written, checked where its unit says nothing to anyone."""
    try:
        if isinstance(value, str):
            split(value, _DIMENSIONS.get(name, "number"))
        elif name in _DIMENSIONS and isinstance(value, (int, float)):
            split(str(value), _DIMENSIONS[name])
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return value


@functools.cache
def _shipped() -> dict[str, Any]:
    return _read(SHIPPED)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error


def costs_of(
    serving: Serving,
    chip: Chip,
    economics: Economics | None = None,
    *,
    queries_per_s: float | None = None,
    watts: float | None = None,
) -> Costs:
    """What requests cost at the best point of a served model; with a target the fleet it takes, and with a budget of
    power (of the whole building) what that gives.

    Raises `InputError` where neither a price nor a rent of the chip is known.
    """
    chosen = economics or Economics.of()
    purchase, rent = chosen.prices(chip)
    if purchase is None and rent is None:
        raise InputError(
            f"{chip.name} has neither a price nor a rent; give one with --set purchase='30000 USD' or "
            "--set rent_per_hour='3 USD/h', or in an economics file"
        )
    point, found = serving.best, []
    if purchase is not None:
        found.append(_cost("owned", _owned(purchase.value, point, chip, chosen), point, serving.output, chosen))
    if rent is not None:
        found.append(_cost("rented", {"rent": rent.value}, point, serving.output, chosen))
    given = {"purchase": purchase, "rent_per_hour": rent}
    listed = [(name, given.get(name) or getattr(chosen, name)) for name in NAMES]
    sources = {**chip.sources, **chosen.sources}
    return Costs(
        chip=chip.name,
        costs=tuple(found),
        assumptions=tuple(_assumption(name, value, sources) for name, value in listed if value is not None),
        fleet=None if queries_per_s is None else fleet(queries_per_s, point, chip, chosen, found[0]),
        budget_w=watts,
        budget=None if watts is None else within(watts, point, chip, chosen, found[0]),
    )


def _owned(purchase: float, point: ServingPoint, chip: Chip, economics: Economics) -> dict[str, float]:
    """Dollars of a chip for an hour, by what for."""
    hours = economics.life.value / _HOUR
    drawn = mean_power(point, chip, economics) * economics.pue.value
    return {
        "chips": purchase / hours,
        "servers": purchase * economics.servers.value / hours,
        "hosting": _provided_w(chip, economics) * economics.hosting.value * _HOUR,
        "electricity": drawn * economics.electricity.value * _HOUR,
    }


def mean_power(point: ServingPoint, chip: Chip, economics: Economics) -> float:
    """Watts of a chip with its part of a server, idle while it is not used."""
    idle = (chip.power.idle or chip.power.static).value
    used = economics.utilization.value
    return used * point.power_w + (1.0 - used) * idle + economics.server_power.value


def _cost(
    basis: Literal["owned", "rented"],
    hourly: dict[str, float],
    point: ServingPoint,
    output: int,
    economics: Economics,
) -> Cost:
    answered = point.requests_per_s / point.chips * economics.utilization.value * _HOUR  # an hour and chip
    usd = math.fsum(hourly.values()) / answered
    return Cost(basis=basis, usd_per_hour=hourly, usd_per_request=usd, usd_per_million_tokens=usd / output * 1e6)


def fleet(queries_per_s: float, point: ServingPoint, chip: Chip, economics: Economics, cost: Cost) -> Fleet:
    """What answers so many requests a second, on average over the life of the chips."""
    if not queries_per_s > 0.0:
        raise InputError(f"{queries_per_s:g} queries a second; it must be more than 0")
    instances = math.ceil(queries_per_s / (point.requests_per_s * economics.utilization.value))
    return _fleet(instances, queries_per_s, point, chip, economics, cost)


def within(watts: float, point: ServingPoint, chip: Chip, economics: Economics, cost: Cost) -> Fleet:
    """The most that a building with so much power for all that is in it can serve."""
    each = point.chips * _provided_w(chip, economics) * economics.pue.value
    instances = int(watts / each)
    if not instances:
        raise InputError(
            f"{format_si(watts, 'W')} is too little for one instance of {point.chips} chips, "
            f"which needs {format_si(each, 'W')}"
        )
    rate = instances * point.requests_per_s * economics.utilization.value
    return _fleet(instances, rate, point, chip, economics, cost)


def _fleet(instances: int, rate: float, point: ServingPoint, chip: Chip, economics: Economics, cost: Cost) -> Fleet:
    chips = instances * point.chips
    servers_w = chips * _provided_w(chip, economics)
    return Fleet(
        queries_per_s=rate,
        instances=instances,
        chips=chips,
        racks=math.ceil(servers_w / economics.rack_power.value),
        provided_w=servers_w * economics.pue.value,
        drawn_w=chips * mean_power(point, chip, economics) * economics.pue.value,
        usd_per_day=chips * math.fsum(cost.usd_per_hour.values()) * _DAY / _HOUR,
        basis=cost.basis,
    )


def _provided_w(chip: Chip, economics: Economics) -> float:
    """Watts that have to be there for a chip with its part of a server."""
    return chip.power.limit.value + economics.server_power.value


def _assumption(name: str, value: Quantity, sources: dict[str, str]) -> Assumption:
    ranged = value.given_low is not None or value.given_high is not None
    low = value.given if value.given_low is None else value.given_low
    high = value.given if value.given_high is None else value.given_high
    return Assumption(
        name=name,
        value=str(value),
        range=f"{low:g} to {high:g}" if ranged else "",
        kind=value.kind,
        source=sources.get(value.source, value.source),
        note=value.note,
    )


