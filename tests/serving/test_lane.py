"""The steady state of continuous batching against a simulation of it, pass by pass."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.simulator import simulate
from torch_regflat.served import StepCost
from torch_regflat.serving.lane import Lane, Load, Passes, steady


def linear(base: float, each: float, prompt: float) -> Passes:
    """A pass takes `base`, and more for each sequence that decodes and each prompt that is read."""

    def passes(decoding: float, prompts: float) -> tuple[StepCost, StepCost]:
        plain = base + each * decoding
        return StepCost(seconds=plain), StepCost(seconds=plain + prompt * prompts)

    return passes


def both(slots: int, chunks: int, output: int, together: int, prompt: float) -> tuple[Lane, object]:
    base, each = 0.007, 0.0001
    found = steady(slots, Load(chunks, output, together=together), linear(base, each, prompt))
    measured = simulate(slots, chunks, output, lambda d, k: base + each * d + prompt * k, together=together)
    return found, measured


@pytest.mark.parametrize("prompt", [0.005, 0.03])
@pytest.mark.parametrize("slots", [1, 8, 32])
@pytest.mark.parametrize(("chunks", "output", "together"), [(1, 100, 1), (4, 400, 1), (1, 100, 4), (1, 50, 16)])
def test_a_simulation_gives_the_same(slots: int, chunks: int, output: int, together: int, prompt: float) -> None:
    found, measured = both(slots, chunks, output, together, prompt)
    assert found.requests_per_s == pytest.approx(measured.requests_per_s, rel=0.02)
    assert found.tpot_s == pytest.approx(measured.tpot_s, rel=0.02)
    assert found.ttft_s == pytest.approx(measured.ttft_s, rel=0.05)


@pytest.mark.parametrize(("slots", "chunks"), [(32, 4), (128, 4), (128, 1)])
def test_where_prompts_fill_every_pass(slots: int, chunks: int) -> None:
    """Near saturation the wait depends on chance; throughput does not."""
    found, measured = both(slots, chunks, 100, 1, 0.005)
    assert found.mixed > 0.95
    assert found.requests_per_s == pytest.approx(measured.requests_per_s, rel=0.02)
    assert found.tpot_s == pytest.approx(measured.tpot_s, rel=0.05)
    assert found.ttft_s == pytest.approx(measured.ttft_s, rel=0.2)


LOADS = st.builds(
    Load,
    chunks=st.integers(1, 8),
    output=st.integers(2, 1000),
    tokens=st.floats(1.0, 4.0),
    together=st.just(1),
)
TIMES = st.builds(linear, st.floats(1e-3, 0.1), st.floats(1e-6, 1e-3), st.floats(1e-4, 0.1))


@settings(max_examples=60, deadline=None)
@given(LOADS, TIMES, st.integers(1, 200))
def test_little_and_more_slots(load: Load, passes: Passes, slots: int) -> None:
    few, many = steady(slots, load, passes), steady(2 * slots, load, passes)
    for found, taken in ((few, slots), (many, 2 * slots)):
        waiting = found.requests_per_s * found.ttft_s
        decoding = found.requests_per_s * (load.output - 1) * found.tpot_s
        assert waiting + decoding == pytest.approx(taken, rel=0.02)
        assert 0.0 <= found.mixed <= 1.0
    assert many.requests_per_s >= few.requests_per_s * (1 - 1e-6)
    assert many.ttft_s >= few.ttft_s * (1 - 1e-6)
    assert many.tpot_s >= few.tpot_s * (1 - 1e-6)


@settings(max_examples=30, deadline=None)
@given(LOADS, st.integers(1, 200), st.floats(0.2, 1.0))
def test_faster_passes_never_serve_less(load: Load, slots: int, faster: float) -> None:
    slow = steady(slots, load, linear(0.01, 1e-4, 0.02))
    fast = steady(slots, load, linear(0.01 * faster, 1e-4 * faster, 0.02 * faster))
    assert fast.requests_per_s >= slow.requests_per_s
