"""Contractions that arrive whole: einsum, tensordot, a chain of products, an outer product."""

from __future__ import annotations

import math

import torch

from ..workload import Kind, LoopNest
from .registry import Call, Nests, operator
from .shapes import Loop, dtype_name, flat, packets

aten = torch.ops.aten


@operator(aten.einsum)
def einsum(call: Call) -> Nests:
    """An einsum that arrives whole: every letter is a dimension; two factors that share a summed letter are a product.

    FLOPs are those of torch's left-to-right pairwise contraction: 2·(all letters of the pair) where a shared letter
    is summed, none where the pair is only multiplied.
    """
    letters, result = _einsum_letters(call)
    tensors = call.args[1]
    sizes: dict[str, int] = {}
    for letter_list, tensor in zip(letters, tensors, strict=True):
        for letter, size in zip(letter_list, tensor.shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    flops, vector = _einsum_counts(letters, result, sizes)
    loop = _einsum_loop(call, letters, result, sizes)
    kind = "product" if flops else "pointwise" if set(sizes) == set(result) else "reduction"
    return loop.nest(kind, dtype_name(tensors[0]), flops=flops, vector_ops=float(vector))  # type: ignore[arg-type]


def _einsum_letters(call: Call) -> tuple[list[list[str]], list[str]]:
    """The letters of each operand and of the result; an ellipsis becomes `.0`, `.1`, ... from the right."""
    equation = str(call.args[0]).replace(" ", "")
    left, arrow, right = equation.partition("->")
    letters = []
    for term, tensor in zip(left.split(","), call.args[1], strict=True):
        head, dots, tail = term.partition("...")
        free = tensor.dim() - len(head) - len(tail) if dots else 0
        letters.append([*head, *(f".{free - 1 - i}" for i in range(free)), *tail])
    flat = [letter for own in letters for letter in own]
    dotted = sorted({x for x in flat if x.startswith(".")}, key=lambda x: -int(x[1:]))
    if not arrow:
        return letters, dotted + sorted({x for x in flat if flat.count(x) == 1 and not x.startswith(".")})
    head, dots, tail = right.partition("...")
    return letters, [*head, *(dotted if dots else ()), *tail]


def _einsum_counts(letters: list[list[str]], result: list[str], sizes: dict[str, int]) -> tuple[int, int]:
    """FLOPs of the contractions, and vector operations of the multiplications that contract nothing."""
    flops = vector = 0
    current = set(letters[0])
    for i, own in enumerate(letters[1:], 1):
        needed = set(result).union(*letters[i + 1 :]) if i + 1 < len(letters) else set(result)
        summed = (current & set(own)) - needed
        pair = {x for x in current | set(own) if x in needed or x in summed}
        points = math.prod(sizes[x] for x in pair)
        flops, vector = (flops + 2 * points, vector) if summed else (flops, vector + points)
        current = {x for x in current | set(own) if x in needed}
    if len(letters) == 1 and current != set(result):
        vector = math.prod(sizes.values())
    return flops, vector


def _einsum_loop(call: Call, letters: list[list[str]], result: list[str], sizes: dict[str, int]) -> Loop:
    """Letters that the same tensors share become one dimension; for two factors these are b, m, n and k."""
    users: dict[str, tuple[bool, ...]] = {x: tuple(x in own for own in (*letters, result)) for x in sizes}
    known: dict[tuple[bool, ...], str] = {
        (True, True, True): "b",
        (True, False, True): "m",
        (False, True, True): "n",
        (True, True, False): "k",
    }
    merged: dict[tuple[bool, ...], int] = {}
    for letter, mask in users.items():
        merged[mask] = merged.get(mask, 1) * sizes[letter]
    order = sorted(merged, key=lambda mask: "bmnk".find(known.get(mask, "z")))
    names = {mask: known.get(mask, f"d{i}") for i, mask in enumerate(order)}
    loop = Loop(call, [(names[mask], merged[mask]) for mask in order])
    seen: set[int] = set()
    for i, tensor in enumerate(call.args[1]):
        if id(tensor) not in seen:
            loop.read(tensor, *(names[mask] for mask in order if mask[i]))
        seen.add(id(tensor))
    return loop.write(call.out[0], *(names[mask] for mask in order if mask[-1]))


@operator(*packets(aten, "tensordot"))
def tensordot(call: Call) -> Nests:
    """Sums over the named axes of both: m and n are what is left of the first and of the second."""
    a, b = call.args[:2]
    k = math.prod(
        max(a.shape[i], b.shape[j]) for i, j in zip(call.arg("dims_self"), call.arg("dims_other"), strict=True)
    )
    m, n = a.numel() // max(k, 1), b.numel() // max(k, 1)
    loop = Loop(call, m=m, n=n, k=k).read(a, "m", "k").read(b, "k", "n").write(call.out[0], "m", "n")
    return loop.nest("product", dtype_name(a), flops=2 * m * n * k)


@operator(*packets(aten, "cov corrcoef"))
def covariance(call: Call) -> Nests:
    """x[n, k], a variable a row: every row centred (and weighted), then with every other, as one product."""
    x = call.inputs[0]
    n = x.shape[0] if x.dim() > 1 else 1
    k = x.numel() // max(n, 1)
    loop = Loop(call, m=n, n=n, k=k).read(x, "m", "k").write(call.out[0], "m", "n")
    for weights in call.inputs[1:]:
        loop.read(weights, "k")
    return loop.nest("product", dtype_name(x), flops=2 * n * n * k, vector_ops=3.0 * n * k)


@operator(*packets(aten, "linalg_matrix_power matrix_power"))
def power(call: Call) -> Nests:
    """Squarings and multiplications by the bits of |n|; a negative power inverts first (2·n³ vector operations)."""
    x, exponent = call.args[0], call.arg("n")
    size, batch = x.shape[-1], math.prod(x.shape[:-2])
    count = _multiplications(abs(exponent))
    loop = Loop(call, b=batch, m=size, n=size, k=size).read(x, "b", "m", "k").write(call.out[0], "b", "m", "n")
    inverse = 2.0 * batch * size**3 if exponent < 0 else 0.0
    kind: Kind = "product" if count else "reduction" if inverse else "movement"
    return loop.nest(kind, dtype_name(x), flops=2 * count * batch * size**3, vector_ops=inverse)


def _multiplications(exponent: int) -> int:
    """Matrix products of a power: a squaring for each bit after the first, a product for each further 1."""
    return 0 if exponent < 2 else exponent.bit_length() - 1 + exponent.bit_count() - 1


LINEAR_CROSS_ENTROPY = "torch_nn::_linear_cross_entropy_batch_chunked"


@operator(LINEAR_CROSS_ENTROPY, LINEAR_CROSS_ENTROPY + "_no_reduction")
def linear_cross_entropy(call: Call) -> Nests:
    """rows[m, k] · weight[n, k] and the loss of each row; the m x n scores stay on chip, a chunk at a time.

    Each gradient that is made along the way is a product of the same size more.
    """
    x, weight = call.args[:2]
    n, k = weight.shape
    m = x.numel() // max(k, 1)
    products = 1 + sum(bool(call.arg(f"compute_{name}_grad")) for name in ("input", "linear_weight"))
    loop = Loop(call, m=m, n=n, k=k).read(x, "m", "k").read(weight, "n", "k")
    for tensor in call.inputs:
        if tensor is not x and tensor is not weight:
            loop.read(tensor, distinct=float(tensor.numel()))
    for tensor in call.out:
        if tensor.numel():
            loop.write(tensor, distinct=float(tensor.numel()))
    scores = float(m * n)
    return loop.nest(
        "product", dtype_name(x), flops=2 * products * m * n * k, vector_ops=4 * scores, special_ops=scores
    )


@operator(*packets(aten, "linalg_multi_dot chain_matmul"))
def chain(call: Call) -> Nests:
    """A chain of matrices in the cheapest order (what torch picks); the products between stay on chip."""
    tensors: list[torch.Tensor] = call.args[0]
    ends = [
        tensors[0].shape[0] if tensors[0].dim() > 1 else 1,
        *(t.shape[-1] if t.dim() > 1 else t.shape[0] for t in tensors),
    ]
    if tensors[-1].dim() == 1:
        ends[-1] = 1
    if tensors[0].dim() == 1:
        ends[1] = tensors[0].shape[0]
    nest = flat(call, call.inputs, call.out, kind="product")
    return LoopNest(nest.kind, nest.dims, nest.operands, nest.dtype, flops=2 * _cheapest(ends))


def _cheapest(ends: list[int]) -> int:
    """Fewest multiply-accumulates of a chain of matrices ends[i] x ends[i + 1]."""
    count = len(ends) - 1
    best = {(i, i): 0 for i in range(count)}
    for span in range(1, count):
        for i in range(count - span):
            j = i + span
            best[i, j] = min(best[i, s] + best[s + 1, j] + ends[i] * ends[s + 1] * ends[j + 1] for s in range(i, j))
    return best[0, count - 1]


@operator(*packets(aten, "outer ger linalg_vecdot cross linalg_cross"))
def small_products(call: Call) -> Nests:
    """Element-wise multiplications of broadcast vectors; two a point where they are also summed."""
    count = max(t.numel() for t in (*call.inputs, *call.out))
    return flat(call, call.inputs, call.out, vector=2.0 * count, kind="pointwise")


@operator(*packets(aten, "addr"))
def addr(call: Call) -> Nests:
    """`beta·self + alpha·x·yᵀ`: a multiplication, a scale and an addition an element."""
    return flat(call, call.inputs, call.out, vector=3.0 * call.out[0].numel(), kind="pointwise")


@operator(*packets(aten, "bilinear _trilinear"))
def bilinear(call: Call) -> Nests:
    """x[r, i] · w[n, i, j] · y[r, j]: two multiplications and an addition a point."""
    w = call.arg("weight", call.args[1])
    count = w.numel() * (call.out[0].numel() // max(w.shape[0], 1))
    return flat(call, call.inputs, call.out, vector=3.0 * count, kind="reduction")
