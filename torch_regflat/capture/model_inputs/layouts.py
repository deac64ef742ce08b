"""Layouts that declarations leave open, the likeliest first."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from .compose import OPTIONAL
from .declared import Layout
from .sound import SAMPLES

_SIZES = ((448, 448), (512, 512), (1024, 1024), (48, 320), (96, 320))  # the last two are lines of text
_STATES = ("hidden_states", "patch_embeds", "image_features", "context_hidden_states")


def usual(model: nn.Module) -> list[Layout]:
    """Bins or frames first, one channel or none, a clip or a picture."""
    parameters = inspect.signature(model.forward).parameters
    plain, flipped = Layout(), Layout(flip=True)
    if "input_features" in parameters:
        widths = dict.fromkeys((128, *_first_widths(model)))
        return [plain, flipped, *(Layout(bins=width, flip=flip) for width in widths for flip in (False, True))]
    if "input_values" in parameters:
        return [plain, flipped]
    if "pixel_values" in parameters:
        config = getattr(model, "config", None)
        is_clip = any(hasattr(config, name) for name in ("num_frames", "frames_per_clip"))
        return [flipped, plain] if is_clip else [plain, flipped]
    return [plain]


def further(model: nn.Module, tokens: int) -> Iterator[Layout]:
    """For models that none of the usual ones suits: parts of models, and sizes that no configuration names."""
    parameters = inspect.signature(model.forward).parameters
    config: Any = model.config
    widths = _widths(model)
    if any(name in parameters for name in (*OPTIONAL, *_STATES, "attention_mask")):
        yield Layout(optional=True)
        yield from (Layout(optional=True, embeds=True, bins=width) for width in (None, *widths))
        yield from (Layout(optional=True, bins=width) for width in widths)
    if "pixel_values" in parameters:
        yield from (Layout(pixels_as=way) for way in ("frames", "one", "colours last"))
        yield Layout(pixels_as="one", optional=True)
        yield from (Layout(size=size) for size in _SIZES)
    if any(name in parameters for name in _STATES):
        yield Layout(states_as="pixels")
        yield from (Layout(states_as="states", bins=width) for width in widths)
        yield Layout(states_as="channels")
    if "input_features" in parameters:
        factor = getattr(config, "downsample_factor", None)
        if isinstance(factor, int):  # as many sounds as tokens
            yield Layout(frames_of_sound=2 * factor * tokens)
        hop = getattr(config, "hop_length", None)
        if isinstance(hop, int) and "input_values" in parameters:  # as many features as codes
            yield from (Layout(frames_of_sound=SAMPLES // hop, bins=width) for width in widths)
    if "input_values" in parameters:
        yield from (Layout(states_as="states", optional=optional) for optional in (False, True))


def _widths(model: nn.Module) -> list[int]:
    """Numbers that a state may have."""
    config: Any = model.config
    sizes = [getattr(config, name, None) for name in ("input_size", "input_dim", "hidden_size_global", "mel_dim")]
    if hasattr(config, "target_layer_ids") and hasattr(config, "hidden_size"):  # the states of several layers at once
        sizes.append(config.hidden_size * len(config.target_layer_ids))
    return [width for width in (*_first_widths(model), *sizes) if isinstance(width, int)]


def _first_widths(model: nn.Module) -> list[int]:
    """The width that the first product and the first norm of a model take: that of its features, for many."""
    linear = next((m.in_features for m in model.modules() if isinstance(m, nn.Linear)), None)
    norm = next((m.normalized_shape[-1] for m in model.modules() if isinstance(m, nn.LayerNorm)), None)
    return [width for width in (linear, norm) if width is not None]
