"""What a fused chain costs: the sum of its steps, which run one after the other while transfers run beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ...cost.shapes import KernelShape
from ..select import Choice


def distinct_steps(shapes: Sequence[KernelShape]) -> list[KernelShape]:
    """The shapes that have to be priced by themselves: those that are not fused, and the steps of those that are."""
    found: dict[KernelShape, None] = {}
    for shape in shapes:
        found.update(dict.fromkeys(part for part, _ in shape.steps) if shape.steps else {shape: None})
    return list(found)


def composed(shape: KernelShape, priced: Mapping[KernelShape, Choice], overlap: str) -> Choice:
    """The price of a shape: its own, or made of those of its steps.

    Steps share the engines and the external channel: the seconds of both add up, each is dispatched like a kernel of
    its own, and arithmetic overlaps with transfers as in any kernel (`overlap`).
    """
    if not shape.steps:
        return priced[shape]
    choices = [priced[part] for part, _ in shape.steps]
    times = [count for _, count in shape.steps]

    def total(value: Callable[[Choice], float]) -> float:
        return math.fsum(value(choice) * count for choice, count in zip(choices, times, strict=True))

    def levels(value: Callable[[Choice], tuple[float, ...]]) -> tuple[float, ...]:
        return tuple(total(lambda choice, i=i: value(choice)[i]) for i in range(len(value(choices[0]))))  # type: ignore[misc]

    core, external, overhead = (
        total(lambda c: c.core_s), total(lambda c: c.external_s), total(lambda c: c.overhead_s)
    )  # fmt: skip
    names = dict.fromkeys(name for choice in choices for name in choice.resources_s)
    return Choice(
        latency_s=together(core, external, overlap) + overhead,
        core_s=core,
        external_s=external,
        overhead_s=overhead,
        resources_s={name: total(lambda c, name=name: c.resources_s.get(name, 0.0)) for name in names},  # type: ignore[misc]
        stretch=total(lambda c: c.core_s * c.stretch) / core if core else 1.0,
        read_bytes=levels(lambda c: c.read_bytes),
        write_bytes=levels(lambda c: c.write_bytes),
        level_energy_j=levels(lambda c: c.level_energy_j),
        compute_energy_j=total(lambda c: c.compute_energy_j),
        unattributed_energy_j=total(lambda c: c.unattributed_energy_j),
        static_energy_j=total(lambda c: c.static_energy_j),
        operand_far_bytes=(),
        tile=(1.0, 1.0, 1.0, 1.0),
        shape=shape,
        mapping=shape.fused,
        candidates=sum(choice.candidates for choice in choices),
        legal=sum(choice.legal for choice in choices),
        reason="fused on chip: less than its kernels one by one",
        held_bytes=shape.held_bytes + max(choice.held_bytes for choice in choices),
        steps=tuple(choices),
    )


def together(core_s: float, external_s: float, overlap: str) -> float:
    """Seconds of arithmetic and transfers side by side (see `cost.kernel.combine`)."""
    if overlap == "sum":
        return core_s + external_s
    power = {"max": None, "sharp": 8, "soft": 4}[overlap]
    most = max(core_s, external_s)
    if power is None or not most:
        return most
    return float(most * ((core_s / most) ** power + (external_s / most) ** power) ** (1.0 / power))
