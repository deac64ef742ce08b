"""Inputs of every phase but decode: the whole sequence, image or sound at once."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .model_inputs import candidates, describe
from .request import DEFAULT_TOKENS, Call, Request, phases_of

_MEDIA = {"input_ids", "pixel_values", "pixel_values_videos", "input_features", "input_values"}
_OWN_INPUTS = "write a function that returns (model, args, kwargs) and pass it as module:function"


def whole(request: Request) -> Iterator[Call]:
    """The ways to call the model in this phase, the likeliest first; at least one, or an error."""
    extra = _extra(request)
    if request.phase == "train":
        yield _training(request, extra)
        return
    if _is_plain(request):
        kwargs = main_inputs(request)
        if request.is_encoder_decoder:
            kwargs["decoder_input_ids"] = request.ids(
                1 if request.main_input == "input_ids" else int(request.seq_len or 1)
            )
        yield Call({**kwargs, **extra}, describe(kwargs))
    kwargs = {}
    for kwargs in candidates(request.model, request.batch, int(request.seq_len or DEFAULT_TOKENS)):
        yield Call({**kwargs, **extra}, describe(kwargs))
    if not kwargs:
        raise InputError(f"no inputs can be made for {request.name}; {_OWN_INPUTS}")


def main_inputs(request: Request) -> dict[str, Any]:
    """The main input: token ids, an image or log-mel features, in the model's dtype."""
    name, config = request.main_input, request.config
    if name == "input_ids":
        return {name: request.ids(int(request.seq_len or 1))}
    if name == "pixel_values" and _is_plain(request):
        size = getattr(config, "image_size", None) or 224
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        shape: tuple[int, ...] = (getattr(config, "num_channels", 3), height, width)
    elif name == "input_features" and hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions"):
        shape = (config.num_mel_bins, 2 * config.max_source_positions)  # the encoder's convolutions halve the frames
    else:
        made = next(candidates(request.model, request.batch, int(request.seq_len or 1)), {})
        made.pop("decoder_input_ids", None)
        if not made:
            raise InputError(
                f"{request.name} reads {name!r}, whose shape its configuration does not give; {_OWN_INPUTS}"
            )
        return made
    return {name: torch.empty(request.batch, *shape, dtype=request.dtype, device="meta")}


def _extra(request: Request) -> dict[str, Any]:
    if phases_of(request.model)[0] != "prefill":
        return {}
    if request.is_encoder_decoder and "use_cache" not in inspect.signature(request.model.forward).parameters:
        return {}  # it would reach the encoder, which refuses it
    return {"use_cache": request.phase == "prefill", **request.keeping_logits}


def _is_plain(request: Request) -> bool:
    """Whether the main input is all that the model reads: token ids, an image or log-mel features."""
    parameters = inspect.signature(request.model.forward).parameters
    media = _MEDIA & parameters.keys()
    required = {n for n, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    main = request.model.main_input_name
    if not isinstance(main, str) or main not in parameters or media - {main} or required - {main}:
        return False
    if type(request.model).__name__.endswith("MultipleChoice"):
        return False
    if main == "input_features":
        return hasattr(request.config, "num_mel_bins") and hasattr(request.config, "max_source_positions")
    return main == "input_ids" or (
        main == "pixel_values" and isinstance(getattr(request.config, "image_size", None), int)
    )


def _training(request: Request, extra: dict[str, Any]) -> Call:
    """Inputs of a training step: with labels where the model computes a loss of them, so that the loss is its own."""
    kwargs = main_inputs(request)
    takes = inspect.signature(request.model.forward).parameters
    kind = type(request.model).__name__
    if "labels" in takes and not kind.endswith(("QuestionAnswering", "MultipleChoice", "PreTraining")):
        kwargs["labels"] = _labels(request, kind)
    elif request.is_encoder_decoder:
        kwargs["decoder_input_ids"] = request.ids(int(request.seq_len or 1))
    return Call({**kwargs, **extra}, describe(kwargs))


def _labels(request: Request, kind: str) -> Tensor:
    """A class for each token, or one for the whole."""
    of_tokens = request.main_input == "input_ids" or request.is_encoder_decoder
    if not of_tokens or "SequenceClassification" in kind:
        return request.ids(1)[:, 0]
    return request.ids(int(request.seq_len or 1))
