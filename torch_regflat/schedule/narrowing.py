"""Products in a narrow format whose wider activations a library narrows in kernels of their own before."""

from __future__ import annotations

from dataclasses import replace

from ..cost.shapes import KernelShape, Rows, TiledOperand
from ..hardware.chip import Chip, dtype_bits
from ..hardware.software import Software
from ..quantized import DEQUANTIZE_OPS


def narrowed(shape: KernelShape, chip: Chip, software: Software) -> KernelShape:
    """The product with the narrow activations as its factor, and the kernels before it that make them.

    The shape itself where the software narrows on the way, or where nothing has to be narrowed.
    """
    own = software.narrowing
    if own is None or shape.kind != "product" or shape.grouped or chip.memory_system != "cache":
        return shape
    bits = dtype_bits(shape.dtype)
    wide = [o for o in shape.operands if o.role == "activation" and o.access == "read" and o.point_bytes * 8 > bits]
    if not wide or len(shape.operands) != 3 or sum(o.role == "weight" for o in shape.operands) != 1:
        return shape
    factor = wide[0]
    narrow = _narrow(factor, bits, chip)
    elements = factor.footprint_bytes / factor.point_bytes
    moved = factor.footprint_bytes * (1.0 - factor.resident) + (own.reads.value - 1.0) * factor.footprint_bytes * (
        1.0 - narrow.resident
    )
    return replace(
        shape,
        operands=tuple(narrow if o is factor else o for o in shape.operands),
        vector_ops=max(shape.vector_ops - DEQUANTIZE_OPS * elements, 0.0),
        apart_bytes=shape.apart_bytes + moved + narrow.footprint_bytes * (1.0 - narrow.resident),
        apart_kernels=shape.apart_kernels + own.kernels.value,
        rows=_rows(shape, factor) if own.scales == "rows" else None,
        rate_share=shape.rate_share * own.rate.value,
    )


def _rows(shape: KernelShape, factor: TiledOperand) -> Rows:
    """The rows that a block each finds the largest element of and then narrows."""
    k = shape.sizes[3]
    return Rows(factor.footprint_bytes / factor.point_bytes / k, k, k * factor.point_bytes, 2)


def _narrow(factor: TiledOperand, bits: float, chip: Chip) -> TiledOperand:
    """The factor in fewer bits; just written, it lies on chip where it fits."""
    share = bits / 8 / factor.point_bytes
    size = factor.footprint_bytes * share
    fits = size <= chip.on_chip[-1].usable_bytes
    return replace(factor, point_bytes=bits / 8, footprint_bytes=size, resident=float(fits))
