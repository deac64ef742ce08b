"""The one place that joins the stages: capture → lower → schedule → result, and the ways in.

regflat.profile(model, args, kwargs, chip="h100-sxm")     # a module or function and its inputs
regflat.profile_model("llama-3-8b", phase="decode")       # a Hugging Face model by name, folder or hub id
@regflat.profiled(chip="regflat-physical")                # as torch.compile is used; still computes
with regflat.profiling(chip="h100-sxm") as p: ...         # around ordinary eager code
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from . import __version__
from ._profiling import Profiling
from .capture import graphs
from .capture._torch_distributed import local
from .capture._torch_private import eager
from .capture.hints import Hints
from .capture.latent import absorbing
from .capture.live import LiveRecorder
from .capture.record import capture
from .capture.training import AUTOCAST, capture_training
from .cost import MODEL_VERSION
from .errors import CapacityError, CaptureError, InputError, UnmodelledError
from .hardware.chip import Chip
from .hardware.feeding import notes as chip_notes
from .hardware.library import load
from .hardware.software import Software
from .layout import Layout
from .local import AUTO, gpu_name
from .operators.attention import extending
from .operators.lowering import workload as make_workload
from .operators.shapes import checked_skew
from .quantized import arithmetic, format_of, quantized
from .regression.budget import assert_below
from .regression.fingerprint import fingerprint
from .report import files, text
from .report.frame import dataframe
from .result import ChipResult, Coverage, Elasticity, Explanation, Fit, GroupBy, Result, Total
from .schedule import modes
from .schedule.explain import explain
from .schedule.fit import fit as does_it_fit
from .schedule.joined import joined, joined_timeline
from .schedule.kernels import Kernel, form_kernels
from .schedule.modes import Execution, Mode
from .schedule.program import Prices
from .schedule.run import Job, check_dtypes, coverage, main_dtype, run_all, timeline
from .schedule.select import check
from .schedule.sensitivity import Sensitivity
from .schedule.serving import served
from .schedule.tile import annotate
from .sharded import Sharded, share_of_batch, split
from .timeline import Timeline
from .workload import Workload, with_kv_bits

if TYPE_CHECKING:
    from pandas import DataFrame

    from .capture.phases import Prepared
    from .capture.thin import Thin

ChipLike = str | Path | Chip
SoftwareLike = str | Path | Software
DEFAULT_CHIP = "h100-sxm"
_profiling: contextvars.ContextVar[bool] = contextvars.ContextVar("regflat_profiling", default=False)


@dataclass(frozen=True)
class Profile:
    """What `profile` gives: the plain data (`result`) and the captured graph with an operation on each node.

    `total`, `coverage` and `kernels` are those of the first chip; index by chip name for another.
    """

    result: Result
    graph: fx.GraphModule = field(repr=False)
    workload: Workload = field(repr=False)
    hardware: tuple[Chip, ...] = field(repr=False)
    execution: Execution = field(default_factory=Execution, repr=False)
    sharded: Sharded | None = field(default=None, repr=False)
    """Of a model that is divided among chips, the workload of one rank of each stage."""
    prices: dict[str, Prices] = field(default_factory=dict, repr=False, compare=False)
    """By chip, what was found for distinct kernels: it spares `timeline` a search."""

    def __getitem__(self, chip: str) -> ChipResult:
        for found in self.result.chips:
            if found.chip == chip:
                return found
        raise InputError(f"no chip {chip!r} in this profile; it has {', '.join(c.chip for c in self.result.chips)}")

    @property
    def chips(self) -> tuple[ChipResult, ...]:
        return self.result.chips

    @property
    def total(self) -> Total:
        return self.result.chips[0].total

    @property
    def coverage(self) -> Coverage:
        return self.result.chips[0].coverage

    def sensitivity(self, chip: str | None = None, *, remap: bool = False) -> list[Elasticity]:
        """What 1 % more of each number of a chip (the first, unless named) does to latency and energy, in %.

        Mappings are held fixed; `remap` also searches again with 10 % less and more, where it matters.
        """
        found = self._chip(chip)
        self._refuse_stages("sensitivity")
        kernels = form_kernels(self.workload, self.execution.mode)
        software, conditions = self.execution.software_of(found), self.execution.mode.conditions
        return Sensitivity(self.workload, kernels, found, software, conditions).elasticities(remap)

    def explain(self, path: str, chip: str | None = None, *, losers: int = 5) -> list[Explanation]:
        """Why the kernels of the module at `path` run as they do on a chip (the first, unless named)."""
        found = self._chip(chip)
        self._refuse_stages("explain")
        kernels = form_kernels(self.workload, self.execution.mode)
        software, conditions = self.execution.software_of(found), self.execution.mode.conditions
        prices = self.prices.get(found.name)
        return explain(self.workload, kernels, found, software, path, losers, conditions, prices)

    def timeline(self, chip: str | None = None) -> Timeline:
        """When every kernel and every transfer runs on a chip (the first, unless named), and what they waited for.

        It is made anew, and not saved with the profile, for it is much longer than the profile itself.
        """
        found = self._chip(chip)
        mode, prices = self.execution.mode, self.prices.get(found.name)
        software, works = self.execution.software_of(found), self.sharded.stages if self.sharded else (self.workload,)
        with _guard():
            lines = [
                timeline(work, form_kernels(work, mode), found, software, mode.conditions, prices) for work in works
            ]
            return joined_timeline(lines)

    def _refuse_stages(self, what: str) -> None:
        if self.sharded is not None and len(self.sharded.stages) > 1:
            raise InputError(f"{what} looks at one chip; profile the model with a pp of 1")

    def _chip(self, name: str | None) -> Chip:
        self[name or self.hardware[0].name]
        return next(chip for chip in self.hardware if name in (None, chip.name))

    def table(self, **options: Any) -> str:
        """The report as text; options as of `regflat profile` (`by`, `expand`, `sort_by`, `row_limit`)."""
        return text.render(self.result, **options)

    def assert_below(self, **budgets: str | float) -> Profile:
        """Raise `AssertionError` where a figure of any chip is above its budget.

        `latency="2 ms"`, `energy="150 mJ"`, `memory_energy`, `peak_memory="16 GB"`, `external_traffic="3 GB"`,
        `flops="1 TFLOP"`, `executed_flops`, `kernels=400`; a plain number is in SI. Gives the profile itself.
        """
        __tracebackhide__ = True
        assert_below(self.result, budgets)
        return self

    def save(self, path: str | Path) -> None:
        """Write the whole result losslessly as `.json`, or a report: `.html`, `.trace.json` (for Perfetto and
        TensorBoard), `.csv` or `.txt`; with a further `.gz` compressed.
        """
        files.save(self.result, path, self.timelines)

    def timelines(self) -> list[Timeline]:
        """The time lines of all chips."""
        return [self.timeline(chip.chip) for chip in self.chips]

    def to_dataframe(self, by: GroupBy = "layer", *, expand: bool = False) -> DataFrame:
        """The rows of all chips as a pandas DataFrame, in SI units, with the columns of `.csv` files.

        Raises `InputError` where pandas is not installed.
        """
        return dataframe(self.result, by, expand)

    def _repr_html_(self) -> str:
        from .report.html import fragment

        return fragment(self.result)

    def to_dict(self) -> dict[str, Any]:
        return self.result.to_dict()

    def __str__(self) -> str:
        return self.table()


def profile(
    model: nn.Module | Callable[..., Any] | ExportedProgram,
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    chip: ChipLike | Sequence[ChipLike] = DEFAULT_CHIP,
    strict: bool = False,
    name: str | None = None,
    weights: str | None = None,
    activations: str | None = None,
    routing_skew: float = 0.0,
    mode: str = "graph",
    software: SoftwareLike | None = None,
    hints: Hints | None = None,
) -> Profile:
    """Profile one call of a module or function on one or more chips. Nothing is computed; meta tensors suffice.

    `args` is the tuple of positional inputs (a lone tensor is taken as the only one). An `fx.GraphModule` is run node
    by node; so is an `ExportedProgram`, on its own example inputs where neither `args` nor `kwargs` is given. With
    `strict`, an operation without a formula (`UnmodelledError`) or a model that does not fit (`CapacityError`) is
    refused. `weights` and `activations` price linear layers in a quantised format (fp8, mxfp8, int8, int4, mxfp4,
    nvfp4), `routing_skew` a mixture of experts whose experts are not equally popular (0 uniform, 1 Zipf's law).

    `mode` is how the model is executed: "eager", "compiled", "graph" (compiled, and replayed as a CUDA graph) or
    "serving" (graph, with projections merged). `software` is a variant of the libraries, by name or file. Raises
    `CaptureError` when the model cannot be run on meta tensors, `ChipError` for an unknown chip.
    """
    chips = _load(chip)
    changes = _Changes(weights=weights, activations=activations, routing_skew=checked_skew(routing_skew)).checked()
    execution = Execution.of(mode, software, chips)
    model = eager(model)
    if isinstance(model, ExportedProgram):
        name = name or graphs.title(model)
        model, args = graphs.exported(model, args, kwargs)
        kwargs = None
    if not callable(model):
        found = f"the name {model!r}; profile_model() takes names" if isinstance(model, str) else type(model).__name__
        raise InputError(f"profile() takes a module, a function, a GraphModule or an ExportedProgram, found {found}")
    args = (args,) if isinstance(args, torch.Tensor) else tuple(args or ())
    label = name or str(getattr(model, "__qualname__", type(model).__name__))
    with _guard():
        with absorbing(execution.mode.merged):
            graph = capture(model, args, kwargs, hints=hints)
        labels = _Labels(model=label, phase="forward")
        return _finish(graph, chips, strict, labels, _module_bytes(model), changes, execution)


def profile_training(
    model: nn.Module | Callable[..., Any],
    args: Any = (),
    kwargs: dict[str, Any] | None = None,
    *,
    optimizer: str | None = "adamw",
    loss: Callable[[Any], torch.Tensor] | None = None,
    autocast: str | None = None,
    master_weights: bool = False,
    hints: Hints | None = None,
    chip: ChipLike | Sequence[ChipLike] = DEFAULT_CHIP,
    strict: bool = False,
    name: str | None = None,
    mode: str = "graph",
    software: SoftwareLike | None = None,
) -> Profile:
    """Profile one training step: forward, backward and optimizer (`adamw`, `sgd`, `sgd-momentum` or None).

    `loss` makes a scalar of what the model returns; without it that is the model's own loss where it gives one, else
    the sum of its outputs. Parameters, gradients and optimizer state have the dtype of the model's parameters. With
    `autocast` (`bfloat16`, `float16`) forward and loss run as under `torch.autocast`; with `master_weights` the
    optimizer keeps a float32 copy of parameters of fewer bits and its state in float32. `mode` and `software` are as
    of `profile`. Raises `InputError` for an unknown name, `CaptureError` when the step cannot be run on meta tensors.
    """
    if not callable(model):
        raise InputError(f"profile_training() takes a module or a function, found {type(model).__name__}")
    chips = _load(chip)
    execution = Execution.of(mode, software, chips)
    args = (args,) if isinstance(args, torch.Tensor) else tuple(args)
    label = name or str(getattr(model, "__qualname__", type(model).__name__))
    with _guard():
        graph = capture_training(
            model,
            args,
            kwargs,
            optimizer=optimizer,
            loss=loss,
            autocast=autocast,
            master_weights=master_weights,
            hints=hints,
        )
        labels = _Labels(model=label, phase="train", notes=_training_notes(optimizer, autocast, master_weights))
        return _finish(graph, chips, strict, labels, _module_bytes(model), _Changes(), execution)


def profile_model(
    spec: str | nn.Module,
    *,
    phase: str | None = None,
    batch: int = 1,
    seq_len: int | None = None,
    context: int | None = None,
    chips: ChipLike | Sequence[ChipLike] = DEFAULT_CHIP,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    optimizer: str | None = "adamw",
    autocast: str | None = None,
    master_weights: bool = False,
    strict: bool = False,
    trust_remote_code: bool = False,
    weights: str | None = None,
    activations: str | None = None,
    routing_skew: float = 0.0,
    mode: str = "graph",
    software: SoftwareLike | None = None,
    hints: Hints | None = None,
    layout: Layout | None = None,
    micro_batches: int = 1,
) -> Profile:
    """Profile a model by shipped name, folder with a `config.json`, hub id or `module:factory`, in one phase.

    `seq_len` is the number of new tokens of a prefill, `context` the tokens already cached for a decode step. The
    phase `train` is a training step; `optimizer`, `autocast` and `master_weights` are as of `profile_training`.
    `weights`, `activations`, `routing_skew`, `mode` and `software` are as of `profile`.

    `layout` divides the model among chips, by transformers' own plans: `batch` is then that of all of them, and
    kernels and totals are those of one chip (of each stage, in turn); `ChipResult.parallel` has what a step takes on
    all. `micro_batches` is in how many parts the batch goes through the stages of a pipeline. Raises `InputError` for
    a layout that does not divide the model, naming the nearest degrees that do.
    """
    loaded = _load(chips)
    execution = Execution.of(mode, software, loaded)
    captured = capture_model(
        spec,
        phase=phase,
        batch=batch,
        seq_len=seq_len,
        context=context,
        dtype=dtype,
        kv_dtype=kv_dtype,
        optimizer=optimizer,
        autocast=autocast,
        master_weights=master_weights,
        trust_remote_code=trust_remote_code,
        weights=weights,
        activations=activations,
        routing_skew=routing_skew,
        mode=mode,
        strict=strict,
        hints=hints,
        layout=layout,
        micro_batches=micro_batches,
    )
    with _guard():
        return _price(captured, loaded, strict, execution)


def capture_model(
    spec: str | nn.Module,
    *,
    phase: str | None = None,
    batch: int = 1,
    seq_len: int | None = None,
    context: int | None = None,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    optimizer: str | None = "adamw",
    autocast: str | None = None,
    master_weights: bool = False,
    trust_remote_code: bool = False,
    weights: str | None = None,
    activations: str | None = None,
    routing_skew: float = 0.0,
    mode: str = "graph",
    strict: bool = False,
    hints: Hints | None = None,
    logits: int | None = None,
    layout: Layout | None = None,
    micro_batches: int = 1,
    thin: Thin | None = None,
) -> Captured:
    """A model in one phase as kernels, before any chip; the options are those of `profile_model`.

    `logits` limits the logits of a prefill or extension to so many last tokens, as serving engines do. With `thin`,
    only some of the layers are there.
    """
    from .capture.huggingface import prepare
    from .capture.parallel import divided, gradient_group

    changes = _Changes(weights=weights, activations=activations, routing_skew=checked_skew(routing_skew)).checked()
    executed = modes.named(mode)
    own_batch, uneven = share_of_batch(batch, layout, micro_batches)
    with _guard(), contextlib.ExitStack() as stack:

        def divide(model: nn.Module, name: str) -> tuple[str, ...]:
            if thin is not None:
                stack.enter_context(thin.applied(model))
            if layout is None:
                return ()
            return uneven + stack.enter_context(divided(model, layout, name, phase == "train"))

        ready = prepare(
            spec,
            phase,
            batch=own_batch,
            seq_len=seq_len,
            context=context,
            dtype=dtype,
            kv_dtype=kv_dtype,
            trust_remote_code=trust_remote_code,
            hints=hints,
            logits=logits,
            divide=divide,
        )
        notes = ready.notes
        if ready.phase == "train":
            if weights is not None:
                raise InputError(f"weights in {weights} are for inference; a training step updates the model's own")
            graph = capture_training(
                ready.model,
                ready.args,
                ready.kwargs,
                optimizer=optimizer,
                train_mode=True,
                autocast=autocast,
                master_weights=master_weights,
                hints=hints,
                average_over=None if layout is None else gradient_group(layout),
            )
            notes += _training_notes(optimizer, autocast, master_weights)
        elif autocast is not None or master_weights:
            raise InputError(f"autocast and master_weights are for the phase train, not for {ready.phase}")
        else:
            with absorbing(executed.merged) as latent:
                graph, ready = _capture_prepared(ready, hints)
            notes = ready.notes
            if latent.expanded:
                instead = "" if executed.merged else "; mode serving does not, as serving engines do not"
                notes += (f"each step expands the compressed cache to keys and values of all heads{instead}",)
        labels = _Labels(
            model=ready.name,
            phase=ready.phase,
            inputs=ready.inputs,
            dtype=ready.dtype,
            batch=None if ready.batch is None else batch,
            seq_len=ready.seq_len,
            context=ready.context,
            notes=notes,
        )
        changes = replace(changes, kv_bits=ready.kv_bits)
        stages = None if thin else layout
        weights_bytes = _module_bytes(ready.model)
        return _lowered(graph, strict, labels, weights_bytes, changes, executed, stages, micro_batches)


def _capture_prepared(ready: Prepared, hints: Hints | None) -> tuple[fx.GraphModule, Prepared]:
    """The graph of a prepared model, called in the first way in which it runs; another than the first is said."""

    def captured(way: Prepared) -> tuple[fx.GraphModule, Prepared]:
        return capture(way.fn or way.model, way.args, way.kwargs, kv_cache=way.kv_cache, hints=hints), way

    try:
        return captured(ready)
    except CaptureError as error:
        for call in ready.others:
            said = f"profiled with {call.text}; with {ready.inputs} it failed: {error}"
            with contextlib.suppress(CaptureError):
                return captured(ready.otherwise(call, said))
        raise


def profiled(
    target: Any = None,
    /,
    *,
    chip: ChipLike | Sequence[ChipLike] = DEFAULT_CHIP,
    strict: bool = False,
    weights: str | None = None,
    activations: str | None = None,
    routing_skew: float = 0.0,
    mode: str = "graph",
    software: SoftwareLike | None = None,
) -> Any:
    """Profile a function, method or module once per input signature, as it is called; it still computes.

    Used as `torch.compile` is: bare (`@profiled`), with options, on a function, a method or a module. The latest
    profile is `.profile`, all of them by signature `.profiles`.
    """
    from ._profiled import wrap

    changed = {"weights": weights, "activations": activations, "routing_skew": routing_skew}
    options = {"chip": chip, "strict": strict, "mode": mode, "software": software, **changed}
    if target is None:
        return lambda inner: wrap(inner, options)
    return wrap(target, options)


def profiling(
    model: nn.Module | None = None,
    *,
    chip: ChipLike | Sequence[ChipLike] = DEFAULT_CHIP,
    strict: bool = False,
    name: str | None = None,
    mode: str = "graph",
    software: SoftwareLike | None = None,
) -> Profiling:
    """Profile what ordinary eager code in a `with` block does, while it does it; results are its own.

    Forward, backward and optimizer steps are recorded as they run. Module paths start at `model` where it is given,
    else at the class of each module called. `.profile` of what `as` names is there after the block.
    """
    Execution.of(mode, software, _load(chip))
    return Profiling({"chip": chip, "strict": strict, "mode": mode, "software": software}, model, name)


def profile_recorded(
    recorder: LiveRecorder,
    *,
    chip: ChipLike | Sequence[ChipLike] = DEFAULT_CHIP,
    strict: bool = False,
    name: str,
    phase: str,
    notes: tuple[str, ...] = (),
    mode: str = "graph",
    software: SoftwareLike | None = None,
) -> Profile:
    """The profile of what a recorder has recorded so far."""
    if not any(node.op == "call_function" for node in recorder.nodes):
        raise CaptureError(f"{name}: nothing was recorded, for no operator of torch ran")
    chips = _load(chip)
    execution = Execution.of(mode, software, chips)
    labels = _Labels(model=name, phase=phase, notes=notes)
    weights = _modules_bytes(recorder.modules())
    return _finish(recorder.graph_so_far(), chips, strict, labels, weights, _Changes(), execution)


@dataclass(frozen=True)
class _Labels:
    model: str
    phase: str
    inputs: str = ""
    dtype: str = ""
    batch: int | None = None
    seq_len: int | None = None
    context: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Changes:
    """What is priced otherwise than the model is written: stored formats, and how uneven routing is."""

    weights: str | None = None
    activations: str | None = None
    kv_bits: int | None = None
    routing_skew: float = 0.0

    def checked(self) -> _Changes:
        """Refuse what makes no sense before the model is captured."""
        if self.weights is None:
            if self.activations is not None:
                raise InputError(f"activations in {self.activations} need weights in a format too; give weights")
            return self
        stored = format_of(self.weights, "weights")
        if self.activations is not None:
            arithmetic(stored, format_of(self.activations, "activations"))
        return self


@dataclass(frozen=True)
class Captured:
    """A model in one phase, lowered and formed into kernels, before any chip: what `price` needs of it."""

    graph: fx.GraphModule = field(repr=False)
    workload: Workload = field(repr=False)
    kernels: list[Kernel] = field(repr=False)
    labels: _Labels
    weights_bytes: int | None
    mode: Mode
    sharded: Sharded | None = field(default=None, repr=False)
    """Of a model divided among chips: what one rank of each stage does with one micro-batch."""
    stages: list[list[Kernel]] = field(default_factory=list, repr=False)
    """The kernels of each stage."""
    micro_batches: int = 1

    def job(self, chip: Chip) -> Job:
        """What is to be priced on a chip. Raises `InputError` for a number format that it does not have."""
        if len(self.stages) > 1:
            raise InputError(f"a pipeline of {len(self.stages)} stages is a job each; take jobs()")
        check_dtypes(self.kernels, chip)
        return Job(self.workload, self.kernels, does_it_fit(self.workload, chip, self.weights_bytes))

    def jobs(self, chip: Chip) -> list[Job]:
        """One job a stage; one job where the model is not divided into stages."""
        if len(self.stages) < 2 or self.sharded is None:
            return [self.job(chip)]
        check_dtypes(self.kernels, chip)
        pairs = zip(self.sharded.stages, self.stages, strict=True)
        return [Job(work, kernels, does_it_fit(work, chip)) for work, kernels in pairs]

    def result(self, stages: Sequence[ChipResult], chip: Chip) -> ChipResult:
        """The result of all jobs, as `run_all` gave them."""
        if self.sharded is None:
            return stages[0]
        return joined(stages, chip, self.sharded.layout, self.micro_batches)


def _finish(
    graph: fx.GraphModule,
    chips: list[Chip],
    strict: bool,
    labels: _Labels,
    weights_bytes: int | None,
    changes: _Changes,
    execution: Execution,
) -> Profile:
    """Everything after capture, the same for every door."""
    captured = _lowered(graph, strict, labels, weights_bytes, changes, execution.mode)
    return _price(captured, chips, strict, execution)


def _lowered(
    graph: fx.GraphModule,
    strict: bool,
    labels: _Labels,
    weights_bytes: int | None,
    changes: _Changes,
    mode: Mode,
    layout: Layout | None = None,
    micro_batches: int = 1,
) -> Captured:
    """From a graph to kernels."""
    work = make_workload(graph, labels.model, labels.phase, changes.routing_skew)
    if labels.phase == "extend":
        work = extending(work)
    notes = (*labels.notes, *graph.meta.get("notes", ()))
    if changes.routing_skew:
        notes = (*notes, f"experts are picked unevenly, with a routing skew of {changes.routing_skew:g}")
    if changes.kv_bits is not None:
        work = with_kv_bits(work, changes.kv_bits)
    if changes.weights is not None:
        narrow = quantized(work, changes.weights, changes.activations)
        work, notes = narrow.workload, (*notes, *narrow.notes)
        weights_bytes = None if weights_bytes is None else weights_bytes - narrow.saved_bytes
    if strict:
        _refuse_unmodelled(labels.model, work)
    if mode.merged:
        work = served(work)
    labels = replace(labels, notes=notes, dtype=labels.dtype or main_dtype(work))
    if layout is None:
        return Captured(graph, work, form_kernels(work, mode), labels, weights_bytes, mode)
    sharded = split(work, layout)
    stages = [form_kernels(stage, mode) for stage in sharded.stages]
    kernels = [kernel for stage in stages for kernel in stage]
    return Captured(graph, work, kernels, labels, weights_bytes, mode, sharded, stages, micro_batches)


def _price(captured: Captured, chips: list[Chip], strict: bool, execution: Execution) -> Profile:
    """From kernels to a profile."""
    labels, results = captured.labels, []
    prices: dict[str, Prices] = {chip.name: Prices() for chip in chips}
    for chip in chips:
        software = execution.software_of(chip)
        options: dict[str, Any] = {"conditions": execution.mode.conditions, "prices": prices[chip.name]}
        jobs = captured.jobs(chip)
        if strict and captured.sharded is None and not jobs[0].fit.fits:
            raise _too_large(labels.model, chip, jobs[0].fit)
        priced = captured.result(run_all(jobs, chip, software, **options), chip)
        if strict and not priced.fit.fits:
            raise _too_large(labels.model, chip, priced.fit)
        results.append(replace(priced, software_hash=software.hash, notes=(*priced.notes, *chip_notes(chip))))
        annotate(captured.graph, prices[chip.name].executed(*(job.kernels for job in jobs)), results[-1])
    return Profile(
        result=Result(
            model=labels.model,
            phase=labels.phase,
            chips=tuple(results),
            inputs=labels.inputs,
            dtype=labels.dtype,
            batch=labels.batch,
            seq_len=labels.seq_len,
            context=labels.context,
            mode=execution.mode.name,
            model_version=MODEL_VERSION,
            versions=versions(),
            notes=labels.notes,
            graph_hash=fingerprint(captured.graph),
        ),
        graph=captured.graph,
        workload=captured.workload,
        hardware=tuple(chips),
        sharded=captured.sharded,
        execution=execution,
        prices=prices,
    )


def _too_large(model: str, chip: Chip, fit: Fit) -> CapacityError:
    return CapacityError(
        f"{model} does not fit {chip.name}: needs {fit.needs_bytes / 1e9:.1f} GB, "
        f"has {fit.has_bytes / 1e9:.1f} GB, at least {fit.chips} chips; "
        "without strict it is priced as if it did"
    )


def _refuse_unmodelled(model: str, work: Workload) -> None:
    unknown = coverage(work).unmodelled
    if unknown:
        listed = ", ".join(f"{op} ({share:.2%} of bytes)" for op, share in unknown.items())
        raise UnmodelledError(
            f"{model} has operations without a formula: {listed}; give them one with @regflat.operator, "
            "or drop strict to price them by their traffic"
        )


def check_chips(chips: ChipLike | Sequence[ChipLike]) -> None:
    """Refuse unknown chips before anything is recorded for them."""
    _load(chips)


def _training_notes(optimizer: str | None, autocast: str | None, master_weights: bool) -> tuple[str, ...]:
    if optimizer is None:
        step = "training step without optimizer: forward and backward"
    elif master_weights:
        step = f"training step with {optimizer} on float32 master weights, its state in float32"
    else:
        step = f"training step with {optimizer}; gradients and optimizer state in the dtype of each parameter"
    return (step, f"forward and loss under autocast to {AUTOCAST[autocast]}") if autocast else (step,)


def _load(chips: ChipLike | Sequence[ChipLike]) -> list[Chip]:
    listed = [chips] if isinstance(chips, (str, Path, Chip)) else list(chips)
    if not listed:
        raise InputError("no chip given; name at least one (regflat chips lists them)")
    loaded = [load(gpu_name()) if chip == AUTO else load(chip) for chip in listed]
    for chip in loaded:
        check(chip)  # refuses what has no cost model before anything is recorded for it
    return loaded


def _module_bytes(model: Any) -> int | None:
    """Bytes of all parameters and buffers of a module, each storage once; None for a function."""
    return _modules_bytes([model]) if isinstance(model, nn.Module) else None


def _modules_bytes(modules: list[nn.Module]) -> int | None:
    seen: dict[int, int] = {}
    for tensor in (local(tensor) for model in modules for tensor in (*model.parameters(), *model.buffers())):
        storage = tensor.untyped_storage()
        seen[storage._cdata] = storage.nbytes()
    return sum(seen.values()) if modules else None


def versions() -> dict[str, str]:
    """Versions of what a profile was made with."""
    found = {"torch_regflat": __version__, "torch": torch.__version__}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["transformers"] = importlib.metadata.version("transformers")
    return found


@contextlib.contextmanager
def _guard() -> Iterator[None]:
    """Mark that a profile is being made, so that a profiled function inside does not profile itself again.

    The garbage collector rests meanwhile: a profile makes many small objects and no cycles worth collecting.
    """
    token = _profiling.set(True)
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        _profiling.reset(token)
        if collecting:
            gc.enable()


def is_profiling() -> bool:
    """Whether a capture is under way in this context."""
    return _profiling.get()
