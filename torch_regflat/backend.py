"""The door of `torch.compile`: `torch.compile(model, backend="regflat", options={"chip": "h100-sxm"})`.

The compiled callable computes what the model computes, gradients included. The first time that a graph of Dynamo's is
called (with these shapes and parameters) its operators are recorded as they run; with gradients on, AOTAutograd's
forward and backward graphs are. One report covers all graphs of a `torch.compile`.

    compiled = torch.compile(model, backend="regflat", options={"chip": "h100-sxm"})
    compiled(x).sum().backward()
    print(torch_regflat.backend.last().profile)

The name is registered by the entry point of the installed package, and by importing this module.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from .capture._torch_private import (
    active_handler,
    aot_compiled,
    break_reason,
    parameter_names,
    register_compile_backend,
    skipped_frames,
)
from .capture.graphs import NodeByNode
from .capture.live import LiveRecorder
from .capture.names import plain_path
from .errors import CaptureError, InputError, near
from .profiler import DEFAULT_CHIP, Profile, check_chips, is_profiling, profile_recorded

__all__ = ["Compiled", "clear", "last", "profiles", "regflat"]

_OPTIONS = ("chip", "strict", "name", "report", "mode", "software")
_SKIPPED = "NOT in this report, Dynamo skipped a frame and ran it as it is"
_sessions: list[tuple[Any, Compiled]] = []
_accounted: Counter[str] = Counter()
"""Skipped frames that an earlier session has seen, or that were there when this module was loaded."""


class Compiled:
    """What one `torch.compile(..., backend="regflat")` has run so far; `.profile` is its one report.

    `graphs` counts the graphs that Dynamo made, `breaks` says why it broke some off, `skipped` what it did not take.
    It can be the backend itself, to have it at hand: `torch.compile(model, backend=Compiled(chip="h100-sxm"))`.
    """

    def __init__(self, **options: Any) -> None:
        unknown = [key for key in options if key not in _OPTIONS]
        if unknown:
            raise InputError(
                f"the regflat backend has no option {unknown[0]!r}{near(unknown[0], _OPTIONS)}; "
                f"its options are {', '.join(_OPTIONS)}"
            )
        report = options.get("report")
        if report is not None and not callable(report):
            raise InputError(f"the option 'report' takes a function of a Profile, found {type(report).__name__}")
        self._chip, self._strict = options.get("chip", DEFAULT_CHIP), bool(options.get("strict", False))
        check_chips(self._chip)
        self._execution = {key: options[key] for key in ("mode", "software") if key in options}
        self._name, self._report = options.get("name"), report
        self._recorder: LiveRecorder | None = None
        self._seen: set[Any] = set()
        self._skipped_before = _accounted.copy()
        self._cached: tuple[Any, Profile] | None = None
        self.graphs = 0
        self.backward_graphs = 0
        self.calls = 0
        self.breaks: list[str] = []

    def __call__(self, graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        return self.compile(graph, example_inputs)

    # --- compiling -------------------------------------------------------------------------------------------------

    def compile(self, graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        """The callable for one graph of Dynamo's."""
        self.graphs += 1
        number = self.graphs
        broke = break_reason(graph)
        if broke is not None:
            self.breaks.append(f"{broke[1]}: {_short(broke[0])}" if broke[1] else _short(broke[0]))
        names = [None if name is None else plain_path(name) for name in parameter_names(graph)]
        trains = torch.is_grad_enabled() and any(
            isinstance(x, torch.Tensor) and x.requires_grad for x in example_inputs
        )
        if not trains:
            return self._entry(number, names, self._recorded(("forward", number), graph))

        def forward(inner: fx.GraphModule, _: Any) -> Callable[..., Any]:
            return self._recorded(("forward", number), inner)

        def backward(inner: fx.GraphModule, _: Any) -> Callable[..., Any]:
            self.backward_graphs += 1
            return self._recorded(("backward", number), inner)

        return self._entry(number, names, aot_compiled(graph, example_inputs, forward, backward))

    def _entry(self, number: int, names: list[str | None], call: Callable[..., Any]) -> Callable[..., Any]:
        """Around a graph's call: tell the recorder which memory is a parameter, and what leaves the graph."""

        def run(*args: Any) -> Any:
            if is_profiling() or active_handler() is not None:
                return call(*args)
            self.calls += 1
            _account()
            recorder = self._session()
            before = len(recorder.nodes)
            for name, value in zip(names, args, strict=False):
                if name is not None and isinstance(value, torch.Tensor):
                    recorder.name_memory(value, name)
            result = call(*args)
            if len(recorder.nodes) != before:
                recorder.note_returned(result)
                self._tell()
            return result

        return run

    def _recorded(self, which: tuple[str, int], graph: fx.GraphModule) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            if is_profiling() or active_handler() is not None:
                return graph.forward(*args)
            recorder = self._session()
            key = (which, _signature(recorder, args))
            if key in self._seen:
                return graph.forward(*args)
            self._seen.add(key)
            with recorder.recording():
                result = NodeByNode(graph).run(*args, enable_io_processing=False)
            if which[0] == "backward":
                self._tell()
            return result

        return run

    def _tell(self) -> None:
        """Pass the report so far to the user's function."""
        if self._report is not None:
            self._report(self.profile)

    def _session(self) -> LiveRecorder:
        if self._recorder is None:
            self._recorder = LiveRecorder(None, self._name or "torch.compile", torch.device("cpu"))
        return self._recorder

    # --- reporting -------------------------------------------------------------------------------------------------

    @property
    def skipped(self) -> list[str]:
        """Why Dynamo left frames to eager Python, whose work is in no graph and so in no report (process-wide)."""
        return _described(skipped_frames() - self._skipped_before)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report says of graphs, breaks and skipped frames."""
        found = [
            f"{self.graphs} forward graph{'s' * (self.graphs != 1)} and {self.backward_graphs} backward from "
            f"torch.compile, {len(self.breaks)} graph break{'s' * (len(self.breaks) != 1)}; each counts once for each "
            "set of shapes and parameters"
        ]
        found += [f"graph break: {reason}" for reason in self.breaks]
        found += [f"{_SKIPPED}: {reason}" for reason in self.skipped]
        return tuple(found)

    @property
    def profile(self) -> Profile:
        """One profile over everything that ran in graphs so far."""
        recorder = self._recorder
        if recorder is None or not recorder.nodes:
            skipped = f"; Dynamo skipped: {'; '.join(self.skipped)}" if self.skipped else ""
            raise CaptureError(
                f"{self._name or 'torch.compile'}: no graph has run yet{skipped}; call the compiled model first, "
                "and use regflat.profile or regflat.profiling for code that Dynamo does not take"
            )
        state = (len(recorder.nodes), self.notes)
        if self._cached is None or self._cached[0] != state:
            for reason in self.skipped:
                warnings.warn(f"{recorder.name}: {_SKIPPED}: {reason}", stacklevel=2)
            phase = "training" if self.backward_graphs else "forward"
            made = profile_recorded(
                recorder,
                chip=self._chip,
                strict=self._strict,
                name=recorder.name,
                phase=phase,
                notes=self.notes,
                **self._execution,
            )
            self._cached = (state, made)
        return self._cached[1]


def regflat(
    graph: fx.GraphModule, example_inputs: Sequence[Any], *, options: dict[str, Any] | None = None, **others: Any
) -> Callable[..., Any]:
    """The backend function. One report is kept for each `options` dict, so for each `torch.compile` that has one."""
    if others:
        raise InputError(f"the regflat backend takes options only, found {', '.join(others)}")
    for known, session in _sessions:
        if known is options:
            return session.compile(graph, example_inputs)
    session = Compiled(**(options or {}))
    _sessions.append((options, session))
    return session.compile(graph, example_inputs)


def profiles() -> list[Profile]:
    """The profile of every `torch.compile` with this backend that has run, oldest first."""
    return [session.profile for _, session in _sessions if session.calls]


def last() -> Compiled:
    """The latest `torch.compile` with this backend that made a graph."""
    if not _sessions:
        skipped = _described(skipped_frames() - _accounted)
        why = f"; Dynamo skipped: {'; '.join(skipped)}" if skipped else ""
        raise CaptureError(
            f"torch.compile: no graph was made with the regflat backend{why}; call the compiled model first, "
            "and use regflat.profile or regflat.profiling for code that Dynamo does not take"
        )
    return _sessions[-1][1]


def clear() -> None:
    """Forget all reports; a compiled model that runs again does not start a new one (use `torch._dynamo.reset`)."""
    _sessions.clear()
    _account()


def _account() -> None:
    _accounted.clear()
    _accounted.update(skipped_frames())


def _described(frames: Counter[str]) -> list[str]:
    return [f"{_short(reason)} ({count}x)" for reason, count in sorted(frames.items())]


def _signature(recorder: LiveRecorder, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Shapes of all arguments, and which parameters are among them."""
    return tuple(
        (tuple(x.shape), x.dtype, x.stride(), recorder.named(x)) if isinstance(x, torch.Tensor) else (type(x), x)
        for x in pytree.tree_leaves(args)
    )


def _short(reason: str) -> str:
    """The first line of Dynamo's reason, and what it was about."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    about = [line.removeprefix("Developer debug context: ") for line in lines if line.startswith("Developer debug")]
    return f"{lines[0]}: {about[0]}" if about and about[0] else lines[0] if lines else "no reason given"


_account()
register_compile_backend(regflat, "regflat")
