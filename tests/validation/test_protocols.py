"""How each source measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from torch_regflat.hardware import library
from torch_regflat.validation.formats import FORMATS
from torch_regflat.validation.protocols import protocol_of, protocols
from torch_regflat.validation.rows import Gemm, Row

CELLS = {"gpu": "H100-SXM", "dtype": "bf16", "m": "64", "n": "64", "k": "64", "batch": "1", "latency_us": "5"}
GEMM = next(f for f in FORMATS if f.name == "gemm").parse("made up", 2, CELLS)


def row(source: str, **changes: object) -> Row:
    return replace(GEMM, source=source, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "changes", "launch", "weights", "activations"),
    [
        ("aic/vllm-0.24.0", {}, "graph", "rotating", "warm"),
        ("aic/vllm-0.24.0", {"dtype": "fp8_block"}, "stream", "warm", "warm"),
        ("aic/sglang-0.5.14", {}, "graph", "rotating", "rotating"),
        ("aic/vllm-0.26.0", {"gpu": "ARC-B60"}, "stream", "warm", "warm"),
        ("", {"low": 1e-6, "high": 2e-6}, "graph", "rotating", "warm"),
        ("neusight/test-linear", {}, "single", "warm", "warm"),
        ("vidur/mlp_up_proj", {}, "timer", "cold", "warm"),
        ("deepbench/NN", {}, "stream", "warm", "warm"),
        ("nobody", {}, "graph", "warm", "warm"),
    ],
)
def test_a_source_has_one_protocol_on_all_gpus(
    source: str, changes: dict[str, object], launch: str, weights: str, activations: str
) -> None:
    found = protocol_of(row(source, **changes)).conditions
    assert (found.launch, found.weights, found.activations) == (launch, weights, activations)


def test_every_entry_says_where_it_is_from_and_the_last_takes_all() -> None:
    assert all(known.note for known in protocols())
    assert (protocols()[-1].source, protocols()[-1].kind, protocols()[-1].gpu) == ("*", "*", "*")


def test_copies_until_the_cache_is_exceeded() -> None:
    chip = library.load("h100-sxm")
    small, large = (row("aic/trtllm-1.3.0rc20", n=n, k=1024) for n in (64, 65536))
    assert isinstance(small, Gemm)
    assert protocol_of(small).conditions_of(small, chip).copies == 5
    assert protocol_of(large).conditions_of(large, chip).copies == 1
