"""Decode and extend: new tokens against the cache object that the model itself fills with `context` tokens.

The cache comes from a prefill that is not recorded. Most models then take the token and the cache. Some want more of
what `generate` hands on from step to step (states of an encoder, the whole prompt); for those the model's own
`prepare_inputs_for_generation` is asked. Some hand generation over to a language model inside.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import types
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ..errors import CaptureError, RegflatError
from .model_inputs import candidates, describe
from .prefill import run_prefill, stood_in
from .record import capture_with_result
from .request import Call, Request
from .whole import main_inputs

_TRIES = 12  # inputs that a prefill is tried with
_CACHE_NAMES = ("past_key_values", "cache_params", "state")


def decode(request: Request) -> Iterator[Call]:
    """The ways to call the model for one token, the likeliest first; at least one, or the error of its prefill."""
    ways = _of_two_stacks if request.is_encoder_decoder else _of_one_stack
    found, errors = False, []
    for way in (ways, _as_generate):
        try:
            for call in way(request):
                found = True
                yield call
        except Exception as error:
            errors.append(error)
            if _is_final(error):
                break
    if not found:
        if isinstance(errors[0], RegflatError):
            raise errors[0]
        raise CaptureError(
            f"{request.name}: no decode step could be prepared: {type(errors[0]).__name__}: {errors[0]}"
        ) from errors[0]


def _is_final(error: Exception) -> bool:
    """Whether no other inputs would help."""
    return isinstance(error, CaptureError) and error.whatever_the_input


def _of_one_stack(request: Request) -> Iterator[Call]:
    context = int(request.context or 0)
    also = _also_required(request) | request.keeping_logits
    try:
        output = _prefill(request, {"input_ids": request.ids(context), "use_cache": True, **also})
        yield _step(request, output, request.ids(request.new_tokens), also)
    except Exception as error:
        if not _is_final(error):
            yield from _with_media(request, context)
        raise error


def _with_media(request: Request, context: int) -> Iterator[Call]:
    """A model whose prefill does not run on token ids alone; the tokens that stand for media count as context."""
    for made in itertools.islice(_of_length(request, context), _TRIES):
        with suppress(Exception):
            output = _prefill(request, {**made, "use_cache": True})
            ids = made.pop("input_ids")
            token = torch.empty_like(ids[:, :1].expand(-1, request.new_tokens), device="meta")
            yield (step := _step(request, output, token, {}))
            again = {k: v[:, -1:] if v.shape[1:2] == ids.shape[1:2] else v for k, v in made.items()}
            if again and step.fn is None:
                yield Call({**step.kwargs, **again}, describe({"input_ids": token, **again}), step.kv_cache)
            return


def _step(request: Request, output: Any, token: Tensor, also: dict[str, Any]) -> Call:
    """New tokens against the cache in the output of a prefill, in the language model inside where the cache is its."""
    text = f"input_ids {list(token.shape)} against a cache of {request.context} tokens"
    several = types.MethodType(_grouped, request.model) if request.new_tokens > 1 else None
    inner = getattr(output, "language_model_outputs", None)
    if inner is not None and hasattr(request.model, "language_model"):
        cache = cache_of(request, inner)
        step = {"input_ids": token, _CACHE_NAMES[0]: cache, "use_cache": True}
        fn = types.MethodType(_language_model, request.model)
        return Call(step, f"{text}, in the language model", (cache,), fn)
    cache = cache_of(request, output)
    return Call({"input_ids": token, _cache_name(request): cache, "use_cache": True, **also}, text, (cache,), several)


def _grouped(self: Any, **kwargs: Any) -> Any:
    """The model with attention that shares keys among query heads, also where a mask is given: transformers copies the
    keys and values for every head then, which no kernel for serving does."""
    module: Any = importlib.import_module("transformers.integrations.sdpa_attention")
    before = module.use_gqa_in_sdpa
    module.use_gqa_in_sdpa = lambda *_: True
    try:
        return self(**kwargs)
    finally:
        module.use_gqa_in_sdpa = before


def _language_model(self: Any, **kwargs: Any) -> Any:
    return self.language_model(**kwargs)


def _of_two_stacks(request: Request) -> Iterator[Call]:
    context = int(request.context or 0)
    kwargs, ids, output = _encoded(request, context)
    cache, token = cache_of(request, output), torch.empty_like(ids[:, :1], device="meta")
    step = {_decoder_input(request): token, _cache_name(request): cache, "use_cache": True}
    if hasattr(output, "encoder_last_hidden_state"):
        step["encoder_outputs"] = _encoder_outputs(request, kwargs, output.encoder_last_hidden_state)
    elif hasattr(output, "encoder_hidden_states"):
        step["encoder_hidden_states"] = output.encoder_hidden_states
    text = f"{_decoder_input(request)} {list(token.shape)} against a cache of {context} tokens"
    yield Call(step, f"{text}, encoder run on {describe(kwargs)}", (cache,))


def _as_generate(request: Request) -> Iterator[Call]:
    """What `generate` would call for the last of `context` + 1 tokens, for each of the inputs that have as many."""
    if request.is_encoder_decoder or not hasattr(request.model, "prepare_inputs_for_generation"):
        return
    context = int(request.context or 0)
    for made in itertools.islice(_of_length(request, context + 1), _TRIES):
        with suppress(Exception):
            step, cache = _second_step(request, made)
            text = f"{describe(step)} against a cache of {context} tokens, as generate has it"
            yield Call(step, text, (cache,))


def _second_step(request: Request, made: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The arguments for the last token of these inputs, after a prefill of those before it; and the cache."""
    model: Any = request.model
    ids = made.pop("input_ids")
    before = {k: v[:, :-1] if v.shape[1:2] == ids.shape[1:2] else v for k, v in made.items()}
    with stood_in(model), torch.inference_mode():
        _, _, kept = model._prepare_model_inputs(ids[:, :-1], None, before)
        if "position_ids" in inspect.signature(model.forward).parameters:
            kept["position_ids"] = model._prepare_position_ids_for_generation(ids[:, :-1], kept)
        prompt = model.prepare_inputs_for_generation(ids[:, :-1], is_first_iteration=True, use_cache=True, **kept)
        output = _prefill(request, {name: value for name, value in prompt.items() if value is not None})
        kept = model._update_model_kwargs_for_generation(output, {**kept, "use_cache": True})
        step = model.prepare_inputs_for_generation(ids, next_sequence_length=1, **kept)
    return {name: value for name, value in step.items() if value is not None}, cache_of(request, output)


