"""Passes of a deep model from two shallow ones: its layers repeat, so that costs grow by the layer on a straight line.

Which layers are alike is read off the model itself (classes, parameters, plain attributes): after the first few they
repeat with some period. Both shallow models have the first few, and so many layers more that the whole model has a
whole number of periods beyond them. Stages of a pipeline share these captures: they are the same layers, and what they
send is priced by itself.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..capture.huggingface import ModelSpec, build, resolve
from ..capture.prefill import signature
from ..hardware.chip import Chip
from ..interconnect.price import price
from ..layout import Layout
from ..served import StepCost, between, total
from ..workload import Collective
from .steps import ONE, Model, Step, Steps

GROUP = 4
"""At least so many layers lie between the two depths, and in the repeated part of the shallower one."""
LONGEST = 12
"""Layers of the longest period that is looked for."""
_ACTIVATION_BYTES = 2
_NUMBER = re.compile(r"^\d+ (?=weights )")
"""Counts in notes are those of the shallow model."""


@dataclass(frozen=True, slots=True)
class Depths:
    """Layers of a model, and of the two that stand for it."""

    layers: int
    shallow: int
    deep: int

    @property
    def share(self) -> float:
        """How far beyond the shallow model the whole one is, of the distance to the deep one."""
        return (self.layers - self.shallow) / (self.deep - self.shallow)


def depths_of(model: Model) -> Depths | None:
    """The depths for a model; None where it is not much deeper, its layers do not repeat, or it is a module."""
    found = _spec(model)
    if found is None:
        return None
    whole = _signatures(build(found, dtype=model.dtype))
    chosen = chosen_depths(whole)
    if chosen is None:
        return None
    deep = _signatures(_cut(found, chosen.deep, model.dtype))
    return chosen if deep == whole[: chosen.deep] else None


def chosen_depths(layers: Sequence[object]) -> Depths | None:
    """Depths for layers of these kinds, the smallest that there are."""
    count, best = len(layers), None
    for period in range(1, LONGEST + 1):
        first = count - period
        while first > 0 and layers[first - 1] == layers[first - 1 + period]:
            first -= 1
        group = period * math.ceil(GROUP / period)
        shallow = first + (count - first) % period + group
        if count > shallow + 2 * group and (best is None or shallow + group < best.deep):
            best = Depths(count, shallow, shallow + group)
    return best


def _signatures(module: nn.Module) -> list[object]:
    """What each of the repeated layers is, of the longest list of them."""
    lists = [found for found in module.modules() if isinstance(found, nn.ModuleList)]
    longest = max(lists, key=len, default=None)
    return [] if longest is None else [signature(layer) for layer in longest]


class ShallowSteps(Steps):
    """As `Steps`, from two shallow models."""

    def __init__(self, model: Model, chip: str | Path | Chip, depths: Depths) -> None:
        super().__init__(model, chip)
        self.depths = depths
        found = _spec(model)
        assert found is not None
        text = _text(found.config)
        self.hidden, self.tied = int(_get(text, "hidden_size")), _get(text, "tie_word_embeddings") is not False
        # Captures are shared with other chips through the model.
        cut = model.shared.setdefault("shallow", {})
        for depth in (depths.shallow, depths.deep):
            if depth not in cut:
                module = _cut(found, depth, model.dtype)
                cut[depth] = replace(model, spec=module, dtype=None, shared={}, _captured={})
        self.two = [Steps(cut[depth], self.chip) for depth in (depths.shallow, depths.deep)]

    def split(self, steps: Sequence[Step], layout: Layout = ONE) -> list[tuple[StepCost, StepCost]]:
        new = [step for step in dict.fromkeys(steps) if (step, layout) not in self._known]
        self._known.update(zip(((step, layout) for step in new), self._joined(new, layout), strict=True))
        return [self._known[step, layout] for step in steps]

    def _joined(self, steps: Sequence[Step], layout: Layout) -> list[tuple[StepCost, StepCost]]:
        if not steps:
            return []
        whole = replace(layout, pp=1)
        shallow, deep = (some.split(steps, whole) for some in self.two)
        first = self.two[0]
        self.interval, self.peak_flops, self.dtype = first.interval, first.peak_flops, first.dtype
        said = f"priced from {self.depths.shallow} and {self.depths.deep} of its layers"
        self.notes = (*(_NUMBER.sub("", note) for note in first.notes), said)
        found = []
        for step, one, other in zip(steps, shallow, deep, strict=True):
            rest, attention = (self._staged(a, b, layout) for a, b in zip(one, other, strict=True))
            found.append((total([(rest, 1.0), (self._sends(step, layout), 1.0)]), attention))
        return found

    def _staged(self, shallow: StepCost, deep: StepCost, layout: Layout) -> StepCost:
        """All layers, on as many stages, and the fullest chip of them."""
        depths = self.depths
        found = between(shallow, deep, depths.share)
        if layout.pp == 1:
            return found
        most, least = math.ceil(depths.layers / layout.pp), depths.layers // layout.pp
        memory: dict[str, Any] = {}
        for name in ("weights_bytes", "kv_cache_bytes"):
            layer = (getattr(deep, name) - getattr(shallow, name)) / (depths.deep - depths.shallow)
            rest = max(getattr(found, name) - depths.layers * layer, 0.0)
            memory[name] = most * layer + rest * (1.0 if self.tied else 0.5)  # embedding and head are on two stages
        layer_s = (deep.seconds - shallow.seconds) / (depths.deep - depths.shallow)
        head_s = max(found.seconds - depths.layers * layer_s, 0.0)
        slowest = max(most * layer_s, least * layer_s + head_s)
        uneven = max(layout.pp * slowest / found.seconds, 1.0) if found.seconds else 1.0
        low, high = (None if end is None else end * uneven for end in (found.low_s, found.high_s))
        bounds = {name: seconds * uneven for name, seconds in found.bound_s.items()}
        return replace(found, seconds=found.seconds * uneven, low_s=low, high_s=high, bound_s=bounds, **memory)

    def _sends(self, step: Step, layout: Layout) -> StepCost:
        """What handing hidden states on between stages takes."""
        if layout.pp == 1:
            return StepCost(seconds=0.0, low_s=0.0, high_s=0.0)
        size = math.ceil(step.batch / layout.dp) * step.new * self.hidden * _ACTIVATION_BYTES
        link = Collective("send", float(size), 2, layout.tp * layout.dp)
        software = self.execution.software_of(self.chip)
        sent = price(self.chip, link, software)
        count, chips = layout.pp - 1, layout.tp * layout.dp
        seconds = count * sent.seconds
        energy = {"network": count * chips * sent.joules}
        return StepCost(seconds, seconds, seconds, energy_j=energy, bound_s={"network": seconds})




def steps_of(model: Model, chip: str | Path | Chip) -> Steps:
    """Steps of a model, if possible from two shallow ones."""
    if "depths" not in model.shared:
        model.shared["depths"] = depths_of(model)
    depths: Depths | None = model.shared["depths"]
    return Steps(model, chip) if depths is None else ShallowSteps(model, chip, depths)


def _spec(model: Model) -> ModelSpec | None:
    if not isinstance(model.spec, str):
        return None
    found = resolve(model.spec, trust_remote_code=model.trust_remote_code)
    return None if found.kind == "factory" or _get(_text(found.config), "num_hidden_layers") is None else found


def _cut(found: ModelSpec, depth: int, dtype: str | None) -> nn.Module:
    """The model with its first layers only."""
    config = copy.deepcopy(found.config)
    text = _text(config)
    layers = _get(text, "num_hidden_layers")
    for name, value in list(_items(text)):
        if isinstance(value, list) and len(value) == layers:
            _set(text, name, value[:depth])
    _set(text, "num_hidden_layers", depth)
    return build(replace(found, config=config), dtype=dtype)


def _text(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _get(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, dict) else getattr(config, name, None)


def _set(config: Any, name: str, value: Any) -> None:
    if isinstance(config, dict):
        config[name] = value
    else:
        setattr(config, name, value)


def _items(config: Any) -> Any:
    return config.items() if isinstance(config, dict) else vars(config).items()
