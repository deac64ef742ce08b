"""Fused attention on GPUs: bounds that must hold for any shape, and what published kernels are known to do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_regflat.cost.shapes import KernelShape
from torch_regflat.hardware.chip import Chip
from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import for_chip
from torch_regflat.operators.attention import causal_fraction
from torch_regflat.schedule.select import Choice, choose
from torch_regflat.schedule.shape import shape_of_nest
from torch_regflat.workload import LoopNest, Operand

CHIPS = ("h100-sxm", "a100-sxm-80gb", "l40s", "v100-sxm2")


def nest(b: int, g: int, q: int, s: int, d: int, causal: bool, bits: float = 16, kv_bits: float = 16) -> LoopNest:
    """b key/value heads in all, g query heads for each."""

    def operand(slot: int, dims: tuple[int, ...], width: float, access: str = "read") -> Operand:
        return Operand(slot, tuple(((dim, 1),) for dim in dims), width, access)  # type: ignore[arg-type]

    fraction = causal_fraction(q, s) if causal else 1.0
    scores = b * g * q * s
    return LoopNest(
        kind="attention",
        dims=(("b", b), ("g", g), ("q", q), ("s", s), ("d", d), ("e", d)),
        operands=(
            operand(0, (0, 1, 2, 4), bits),
            operand(1, (0, 3, 4), kv_bits),
            operand(2, (0, 3, 5), kv_bits),
            operand(3, (0, 1, 2, 5), bits, "write"),
        ),
        dtype="bfloat16" if bits == 16 else "float8_e4m3fn",
        flops=4 * scores * d,
        vector_ops=4 * scores * fraction,
        special_ops=scores * fraction,
        whole=frozenset("de"),
        domain_fraction=fraction,
    )


def price(chip: Chip, *nests: LoopNest) -> list[Choice]:
    return choose([shape_of_nest(n) for n in nests], chip, for_chip(chip))


def floor_s(shape: KernelShape, chip: Chip) -> float:
    """The roofline over executed operations: products, exponentials and compulsory bytes."""
    peak = max(chip.peak_flops(dtype) for dtype in ("fp16", "fp8") if chip.supports(dtype))
    moved = sum(o.footprint_bytes for o in shape.operands)
    return max(
        shape.work / peak,
        shape.special_ops / chip.peak_flops("fp32", "special"),
        moved / chip.external.read_bytes_per_s,
    )


@st.composite
def attentions(draw: st.DrawFn) -> LoopNest:
    causal = draw(st.booleans())
    q = draw(st.sampled_from([1, 2, 17, 64, 100, 128, 513, 2048]))
    s = q if causal else draw(st.sampled_from([1, 2, 63, 64, 500, 4096, 131072]))
    return nest(
        draw(st.sampled_from([1, 2, 8, 33, 512])),
        draw(st.sampled_from([1, 2, 8, 48])),
        q,
        s,
        draw(st.sampled_from([64, 72, 128, 192, 256, 512])),
        causal,
        kv_bits=draw(st.sampled_from([8, 16])),
    )


@pytest.mark.parametrize("name", CHIPS)
@settings(max_examples=60, deadline=None)
@given(work=attentions())
def test_no_faster_than_the_roofline(name: str, work: LoopNest) -> None:
    chip = load(name)
    if not chip.supports(work.dtype):
        chip = load("a100-sxm-80gb")
    (choice,) = price(chip, work)
    shape = shape_of_nest(work)
    assert choice.latency_s >= floor_s(shape, chip)
    moved = sum(o.footprint_bytes for o in shape.operands)
    assert choice.read_bytes[-1] + choice.write_bytes[-1] >= moved * (1 - 1e-12)


@settings(max_examples=60, deadline=None)
@given(work=attentions(), factor=st.sampled_from([1.1, 2.0, 10.0]))
def test_a_faster_chip_is_never_slower(work: LoopNest, factor: float) -> None:
    """With power to spare: what needs more of it may run at a lower clock."""
    chip = load("h100-sxm").replace(**{"power.limit": "10 kW"})
    (before,) = price(chip, work)
    bandwidth = chip.external.read_bandwidth.given * factor
    wider = chip.replace(**{f"memory.{chip.external.name}.read_bandwidth": f"{bandwidth} GB/s"})
    assert price(wider, work)[0].latency_s <= before.latency_s * (1 + 1e-12)
    sizes = {"capacity": 256, "usable": 228}
    roomier = chip.replace(**{f"memory.shared.{field}": f"{size * factor} KiB" for field, size in sizes.items()})
    assert price(roomier, work)[0].latency_s <= before.latency_s * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(work=attentions())
def test_more_work_takes_no_less_time(work: LoopNest) -> None:
    sizes = dict(work.dims)
    causal = work.domain_fraction < 1.0
    kv_bits = work.operands[1].bits
    args = [sizes[name] for name in "bgqsd"]
    bigger = [list(args) for _ in range(2)]
    bigger[0][0] *= 2
    bigger[1][3] *= 2
    if causal:
        bigger[1][2] *= 2
    chip = load("h100-sxm")
    first, *others = price(chip, *(nest(*a, causal, kv_bits=kv_bits) for a in (args, *bigger)))  # type: ignore[misc]
    assert all(other.latency_s >= first.latency_s * (1 - 1e-9) for other in others)


def test_keys_are_split_over_idle_cores() -> None:
    """Flash-decoding: one sequence with a long context fills the chip only if its keys are split."""
    chip = load("h100-sxm")
    alone, many = price(chip, nest(1, 8, 1, 131072, 128, False), nest(1024, 8, 1, 2048, 128, False))
    assert alone.tile[3] > 1 and many.tile[3] == 1
    assert alone.read_bytes[-1] / alone.latency_s > 0.4 * chip.external.read_bytes_per_s


def test_query_heads_that_share_keys_read_them_once() -> None:
    chip = load("h100-sxm")
    shared, own = price(chip, nest(256, 8, 1, 4096, 128, False), nest(256 * 8, 1, 1, 4096, 128, False))
    assert own.latency_s / shared.latency_s == pytest.approx(8, rel=0.1)


@pytest.mark.parametrize(
    ("name", "head", "least", "most"),
    [
        ("h100-sxm", 64, 0.42, 0.48),
        ("h100-sxm", 128, 0.47, 0.63),
        ("h100-sxm", 256, 0.54, 0.68),
        ("a100-sxm-80gb", 128, 0.50, 0.59),
    ],
)
def test_long_prompts_reach_the_published_share_of_peak(name: str, head: int, least: float, most: float) -> None:
    """Causal, bf16, 8k tokens and more: least and most of the medians of three serving engines (aiconfigurator 0.12.0,
    context attention), give or take a twentieth. Softmax takes the larger part of small heads, and wide ones fill the
    registers.
    """
    chip = load(name)
    work = nest(4, 8, 16384, 16384, head, True)
    (choice,) = price(chip, work)
    assert 0.95 * least < work.work / choice.latency_s / chip.peak_flops("bf16") < 1.05 * most


def test_a_cache_of_8_bits_is_read_faster_but_not_twice() -> None:
    chip = load("h200")
    wide, narrow = price(chip, *(nest(1024, 8, 1, 4096, 128, False, kv_bits=bits) for bits in (16, 8)))
    assert 1.2 < wide.latency_s / narrow.latency_s < 2.0


def test_short_contexts_wait_for_their_blocks_to_start() -> None:
    """32768 blocks of 16 keys take 0.46 to 0.70 ms on an H100 (aiconfigurator 0.12.0), far more than their bytes."""
    chip = load("h100-sxm")
    (choice,) = price(chip, nest(512 * 64, 1, 1, 16, 128, False))
    busy = choice.resources_s
    assert 0.46e-3 < choice.latency_s < 0.7e-3
    assert max(busy, key=lambda name: busy[name]) == "block start"
    assert choice.external_s < 0.4 * choice.latency_s
