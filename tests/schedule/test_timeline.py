"""The time line: lower bounds hold, shares add up to the makespan, loads run ahead only where there is room."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_regflat.cost.shapes import KernelShape
from torch_regflat.schedule.residency import Residency
from torch_regflat.schedule.select import Choice
from torch_regflat.schedule.timeline import prefetched, serial

seconds = st.floats(0.0, 1.0)


EMPTY = KernelShape("pointwise", "float32", (1, 1, 1, 1), (), (), 0.0, 0.0, 0.0)


def choice(core: float, external: float, overhead: float, read: float, write: float) -> Choice:
    return Choice(
        latency_s=max(core, external) + overhead,
        core_s=core,
        external_s=external if read + write else 0.0,
        overhead_s=overhead,
        resources_s={"compute": core},
        stretch=1.0,
        read_bytes=(0.0, read),
        write_bytes=(0.0, write),
        level_energy_j=(0.0, 0.0),
        compute_energy_j=0.0,
        unattributed_energy_j=0.0,
        static_energy_j=0.0,
        operand_far_bytes=(),
        tile=(1.0, 1.0, 1.0, 1.0, 0.0),
        shape=EMPTY,
        mapping="",
        candidates=1,
        legal=1,
        reason="",
    )


choices = st.lists(
    st.builds(choice, seconds, seconds, seconds, st.integers(0, 100), st.sampled_from([0, 0, 10])),
    min_size=1,
    max_size=20,
)


@given(choices, st.integers(1, 400))
def test_prefetching_respects_its_bounds(kernels: list[Choice], capacity: int) -> None:
    slots = prefetched(kernels, [Residency() for _ in kernels], float(capacity))
    makespan = math.fsum(s.share_s for s in slots)
    busy = math.fsum(k.core_s + k.overhead_s for k in kernels)
    assert makespan >= busy * (1 - 1e-9)
    assert makespan >= math.fsum(k.external_s for k in kernels) * (1 - 1e-9)
    assert makespan <= busy + math.fsum(k.external_s for k in kernels) + 1e-9
    assert slots[-1].end_s == pytest.approx(makespan)
    for before, after in itertools.pairwise(slots):
        assert after.start_s >= before.end_s - 1e-12 and after.share_s >= -1e-12


@given(choices)
def test_serial_kernels_follow_each_other(kernels: list[Choice]) -> None:
    slots = serial(kernels)
    assert slots[-1].end_s == pytest.approx(math.fsum(k.latency_s for k in kernels))
    assert all(a.end_s == b.start_s for a, b in itertools.pairwise(slots))


def test_weights_of_the_next_kernel_load_while_this_one_computes() -> None:
    first, second = choice(1.0, 0.5, 0.0, 10, 0), choice(1.0, 0.9, 0.0, 10, 0)
    roomy = prefetched([first, second], [Residency(), Residency()], 1000.0)
    # The second's loads hide behind the first; only the first's first load shows where it outlasts its arithmetic.
    assert roomy[-1].end_s == pytest.approx(2.0)
    tight = prefetched([first, second], [Residency(), Residency()], 10.0)
    # Without room beside the first, the second loads after it, while computing.
    assert tight[-1].end_s == pytest.approx(2.0)
    slow = choice(0.1, 0.9, 0.0, 10, 0)
    assert prefetched([first, slow], [Residency(), Residency()], 10.0)[-1].end_s == pytest.approx(1.9)
    assert prefetched([first, slow], [Residency(), Residency()], 1000.0)[-1].end_s == pytest.approx(1.4)
