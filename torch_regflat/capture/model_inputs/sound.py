"""Sound: samples, or frames of features made of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .declared import Declared, Maker, first_int

SAMPLES = 19200
_BINS = (
    "feature_projection_input_dim", "input_feat_per_channel", "num_mel_bins", "n_mels", "feature_size", "num_mels",
    "input_dim", "mel_bins", "input_feat_size", "feat_dim", "num_chroma",
)  # fmt: skip
"""Names that configurations have for the numbers in a frame."""


def bins(d: Declared) -> int:
    """Numbers in a frame."""
    if d.layout.bins is not None:
        return d.layout.bins
    found = first_int((d.audio, d.config), _BINS)
    return 80 if found is None else found


def sound_frames(d: Declared) -> int:
    """Frames of a sound."""
    if d.layout.frames_of_sound is not None:
        return d.layout.frames_of_sound
    for config in (d.audio, d.config):
        value = getattr(config, "max_source_positions", None)
        if isinstance(value, int) and value <= 3000:
            return 2 * value
    return 400


def features(d: Declared) -> Tensor:
    """Log-mel features: bins first where Whisper's convolutions read them, frames first elsewhere."""
    width = bins(d)
    if "is_longer" in d.parameters or hasattr(d.audio, "spec_size"):  # CLAP: as an image
        return d.meta(d.batch, 1, 1001, width)
    if "feature_lens" in d.parameters:  # all sounds in a row
        return d.meta(width, 200 * d.batch)
    first = first_convolution(d)
    bins_first = (first is not None and first.in_channels == width) != d.layout.flip
    return d.meta(d.batch, *((width, sound_frames(d)) if bins_first else (sound_frames(d), width)))


def first_convolution(d: Declared) -> nn.Conv1d | None:
    """The first convolution over time."""
    return next((m for m in d.model.modules() if isinstance(m, nn.Conv1d)), None)


def samples(d: Declared) -> Tensor:
    """A sound as it comes from a microphone."""
    config: Any = d.config
    if d.layout.states_as:
        return d.meta(d.batch, d.tokens, d.width)
    if all(hasattr(config, name) for name in ("num_mel_bins", "max_length", "patch_size")):
        return d.meta(d.batch, config.max_length, config.num_mel_bins)  # a spectrogram as an image
    channels = getattr(config, "audio_channels", None)
    if isinstance(channels, int):
        return d.meta(d.batch, channels, SAMPLES)
    if d.layout.flip or (hasattr(d.model, "encode") and hasattr(d.model, "decode")):  # the latter is a codec
        return d.meta(d.batch, 1, SAMPLES)
    return d.meta(d.batch, SAMPLES)


def _frames_so_far(d: Declared) -> Tensor:
    """Frames that a decoder has made of a sound."""
    return samples(d) if d.layout.states_as else d.meta(d.batch, min(d.tokens, 16), d.config.num_mel_bins)


MAKERS: dict[str, Maker] = {
    "input_features": features,
    "input_values": samples,
    "decoder_input_values": _frames_so_far,
    "input_features_mask": lambda d: torch.ones(d.batch, sound_frames(d), dtype=torch.long),
    "feature_attention_mask": lambda d: torch.ones(d.batch, sound_frames(d), dtype=torch.long),
    "feature_lens": lambda d: torch.tensor([200] * d.batch),
    "aftercnn_lens": lambda d: torch.tensor([50] * d.batch),
    "chunk_sample_lengths": lambda d: torch.tensor([SAMPLES] * d.batch),
    "audio_input_ids": lambda d: torch.zeros(d.batch, d.tokens, bins(d), dtype=torch.long),
    "audio_mel": lambda d: d.meta(d.batch, 128, d.config.input_feat_size),
    "audio_mel_mask": lambda d: torch.zeros(d.batch, 128, dtype=torch.bool),
    "mel_spectrogram": lambda d: d.meta(d.batch, getattr(d.config, "mel_dim", 80), 64),
    "spectrogram": lambda d: d.meta(d.batch, 64, d.config.model_in_dim),
    "condition_vector": lambda d: d.meta(d.batch, d.tokens, d.config.mel_dim),
    "speaker_embedding": lambda d: d.meta(d.batch, d.tokens, d.config.enc_emb_dim),
    "code": lambda d: torch.zeros(d.batch, d.tokens, dtype=torch.long),
    "conditioning": lambda d: d.meta(d.batch, d.config.dit_config.enc_emb_dim),
    "reference_mel": lambda d: d.meta(d.batch, 2 * d.tokens, d.config.dit_config.mel_dim),
    "quantized_code": lambda d: torch.zeros(d.batch, d.tokens // getattr(d.config, "repeats", 1), dtype=torch.long),
}
