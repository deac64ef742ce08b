"""`profiling`: the context manager that records what ordinary eager code does, while it does it."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import nn

from .capture.inputs import home_device
from .capture.live import LiveRecorder
from .errors import InputError

if TYPE_CHECKING:
    from .profiler import Profile


class Profiling:
    """What `with profiling(...) as p` gives: after the block, `p.profile`."""

    def __init__(self, options: dict[str, Any], model: nn.Module | None, name: str | None) -> None:
        if model is not None and not isinstance(model, nn.Module):
            raise InputError(f"profiling() takes the module whose paths are wanted, found {type(model).__name__}")
        self._options, self._model = options, model
        self._name = name or (type(model).__name__ if model is not None else "profiling")
        self._stack: ExitStack | None = None
        self._recorder: LiveRecorder | None = None
        self._raised: BaseException | None = None
        self._profile: Profile | None = None

    def __enter__(self) -> Profiling:
        if self._recorder is not None:
            raise InputError("this profiling() was entered before; make a new one for each block")
        recorder = LiveRecorder(self._model, self._name, home_device(self._model, ()))
        stack = ExitStack()
        stack.enter_context(recorder.recording())
        self._recorder, self._stack = recorder, stack
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._stack is not None
        self._stack.close()
        self._stack, self._raised = None, error

    @property
    def profile(self) -> Profile:
        """The profile of everything that ran in the block; worked out when it is first asked for."""
        if self._recorder is None or self._stack is not None:
            raise InputError("the profile is there after the with block of profiling(), not before or inside")
        if self._raised is not None:
            raise InputError(
                f"the with block of profiling() ended early with {type(self._raised).__name__}, so there is no profile"
            )
        if self._profile is None:
            from .profiler import profile_recorded

            self._profile = profile_recorded(self._recorder, name=self._name, phase="eager", **self._options)
        return self._profile

    def __repr__(self) -> str:
        state = "not entered" if self._recorder is None else "running" if self._stack is not None else "done"
        return f"<profiling {self._name}: {state}>"
