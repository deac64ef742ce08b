"""The rows of measured data: one frozen dataclass a format, SI units, and how a row of text becomes one.

`FORMATS` says which columns make which format; `parse` reads one line. What a row cannot be is said with the file, the
line and the column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from ..errors import InputError, near
from .split import is_held_out, is_test_gpu

Quantity = Literal["latency", "rate", "power"]
"""What was measured: seconds, tokens a second, or watts."""

Shape: TypeAlias = tuple[int | str, ...]

UNITS: dict[str, tuple[Quantity, float]] = {
    "us": ("latency", 1e-6),
    "ms": ("latency", 1e-3),
    "s": ("latency", 1.0),
    "tok/s": ("rate", 1.0),
    "W": ("power", 1.0),
}
"""Units of the `unit` column: what they measure, and the SI value of one."""


class RowError(InputError):
    """A line that is no row of its format."""


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


Reader: TypeAlias = "Callable[[Cells], dict[str, Any]]"


class Cells:
    """The cells of one line, read by column with errors that name it."""

    def __init__(self, place: str, cells: Mapping[str, str]) -> None:
        self.place, self.cells = place, cells

    def text(self, column: str, known: tuple[str, ...] = (), *, default: str | None = None) -> str:
        value = (self.cells.get(column) or "").strip()
        if not value and default is not None:
            return default
        if not value:
            raise RowError(f"{self.place}: column {column} is empty{_one_of(known)}")
        if known and value not in known:
            raise RowError(f"{self.place}: column {column} is {value!r}{near(value, known)}{_one_of(known)}")
        return value

    def whole(self, column: str, least: int = 1, *, default: int | None = None) -> int:
        value = (self.cells.get(column) or "").strip()
        if not value and default is not None:
            return default
        try:
            number = int(value)
        except ValueError:
            number = least - 1
        if number < least:
            raise RowError(f"{self.place}: column {column} is {value!r}; it must be a whole number of {least} or more")
        return number

    def positive(self, column: str) -> float:
        value = (self.cells.get(column) or "").strip()
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (number > 0 and math.isfinite(number)):
            raise RowError(f"{self.place}: column {column} is {value!r}; it must be a positive number")
        return number


def _one_of(known: tuple[str, ...]) -> str:
    return f"; it must be one of {', '.join(known)}" if known else ""


FLOATS = ("fp32", "fp16", "bf16")
PRODUCT_DTYPES = (*FLOATS, "fp8", "fp8_block", "nvfp4", "int4_wo")
ATTENTION_DTYPES = (*FLOATS, "bf16/kv-fp8", "fp8")
UNARY = ("relu", "gelu", "tanh", "addu", "mulu", "divu", "powu")
"""Element-wise on one tensor; those with a u have a number as the second operand."""
BINARY = ("add", "mul", "div", "pow", "silu_mul")
NORMS = ("layernorm", "rmsnorm", "softmax")
PHASES = ("prefill", "decode", "encoder")


def _latency(cells: Cells) -> dict[str, Any]:
    return {"measured": cells.positive("latency_us") * 1e-6}


def _median(cells: Cells) -> dict[str, Any]:
    low, middle, high = (cells.positive(f"lat_{name}_us") * 1e-6 for name in ("min", "med", "max"))
    if not low <= middle <= high:
        raise RowError(f"{cells.place}: lat_min_us, lat_med_us and lat_max_us must not fall in this order")
    return {"measured": middle, "low": low, "high": high}


def _gemm(cells: Cells) -> dict[str, Any]:
    sizes = {name: cells.whole(name) for name in ("m", "n", "k", "batch")}
    return {"dtype": _dtype(cells, PRODUCT_DTYPES), **sizes}


def _attention(cells: Cells) -> dict[str, Any]:
    names = ("batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim")
    sizes = {name: cells.whole(name) for name in names}
    if sizes["heads"] % sizes["kv_heads"]:
        raise RowError(f"{cells.place}: heads = {sizes['heads']} is no multiple of kv_heads = {sizes['kv_heads']}")
    return {"dtype": _dtype(cells, ATTENTION_DTYPES), "phase": cells.text("phase", PHASES), **sizes}


def _moe(cells: Cells) -> dict[str, Any]:
    names = ("num_tokens", "hidden", "inter", "topk", "num_experts", "tp", "ep")
    sizes = {name: cells.whole(name) for name in names}
    if sizes["topk"] > sizes["num_experts"]:
        raise RowError(f"{cells.place}: topk = {sizes['topk']} is more than num_experts = {sizes['num_experts']}")
    spread = cells.text("distribution", default="balanced")
    power_law(spread, cells.place)
    return {"dtype": _dtype(cells, PRODUCT_DTYPES), "distribution": spread, **sizes}


def power_law(distribution: str, place: str = "") -> float:
    """The exponent of a distribution of tokens over experts: 0 for `balanced`, 1.2 for `power_law_1.2`."""
    if distribution == "balanced":
        return 0.0
    try:
        return float(distribution.removeprefix("power_law_"))
    except ValueError:
        raise RowError(
            f"{place}: column distribution is {distribution!r}; write balanced, or power_law_ and an exponent"
        ) from None


def _streaming(cells: Cells) -> dict[str, Any]:
    op = cells.text("op", (*UNARY, *BINARY, *NORMS))
    return {"dtype": _dtype(cells, FLOATS), "op": op, "rows": cells.whole("rows"), "cols": cells.whole("cols")}


def _convolution(cells: Cells) -> dict[str, Any]:
    sizes = {name: cells.whole(name) for name in ("n", "c", "h", "w", "k", "r", "s", "stride")}
    pad_h = cells.whole("pad_h", 0)
    pad_w = cells.whole("pad_w", 0, default=pad_h)
    if sizes["h"] + 2 * pad_h < sizes["r"] or sizes["w"] + 2 * pad_w < sizes["s"]:
        raise RowError(f"{cells.place}: a filter of {sizes['r']} x {sizes['s']} is larger than the padded image")
    return {
        "dtype": _dtype(cells, FLOATS),
        **sizes,
        "pad_h": pad_h,
        "pad_w": pad_w,
        "algo": cells.text("algo", default=""),
    }


def _dtype(cells: Cells, known: tuple[str, ...]) -> str:
    """A trailing question mark says that the source does not state the format for certain."""
    value = cells.text("dtype")
    if value.removesuffix("?") in known:
        return value.removesuffix("?")
    return cells.text("dtype", known)


@dataclass(frozen=True)
class Format:
    """A kind of file: its columns (those in brackets may be missing) and how a line is read."""

    name: str
    row: type[Row]
    columns: tuple[str, ...]
    optional: tuple[str, ...]
    readers: tuple[Reader, ...]

    def matches(self, header: tuple[str, ...]) -> bool:
        return set(self.columns) <= set(header)

    def parse(self, file: str, line: int, values: Mapping[str, str]) -> Row:
        """One line as a row; raises `RowError`."""
        cells = Cells(f"{file}:{line}", values)
        found: dict[str, Any] = {"gpu": cells.text("gpu"), "source": cells.text("source", default="")}
        for reader in self.readers:
            found.update(reader(cells))
        return self.row(file=file, line=line, cells=dict(values), **found)


_MEDIANS = ("lat_min_us", "lat_med_us", "lat_max_us")
_GEMM = ("gpu", "dtype", "m", "n", "k", "batch")
_ATTENTION = ("gpu", "dtype", "phase", "batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim")
_MOE = ("gpu", "dtype", "num_tokens", "hidden", "inter", "topk", "num_experts", "tp", "ep", "latency_us")
_CONV = ("gpu", "dtype", "n", "c", "h", "w", "k", "r", "s", "stride", "pad_h", "latency_us")
_ANY = ("source",)

FORMATS: tuple[Format, ...] = (
    Format("gemm", Gemm, (*_GEMM, "latency_us"), _ANY, (_gemm, _latency)),
    Format("gemm consensus", Gemm, (*_GEMM, *_MEDIANS), _ANY, (_gemm, _median)),
    Format("attention", Attention, (*_ATTENTION, "latency_us"), _ANY, (_attention, _latency)),
    Format("attention consensus", Attention, (*_ATTENTION, *_MEDIANS), _ANY, (_attention, _median)),
    Format("moe", Moe, _MOE, (*_ANY, "distribution"), (_moe, _latency)),
    Format(
        "elementwise, norm or softmax",
        Streaming,
        ("gpu", "dtype", "op", "rows", "cols", "latency_us"),
        _ANY,
        (_streaming, _latency),
    ),
    Format("conv", Convolution, _CONV, (*_ANY, "pad_w", "algo"), (_convolution, _latency)),
)
