"""From traffic to latency, energy and power, for every [kernel, chip, tile, split] at once.

No transcendental functions: additions, products, divisions, roots by `sqrt` and by a fixed number of steps of Halley's
method, so that vector bodies and scalar tails agree and the same input gives the same bits at any thread count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .chip_tensors import ChipTensors, RateTensors
from .shapes import KernelTensors

_HALLEY_STEPS = 4
"""Enough from a start within a factor of two: each step cubes the error once it is small."""
_MAX_STRETCH = 64.0
_NEWTON_STEPS = 12
_TINY = 1e-30
"""Seconds below which times count as nothing, so that ratios stay finite."""


@dataclass(frozen=True)
class Movement:
    """What a memory system says of each mapping; every tensor broadcasts to `[kernel, chip, tile, split]`.

    `read_bytes` and `write_bytes` run over the chip's levels, nearest the engines first. `core_s` are the seconds each
    on-chip resource needs at the nominal clock, `external_s` those of the external memory, `overhead_s` what cannot
    overlap with either. `operand_far_bytes` splits the external traffic by operand position, `operand_core_bytes`,
    where it is known, what cores and their shared cache exchange. `fits` has a check for each on-chip level that can
    refuse a mapping. `network_bytes` go from core to core within the innermost level. Tensors are kept as small as what
    they depend on.
    """

    read_bytes: tuple[Tensor, ...]
    write_bytes: tuple[Tensor, ...]
    core_s: dict[str, Tensor]
    external_s: Tensor
    overhead_s: Tensor
    operand_far_bytes: tuple[Tensor, ...]
    fits: dict[str, Tensor]
    operand_core_bytes: tuple[Tensor, ...] = ()
    network_bytes: Tensor | None = None

    @property
    def legal(self) -> Tensor:
        """Mappings that pass every check."""
        checks = list(self.fits.values())
        result = checks[0]
        for check in checks[1:]:
            result = result & check
        return result


@dataclass(frozen=True)
class Cost:
    """The price of each mapping, `[kernel, chip, tile, split]`: seconds, joules, the clock's slow-down."""

    latency_s: Tensor
    core_s: Tensor
    external_s: Tensor
    overhead_s: Tensor
    stretch: Tensor
    level_energy_j: tuple[Tensor, ...]
    compute_energy_j: Tensor
    unattributed_energy_j: Tensor
    static_energy_j: Tensor
    energy_j: Tensor


