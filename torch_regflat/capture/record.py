"""Record the ATen operators that a module or function runs, on meta tensors, as an fx graph.

Nothing is computed and nothing of the user's is copied, moved or changed: every tensor that arrives is replaced, as
it arrives, by a meta twin of the same shape. In inference mode composite operators (linear, attention, norms) reach
the dispatch mode whole, so they stay whole in the graph.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule
from torch.nn.parameter import UninitializedParameter

from ..errors import CaptureError, RegflatError
from ..operators.lowering import workload
from . import state
from ._torch_private import active_autocast, as_written, intercepted
from .autocast import casting
from .graphs import as_callable
from .hints import Hints
from .inputs import Inputs, home_device
from .recorder import Recorder
from .repeats import Leak
from .replaced import replaced
from .stand_ins import StandIns, has_shards


@dataclass(frozen=True)
class Captured:
    """A graph, and what the call returned: its tensors are meta, a cache in it can be passed to the next capture."""

    graph: GraphModule
    result: Any


def capture(
    fn: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    repeats: bool = True,
    kv_cache: Any = (),
    hints: Hints | None = None,
) -> GraphModule:
    """Record `fn(*args, **kwargs)` as an fx graph of ATen operators; nothing is computed.

    `fn` is a module, a method, a function or a `GraphModule`, which is run node by node. Tensors may be on any device;
    meta tensors suffice. `kv_cache` holds the objects (caches, tensors, nested) whose tensors are marked as key-value
    cache; objects among the arguments whose class is called `...Cache` are found by themselves. With `repeats`, layers
    that are built alike and called alike are run once and copied. `hints` answers questions about values that cannot be
    worked out, by module path or `file:line` (see `capture.hints`). Placeholders are the tensors of the arguments in
    order, then those of `kv_cache`; the output is the flat tuple of the tensors in the result.
    """
    return capture_with_result(fn, args, kwargs, repeats=repeats, kv_cache=kv_cache, hints=hints).graph


def capture_with_result(
    fn: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    repeats: bool = True,
    kv_cache: Any = (),
    restore: bool = True,
    hints: Hints | None = None,
) -> Captured:
    """As `capture`, and also what the call returned.

    Objects passed in (caches) get back the state they had; with `restore=False` they keep what the call did to them.
    """
    if not callable(fn):
        raise CaptureError(f"a {type(fn).__name__} cannot be captured; pass a module or a function")
    fn = as_written(fn)
    if isinstance(fn, torch.nn.Module):
        _refuse_lazy(fn)
    try:
        return _Run(fn, args, kwargs or {}, kv_cache, restore, hints).record(repeats)
    except Leak:
        # A repeated layer left a tensor behind by a way that copying cannot follow, so every layer is run.
        return _Run(fn, args, kwargs or {}, kv_cache, restore, hints).record(False)


def _refuse_lazy(module: torch.nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise CaptureError(
                f"the parameter {name!r} has no shape yet, as its lazy module has not been run; "
                "call the model once on real inputs before profiling it"
            )


_RIDGE = 300
"""FLOPs that take as long as a byte on a present-day accelerator, to compare branches without one."""


def work_of(fn: Callable[..., Any], operands: Any) -> float:
    """FLOPs and bytes of a call as one number; `_RIDGE` FLOPs count as much as a byte."""
    nests = [nest for op in workload(capture(fn, tuple(operands))) for nest in op.nests]
    return sum((nest.work + nest.vector_ops) / _RIDGE + nest.compulsory_bytes() for nest in nests)


class _Run:
    """One call to capture: enters the modes, leaves the user's objects as they were."""

    def __init__(
        self,
        fn: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        kv_cache: Any,
        restore: bool,
        hints: Hints | None,
    ) -> None:
        self.fn, self.args, self.kwargs, self.kv_cache, self.restore = fn, args, kwargs, kv_cache, restore
        self.hints = hints
        self.call = as_callable(fn) if isinstance(fn, GraphModule) else fn
        owner = fn if isinstance(fn, torch.nn.Module) else getattr(fn, "__self__", None)
        self.root = owner if isinstance(owner, torch.nn.Module) else None

    def record(self, repeats: bool) -> Captured:
        saved, given = state.Saved(), state.Saved()
        name = getattr(self.fn, "__name__", type(self.fn).__name__)
        home = home_device(self.root, (self.args, self.kwargs))
        stand_ins = StandIns(self.root, saved, sharded=True) if has_shards(self.root) else None
        recorder = Recorder(self.root, name, home, repeats=repeats, saved=saved, work=work_of, hints=self.hints)
        for view, shard in stand_ins.views if stand_ins is not None else ():
            recorder.names.also(view, shard)
        given.state((self.args, self.kwargs, self.kv_cache))
        finished = False
        try:
            with no_collection(), torch.inference_mode():
                args, kwargs = Inputs(recorder, self.fn, self.kv_cache).add(self.args, self.kwargs)
                with casting(active_autocast()), replaced(), intercepted(recorder), recorder:
                    result = self._call(recorder, args, kwargs)
                graph = recorder.finish(result)
            graph = stand_ins.put_back(graph) if stand_ins is not None else graph
            finished = True
            return Captured(graph, result)
        finally:
            saved.restore()
            if self.restore or not finished:
                given.restore()

    def _call(self, recorder: Recorder, args: Any, kwargs: Any) -> Any:
        try:
            return self.call(*args, **kwargs)
        except RegflatError:
            raise
        except Exception as error:
            where = recorder.where(error)
            raise CaptureError(f"{where}: {type(error).__name__}: {error}") from error


@contextmanager
def no_collection() -> Iterator[None]:
    """Without garbage collection: thousands of new nodes would set off searches of all that was ever imported."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
