"""What parts of models read (states, features, latents), and series of numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .declared import Declared, Maker, first_int, nested
from .images import channels, image_size, is_patched, pixels
from .sound import SAMPLES, first_convolution, samples

_LONGEST = 512  # steps of a series


def states(d: Declared) -> Tensor:
    """What a part of a model reads: states, or patches, or a picture or a sound, where it is the first part."""
    if d.layout.states_as == "pixels":
        return d.meta(d.batch, channels(d), *image_size(d))
    if d.layout.states_as == "channels" and "patch_embeds" in d.parameters:
        return d.meta(d.batch, d.width, 16, 16)
    if d.layout.states_as == "channels":  # a sound
        first = first_convolution(d)
        return d.meta(d.batch, 1 if first is None else first.in_channels, SAMPLES)
    return pixels(d) if is_patched(d) else d.meta(d.batch, d.tokens, d.width)


def _cross_states(d: Declared) -> Tensor:
    """What cross-attention reads."""
    width = first_int((d.config,), ("encoder_hidden_size", "cross_hidden_size", "hidden_size"))
    if width is None:
        raise AttributeError("hidden_size")
    return d.meta(d.batch, d.tokens, width)


def _past(d: Declared) -> int:
    """Steps of a series that are known: as many as the model looks back, at most _LONGEST."""
    lags: list[int] = getattr(d.config, "lags_sequence", None) or [0]
    return min(int(getattr(d.config, "context_length", None) or 64), _LONGEST) + max(lags)


def _past_values(d: Declared) -> Tensor:
    size: Any = getattr(d.config, "input_size", None) or getattr(d.config, "num_input_channels", 1)
    if (hasattr(d.config, "lags_sequence") and size == 1) or d.config.model_type.startswith("timesfm"):
        return d.meta(d.batch, _past(d))
    return d.meta(d.batch, _past(d), size)


def _trajectory(d: Declared, width: int) -> Tensor:
    return d.meta(d.batch, min(d.tokens, 16), width)


def _vision_features(d: Declared) -> Tensor | list[Tensor]:
    if d.layout.optional and "vision_pos_embeds" in d.parameters:
        return [d.meta(d.batch, d.config.hidden_size, 8, 8)]
    return d.meta(d.batch, 64, d.config.hidden_size)


def _action_embeds(d: Declared) -> Tensor:
    expert = nested(d.config, "dit", "expert") or d.text
    return d.meta(d.batch, getattr(d.config, "chunk_size", 16), expert.hidden_size)


MAKERS: dict[str, Maker] = {
    "hidden_states": states,
    "encoder_hidden_states": _cross_states,
    "context_hidden_states": lambda d: d.meta(d.batch, d.tokens, d.width),
    "context": lambda d: d.meta(d.batch, 64, d.width),
    "image_features": lambda d: d.meta(d.batch, 64, d.width),
    "text_features": lambda d: d.meta(d.batch, 8, d.config.hidden_size),
    "vision_features": _vision_features,
    "vision_pos_embeds": lambda d: [d.meta(d.batch, d.config.hidden_size, 8, 8)],
    "vision_pos_encoding": lambda d: d.meta(d.batch, 64, d.config.hidden_size),
    "backbone_features": lambda d: [d.meta(d.batch, d.config.hidden_size, side, side) for side in (32, 16, 8)],
    "decoder_queries": lambda d: d.meta(d.batch, 32, d.config.hidden_size),
    "query_embeds": lambda d: d.meta(d.batch, 32, d.config.hidden_size),
    "patch_embeds": lambda d: states(d) if d.layout.states_as else d.meta(d.batch, 64, d.width),
    "last_hidden_state": lambda d: d.meta(d.batch, 1, getattr(d.config, "input_size", d.width)),
    "latents": lambda d: d.meta(d.batch, d.config.hidden_size, 32),
    "noise_embeds": lambda d: d.meta(d.batch, 16, d.text.hidden_size),
    "inputs": lambda d: d.meta(d.batch, d.tokens, d.config.d_model) if hasattr(d.config, "d_model") else samples(d),
    "time_step": lambda d: torch.zeros(d.batch, dtype=d.dtype),
    # Decisions and robots.
    "states": lambda d: _trajectory(d, d.config.state_dim),
    "actions": lambda d: _trajectory(d, d.config.act_dim),
    "rewards": lambda d: _trajectory(d, 1),
    "returns_to_go": lambda d: _trajectory(d, 1),
    "timesteps": lambda d: torch.arange(min(d.tokens, 16))[None].repeat(d.batch, 1),
    "state": lambda d: d.meta(d.batch, getattr(d.config, "max_state_dim", 32)),
    "action_embeds": _action_embeds,
    # Series.
    "past_values": _past_values,
    "past_time_features": lambda d: d.meta(d.batch, _past(d), d.config.num_time_features),
    "past_observed_mask": lambda d: torch.ones(_past_values(d).shape),
    "forecast_context_len": _past,
    "past_values_padding": lambda d: torch.zeros(d.batch, _past(d), dtype=torch.long),
    "future_time_features": lambda d: d.meta(d.batch, d.config.prediction_length, d.config.num_time_features),
    "future_values": lambda d: d.meta(d.batch, d.config.prediction_length, *_past_values(d).shape[2:]),
    "freq": lambda d: torch.zeros(d.batch, 1, dtype=torch.long),
}
