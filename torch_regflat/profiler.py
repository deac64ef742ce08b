"""The one place that joins the stages: capture → lower → schedule → result, and the three ways in.

regflat.profile(model, args, kwargs, chip="h100-sxm")     # a module or function and its inputs
regflat.profile_model("llama-3-8b", phase="decode")       # a Hugging Face model by name, folder or hub id
@regflat.profiled(chip="regflat-physical")                # as torch.compile is used; still computes
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

from . import __version__
from .capture.hints import Hints
from .capture.model_inputs import describe as describe_inputs
from .capture.record import capture
from .cost import MODEL_VERSION
from .errors import CapacityError, CaptureError, InputError, UnmodelledError
from .hardware.chip import Chip
from .hardware.library import load
from .hardware.software import for_chip
from .operators.lowering import workload as make_workload
from .report import files, text
from .result import ChipResult, Coverage, Result, Total
from .schedule.fit import fit as does_it_fit
from .schedule.kernels import form_kernels
from .schedule.run import check_dtypes, run
from .schedule.tile import annotate
from .workload import Workload, with_kv_bits

if TYPE_CHECKING:
    from .capture.phases import Prepared

ChipLike = str | Path | Chip
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

    def table(self, **options: Any) -> str:
        """The report as text; options as of `regflat profile` (`by`, `expand`, `sort_by`, `row_limit`)."""
        return text.render(self.result, **options)

    def save(self, path: str | Path) -> None:
        """Write the whole result, losslessly, as JSON."""
        files.save(self.result, path)

    def to_dict(self) -> dict[str, Any]:
        return self.result.to_dict()

    def __str__(self) -> str:
        return self.table()


def profile(
    model: nn.Module | Callable[..., Any],
    args: Any = (),
    kwargs: dict[str, Any] | None = None,
    *,
    chip: ChipLike | Sequence[ChipLike] = DEFAULT_CHIP,
    strict: bool = False,
    name: str | None = None,
    hints: Hints | None = None,
) -> Profile:
    """Profile one call of a module or function on one or more chips. Nothing is computed; meta tensors suffice.

    `args` is the tuple of positional inputs (a lone tensor is taken as the only one). With `strict`, an operation
    without a formula (`UnmodelledError`) or a model that does not fit (`CapacityError`) is refused. Raises
    `CaptureError` when the model cannot be run on meta tensors, `ChipError` for an unknown chip.
    """
    if not callable(model):
        raise InputError(f"profile() takes a module or a function, found {type(model).__name__}")
    chips = _load(chip)
    args = (args,) if isinstance(args, torch.Tensor) else tuple(args)
    label = name or str(getattr(model, "__qualname__", type(model).__name__))
    with _guard():
        graph = capture(model, args, kwargs, hints=hints)
        return _finish(graph, chips, strict, _Labels(model=label, phase="forward"), _module_bytes(model))


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
    strict: bool = False,
    trust_remote_code: bool = False,
    hints: Hints | None = None,
) -> Profile:
    """Profile a model by shipped name, folder with a `config.json`, hub id or `module:factory`, in one phase.

    `seq_len` is the number of new tokens of a prefill, `context` the tokens already cached for a decode step.
    """
    from .capture.huggingface import prepare

    loaded = _load(chips)
    with _guard():
        ready = prepare(
            spec,
            phase,
            batch=batch,
            seq_len=seq_len,
            context=context,
            dtype=dtype,
            kv_dtype=kv_dtype,
            trust_remote_code=trust_remote_code,
        )
        graph, ready = _capture_prepared(ready, hints)
        labels = _Labels(
            model=ready.name,
            phase=ready.phase,
            inputs=ready.inputs,
            dtype=ready.dtype,
            batch=ready.batch,
            seq_len=ready.seq_len,
            context=ready.context,
            notes=ready.notes,
        )
        return _finish(graph, loaded, strict, labels, _module_bytes(ready.model), ready.kv_bits)


def _capture_prepared(ready: Prepared, hints: Hints | None) -> tuple[fx.GraphModule, Prepared]:
    """The graph of a prepared model, with the first of its inputs that it runs with; another than the first is said."""
    try:
        return capture(ready.model, ready.args, ready.kwargs, kv_cache=ready.kv_cache, hints=hints), ready
    except CaptureError as error:
        for kwargs in ready.other_inputs:
            try:
                graph = capture(ready.model, ready.args, kwargs, kv_cache=ready.kv_cache, hints=hints)
            except CaptureError:
                continue
            said = f"profiled with {describe_inputs(kwargs)}; with {ready.inputs} it failed: {error}"
            return graph, replace(ready, kwargs=kwargs, inputs=describe_inputs(kwargs), notes=(*ready.notes, said))
        raise


def profiled(
    target: Any = None,
    /,
    *,
    chip: ChipLike | Sequence[ChipLike] = DEFAULT_CHIP,
    strict: bool = False,
) -> Any:
    """Profile a function, method or module once per input signature, as it is called; it still computes.

    Used as `torch.compile` is: bare (`@profiled`), with options, on a function, a method or a module. The latest
    profile is `.profile`, all of them by signature `.profiles`.
    """
    from ._profiled import wrap

    options = {"chip": chip, "strict": strict}
    if target is None:
        return lambda inner: wrap(inner, options)
    return wrap(target, options)


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


def _finish(
    graph: fx.GraphModule,
    chips: list[Chip],
    strict: bool,
    labels: _Labels,
    weights_bytes: int | None,
    kv_bits: int | None = None,
) -> Profile:
    """Everything after capture, the same for every door."""
    work = make_workload(graph, name=labels.model, phase=labels.phase)
    if kv_bits is not None:
        work = with_kv_bits(work, kv_bits)
    kernels = form_kernels(work)
    results = []
    for chip in chips:
        check_dtypes(kernels, chip)
        fits = does_it_fit(work, kernels, chip, weights_bytes)
        if strict and not fits.fits:
            raise CapacityError(
                f"{labels.model} does not fit {chip.name}: needs {fits.needs_bytes / 1e9:.1f} GB, "
                f"has {fits.has_bytes / 1e9:.1f} GB, at least {fits.chips} chips; "
                "without strict it is priced as if it did"
            )
        results.append(run(work, kernels, chip, for_chip(chip), fits))
        annotate(graph, kernels, results[-1])
    if strict and results and results[0].coverage.unmodelled:
        listed = ", ".join(f"{op} ({share:.2%} of bytes)" for op, share in results[0].coverage.unmodelled.items())
        raise UnmodelledError(
            f"{labels.model} has operations without a formula: {listed}; give them one with @regflat.operator, "
            "or drop --strict to price them by their traffic"
        )
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
            model_version=MODEL_VERSION,
            versions=_versions(),
            notes=(*labels.notes, *_assumptions(graph)),
        ),
        graph=graph,
        workload=work,
    )


def _assumptions(graph: fx.GraphModule) -> tuple[str, ...]:
    """What capture took for granted."""
    names: tuple[str, ...] = graph.meta.get("assumed", ())
    return tuple(f"{name} has no values; taken as all ones (no padding)" for name in names)


def _load(chips: ChipLike | Sequence[ChipLike]) -> list[Chip]:
    listed = [chips] if isinstance(chips, (str, Path, Chip)) else list(chips)
    if not listed:
        raise InputError("no chip given; name at least one (regflat chips lists them)")
    return [load(chip) for chip in listed]


def _module_bytes(model: Any) -> int | None:
    """Bytes of all parameters and buffers of a module, each storage once; None for a function."""
    if not isinstance(model, nn.Module):
        return None
    seen: dict[int, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        storage = tensor.untyped_storage()
        seen[storage._cdata] = storage.nbytes()
    return sum(seen.values())


def _versions() -> dict[str, str]:
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
