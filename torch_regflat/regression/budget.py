"""Budgets: figures that a result must not exceed."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..errors import InputError, near
from ..result import ChipResult, Result
from ..units import parse
from .compare import relative
from .metrics import METRICS, Metric, figure
from .snapshot import snapshot

_BY_BUDGET = {metric.budget: metric for metric in METRICS.values()}


def assert_below(result: Result, budgets: Mapping[str, str | float]) -> None:
    """Raise `AssertionError` with every figure of every chip that is above its budget, and the layers that have most.

    Budgets are named as in `Metric.budget`: text with a unit (`"2 ms"`), or a number in SI. Raises `InputError` for
    an unknown name, another unit, or none at all.
    """
    __tracebackhide__ = True
    if not budgets:
        raise InputError(f"assert_below() bounds nothing; give one or more of {', '.join(_BY_BUDGET)}")
    limits = [(_named(name), _limit(name, value)) for name, value in budgets.items()]
    over = [
        _over(result, chip, metric, limit)
        for chip in result.chips
        for metric, limit in limits
        if figure(metric.name, chip) > limit
    ]
    if over:
        raise AssertionError("\n".join(over))


def _named(name: str) -> Metric:
    if name in METRICS:
        return METRICS[name]
    if name not in _BY_BUDGET:
        hint = near(name, _BY_BUDGET) or ";"
        raise InputError(f"no budget {name!r}{hint} budgets are {', '.join(_BY_BUDGET)}")
    return _BY_BUDGET[name]


def _limit(name: str, value: str | float) -> float:
    dimension = _named(name).dimension
    try:
        limit = parse(value, dimension) if isinstance(value, str) and dimension != "number" else float(value)
    except (InputError, ValueError, TypeError) as error:
        raise InputError(f"the budget {name} is {value!r}: {error}") from None
    if not math.isfinite(limit) or limit < 0 or isinstance(value, bool):
        raise InputError(f"the budget {name} is {value!r}; it must be a finite number of 0 or more")
    return limit


def _over(result: Result, chip: ChipResult, metric: Metric, limit: float) -> str:
    value = metric.of_chip(chip)
    kind = "counted" if metric.counted else "modelled"
    by = f", {relative(limit, value)}" if limit else ""
    text = f"{kind} {metric.words} of {result.model} on {chip.chip} is {metric.text(value)}{_interval(chip, metric)}"
    return f"{text}, above the budget of {metric.text(limit)}{by}; most of it: {_largest(result, chip, metric)}"


def _interval(chip: ChipResult, metric: Metric) -> str:
    low, high = chip.total.latency_low_s, chip.total.latency_high_s
    if metric.name != "latency_s" or low is None or high is None:
        return ""
    return f" (between {metric.text(low)} and {metric.text(high)}, {chip.interval})"


def _largest(result: Result, chip: ChipResult, metric: Metric) -> str:
    found = snapshot(result).chips[chip.chip]
    shares = {layer.path: layer.figures.get(metric.name, 0.0) for layer in found.layers}
    if metric.of_layer is None:
        shares = found.memory_bytes
    most = sorted(shares.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{path or '(top level)'} {metric.text(value)}" for path, value in most) or "-"
