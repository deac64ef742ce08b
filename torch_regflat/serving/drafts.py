"""Speculative decoding: what a round of drafting and checking costs, by the context it is done at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..hardware.chip import Chip
from ..layout import Layout
from ..served import Drafting, StepCost, total
from .steps import ONE, Model, Step, Steps


def drafting(length: int, acceptance: float, model: str = "", share: float | None = None) -> Drafting:
    """Checked: a draft of a token at least, and either a draft model or what a draft costs.

    Raises `InputError` where a value makes no sense.
    """
    if length < 1:
        raise InputError(f"the draft length is {length}; it must be 1 or more")
    if not 0.0 <= acceptance <= 1.0:
        raise InputError(f"acceptance is {acceptance:g}; it is the share of drafted tokens that are accepted, 0 to 1")
    if bool(model) == (share is not None):
        raise InputError("give either a draft model or draft_share, the cost of a drafted token (as 0.05)")
    if share is not None and share < 0.0:
        raise InputError(f"draft_share is {share:g}; it must be 0 or more")
    return Drafting(length, acceptance, model, share)


class Decoding:
    """Costs of a token for all of `batch` sequences, with or without drafts, at given contexts."""

    def __init__(self, steps: Steps, drafting: Drafting | None, layout: Layout = ONE) -> None:
        self.steps, self.drafting, self.layout = steps, drafting, layout
        named = drafting.model if drafting is not None else ""
        self.drafts = draft_steps(steps.model, named, steps.chip) if named else None

    def costs(self, batch: int, contexts: Sequence[int]) -> list[StepCost]:
        """Mean cost of a token at each of the contexts (tokens cached before it)."""
        if self.drafting is None:
            return self.plain(batch, contexts)
        draft = self.drafting
        rounds = self.rounds(batch, contexts)
        return [total([(cost, 1.0 / draft.tokens)]) for cost in rounds]

    def plain(self, batch: int, contexts: Sequence[int]) -> list[StepCost]:
        """The same without drafts."""
        return self.steps.costs([Step(batch, 1, context) for context in contexts], self.layout)

    def rounds(self, batch: int, contexts: Sequence[int]) -> list[StepCost]:
        """Cost of a round: all drafts, one after the other, and the pass that checks them."""
        draft = self.drafting
        assert draft is not None
        checks = [Step(batch, draft.length + 1, context, draft.length + 1) for context in contexts]
        checked = self.steps.costs(checks, self.layout)
        if self.drafts is None:
            share = draft.share or 0.0
            drafted, each = self.plain(batch, contexts), share * draft.length
        else:
            drafted = self.drafts.costs([Step(batch, 1, context) for context in contexts], self.layout)
            each = float(draft.length)
        return [
            self._with_room(check, one, total([(check, 1.0), (one, each)]))
            for check, one in zip(checked, drafted, strict=True)
        ]

    def _with_room(self, check: StepCost, one: StepCost, both: StepCost) -> StepCost:
        """A draft model has weights and a cache of its own beside those of the model."""
        if self.drafts is None:
            return both
        return replace(
            both,
            weights_bytes=check.weights_bytes + one.weights_bytes,
            kv_cache_bytes=check.kv_cache_bytes + one.kv_cache_bytes,
        )


def draft_steps(model: Model, name: str, chip: str | Path | Chip) -> Steps:
    """Steps of the model that drafts, executed as the one it drafts for."""
    return Steps(Model(name, mode=model.mode, software=model.software), chip)
