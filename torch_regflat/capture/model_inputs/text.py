"""Token ids, with placeholders for the features of other media among them, and what goes with them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..record import capture_with_result
from .declared import Declared, Maker, first_int

_VOCABULARY = ("vocab_size", "text_vocab_size", "n_token", "codebook_size")
_POSITIONS = (
    "max_target_positions", "max_position_embeddings", "n_positions", "max_sequence_length", "max_text_positions",
)  # fmt: skip
_PLACEHOLDERS: dict[int, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    1: (("image_token_id", "image_token_index", "img_context_token_id"), "get_image_features", ("pixel_values",)),
    2: (("video_token_id", "video_token_index"), "get_video_features", ("pixel_values_videos",)),
    3: (("audio_token_id", "audio_token_index"), "get_audio_features", ("input_features", "input_values")),
}
"""Modality, as transformers numbers it -> (names of its token, method that makes its features, its inputs)."""
_BEFORE = {1: ("vision_start_token_id", "image_start_token_id", "boi_token_id"), 2: ("vision_start_token_id",)}
_AFTER = {1: ("vision_end_token_id", "image_end_token_id", "eoi_token_id"), 2: ("vision_end_token_id",)}
"""Names of the tokens around the placeholders of a modality."""


def vocabulary(d: Declared) -> int:
    """How many token ids the model knows."""
    found = (getattr(config, name, None) for config in (d.text, d.config) for name in _VOCABULARY)
    return next((value for value in found if isinstance(value, int) and value > 0), 100)


def length(d: Declared) -> int:
    """Tokens of text, no more than the model has positions for."""
    found = (getattr(d.text, name, None) for name in _POSITIONS)
    limit = next((value for value in found if isinstance(value, int) and value > 4), None)
    return d.tokens if limit is None else min(d.tokens, limit - 2)


def ids(d: Declared, tokens: int, of: int | None = None) -> Tensor:
    """Token ids that mean nothing special, of a vocabulary of `of`. [batch, tokens]"""
    books = getattr(d.config, "num_codebooks", None) if "Decoder" in type(d.model).__name__ else None
    special = _special_ids(d.config)
    ordinary = next((i for i in range(3, of or vocabulary(d)) if i not in special), 0)
    return torch.full((d.batch * (books or 1), max(1, tokens)), ordinary)


def decoder_ids(d: Declared) -> Tensor:
    """What a decoder starts with. [batch, tokens], and a last dimension where it reads several channels"""
    configs = tuple(getattr(d.config, name, None) for name in ("decoder", "decoder_config", "text_config"))
    made = ids(d, min(d.tokens, 4), first_int(configs, ("vocab_size",)))
    made = made.repeat(first_int(configs[:1], ("num_codebooks",)) or 1, 1)
    channels = getattr(getattr(d.config, "decoder_config", None), "num_channels", None)
    return made if channels is None else made[..., None].repeat(1, 1, channels)


def codebooks(d: Declared) -> list[int]:
    """How many ids a step may have: one for each codebook, and one for the text."""
    found = (getattr(d.config, n, None) for n in ("num_codebooks", "num_channels"))
    counts = [n for n in found if isinstance(n, int)]
    return [n + more for n in counts for more in (0, 1)]


def with_placeholders(d: Declared, made: dict[str, Any], add: Callable[[str], None]) -> dict[str, Any]:
    """Token ids with a placeholder for every feature of an image, video or sound in `made`, and what goes with them.

    `add` adds an input to `made` by name.
    """
    runs: list[tuple[int, int, int]] = []
    for kind, (token, method, keys) in _PLACEHOLDERS.items():
        token_id = first_int((d.config,), token)
        if token_id is None or not any(key in made for key in keys):
            continue
        count = _feature_count(d, method, made, add)
        if count:
            runs.append((kind, token_id, math.ceil(count / d.batch)))
    found, types = _spliced(d, runs)
    if _reads_the_end(d):
        found[:, -1] = d.config.eos_token_id
    result: dict[str, Any] = {"input_ids": found}
    if runs and "mm_token_type_ids" in d.parameters:
        result["mm_token_type_ids"] = types
    if runs and "token_type_ids" in d.parameters:
        result["token_type_ids"] = (types > 0).long()
    if "image_token_mask" in d.parameters:
        result["image_token_mask"] = types == 1
    if "bbox" in d.parameters:
        result["bbox"] = torch.zeros(*found.shape, 4, dtype=torch.long)
    return result


def with_choices(made: dict[str, Any]) -> dict[str, Any]:
    """The same with two texts to choose from: [batch, tokens, ...] -> [batch, 2, tokens, ...]."""
    of_tokens = made["input_ids"].shape if "input_ids" in made else None
    return {
        name: value[:, None].repeat(1, 2, *(1 for _ in value.shape[1:])) if value.shape[:2] == of_tokens else value
        for name, value in made.items()
    }


def _reads_the_end(d: Declared) -> bool:
    """Whether the model looks for the end of the text (BART's classifier)."""
    classifies = type(d.model).__name__.endswith("ForSequenceClassification")
    is_encoder_decoder = bool(getattr(d.config, "is_encoder_decoder", False))
    return classifies and is_encoder_decoder and isinstance(getattr(d.config, "eos_token_id", None), int)


def _spliced(d: Declared, runs: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor]:
    """Ids with runs of (modality, token, count) after the first of them, and the modality of each."""
    found = ids(d, length(d))
    types = torch.zeros_like(found)
    for kind, token_id, count in runs:
        before, after = (first_int((d.config,), names.get(kind, ())) for names in (_BEFORE, _AFTER))
        run = [
            torch.full((d.batch, n), t) for t, n in ((before, 1), (token_id, count), (after, 1)) if t is not None
        ]
        found = torch.cat([found[:, :1], *run, found[:, 1:]], dim=1)
        of = torch.zeros(d.batch, sum(r.shape[1] for r in run), dtype=torch.long)
        start = 0 if before is None else 1
        of[:, start : start + count] = kind
        types = torch.cat([types[:, :1], of, types[:, 1:]], dim=1)
    return found, types


def _feature_count(d: Declared, method: str, made: dict[str, Any], add: Callable[[str], None]) -> int:
    """How many tokens the model makes of its media, by asking its own feature extractor on meta tensors."""
    owner = next((m for m in d.model.modules() if hasattr(m, method)), None)
    if owner is None:
        return 0
    fn = getattr(owner, method)
    known = inspect.signature(fn).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for name, parameter in known.items():
        needed = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if needed and name not in made and name in d.parameters:
            add(name)
    wanted = dict(made) if open_ended and "args" in known else {k: v for k, v in made.items() if k in known}
    result = capture_with_result(fn, (), {**wanted, **({"return_dict": True} if open_ended else {})}).result
    for name in ("pooler_output", "last_hidden_state"):
        if getattr(result, name, None) is not None:
            result = getattr(result, name)
            break
    width: Any = getattr(d.text, "hidden_size", None) or getattr(d.text, "d_model", 1)
    return _numel(result) // int(width)


def _numel(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel()
    return sum(map(_numel, value)) if isinstance(value, (list, tuple)) else 0


def _special_ids(config: Any, depth: int = 0) -> set[int]:
    found: set[int] = set()
    for name, value in vars(config).items():
        if "token" in name and isinstance(value, int):
            found.add(value)
        elif "token" in name and isinstance(value, (list, tuple)):
            found |= {v for v in value if isinstance(v, int)}
        elif hasattr(value, "to_dict") and depth < 3:
            found |= _special_ids(value, depth + 1)
    return found


MAKERS: dict[str, Maker] = {
    "attention_mask": lambda d: torch.ones(d.batch, 64, dtype=torch.long),
    "global_attention_mask": lambda d: (torch.arange(length(d)) == 0).long().repeat(d.batch, 1),
    "inputs_embeds": lambda d: d.meta(d.batch, length(d), d.text.hidden_size),
    "qformer_input_ids": lambda d: ids(d, 8, 1000),
    "task_inputs": lambda d: ids(d, d.config.task_seq_len),
    "tasks_input_ids": lambda d: ids(d, 16),
    "tasks_attention_mask": lambda d: torch.ones(d.batch, 16, dtype=torch.long),
    "classes_input_ids": lambda d: ids(d, 16).repeat(2, 1),
    "classes_attention_mask": lambda d: torch.ones(2 * d.batch, 16, dtype=torch.long),
    "classes_structure": lambda d: torch.tensor([2] * d.batch),
    "num_patches": lambda d: 64,
    "patch_ids": lambda d: torch.arange(length(d))[None].repeat(d.batch, 1) // 4,
    "marks": lambda d: torch.full((d.batch, 1), length(d) // 2),
    "num_options": lambda d: torch.full((d.batch, 1), 2),
    "question_type_ids": lambda d: torch.zeros(d.batch, 1, dtype=torch.long),
    "question_positions": lambda d: torch.zeros(d.batch, 1, dtype=torch.long),
    "lang_ids": lambda d: torch.zeros(d.batch, dtype=torch.long),
    "context_input_ids": lambda d: ids(d, d.tokens).repeat(5, 1),
    "context_attention_mask": lambda d: torch.ones(5 * d.batch, d.tokens, dtype=torch.long),
    "doc_scores": lambda d: d.meta(d.batch, 5),
    "mask": lambda d: torch.ones(d.batch, d.tokens, dtype=torch.bool),
}
