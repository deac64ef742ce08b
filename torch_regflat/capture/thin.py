"""A model with only a few of its repeated layers, which stand for the others: for sums over layers, not for graphs.

Of the layers that are built alike (`fingerprint`) some are kept: the first, those in the middle, which have the same
neighbours as any other, and the last.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from .fingerprint import fingerprint

KEPT = 3
"""Layers kept of each kind: one between two of its kind is like all others."""


@dataclass(frozen=True)
class Thin:
    """Which layers of a model are kept. `kinds` numbers the kind of each of its layers, `kept` their indices."""

    container: str
    kinds: tuple[int, ...]
    kept: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Thin | None:
        """The longest list of layers of a model, thinned; None where that would leave none out."""
        lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
        if not lists:
            return None
        container, layers = max(lists, key=lambda item: len(item[1]))
        numbers: dict[Hashable, int] = {}
        kinds = []
        for index, layer in enumerate(layers):
            built = fingerprint(layer, index, len(layers))
            kinds.append(numbers.setdefault(id(layer) if built is None else built, len(numbers)))
        kept = [i for i, kind in enumerate(kinds) if kinds[:i].count(kind) < KEPT]
        return cls(container, tuple(kinds), tuple(kept)) if len(kept) < len(kinds) else None

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within this, the model has only the layers that are kept, numbered anew."""
        layers = model.get_submodule(self.container)
        before = dict(layers._modules)
        all_layers = list(before.values())
        layers._modules.clear()
        layers._modules.update({str(at): all_layers[index] for at, index in enumerate(self.kept)})
        try:
            yield
        finally:
            layers._modules.clear()
            layers._modules.update(before)

    def counts(self, layers: range) -> dict[int, int]:
        """How many layers of each kind there are among some of the whole model."""
        found: dict[int, int] = {}
        for index in layers:
            found[self.kinds[index]] = found.get(self.kinds[index], 0) + 1
        return found

    def standing_for(self) -> dict[int, int]:
        """Of each kind, the position among the kept layers of the one that stands for the others."""
        found: dict[int, list[int]] = {}
        for at, index in enumerate(self.kept):
            found.setdefault(self.kinds[index], []).append(at)
        return {kind: places[len(places) // 2] for kind, places in found.items()}
