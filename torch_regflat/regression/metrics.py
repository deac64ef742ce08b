"""The figures of a result that can be compared or bounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import InputError, ResultError, near
from ..result import ChipResult, Fit, Row
from ..units import format_bytes, format_energy, format_si


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure in SI, less being better.

    `of_layer` is a layer's share of it; without it the figure is not a sum over layers (`peak_memory_bytes`).
    `counted` figures follow from shapes alone; the others are modelled.
    """

    name: str
    words: str
    budget: str
    dimension: str
    of_chip: Callable[[ChipResult], float]
    of_layer: Callable[[Row, str], float] | None
    text: Callable[[float], str]
    counted: bool = False


def _flop(value: float) -> str:
    return format_si(value, "FLOP", 4)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("latency_s", "latency", "latency", "time",
               lambda c: c.total.latency_s, lambda r, _: r.latency_s, lambda v: format_si(v, "s", 4)),
        Metric("energy_j", "energy", "energy", "energy",
               lambda c: c.total.energy_j, lambda r, _: r.energy_j, lambda v: format_energy(v, 4)),
        Metric("memory_energy_j", "memory energy", "memory_energy", "energy",
               lambda c: c.total.memory_energy_j, lambda r, _: math.fsum(r.memory_energy_j.values()),
               lambda v: format_energy(v, 4)),
        Metric("peak_memory_bytes", "peak memory", "peak_memory", "bytes",
               lambda c: c.fit.needs_bytes, None, lambda v: format_bytes(v, digits=4), counted=True),
        Metric("external_traffic_bytes", "external traffic", "external_traffic", "bytes",
               lambda c: c.levels[-1].traffic_bytes if c.levels else 0.0, lambda r, far: r.traffic_bytes.get(far, 0.0),
               lambda v: format_bytes(v, digits=4)),
        Metric("flops", "FLOPs", "flops", "flop",
               lambda c: c.total.flops, lambda r, _: r.flops, _flop, counted=True),
        Metric("executed_flops", "executed FLOPs", "executed_flops", "flop",
               lambda c: c.total.executed_flops, lambda r, _: r.executed_flops, _flop),
        Metric("kernels", "kernels", "kernels", "number",
               lambda c: c.total.kernels, lambda r, _: r.kernels, lambda v: f"{v:g}"),
    )
}  # fmt: skip
"""By name. Every one is a figure of one chip."""
DEFAULT = ("latency_s", "energy_j", "peak_memory_bytes")
"""What is compared where a test names nothing."""
LAYERED = tuple(name for name, metric in METRICS.items() if metric.of_layer is not None)

MEMORY_PARTS: dict[str, Callable[[Fit], int]] = {
    "weights": lambda fit: fit.weights_bytes,
    "KV cache": lambda fit: fit.kv_cache_bytes,
    "activations": lambda fit: fit.activations_bytes,
    "gradients": lambda fit: fit.gradients_bytes,
    "optimizer state": lambda fit: fit.optimizer_bytes,
}
"""What peak memory is the sum of, in place of layers."""


def figure(name: str, chip: ChipResult) -> float:
    """A metric of a chip. Raises `ResultError` where it is not finite, for nothing compares with that."""
    value = METRICS[name].of_chip(chip)
    if not math.isfinite(value):
        raise ResultError(f"{name} on {chip.chip} is {value}; a result holds finite numbers only")
    return value


def named(names: str | Iterable[str]) -> tuple[str, ...]:
    """Names of metrics, checked. Raises `InputError` on an unknown one, or on none."""
    listed = (names,) if isinstance(names, str) else tuple(names)
    if not listed:
        raise InputError(f"no metrics named; give one or more of {', '.join(METRICS)}")
    for name in listed:
        if name not in METRICS:
            hint = near(str(name), METRICS) or ";"
            raise InputError(f"unknown metric {name!r}{hint} the metrics are {', '.join(METRICS)}")
    return listed
