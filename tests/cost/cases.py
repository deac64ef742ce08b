"""Random kernels for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from torch_regflat.cost.shapes import KernelShape, Stream
from torch_regflat.schedule.shape import shape_of_nest
from torch_regflat.workload import LoopNest, Operand

sizes = st.sampled_from([1, 2, 3, 7, 16, 31, 64, 100, 128, 513, 1024, 4096])


def matrix_product(b: int, m: int, n: int, k: int, bits: int = 16) -> LoopNest:
    """A batched product C[b,m,n] = A[b,m,k] B[b,k,n]."""
    return LoopNest(
        kind="product",
        dims=(("b", b), ("m", m), ("n", n), ("k", k)),
        operands=(
            Operand(0, (((0, 1),), ((1, 1),), ((3, 1),)), bits),
            Operand(1, (((0, 1),), ((3, 1),), ((2, 1),)), bits, role="weight"),
            Operand(2, (((0, 1),), ((1, 1),), ((2, 1),)), bits, "write"),
        ),
        dtype="bfloat16",
        flops=2 * b * m * n * k,
    )


@st.composite
def products(draw: st.DrawFn) -> KernelShape:
    """A matrix product that starts with nothing on chip."""
    b = draw(st.sampled_from([1, 1, 1, 8]))
    return shape_of_nest(matrix_product(b, draw(sizes), draw(sizes), draw(sizes)))


@st.composite
def streams(draw: st.DrawFn) -> KernelShape:
    """An element-wise kernel."""
    moved = float(draw(st.integers(1, 10**9)))
    return KernelShape(
        kind="pointwise",
        dtype="bfloat16",
        sizes=(1, 1, 1, 1),
        operands=(),
        streams=(Stream("activation", read_far=moved, write_far=moved / 2),),
        work=0.0,
        vector_ops=moved * draw(st.sampled_from([0.0, 0.5, 20.0])),
        special_ops=moved * draw(st.sampled_from([0.0, 0.5])),
    )


kernels = st.one_of(products(), streams())
