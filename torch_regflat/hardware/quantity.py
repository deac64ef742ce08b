"""A number with its unit, its source and an honest word on where it comes from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationInfo, model_validator
from pydantic_core import CoreSchema, core_schema

from .. import units
from ..errors import InputError, near

Evidence = Literal["datasheet", "measured", "paper", "fit", "estimate"]
"""datasheet: the maker says so; measured: someone measured this chip; paper: published for this technology; fit: a
constant chosen on measured rows; estimate: everything else, with the reasoning in `source` or `note`."""

_EXAMPLE = '{ value = 1.0, unit = "...", source = "...", kind = "estimate" }'


class Frozen(BaseModel):
    """Base of all hardware and software models: immutable, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, revalidate_instances="always", allow_inf_nan=False
    )


def content_hash(model: Frozen) -> str:
    """First 16 hex digits of the SHA-256 of the contents; equal contents give equal hashes everywhere."""
    data = model.model_dump(by_alias=True, exclude_none=True)
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Quantity(Frozen):
    """A number of a chip file. `value`, `low` and `high` are SI; `given` and `unit` are as written in the file."""

    given: float = Field(alias="value", strict=False)
    unit: str
    source: str
    kind: Evidence
    given_low: float | None = Field(default=None, alias="low")
    given_high: float | None = Field(default=None, alias="high")
    note: str = ""

    @property
    def factor(self) -> float:
        """What `given` is multiplied with to become SI."""
        return units.UNITS[self.unit].factor

    @property
    def dimension(self) -> str:
        """What the unit measures, a key of `units.DIMENSIONS`."""
        return units.UNITS[self.unit].dimension

    @property
    def value(self) -> float:
        """The value in SI."""
        return self.given * self.factor

    @property
    def low(self) -> float:
        """The lower end of the range in SI; the value itself where the file gives none."""
        return self.value if self.given_low is None else self.given_low * self.factor

    @property
    def high(self) -> float:
        """The upper end of the range in SI; the value itself where the file gives none."""
        return self.value if self.given_high is None else self.given_high * self.factor

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.given:g}" if self.unit == "1" else f"{self.given:g} {self.unit}"

    @model_validator(mode="before")
    @classmethod
    def _readable(cls, data: Any, info: ValidationInfo) -> Any:
        """Accept a table; in `Chip.replace` also `"4.8 TB/s"`, and a bare number where no unit is needed."""
        replacing = bool(info.context and info.context.get("replacing"))
        if replacing and isinstance(data, (str, int, float)) and not isinstance(data, bool):
            return _replacement(data)
        if isinstance(data, cls):
            return data
        if not isinstance(data, dict):
            raise ValueError(f"found {data!r}; every number is a table with value, unit, source and kind: {_EXAMPLE}")
        for key in ("value", "unit", "source", "kind"):
            if data.get(key) is None or (key != "value" and data[key] == ""):
                raise ValueError(f"no {key}; every number is a table with value, unit, source and kind: {_EXAMPLE}")
        for key in ("value", "low", "high"):
            number = data.get(key)
            if number is not None and (isinstance(number, bool) or not isinstance(number, (int, float))):
                raise ValueError(f"{key} should be a number, found {number!r}")
        if isinstance(data["unit"], str):
            return {**data, "unit": _known(data["unit"])}
        return data

    @model_validator(mode="after")
    def _ordered(self) -> Quantity:
        for name, bound in (("low", self.given_low), ("high", self.given_high)):
            if bound is not None and (bound > self.given if name == "low" else bound < self.given):
                order = "below" if name == "high" else "above"
                raise ValueError(f"{name} = {bound:g} is {order} value = {self.given:g}; write low <= value <= high")
        return self


def _known(symbol: str) -> str:
    try:
        return units.unit(symbol).symbol
    except InputError:
        return symbol  # the field's own check names the units that fit there


def _replacement(data: str | float) -> dict[str, Any]:
    if isinstance(data, str):
        try:
            value, unit = units.split(data)
        except InputError as error:
            raise ValueError(str(error)) from None
        return {"value": value, "unit": unit.symbol, "source": "set by the caller", "kind": "estimate"}
    return {"value": data, "unit": "1", "source": "set by the caller", "kind": "estimate"}


@dataclass(frozen=True)
class Measures:
    """Annotates a `Quantity` field with the dimensions it accepts and whether 0 is allowed."""

    dimensions: tuple[str, ...]
    zero: bool = False
    at_most: float = math.inf
    whole: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, quantity: Quantity) -> Quantity:
        try:
            units.unit(quantity.unit, self.dimensions)
        except InputError as error:
            raise ValueError(str(error)) from None
        for word, value in (("", quantity.value), ("low ", quantity.low), ("high ", quantity.high)):
            self._check_size(word, value, quantity.unit)
        if self.whole and not quantity.value.is_integer():
            raise ValueError(f"{quantity} is not a whole number")
        return quantity

    def _check_size(self, word: str, value: float, unit: str) -> None:
        text = f"{word}{value / units.UNITS[unit].factor:g} {'' if unit == '1' else unit}".strip()
        if value < 0:
            raise ValueError(f"{text} is negative; it must be {'0 or more' if self.zero else 'greater than 0'}")
        if value == 0 and not self.zero:
            raise ValueError(f"{text} is zero; it must be greater than 0")
        if value > self.at_most:
            raise ValueError(f"{text} is too large; it must be at most {self.at_most:g}")


def quantities(model: BaseModel, path: str = "") -> Iterator[tuple[str, Quantity]]:
    """All numbers of a model with their paths (`memory.HBM3.read_bandwidth`), in file order."""
    for name in type(model).model_fields:
        yield from _walk(getattr(model, name), f"{path}.{name}" if path else name)


def _walk(value: Any, path: str) -> Iterator[tuple[str, Quantity]]:
    if isinstance(value, Quantity):
        yield path, value
    elif isinstance(value, BaseModel):
        yield from quantities(value, path)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, f"{path}.{key}")
    elif isinstance(value, tuple):
        for item in value:
            yield from _walk(item, f"{path}.{getattr(item, 'name', '')}")


def check_sources(model: BaseModel, sources: dict[str, str]) -> None:
    """Every number cites a key of `[sources]` or is itself a text; raises `ValueError` naming the number."""
    for path, quantity in quantities(model):
        if quantity.source not in sources and " " not in quantity.source.strip():
            raise ValueError(
                f"{path}: source {quantity.source!r} is not a key of [sources]"
                f"{near(quantity.source, sources) or ';'} add it there, or write the citation out"
            )
