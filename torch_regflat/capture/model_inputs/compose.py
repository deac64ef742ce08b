"""Which inputs go together: one value for each parameter of a model's `forward` that it has to be given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ...errors import CaptureError
from . import images, objects, sound, states, text
from .declared import Declared, Maker

MAKERS: dict[str, Maker] = {**text.MAKERS, **images.MAKERS, **sound.MAKERS, **states.MAKERS, **objects.MAKERS}

_MEDIA = (
    "pixel_values", "pixel_values_videos", "input_features", "input_values", "image_patches", "flattened_patches",
)  # fmt: skip

_COMPANIONS: dict[str, tuple[str, ...]] = {
    "pixel_values": (
        "image_grid_thw", "image_sizes", "pixel_attention_mask", "spatial_shapes", "image_grid_hws",
        "image_position_ids", "aspect_ratio_ids", "aspect_ratio_mask", "bbox", "high_res_pixel_values",
        "pixel_position_ids", "target_sizes",
    ),
    "pixel_values_videos": ("video_grid_thw",),
    "input_features": ("input_features_mask", "feature_attention_mask", "feature_lens", "aftercnn_lens"),
    "flattened_patches": ("attention_mask",),
    "states": ("actions", "rewards", "returns_to_go", "timesteps"),
    "inference_session": ("frame_idx",),
    "past_values": (
        "past_time_features", "past_observed_mask", "future_time_features", "future_values", "forecast_context_len",
    ),
}  # fmt: skip
"""Parameters without which an input cannot be read."""

OPTIONAL = (
    "encoder_hidden_states", "patch_embeds", "patch_ids", "num_patches", "last_hidden_state", "visual_feats",
    "visual_pos", "image_attention_mask", "image_embeds_position_mask", "question_positions", "vision_pos_embeds",
    "decoder_input_values", "decoder_input_ids", "grid_thw", "global_attention_mask",
)  # fmt: skip
"""Parameters with a default without which some models, and many of their parts, do not run."""

_ALWAYS = ("lang_ids", "context_input_ids", "context_attention_mask", "doc_scores")
"""Parameters with a default that stands for something a model has to be told elsewhere (a language, a retriever)."""

_NEVER = ("past_key_values", "encoder_outputs", "labels")
"""What a call makes for itself."""


def combinations(d: Declared) -> list[tuple[str, ...]]:
    """Which media go in together."""
    media = tuple(n for n in _MEDIA if n in d.parameters)
    still = tuple(n for n in media if n != "pixel_values_videos")
    alone = () if "input_ids" in d.parameters else media[:1]
    return list(dict.fromkeys([still, *((m,) for m in media), alone, media]))


def with_media(d: Declared, media: tuple[str, ...]) -> dict[str, Any]:
    """The keyword arguments with these media."""
    names = _names(d, media)
    made: dict[str, Any] = {}
    for name in (n for n in names if n != "input_ids"):
        _add(d, name, made)
    for name in [n for given in made for n in _COMPANIONS.get(given, ())]:
        if name in d.parameters and name not in made:
            _add(d, name, made)
    if d.layout.optional:
        for name in (n for n in OPTIONAL if n in d.parameters and n not in made):
            _add(d, name, made)
        if "hidden_states" in made and "attention_mask" in d.parameters:
            made["attention_mask"] = torch.ones(made["hidden_states"].shape[:2], dtype=torch.long)
    if d.layout.embeds and "inputs_embeds" in d.parameters:
        names = [n for n in names if n != "input_ids"]
        _add(d, "inputs_embeds", made)
    if "input_ids" in names:
        found = text.with_placeholders(d, made, lambda name: _add(d, name, made))
        bbox = {"bbox": found.pop("bbox")} if "bbox" in found else {}
        made = {**found, **made, **bbox}
        if d.layout.optional and "attention_mask" in d.parameters:
            made.setdefault("attention_mask", torch.ones_like(made["input_ids"]))
    if type(d.model).__name__.endswith("MultipleChoice"):
        made = text.with_choices(made)
    has_decoder = bool(getattr(d.config, "is_encoder_decoder", False)) or "decoder_input_ids" in d.required
    if (has_decoder or d.layout.optional) and "decoder_input_ids" in d.parameters:
        made["decoder_input_ids"] = text.decoder_ids(d)
    return made


def least(d: Declared) -> Iterator[dict[str, Any]]:
    """The main input without anything around it, and embeddings in place of token ids."""
    if not {"input_ids", "inputs_embeds", *d.main}.issuperset(d.required):
        return
    if "input_ids" in d.parameters:
        ids = text.ids(d, text.length(d))
        yield {"input_ids": ids}
        for books in text.codebooks(d):
            made: dict[str, Any] = {"input_ids": ids[: d.batch, :, None].repeat(1, 1, books)}
            yield made
            if "encoder_hidden_states" in d.parameters:
                _add(d, "encoder_hidden_states", made := dict(made))
                yield made
    if "inputs_embeds" in d.parameters and hasattr(d.text, "hidden_size"):
        yield {"inputs_embeds": MAKERS["inputs_embeds"](d)}


def _names(d: Declared, media: tuple[str, ...]) -> list[str]:
    names = [n for n in d.parameters if n in media or n in d.required or n in _ALWAYS]
    if not media or (not any(n in d.main for n in names) and any(n in d.required for n in d.main)):
        names += [n for n in d.main if n in d.parameters and n not in names]
    if media and "input_ids" in d.parameters:
        names = ["input_ids", *[n for n in names if n != "input_ids"]]
    if "input_ids" in names:
        names = [n for n in names if n != "inputs_embeds"]
    return list(dict.fromkeys(n for n in names if n not in _NEVER))


def _add(d: Declared, name: str, made: dict[str, Any]) -> None:
    """Make an input by name; one that is not required and has no size is left out."""
    kind = type(d.model).__name__
    if name not in MAKERS:
        if name in d.required:
            raise CaptureError(f"no input {name!r} can be made for {kind}")
        return
    try:
        value = MAKERS[name](d)
    except (AttributeError, TypeError) as error:
        if name not in d.required:
            return
        raise CaptureError(f"no input {name!r} can be made for {kind}: its configuration has no size for it") from error
    if value is not None:
        made[name] = value