def merge(mask: Tensor, one: Movement, other: Movement) -> Movement:
    """`one` where `mask` `[kernel, 1, 1, 1]` holds, else `other`. A resource that only one has is idle in the other."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask, a, b)

    def zipped(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(pick(x, y) for x, y in zip(a, b, strict=True))

    idle = torch.zeros_like(other.external_s)
    names = dict.fromkeys((*other.core_s, *one.core_s))
    return Movement(
        read_bytes=zipped(one.read_bytes, other.read_bytes),
        write_bytes=zipped(one.write_bytes, other.write_bytes),
        core_s={name: pick(one.core_s.get(name, idle), other.core_s.get(name, idle)) for name in names},
        external_s=pick(one.external_s, other.external_s),
        overhead_s=pick(one.overhead_s, other.overhead_s),
        operand_far_bytes=zipped(one.operand_far_bytes, other.operand_far_bytes),
        fits={name: pick(one.fits[name], other.fits[name]) for name in other.fits},
    )


def evaluate(move: Movement, kernels: KernelTensors, chip: ChipTensors, rates: RateTensors, overlap: str) -> Cost:
    """Price mappings.

    Latency is `overhead + combine(core times, external time)`, where `overlap` says how well the parts hide each
    other: "max" (perfectly), "sharp" (an 8-norm; a 4-norm for attention and norms), "soft" (a 4-norm) or "sum" (not at
    all); but never less than what the host needs to launch a kernel. Where dynamic power would pass what the board
    allows for it, the core clock falls: dynamic power of the cores goes as f^3 (voltage follows frequency), so their
    times stretch by s and their energy shrinks by s^2; external memory keeps its clock, and its energy leaves the cores
    less.
    """
    level_energy = [
        (read * level.read_energy + write * level.write_energy) * 8.0
        for read, write, level in zip(move.read_bytes, move.write_bytes, chip.levels, strict=True)
    ]
    if move.network_bytes is not None:
        level_energy[0] = level_energy[0] + move.network_bytes * chip.levels[0].network_energy * 8.0
    vector_flops = kernels.vector_ops + kernels.special_ops
    compute = kernels.work * rates.energy + vector_flops * chip.vector_energy
    far_bits = (move.read_bytes[-1] + move.write_bytes[-1]) * 8.0
    # What a board is known to spend on a product replaces the sum of its parts, which are estimates.
    known = kernels.work * rates.board + vector_flops * chip.vector_energy
    parts = _total(level_energy[:-1]) + compute
    shrink = torch.clamp(known / torch.clamp(parts, min=_TINY), max=1.0)
    shrink = torch.where(kernels.work * rates.board > 0.0, shrink, torch.ones_like(shrink))
    level_energy[:-1] = [e * shrink for e in level_energy[:-1]]
    compute, parts = compute * shrink, parts * shrink
    extra_flop = torch.where(rates.board > 0.0, known - parts, kernels.work * rates.unattributed)
    extra_flop = torch.where(kernels.work > 0.0, extra_flop, torch.zeros_like(extra_flop))
    extra_flop = extra_flop + vector_flops * chip.unattributed_vector_flop
    extra_bit = far_bits * chip.unattributed_bit
    far_energy = level_energy[-1] + extra_bit

    fused = kernels.attention + kernels.sweeps > 0.0
    core = _combine(list(move.core_s.values()), overlap, fused)
    stretch = _throttle(parts + extra_flop, far_energy, core, move, fused, overlap, chip)
    core_s = core * stretch
    latency = _combine([core_s, move.external_s], overlap, fused) + move.overhead_s
    latency = torch.maximum(latency, far_energy / chip.dynamic_power)
    latency = latency + chip.convolution_host * kernels.convolution
    latency = torch.maximum(latency, torch.where(kernels.tiled > 0.0, chip.call_floor, chip.host_floor))

    scale = 1.0 / (stretch * stretch)
    level_energy[:-1] = [e * scale for e in level_energy[:-1]]
    compute, unattributed = compute * scale, extra_flop * scale + extra_bit
    static = latency * chip.static_power
    return Cost(
        latency_s=latency,
        core_s=core_s,
        external_s=move.external_s,
        overhead_s=move.overhead_s,
        stretch=stretch,
        level_energy_j=tuple(level_energy),
        compute_energy_j=compute,
        unattributed_energy_j=unattributed,
        static_energy_j=static,
        energy_j=_total(level_energy) + compute + unattributed + static,
    )


def _combine(times: list[Tensor], overlap: str, fused: Tensor) -> Tensor:
    """`combine`, with the softer overlap for attention, norms and softmaxes, whose blocks go on from step to step."""
    if overlap != "sharp" or not bool(fused.any()):
        return combine(times, overlap)
    if bool(fused.all()):
        return combine(times, "soft")
    return torch.where(fused, combine(times, "soft"), combine(times, "sharp"))


def combine(times: list[Tensor], overlap: str) -> Tensor:
    """Seconds of parts that run side by side: "max", "sharp" (8-norm), "soft" (4-norm, smoother still) or "sum"."""
    result = times[0]
    if overlap == "sum":
        return _total(times)
    for time in times[1:]:
        result = torch.maximum(result, time)
    if overlap == "max":
        return result
    top = torch.clamp(result, min=_TINY)
    powers = [_square(_square(time / top)) for time in times]
    if overlap == "sharp":
        root = torch.sqrt(torch.sqrt(torch.sqrt(_total([_square(power) for power in powers]))))
    else:
        root = torch.sqrt(torch.sqrt(_total(powers)))
    return torch.where(result > _TINY, top * root, result)


def _throttle(
    core_j: Tensor, far_j: Tensor, core_s: Tensor, move: Movement, fused: Tensor, overlap: str, chip: ChipTensors
) -> Tensor:
    """How much slower the cores run (>= 1): s where core_j / s^2 + far_j is what the board allows for the time that the
    kernel then takes.

    A burst of `repeats` kernels ends before the limit has acted in full: at once it does so to the `instant_share`,
    the rest comes after `settle_time`.
    """
    nominal = torch.clamp(_combine([core_s, move.external_s], overlap, fused) + move.overhead_s, min=_TINY)
    excess = core_j + far_j - chip.dynamic_power * nominal
    stretch, hot = torch.ones_like(excess), excess > 0.0
    if bool(hot.any()):

        def of(value: Tensor) -> Tensor:
            return value.expand(excess.shape)[hot]

        numbers = [of(t) for t in (core_j, far_j, core_s, move.external_s, move.overhead_s, chip.dynamic_power, fused)]
        stretch[hot] = _balanced(*numbers, overlap=overlap)
    settled = torch.clamp(1.0 - chip.settle_time / chip.repeats / (nominal * stretch), min=0.0)
    share = chip.instant_share + (1.0 - chip.instant_share) * settled
    return 1.0 + (stretch - 1.0) * share


def _balanced(
    core_j: Tensor,
    far_j: Tensor,
    core_s: Tensor,
    external_s: Tensor,
    overhead_s: Tensor,
    budget_w: Tensor,
    fused: Tensor,
    *,
    overlap: str,
) -> Tensor:
    """The root of s^2 (budget x time(s) - far_j) = core_j, by Newton's method from above: the left side is convex, so
    every step stays above the root."""
    watts = torch.clamp(budget_w * core_s, min=_TINY)
    ratio = torch.clamp(2.0 * core_j / watts, min=1.0, max=_MAX_STRETCH**3)
    stretch = torch.clamp(torch.maximum(cube_root(ratio), 2.0 * far_j / watts), max=_MAX_STRETCH)
    for _ in range(_NEWTON_STEPS):
        core = core_s * stretch
        together = _combine([core, external_s], overlap, fused)
        left = budget_w * (together + overhead_s) - far_j
        slope = 2.0 * stretch * left + stretch * budget_w * _slope(core, together, overlap, fused)
        step = (stretch * stretch * left - core_j) / torch.clamp(slope, min=_TINY)
        stretch = torch.clamp(stretch - torch.clamp(step, min=0.0), min=1.0)
    return stretch


def _slope(core_s: Tensor, together_s: Tensor, overlap: str, fused: Tensor) -> Tensor:
    """s times the derivative of the time of cores and external memory together by s, where cores take core_s."""
    if overlap == "sum":
        return core_s
    share = core_s / torch.clamp(together_s, min=_TINY)
    if overlap == "max":
        return torch.where(share >= 1.0, core_s, torch.zeros_like(core_s))
    fourth = _square(_square(share))
    return together_s * torch.where(fused, fourth, fourth if overlap == "soft" else _square(fourth))


def cube_root(x: Tensor) -> Tensor:
    """The cube root of x >= 1 by Halley's method: basic operations only, so every lane rounds alike."""
    exponent = torch.frexp(x).exponent.to(torch.int64)
    thirds = torch.div(exponent + 2, 3, rounding_mode="floor")
    y = torch.bitwise_left_shift(torch.ones_like(thirds), thirds).to(x.dtype)
    double = x + x
    for _ in range(_HALLEY_STEPS):
        cube = y * y * y
        y = y * ((cube + double) / (cube + cube + x))
    return torch.where(x == 1.0, torch.ones_like(y), y)


def _square(x: Tensor) -> Tensor:
    return x * x


def _total(parts: list[Tensor]) -> Tensor:
    """A sum in written order (torch.sum may change its order with the number of threads)."""
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result
