"""The figures by which the model is judged: a named selection of rows each, on GPUs with rows and on those never
fitted.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .predict import Prediction
from .rows import MIB, Attention, Convolution, Exchange, Gemm, Moe, Row, Streaming, WholeModel
from .score import AGREE, Score, score
from .split import is_test_gpu

TUNED = ("aic/trtllm-1.3*", "aic/vllm-0.24*")
"""Frameworks whose kernels for experts are tuned."""


@dataclass(frozen=True)
class Figure:
    """A class of rows with a title."""

    title: str
    takes: Callable[[Row], bool]


def _longer(row: Row, us: float) -> bool:
    return row.measured * 1e6 >= us


def _gemm(*dtypes: str, us: float = 0.0) -> Callable[[Row], bool]:
    return lambda row: isinstance(row, Gemm) and not row.is_consensus and row.dtype in dtypes and _longer(row, us)


def _stream(*kinds: str) -> Callable[[Row], bool]:
    return lambda row: isinstance(row, Streaming) and row.kind in kinds and _longer(row, 100)


def _consensus(phase: str) -> Callable[[Row], bool]:
    def takes(row: Row) -> bool:
        agree = row.low is not None and row.high is not None and row.high <= AGREE * row.low
        return isinstance(row, Attention) and row.phase == phase and agree and _longer(row, 100)

    return takes


def _tuned_experts(row: Row) -> bool:
    tuned = any(fnmatch.fnmatch(row.source, pattern) for pattern in TUNED)
    return isinstance(row, Moe) and row.dtype == "bf16" and row.ep == 1 and tuned and _longer(row, 100)


def _whole(phase: str) -> Callable[[Row], bool]:
    return lambda row: (
        isinstance(row, WholeModel)
        and row.phase == phase
        and row.metric in ("e2e_latency", "tokens_per_s")
        and row.model != "switchxl4"
        and not (phase == "decode" and row.source.endswith("/eager"))
    )


def _many(phase: str) -> Callable[[Row], bool]:
    return lambda row: isinstance(row, WholeModel) and row.phase == phase and row.n_gpus > 1


def _exchange(takes: Callable[[int], bool]) -> Callable[[Row], bool]:
    return lambda row: (
        isinstance(row, Exchange) and row.over == "NVLink" and row.source.startswith("aic/nccl") and takes(row.size)
    )


FIGURES = (
    Figure("GEMM bf16/fp16, 30 us and longer", _gemm("bf16", "fp16", us=30)),
    Figure("GEMM bf16/fp16, all sizes", _gemm("bf16", "fp16")),
    Figure("GEMM fp32, TF32 off", _gemm("fp32")),
    Figure("GEMM fp8/nvfp4 with quantising, 30 us and longer", _gemm("fp8", "fp8_block", "nvfp4", us=30)),
    Figure("element-wise, 100 us and longer", _stream("elementwise")),
    Figure("norm, softmax, 100 us and longer", _stream("norm", "softmax")),
    Figure("decode attention, 100 us and longer, sources agree", _consensus("decode")),
    Figure("prefill attention, 100 us and longer, sources agree", _consensus("prefill")),
    Figure("experts bf16, 100 us and longer, tuned, one rank", _tuned_experts),
    Figure("experts, all, 100 us and longer", lambda row: isinstance(row, Moe) and _longer(row, 100)),
    Figure("convolution, 1 ms and longer", lambda row: isinstance(row, Convolution) and _longer(row, 1000)),
    Figure("whole models, forward", _whole("inference-forward")),
    Figure("training step", _whole("train-iteration")),
    Figure("decode tokens/s of a compiled model", _whole("decode")),
    Figure("decode tokens/s on 2, 4 and 8 GPUs", _many("decode")),
    Figure("training step on 4 GPUs (tensor, data, pipeline parallel)", _many("train-iteration")),
    Figure("collectives over NVLink, 1 MiB and more", _exchange(lambda size: size >= MIB)),
    Figure("collectives over NVLink, below 1 MiB", _exchange(lambda size: size < MIB)),
    Figure("board power", lambda row: row.kind == "power"),
)


@dataclass(frozen=True)
class Line:
    """A figure with its scores: on GPUs that constants may be fitted to, and on those they never are."""

    title: str
    known: Score | None
    unseen: Score | None


def headline(predictions: Iterable[Prediction]) -> list[Line]:
    """The figures that any row belongs to."""
    listed = list(predictions)
    lines = []
    for figure in FIGURES:
        rows = [p for p in listed if figure.takes(p.row)]
        known, unseen = ([p for p in rows if is_test_gpu(p.row.gpu) == test] for test in (False, True))
        if rows:
            lines.append(Line(figure.title, score(known) if known else None, score(unseen) if unseen else None))
    return lines
