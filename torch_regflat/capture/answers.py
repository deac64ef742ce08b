"""What a recorder answers when code asks for values: exactly where they are known, as hinted, or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch

from ..errors import CaptureError
from ._torch_private import DYNAMIC_SHAPE, OpInfo, run_on_meta
from .hints import NOTHING, Hints, Supplied, as_count, as_number, as_tensor
from .names import safe_answer, user_line
from .sized import sized
from .values import Unknown

if TYPE_CHECKING:
    from .recorder import Recorder

_MASKED_WRITES = frozenset({torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default})


def _asks_for_rows(error: Exception) -> bool:
    """Whether a meta kernel gave up because the number of rows depends on values."""
    return "nonzero" in str(error) or "without output_size" in str(error)


def _is_masked(indices: Any) -> bool:
    """Whether elements are picked by a mask: how many are written then depends on values, the shape does not."""
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


class Answers:
    """Answers for one recorder, whose recorded graph says what a value depends on."""

    def __init__(self, recorder: Recorder, hints: Hints | None) -> None:
        self.recorder, self.hints = recorder, Supplied(hints)

    def result(self, func: Any, info: OpInfo, actual: tuple[Any, Any], recorded: tuple[Any, Any]) -> Any:
        """What an operator gives on meta; where its shape depends on values, with those."""
        try:
            return run_on_meta(func, *actual)
        except Exception as error:
            # Perhaps its shape depends on values: with known values it can be run for real.
            try:
                real = self.recorder.values.run(func, *recorded)
                self.recorder.check_layout(real)
            except Unknown as unknown:
                if func in _MASKED_WRITES and _is_masked(actual[0][1]):
                    return actual[0][0] if info.writes else torch.empty_like(actual[0][0])
                if info.data_dependent or isinstance(error, DYNAMIC_SHAPE) or _asks_for_rows(error):
                    return self._of_unknown_size(func, actual, recorded, unknown)
                raise error from None
            except CaptureError:
                raise
            except Exception:
                raise error from None
            return torch.utils._pytree.tree_map_only(torch.Tensor, self.recorder.twins.make, real)

    def _of_unknown_size(self, func: Any, actual: tuple[Any, Any], recorded: tuple[Any, Any], unknown: Unknown) -> Any:
        """An operator whose number of rows depends on values: known from part of them, or hinted, or refused."""
        if func is torch.ops.aten.index.Tensor:
            with suppress(Unknown):
                return func(actual[0][0], self._known_indices(recorded[0][1], actual[0][1]))
        if func is torch.ops.aten.repeat_interleave.self_Tensor:
            with suppress(Unknown):
                rows = self.recorder.values.run(torch.ops.aten.sum.default, (recorded[0][1],), {})
                return func(*actual[0], **{**actual[1], "output_size": int(rows)})
        hint = self.hinted()
        if hint is NOTHING:
            raise self.refusal(f"needs the values of a tensor ({func})", unknown)
        return sized(func, actual, as_count(*hint))

    def _known_indices(self, recorded: Any, actual: Any) -> list[Any]:
        """The indices with masks, whose values are known, as positions: the shape depends on nothing else."""
        found: list[Any] = []
        for node, index in zip(recorded, actual, strict=True):
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                found.append(index)
            else:
                rows = self.recorder.values.run(torch.ops.aten.nonzero.default, (node,), {})
                found += [column.to("meta") for column in rows.unbind(1)]
        return found

    def number(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The value that an operator such as `item` returns."""
        try:
            return self.recorder.values.run(func, args, kwargs)
        except Unknown as unknown:
            safe = safe_answer()
            if safe is not None:
                return safe
            hint = self.hinted()
            if hint is not NOTHING:
                return as_number(*hint)
            raise self.refusal(f"asks for the value of a tensor ({func})", unknown) from None

    def values(self, tensor: torch.Tensor, asked: str) -> torch.Tensor:
        """The real values of a meta tensor, asked for outside any operator (`tolist`, `numpy`)."""
        with self.recorder.paused():
            try:
                real: torch.Tensor = self.recorder.values.evaluate(self.recorder.node(tensor))
            except Unknown as unknown:
                hint = self.hinted()
                if hint is not NOTHING:
                    return as_tensor(hint[0], tensor, hint[1])
                raise self.refusal(f"asks for the values of a tensor ({asked})", unknown) from None
        return real

    def hinted(self) -> Any:
        """(The hint for the code that runs now, where it is), or NOTHING."""
        line = user_line()
        hint = self.hints.find(self.recorder.stack[-1][0], line)
        if hint is NOTHING:
            return NOTHING
        self.recorder.values.asked += 1
        return hint, line

    def refusal(self, does: str, unknown: Unknown) -> CaptureError:
        """The error for a value that is not known: where, on what it depends, and how to give it."""
        advice = self._advice_for_experts() or unknown.advice
        line = user_line()
        key = self.recorder.stack[-1][0] or line.rpartition(os.sep)[2]
        error = CaptureError(
            f"{self.recorder.here()}: {line} {does} that depends on {unknown.why}; {advice}, "
            f"or give the value with hints={{{key!r}: ...}}"
        )
        error.whatever_the_input = unknown.of_weights
        return error

    def _advice_for_experts(self) -> str:
        """For a loop over the experts that were hit, which transformers can replace by one grouped product."""
        modules = [module for _, module in self.recorder.stack if module is not None]
        if not modules or not type(modules[-1]).__name__.endswith("Experts"):
            return ""
        if not any(hasattr(module, "set_experts_implementation") for module in modules):
            return ""
        return "call model.set_experts_implementation('grouped_mm'), whose work needs no values"
