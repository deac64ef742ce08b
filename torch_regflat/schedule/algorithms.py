"""Other ways to compute a kernel than the loop nest as it stands: Winograd convolutions on a cache hierarchy.

A filter of 3 x 3 with stride 1 becomes, over output tiles of t x t, (t + 2)^2 products of transformed tiles, channels
and filters: 2.25 times fewer multiplications for t = 2, 4 times for t = 4 (Lavin and Gray, arXiv:1509.09308). cuDNN
has a kernel for t = 2 that transforms its input and output on the way ("fused"), and for t = 4 transforms that are
kernels of their own and go through memory. Both transform the filters first. cuDNN picks them for fp32 on the vector
engines; with matrix engines it stays with the implicit product.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ..cost.shapes import KernelShape, Sliding, TiledOperand
from ..hardware.chip import Chip
from ..hardware.software import Software, WinogradKernels
from .narrowing import narrowed

TAPS = 3
FUSED, UNFUSED = 2, 4


def algorithms(shape: KernelShape, chip: Chip, software: Software) -> list[KernelShape]:
    """The shape itself, and on a GPU those of the other algorithms that its libraries have for it."""
    own = software.winograd
    if own is None or shape.sliding is None or chip.memory_system != "cache" or not _on_vector_engine(shape, chip):
        return [narrowed(shape, chip, software)]
    return [shape, *(_winograd(shape, shape.sliding, tile, own) for tile in (FUSED, UNFUSED))]


def _on_vector_engine(shape: KernelShape, chip: Chip) -> bool:
    return chip.supports(shape.dtype) and chip.engine_for(shape.dtype, "matrix") is None


def _winograd(shape: KernelShape, at: Sliding, tile: int, own: WinogradKernels) -> KernelShape:
    points = (tile + TAPS - 1) ** 2
    tiles = at.images * math.ceil(at.height / tile) * math.ceil(at.width / tile)
    image, weight, result = shape.operands
    element = weight.footprint_bytes / (at.channels * at.filters * TAPS * TAPS)
    inputs, filters = points * tiles * at.channels * element, points * at.channels * at.filters * element
    outputs = points * tiles * at.filters * element
    transformed = (_moved(weight) + filters) * own.filter_passes.value
    kernels = 1
    if tile == UNFUSED:
        transformed += _moved(image) + inputs + outputs + _moved(result)
        kernels = 3

    def operand(old: TiledOperand, axes: tuple[bool, bool, bool, bool], size: float) -> TiledOperand:
        # What the fused kernel reads and writes is as large as ever; only the filters were transformed before.
        own = size if tile == UNFUSED or old is weight else old.footprint_bytes
        resident = old.resident if own == old.footprint_bytes else 0.0
        return replace(old, axes=axes, point_bytes=element, footprint_bytes=own, resident=resident)

    return replace(
        shape,
        algorithm=f"Winograd {tile}x{tile}",
        sizes=(points, tiles, at.filters, at.channels),
        operands=(
            operand(image, (True, True, False, True), inputs),
            operand(weight, (True, False, True, True), filters),
            operand(result, (True, True, True, False), outputs),
        ),
        work=2.0 * points * tiles * at.channels * at.filters,
        domain_fraction=1.0,
        apart_bytes=transformed,
        apart_kernels=kernels,
        rate_share=own.fused_rate.value if tile == FUSED else 1.0,
    )


def _moved(operand: TiledOperand) -> float:
    return operand.footprint_bytes * (1.0 - operand.resident)
