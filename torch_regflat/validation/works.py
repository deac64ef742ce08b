"""What a row runs, and what of it was measured."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TypeAlias

from ..errors import InputError
from ..hardware.chip import Chip
from ..interconnect import price
from ..layout import Layout
from ..models import plain
from ..quantized import FORMATS, quantized
from ..schedule.kernels import Kernel, form_kernels
from ..schedule.modes import MODES, Mode
from ..schedule.serving import served
from ..workload import Collective, Workload
from . import kernels, models, operators
from .models import WHOLE
from .rows import Operator, Power, Row, WholeModel

Formats: TypeAlias = tuple[str, str | None]

QUANTIZED: dict[str, Formats] = {
    "fp8": ("fp8", "fp8"),
    "fp8_block": ("fp8", "fp8"),
    "nvfp4": ("nvfp4", "nvfp4"),
    "fp4": ("mxfp4", "mxfp4"),
    "int4": ("int4", None),
    "int4_wo": ("int4", None),
    "int8w": ("int8", None),
    "w4a16_mxfp4": ("mxfp4", None),
    "w4a8_mxfp4_mxfp8": ("mxfp4", "mxfp8"),
    "w4afp8": ("mxfp4", "fp8"),
    "int4w-g32": ("int4-g32", None),
}
"""What the data's number formats store weights in and multiply in; the model around is bf16."""

_METRICS = {"e2e_latency": None, "fw_latency": "forward", "bwall_latency": "backward"}


SHALLOW, DEEP = 4, 8
"""Served models are priced at two depths and extended to all their layers, which are alike (in groups of at most 4)."""


@dataclass(frozen=True)
class Part:
    """A workload and the kernels it runs as; it counts `weight` times."""

    workload: Workload
    kernels: list[Kernel]
    weight: float = 1.0


@dataclass(frozen=True)
class Work:
    """What a row runs, and what of it is measured.

    `phase` counts only kernels of that phase of a training step; `extra_s` is added.
    """

    parts: tuple[Part, ...]
    phase: str | None = None
    extra_s: float = 0.0

    def seconds(self, kernels_s: float) -> float:
        """The time measured, from that of the kernels that count."""
        return kernels_s + self.extra_s


def work_of(row: Row, chip: Chip, mode: Mode) -> Work:
    """What a row runs on this chip. Where it cannot multiply in a narrow format, libraries widen the weights."""
    if isinstance(row, WholeModel):
        return _served(row, chip, mode) if row.kind == "served" else _model(row, chip, mode)
    if isinstance(row, Power):
        if row.runs is None:
            raise InputError(f"{row.workload}: the source does not say what the kernel works on")
        return work_of(row.runs, chip, mode)
    if isinstance(row, Operator):
        return Work((_part(operators.operations(row), mode),))
    work = kernels.operations(row)
    if row.dtype in QUANTIZED and row.kind != "attention":
        work = quantized(work, *narrow(row.dtype, chip)).workload
    return Work((_part(work, mode),))


def narrow(dtype: str, chip: Chip) -> Formats:
    """The formats of weights and of arithmetic (None: the model's own) for a number format of the data."""
    weights, activations = QUANTIZED[dtype]
    if activations is not None and not chip.supports(FORMATS[activations].dtype):
        activations = None
    return weights, activations


def _part(work: Workload, mode: Mode) -> Part:
    changed = served(work) if mode.merged else work
    return Part(changed, form_kernels(changed, mode))


def _model(row: WholeModel, chip: Chip, mode: Mode) -> Work:
    if row.model in plain.NAMES:
        return Work((_plain(row.model, row.dtype, row.batch, row.in_len, row.phase, mode),))
    if row.phase == "decode":
        context = row.in_len + row.out_len // 2
        part = _language(row.model, row.batch, row.in_len, context, 1, None, _formats(row, chip), mode, row.n_gpus)
        return Work((part,))
    metric, _, variant = row.metric.partition(":")
    training = row.phase == "train-iteration"
    if metric not in _METRICS or (metric == "bwall_latency" and not training):
        raise InputError(f"{row.place}: column metric is {row.metric!r}; known are {', '.join(_METRICS)}")
    layout = Layout(**{variant[:2]: row.n_gpus}) if variant[:2] in ("tp", "dp") else WHOLE
    chosen = MODES["compiled"] if variant == "fusion" else mode
    part = _neusight(row.model, row.batch // layout.dp, row.in_len, training, chosen, layout)
    extra = _handed_on(row, chip, training) if variant.startswith("pp") else 0.0
    return Work((part,), _METRICS[metric] if training else None, extra)


def _handed_on(row: WholeModel, chip: Chip, training: bool) -> float:
    """One micro-batch fills no pipeline: the stages run one after the other, with what each hands to the next (in
    training also back) in between."""
    hidden = row.batch * row.in_len * models.width(row.model) * 4.0
    return (row.n_gpus - 1) * (2 if training else 1) * price(chip, Collective("send", hidden, 2)).seconds


def _served(row: WholeModel, chip: Chip, mode: Mode) -> Work:
    """The first token as one prefill, without its queue; the others as decode steps of the batch."""
    shards = int(dict(row.options).get("tp") or row.n_gpus)
    if row.metric not in ("ttft", "tpot"):
        raise InputError(f"{row.place}: column metric is {row.metric!r}; of a served model it must be ttft or tpot")
    first = row.metric == "ttft"
    batch, context = (1, None) if first else (row.batch, row.in_len + row.out_len // 2)
    formats = _formats(row, chip)
    steps = (models.layers(row.model) - SHALLOW) / (DEEP - SHALLOW)
    depths = (SHALLOW, DEEP)
    parts = [_language(row.model, batch, row.in_len, context, shards, depth, formats, mode) for depth in depths]
    weighted = (replace(parts[0], weight=1.0 - steps), replace(parts[1], weight=steps))
    tokens = row.batch * row.in_len if first else row.batch
    return Work(weighted, extra_s=_all_reduces(row.model, shards, tokens, chip))


def _all_reduces(model: str, gpus: int, tokens: int, chip: Chip) -> float:
    """Two a layer, of 16-bit hidden states, with the launch of each."""
    if gpus == 1:
        return 0.0
    hidden = Collective("all_reduce", tokens * models.width(model) * 2.0, gpus)
    return 2 * models.layers(model) * (chip.launch_gap_graph_s + price(chip, hidden).seconds)


def _formats(row: Row, chip: Chip) -> Formats | None:
    return narrow(row.dtype, chip) if row.dtype in QUANTIZED else None


@functools.lru_cache(maxsize=64)
def _neusight(model: str, batch: int, tokens: int, training: bool, mode: Mode, layout: Layout) -> Part:
    return _part(models.forward(model, batch, tokens, training, layout), mode)


@functools.lru_cache(maxsize=64)
def _plain(model: str, dtype: str, batch: int, length: int, phase: str, mode: Mode) -> Part:
    return _part(models.plain_network(model, dtype, batch, length, phase), mode)


@functools.lru_cache(maxsize=256)
def _language(
    model: str,
    batch: int,
    prompt: int,
    context: int | None,
    shards: int,
    depth: int | None,
    formats: Formats | None,
    mode: Mode,
    ranks: int = 1,
) -> Part:
    work = models.language_model(model, batch, prompt if context is None else 0, context, shards, depth, ranks)
    if formats is not None:
        work = quantized(work, *formats).workload
    return _part(work, mode)
