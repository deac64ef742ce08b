"""External traffic of a register-flat memory equals, to the element, what a plain walk over the tile loops counts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_regflat.cost.shapes import KernelShape, TiledOperand, pack
from torch_regflat.mapping import ORDERS, MappingBatch
from torch_regflat.memory.register_flat import _external

from .reference import walk

size = st.integers(1, 12)


def _product(m: int, n: int, k: int) -> KernelShape:
    def operand(access: str, axes: tuple[bool, bool, bool, bool], elements: int) -> TiledOperand:
        return TiledOperand("activation", access, axes, 1.0, float(elements))  # type: ignore[arg-type]

    return KernelShape(
        kind="product",
        dtype="bfloat16",
        sizes=(1, m, n, k),
        operands=(
            operand("read", (True, True, False, True), m * k),
            operand("read", (True, False, True, True), k * n),
            operand("write", (True, True, True, False), m * n),
        ),
        streams=(),
        work=2.0 * m * n * k,
        vector_ops=0.0,
        special_ops=0.0,
    )


@settings(max_examples=400, deadline=None)
@given(size, size, size, size, size, size, st.sampled_from(range(len(ORDERS))))
def test_traffic_equals_a_walk_over_the_loops(m: int, n: int, k: int, tm: int, tn: int, tk: int, order: int) -> None:
    tiles = (min(tm, m), min(tn, n), min(tk, k))
    mapping = MappingBatch(*(torch.tensor([[[[float(v)]]]], dtype=torch.float64) for v in (*tiles, 1, order)))
    read, write, by_operand = _external(pack([_product(m, n, k)]), mapping)
    counted = walk((m, n, k), tiles, ORDERS[order])
    assert by_operand[0].item() == counted["A"]
    assert by_operand[1].item() == counted["B"]
    assert write.item() == counted["C write"]
    assert read.item() == counted["A"] + counted["B"] + counted["C read"]


def test_the_reference_counts_a_case_done_by_hand() -> None:
    # 2x2 tiles of a 4x4x4 product, k innermost: each factor is fetched once per tile column or row of the result.
    assert walk((4, 4, 4), (2, 2, 2), (0, 1, 2)) == {"A": 32, "B": 32, "C read": 0, "C write": 16}
    assert walk((4, 4, 4), (2, 2, 2), (0, 2, 1)) == {"A": 16, "B": 32, "C read": 16, "C write": 32}


def test_whole_operands_move_once() -> None:
    with_everything = walk((5, 7, 3), (5, 7, 3), (2, 1, 0))
    assert with_everything == {"A": 15, "B": 21, "C read": 0, "C write": 35}
    with pytest.raises(AssertionError):
        assert with_everything["A"] == 0
