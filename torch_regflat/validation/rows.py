"""The rows of measured data: one frozen dataclass a class of operation, in SI units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from ..workload import CollectiveKind
from .split import is_held_out, is_test_gpu

Quantity = Literal["latency", "rate", "power"]
"""What was measured: seconds, tokens a second, or watts."""

MIB = 2**20

Shape: TypeAlias = tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What all rows have. `measured` is in seconds, tokens a second or watts; `cells` is the line as it was read.

    Of a consensus row `measured` is the median and `low`, `high` are the least and the greatest of several sources.
    """

    file: str
    line: int
    cells: dict[str, str]
    source: str
    gpu: str
    dtype: str
    measured: float
    quantity: Quantity = "latency"
    unit: str = "us"
    low: float | None = None
    high: float | None = None

    kind: ClassVar[str] = ""
    """The class of operation, which with `shape` decides on which side of the split a row falls."""

    @property
    def shape(self) -> Shape:
        """What the row measures, free of GPU, source and number format."""
        raise NotImplementedError

    @property
    def group(self) -> str:
        """The class under which the row is scored."""
        return self.kind

    @property
    def held_out(self) -> bool:
        """Whether nothing may be fitted to this row: its shape is held out, or its GPU is of the permanent test set."""
        return is_test_gpu(self.gpu) or is_held_out(self.kind, *self.shape)

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def is_consensus(self) -> bool:
        return self.low is not None


@dataclass(frozen=True, kw_only=True)
class Gemm(Row):
    """C[m, n] = A[m, k] B[k, n], `batch` times."""

    m: int
    n: int
    k: int
    batch: int
    kind: ClassVar[str] = "gemm"

    @property
    def shape(self) -> Shape:
        return (self.m, self.n, self.k, self.batch)

    @property
    def group(self) -> str:
        family = {"bf16": "bf16/fp16", "fp16": "bf16/fp16", "fp32": "fp32"}.get(self.dtype, "fp8/nvfp4")
        return f"gemm {family}"


@dataclass(frozen=True, kw_only=True)
class Attention(Row):
    """Fused attention. A prefill is causal with q_len = kv_len, a decode has q_len = 1, an encoder sees everything."""

    phase: str
    batch: int
    q_len: int
    kv_len: int
    heads: int
    kv_heads: int
    head_dim: int
    kind: ClassVar[str] = "attention"

    @property
    def shape(self) -> Shape:
        return (self.phase, self.batch, self.q_len, self.kv_len, self.heads, self.kv_heads, self.head_dim)

    @property
    def group(self) -> str:
        return f"attention {self.phase}"


@dataclass(frozen=True, kw_only=True)
class Moe(Row):
    """Gated expert MLPs of one rank: `num_tokens` are those of all ranks."""

    num_tokens: int
    hidden: int
    inter: int
    topk: int
    num_experts: int
    tp: int
    ep: int
    distribution: str
    kind: ClassVar[str] = "moe"

    @property
    def shape(self) -> Shape:
        return (self.num_tokens, self.hidden, self.inter, self.topk, self.num_experts, self.tp, self.ep)


@dataclass(frozen=True, kw_only=True)
class Streaming(Row):
    """A memory-bound kernel over rows x cols: element-wise, a normalisation or a softmax along the columns."""

    op: str
    rows: int
    cols: int

    @property
    def kind(self) -> str:  # type: ignore[override]
        return {"layernorm": "norm", "rmsnorm": "norm", "softmax": "softmax"}.get(self.op, "elementwise")

    @property
    def shape(self) -> Shape:
        return (self.op, self.rows, self.cols)


@dataclass(frozen=True, kw_only=True)
class Convolution(Row):
    """A 2-D convolution of n images [c, h, w] with k filters [c, r, s]. `algo` is what the library chose, if known."""

    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    stride: int
    pad_h: int
    pad_w: int
    algo: str
    kind: ClassVar[str] = "convolution"

    @property
    def shape(self) -> tuple[int, int, int, int, int, int, int, int, int, int]:
        return (self.n, self.c, self.h, self.w, self.k, self.r, self.s, self.stride, self.pad_h, self.pad_w)


@dataclass(frozen=True, kw_only=True)
class Exchange(Row):
    """A collective among GPUs that links or a host join; `over` says which, where a file does.

    `size` are the bytes of the message as NCCL's tests count them: of an all-gather all shards together.
    """

    collective: CollectiveKind
    ranks: int
    size: int
    over: str
    kind: ClassVar[str] = "collective"

    @property
    def shape(self) -> Shape:
        return (self.collective, self.ranks, self.size)

    @property
    def group(self) -> str:
        size = "1 MiB and more" if self.size >= MIB else "below 1 MiB"
        who = "engines' all-reduce" if self.source.startswith("aic/engine") else "collective"
        return f"{who}{f' over {self.over}' if self.over else ''}, {size}"


@dataclass(frozen=True, kw_only=True)
class Operator(Row):
    """One operator inside a model, its forward and, where it was timed, its backward; `measured` is their sum.

    `target` is a function's name or a module's path, `inputs` are the shapes of its tensors ([1] for a number).
    """

    model: str
    target: str
    is_module: bool
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    backward: bool
    kind: ClassVar[str] = "operator"

    @property
    def shape(self) -> Shape:
        return (self.model, self.target, str(self.inputs), str(self.output), int(self.backward))


@dataclass(frozen=True, kw_only=True)
class WholeModel(Row):
    """A whole model: one forward, a training step or a part of it, a decode step, or a served request.

    `metric` is as in the file; what follows its colon (`tp4`) says how it ran. `options` are the `key=value` of `ref`.
    """

    model: str
    phase: str
    n_gpus: int
    batch: int
    in_len: int
    out_len: int
    metric: str
    options: tuple[tuple[str, str], ...]

    @property
    def kind(self) -> str:  # type: ignore[override]
        return "served" if self.phase.startswith("serve") else "model"

    @property
    def held_out(self) -> bool:
        """Always: nothing is fitted to whole models, so that they show what the parts add up to."""
        return True

    @property
    def shape(self) -> Shape:
        return (self.model, self.phase, self.n_gpus, self.batch, self.in_len, self.out_len)

    @property
    def group(self) -> str:
        name, _, variant = self.metric.partition(":")
        if self.kind == "served":
            return f"served {name}"
        if self.phase == "decode":
            return "model decode"
        if variant:
            return f"model {self.phase}, {variant}"
        return f"model {self.phase}, {name}"


@dataclass(frozen=True, kw_only=True)
class Power(Row):
    """Mean board power while a kernel runs; `runs` is the kernel, None where the source does not say its shape."""

    workload: str
    runs: Row | None
    kind: ClassVar[str] = "power"

    @property
    def shape(self) -> Shape:
        return (self.workload, *self.runs.shape) if self.runs is not None else (self.workload,)

    @property
    def group(self) -> str:
        return f"power {self.runs.group}" if self.runs is not None else "power, other kernels"

    @property
    def held_out(self) -> bool:
        return self.runs.held_out if self.runs is not None else super().held_out
