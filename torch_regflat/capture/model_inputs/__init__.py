"""Inputs of a transformers model from its own declarations: the parameters of its `forward` and its configuration.

Large inputs (images, sound, states) are meta tensors. What models read the values of (token ids with placeholders for
images, grids, sizes, masks) is a small real tensor on the CPU, so that questions about it have an exact answer. A new
kind of input is one entry in the MAKERS of its kind: `text`, `images`, `sound` or `states`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ...errors import CaptureError
from .. import state
from ..inputs import is_cache
from .compose import combinations, least, with_media
from .declared import Declared, Layout
from .layouts import further, usual

__all__ = ["candidates", "describe"]


def candidates(model: nn.Module, batch: int, tokens: int) -> Iterator[dict[str, Any]]:
    """Inputs for `model`, the richest first: all its modalities, each alone with text, the main input alone."""
    seen: list[Any] = []
    errors: list[CaptureError] = []

    def in_layout(layout: Layout) -> Iterator[dict[str, Any]]:
        return _all_media(Declared(model, batch, tokens, layout), errors)

    ways = itertools.chain(
        map(in_layout, usual(model)),
        (least(Declared(model, batch, tokens, Layout())),),
        map(in_layout, further(model, tokens)),
    )
    for made in itertools.chain.from_iterable(ways):
        shapes = sorted((k, _shape(v)) for k, v in made.items())
        if shapes not in seen:
            seen.append(shapes)
            yield made
    if not seen and errors:
        raise errors[0]


def describe(kwargs: dict[str, Any]) -> str:
    """`input_ids [1, 8], pixel_values [1, 3, 224, 224]`."""
    parts = []
    for name, value in kwargs.items():
        tensors = [t for t in (value if isinstance(value, list) else [value]) if isinstance(t, Tensor)]
        parts += [f"{name} {list(tensor.shape)}" for tensor in tensors]
        if state.is_stateful(value) and not is_cache(value):
            parts.append(f"{name} ({type(value).__name__})")
    return ", ".join(parts)


def _all_media(d: Declared, errors: list[CaptureError]) -> Iterator[dict[str, Any]]:
    for media in combinations(d):
        try:
            yield with_media(d, media)
        except CaptureError as caught:  # its own feature extractor does not run: perhaps without that medium
            errors.append(caught)


def _shape(value: Any) -> Any:
    return [_shape(v) for v in value] if isinstance(value, list) else getattr(value, "shape", None)