def _prefill(request: Request, kwargs: dict[str, Any]) -> Any:
    return run_prefill(request.model, kwargs, request.hints)


def _of_length(request: Request, context: int) -> Iterator[dict[str, Any]]:
    """Inputs with `context` token ids, those that stand for media among them."""
    surplus: set[int] = set()
    for made in candidates(request.model, request.batch, context):
        if "input_ids" in made:
            more = made["input_ids"].shape[1] - context
            surplus.add(more)
            if more == 0:
                yield made
    for more in sorted(n for n in surplus if 0 < n < context):
        found = candidates(request.model, request.batch, context - more)
        yield from (made for made in found if "input_ids" in made and made["input_ids"].shape[1] == context)


def _encoded(request: Request, context: int) -> tuple[dict[str, Any], Tensor, Any]:
    """The encoder's inputs, the decoder's ids and the output of a prefill, with the first inputs that it runs with."""
    takes = inspect.signature(request.model.forward).parameters
    more: dict[str, Any] = {"use_cache": True} if "use_cache" in takes else {}
    kwargs, ids = main_inputs(request), request.ids(context)
    try:
        return kwargs, ids, _prefill(request, {**kwargs, **more, "decoder_input_ids": ids})
    except Exception as error:
        for other in () if _is_final(error) else candidates(request.model, request.batch, int(request.seq_len or 1)):
            with suppress(Exception):
                name = _decoder_input(request)
                first = other.pop(name)
                rows, _, *channels = first.shape  # a row for each codebook, for some
                ids = first.new_ones(rows, context, *channels)
                return other, ids, _prefill(request, {**other, **more, name: ids})
        raise


def _decoder_input(request: Request) -> str:
    """The name of what the decoder reads: ids, or frames of sound."""
    takes = inspect.signature(request.model.forward).parameters
    return next((name for name in ("decoder_input_ids", "decoder_input_values") if name in takes), "decoder_input_ids")


def _also_required(request: Request) -> dict[str, Any]:
    """What the model cannot be called without besides token ids (BLIP: the image)."""
    found = inspect.signature(request.model.forward).parameters.values()
    required = {p.name for p in found if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD} - {"input_ids"}
    made = next(candidates(request.model, request.batch, 1), {}) if required else {}
    return {name: value for name, value in made.items() if name in required}


def _encoder_outputs(request: Request, kwargs: dict[str, Any], hidden: Tensor) -> Any:
    """What the encoder returned, in its own class: some decoders read more of it than the hidden states."""
    outputs = importlib.import_module("transformers.modeling_outputs")
    with suppress(Exception):
        encoder: Any = request.model.get_encoder()  # type: ignore[operator]
        known = inspect.signature(encoder.forward).parameters
        given = {name: value for name, value in kwargs.items() if name in known}
        result = capture_with_result(encoder, (), given, restore=False).result
        if type(result) not in (tuple, outputs.BaseModelOutput) and hasattr(result, "last_hidden_state"):
            return result
    return outputs.BaseModelOutput(last_hidden_state=hidden)


def _cache_name(request: Request) -> str:
    """The parameter that takes the cache; a cache under another name would be ignored."""
    parameters = inspect.signature(request.model.forward).parameters
    return next((name for name in _CACHE_NAMES if name in parameters), _CACHE_NAMES[0])


def cache_of(request: Request, output: Any) -> Any:
    """Return the cache in a prefill's output, whatever the model calls it."""
    for name in _CACHE_NAMES:
        found = getattr(output, name, None)
        if found is not None:
            return found
    if isinstance(output, tuple) and len(output) == 2 and output[1] is not None:
        return output[1]
    why = "; set is_decoder in its configuration" if getattr(request.config, "is_decoder", None) is False else ""
    raise CaptureError(f"{request.name} returned no cache from its prefill, so decode cannot be prepared{why}")
