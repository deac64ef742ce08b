"""A workload with the weights of its linear layers stored in fewer bits, and perhaps multiplied in fewer.

The model is captured as it is written, in bf16 say; `quantized` then changes what its products read. What is changed,
and what is not, is what the quantisers of torchao and Hugging Face do:

- weights: the factor with a summed dimension (n, k) of every matrix product and grouped product (experts), where
  nothing but products reads that parameter. Embedding tables, a head tied to one, norms, biases and convolutions keep
  their bits, and so does a module called `lm_head`.
- weights alone: the arithmetic stays in the model's dtype, and each weight read costs 2 vector operations, convert
  and scale.
- activations too: the arithmetic is done in the narrow format. The other factor is read as the model wrote it and
  quantised on the way (2 vector operations an element); results leave in the model's dtype. That is dynamic
  quantisation without a kernel of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .errors import InputError, near
from .workload import LoopNest, Operand, Operation, Workload

DEQUANTIZE_OPS = 2
"""Vector operations to convert and scale one element."""

HEADS = ("lm_head",)
"""Modules whose weights stay as they are."""


@dataclass(frozen=True)
class Format:
    """A number format of stored tensors: bits an element with its share of a group's scale, and what multiplies it."""

    name: str
    bits: float
    dtype: str
    family: str
    about: str


FORMATS = {
    found.name: found
    for found in (
        Format("fp8", 8.0, "float8_e4m3fn", "float", "e4m3; a scale a tensor or channel is not counted"),
        Format("mxfp8", 8.25, "float8_e4m3fn", "float", "e4m3; an 8-bit scale for 32 elements (OCP MX)"),
        Format("int8", 8.0, "int8", "integer", "a scale a channel is not counted"),
        Format("int4", 4.125, "int4", "integer", "a 16-bit scale for 128 elements, symmetric"),
        Format("int4-g32", 5.0, "int4", "integer", "a 16-bit scale and a 16-bit zero for 32 elements"),
        Format("mxfp4", 4.25, "mxfp4", "float", "e2m1; an 8-bit scale for 32 elements (OCP MX)"),
        Format("nvfp4", 4.5, "nvfp4", "float", "e2m1; an fp8 scale for 16 elements; that of a tensor is not counted"),
    )
}


def format_of(name: str, option: str) -> Format:
    """The format of this name; `option` is what the user calls it, for the message."""
    found = FORMATS.get(str(name).lower())
    if found is None:
        raise InputError(
            f"unknown format {name!r} for {option}{near(str(name), FORMATS) or ';'} it must be one of "
            f"{', '.join(FORMATS)}"
        )
    return found


def arithmetic(weights: Format, activations: Format) -> str:
    """The number format in which both are multiplied; narrower weights are widened to the activations'."""
    if activations.bits < weights.bits and activations.dtype != weights.dtype:
        raise InputError(
            f"activations in {activations.name} are narrower than weights in {weights.name}; "
            "choose weights of at most as many bits"
        )
    if activations.family != weights.family and weights.bits > 6:
        raise InputError(f"no engine multiplies {weights.name} weights by {activations.name} activations")
    return activations.dtype


@dataclass(frozen=True)
class Quantized:
    """The changed workload, and how many bytes its weights got smaller."""

    workload: Workload
    saved_bytes: int
    notes: tuple[str, ...]


def quantized(workload: Workload, weights: str, activations: str | None = None) -> Quantized:
    """The workload with linear layers' weights, and their arithmetic, in these formats."""
    stored = format_of(weights, "weights")
    dtype = arithmetic(stored, format_of(activations, "activations")) if activations is not None else None
    change = _Change(stored, dtype, _eligible(workload, stored.bits))
    operations = tuple(change.operation(op) for op in workload)
    tensors, saved = dict(workload.tensors), 0
    for key, old_bits in change.old_bits.items():
        tensor = tensors[key]
        nbytes = round(tensor.nbytes * stored.bits / old_bits)
        saved += tensor.nbytes - nbytes
        tensors[key] = replace(tensor, nbytes=nbytes)
    return Quantized(replace(workload, operations=operations, tensors=tensors), saved, _notes(stored, change, dtype))


def _notes(stored: Format, change: _Change, dtype: str | None) -> tuple[str, ...]:
    if not change.old_bits:
        return (f"no weight of a linear layer could be stored in {stored.name}: none is wider, or none is there",)
    how = f"multiplied in {dtype}" if dtype else "multiplied in the model's own dtype"
    count = len(change.old_bits)
    return (f"{count} weights of linear layers stored in {stored.name} ({stored.bits:g} bits an element), {how}",)


def _factor(nest: LoopNest, operand: Operand) -> bool:
    """Whether an operand of a product is a weight matrix: read, and indexed by what is summed."""
    if nest.kind != "product" or operand.role != "weight" or operand.access != "read":
        return False
    names = {nest.dims[d][0] for d in operand.dims}
    return "k" in names and "n" in names


def _eligible(workload: Workload, bits: float) -> set[int]:
    """Weights that only products read, as a factor, outside the head, and that are wider than `bits`."""
    found: set[int] = set()
    refused: set[int] = set()
    for op in workload:
        head = op.path.rpartition(".")[2] in HEADS
        for nest in op.nests:
            for operand in nest.operands:
                key = op.tensors[operand.slot]
                if operand.role == "weight":
                    fits = _factor(nest, operand) and not head and operand.bits > bits
                    (found if fits else refused).add(key)
    return found - refused


class _Change:
    """Rewrites nests; operations that shared theirs share the new ones."""

    def __init__(self, stored: Format, dtype: str | None, eligible: set[int]) -> None:
        self.stored, self.dtype, self.eligible = stored, dtype, eligible
        self.old_bits: dict[int, float] = {}
        self._made: dict[tuple[int, frozenset[int]], tuple[LoopNest, ...]] = {}

    def operation(self, op: Operation) -> Operation:
        slots = frozenset(slot for slot, key in enumerate(op.tensors) if key in self.eligible)
        if not slots or not op.nests:
            return op
        key = (id(op.nests), slots)
        if key not in self._made:
            self._made[key] = tuple(self._nest(nest, slots) for nest in op.nests)
        for nest in op.nests:
            for operand in nest.operands:
                if operand.slot in slots and operand.role == "weight":
                    self.old_bits[op.tensors[operand.slot]] = operand.bits
        return replace(op, nests=self._made[key])

    def _nest(self, nest: LoopNest, slots: frozenset[int]) -> LoopNest:
        chosen = [o for o in nest.operands if o.slot in slots and _factor(nest, o)]
        if not chosen:
            return nest
        operands = tuple(replace(o, bits=self.stored.bits) if o in chosen else o for o in nest.operands)
        converted = chosen if self.dtype is None else [o for o in nest.operands if _other(nest, o, chosen)]
        elements = sum(o.elements(nest.sizes) if o.distinct is None else o.distinct for o in converted)
        vector = nest.vector_ops + DEQUANTIZE_OPS * elements
        return replace(nest, operands=operands, vector_ops=vector, dtype=self.dtype or nest.dtype)


def _other(nest: LoopNest, operand: Operand, chosen: list[Operand]) -> bool:
    """The factor that is multiplied by the weights."""
    return operand.access == "read" and operand not in chosen and "k" in {nest.dims[d][0] for d in operand.dims}
