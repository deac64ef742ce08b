"""What a model is given to do: the inputs of prefill, decode, encode and a plain forward, made on meta tensors.

Inputs come from the model's own declarations: its main input's name and its configuration. Decode is one new token
against the cache object that the model itself fills with `context` tokens (`prefill.py`).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import CaptureError, InputError, near
from ._torch_private import storage_key
from .model_inputs import candidates
from .model_inputs import describe as describe_inputs
from .prefill import run_prefill
from .record import capture_with_result

Phase = Literal["prefill", "decode", "encode", "forward", "train"]

DTYPES: dict[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
    "fp32": torch.float32,
    "float32": torch.float32,
    "fp64": torch.float64,
    "float64": torch.float64,
}
KV_BITS: dict[str, int] = {
    **{name: dtype.itemsize * 8 for name, dtype in DTYPES.items()},
    **{"fp8": 8, "int8": 8, "fp4": 4, "int4": 4},
}
DEFAULT_TOKENS = 2048
_PROMPT_TOKENS = 4  # Whisper's start, language, task and no-timestamps tokens


@dataclass(frozen=True)
class Prepared:
    """A module and the meta inputs of one phase. `kv_cache` holds the model's own cache objects, filled."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str
    phase: Phase
    inputs: str
    dtype: str
    batch: int | None = None
    seq_len: int | None = None
    context: int | None = None
    kv_cache: tuple[Any, ...] = ()
    kv_dtype: str | None = None
    kv_bits: int | None = None
    notes: tuple[str, ...] = field(default=())
    other_inputs: Iterator[dict[str, Any]] = field(default=iter(()), compare=False, repr=False)
    """Keyword arguments to try, in this order, should the model not run with `kwargs`."""

    @property
    def kv_bytes(self) -> int:
        """Bytes of all tensors in the caches, in the dtype they are stored in (`kv_bits` where it is overridden)."""
        tensors = cache_tensors(self.kv_cache)
        bits = sum(t.numel() * (t.dtype.itemsize * 8 if self.kv_bits is None else self.kv_bits) for t in tensors)
        return (bits + 7) // 8


def torch_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of a name such as `bf16` or `float32`."""
    found = DTYPES.get(name.lower().removeprefix("torch."))
    if found is None:
        raise InputError(f"unknown dtype {name!r}{near(name, DTYPES) or ';'} it must be one of {', '.join(DTYPES)}")
    return found


def cache_tensors(value: Any) -> list[Tensor]:
    """Return the tensors with at least one dimension inside cache objects, each piece of memory once."""
    found: dict[tuple[int, int], Tensor] = {}
    for tensor in _walk(value, set()):
        if tensor.dim():
            found.setdefault((storage_key(tensor), int(tensor.storage_offset())), tensor)
    return list(found.values())


def _walk(value: Any, visited: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if id(value) in visited:
        return
    visited.add(id(value))
    if isinstance(value, dict):
        children: list[Any] = list(value.values())
    elif isinstance(value, (list, tuple)):
        children = list(value)
    else:
        children = list(vars(value).values()) if hasattr(value, "__dict__") else []
    for child in children:
        yield from _walk(child, visited)


def phases_of(model: nn.Module) -> tuple[Phase, ...]:
    """Return the phases a model has, its usual one first."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "main_input_name"):
        return ("forward", "train")
    generates = getattr(model, "can_generate", lambda: False)()
    return ("prefill", "decode", "forward", "train") if generates else ("encode", "forward", "train")


def positions_of(model: nn.Module) -> int | None:
    """Return how many positions a model has, or None where it sets no limit."""
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in ("max_target_positions", "max_position_embeddings", "n_positions"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


@dataclass
class _Request:
    """What was asked for, checked, with the defaults filled in."""

    model: nn.Module
    name: str
    phase: Phase
    batch: int
    seq_len: int | None
    context: int | None
    dtype: torch.dtype

    @property
    def config(self) -> Any:
        return self.model.config

    def ids(self, tokens: int) -> Tensor:
        return torch.empty(self.batch, tokens, dtype=torch.int64, device="meta")


def prepare_model(
    model: nn.Module,
    name: str,
    phase: str | None,
    batch: int,
    seq_len: int | None,
    context: int | None,
    kv_dtype: str | None,
    notes: tuple[str, ...] = (),
) -> Prepared:
    """Make the inputs of `phase` (the model's usual one when None) for a module that declares its own inputs."""
    request = _check(model, name, phase, batch, seq_len, context)
    if kv_dtype is not None and kv_dtype not in KV_BITS:
        raise InputError(
            f"unknown kv_dtype {kv_dtype!r}{near(kv_dtype, KV_BITS)} it must be one of {', '.join(KV_BITS)}"
        )
    if request.phase == "decode":
        kwargs, caches, text, others = _decode(request)
    else:
        kwargs, text, others = _whole(request)
        caches = ()
    return Prepared(
        model=model,
        args=(),
        kwargs=kwargs,
        name=name,
        phase=request.phase,
        inputs=text,
        dtype=str(request.dtype).removeprefix("torch."),
        batch=batch,
        seq_len=request.seq_len,
        context=request.context,
        kv_cache=caches,
        kv_dtype=kv_dtype,
        kv_bits=None if kv_dtype is None else KV_BITS[kv_dtype],
        notes=notes,
        other_inputs=others,
    )


def _check(
    model: nn.Module, name: str, phase: str | None, batch: int, seq_len: int | None, context: int | None
) -> _Request:
    known = phases_of(model)
    chosen = known[0] if phase is None else phase
    if chosen not in get_args(Phase):
        raise InputError(f"unknown phase {phase!r}; the phases of {name} are {', '.join(known)}")
    if chosen not in known:
        kind = "an encoder" if known[0] == "encode" else "a module without a cache" if len(known) == 2 else "a decoder"
        raise InputError(f"{name} is {kind} and has no {chosen}; its phases are {', '.join(known)}")
    for label, value in (("batch", batch), ("seq_len", seq_len), ("context", context)):
        if value is not None and value < 1:
            raise InputError(f"{label} is {value}; it must be 1 or more")
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    request = _Request(model, name, chosen, batch, seq_len, context, dtype)
    if chosen != "decode" and context is not None:
        raise InputError(f"context is the length of the cache that decode reads; {chosen} takes seq_len")
    _check_lengths(request)
    return request


def _check_lengths(request: _Request) -> None:
    """Fill in the default lengths and refuse those beyond the model's positions."""
    reads_tokens = _main_input(request) == "input_ids"
    two_stacks = bool(getattr(request.config, "is_encoder_decoder", False))
    limit = positions_of(request.model)
    if request.phase == "decode":
        if request.seq_len is not None and not (two_stacks and reads_tokens):
            raise InputError("decode reads a cache of length context and makes one token; it takes no seq_len")
        room = None if limit is None else limit - 1
        request.context = request.context or min(DEFAULT_TOKENS, room or DEFAULT_TOKENS)
        if room is not None and request.context > room:
            raise InputError(
                f"context {request.context} is beyond the {limit} positions of {request.name}; "
                f"with the new token it can be at most {room}"
            )
        if not two_stacks:
            return
    if not reads_tokens and not two_stacks:
        if request.seq_len is not None:
            raise InputError(f"{request.name} reads {_main_input(request)} of a fixed size; it takes no seq_len")
        return
    default = DEFAULT_TOKENS if reads_tokens else _PROMPT_TOKENS
    request.seq_len = request.seq_len or min(default, limit or default)
    if limit is not None and request.seq_len > limit:
        raise InputError(f"seq_len {request.seq_len} is beyond the {limit} positions of {request.name}")


def _main_input(request: _Request) -> str:
    return str(request.model.main_input_name)


def _whole(request: _Request) -> tuple[dict[str, Any], str, Iterator[dict[str, Any]]]:
    """Inputs of every phase but decode: the whole sequence, image or sound at once; and others to try after them."""
    extra = {"use_cache": request.phase == "prefill"} if phases_of(request.model)[0] == "prefill" else {}
    found = candidates(request.model, request.batch, int(request.seq_len or DEFAULT_TOKENS))
    others = ({**kwargs, **extra} for kwargs in found)
    if request.phase != "train" and not _is_plain(request):
        kwargs = next(others, None)
        if kwargs is None:
            raise InputError(f"no inputs can be made for {request.name}; {_OWN_INPUTS}")
        return kwargs, describe_inputs(kwargs), others
    kwargs, text = _main(request)
    kwargs.update(extra)
    if request.phase == "train":
        return *_with_labels(request, kwargs, text), iter(())
    if getattr(request.config, "is_encoder_decoder", False):
        tokens = 1 if _main_input(request) == "input_ids" else int(request.seq_len or 1)
        kwargs["decoder_input_ids"] = request.ids(tokens)
        text += f", decoder_input_ids [{request.batch}, {tokens}]"
    return kwargs, text, others


_OWN_INPUTS = "write a function that returns (model, args, kwargs) and pass it as module:function"


def _is_plain(request: _Request) -> bool:
    """Whether the main input is all that the model reads: token ids, an image or log-mel features."""
    parameters = inspect.signature(request.model.forward).parameters
    media = {"input_ids", "pixel_values", "pixel_values_videos", "input_features", "input_values"} & parameters.keys()
    required = {n for n, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    main = request.model.main_input_name
    if not isinstance(main, str) or main not in parameters or media - {main} or required - {main}:
        return False
    if main == "input_features":
        return hasattr(request.config, "num_mel_bins") and hasattr(request.config, "max_source_positions")
    return main == "input_ids" or (
        main == "pixel_values" and isinstance(getattr(request.config, "image_size", None), int)
    )


def _with_labels(request: _Request, kwargs: dict[str, Any], text: str) -> tuple[dict[str, Any], str]:
    """Inputs of a training step: with labels where the model computes a loss of them, so that the loss is its own."""
    two_stacks = bool(getattr(request.config, "is_encoder_decoder", False))
    takes = inspect.signature(request.model.forward).parameters
    kind = type(request.model).__name__
    if "labels" in takes and not kind.endswith(("QuestionAnswering", "MultipleChoice", "PreTraining")):
        tokens = int(request.seq_len or 1)
        of_tokens = _main_input(request) == "input_ids" or two_stacks
        whole = not of_tokens or "SequenceClassification" in kind
        kwargs["labels"] = request.ids(1)[:, 0] if whole else request.ids(tokens)
        return kwargs, f"{text}, labels {list(kwargs['labels'].shape)}"
    if two_stacks:
        kwargs["decoder_input_ids"] = request.ids(int(request.seq_len or 1))
        text += f", decoder_input_ids {list(kwargs['decoder_input_ids'].shape)}"
    return kwargs, text


_Decode = tuple[dict[str, Any], tuple[Any, ...], str, Iterator[dict[str, Any]]]


def _decode(request: _Request) -> _Decode:
    """One token against the cache left by an unrecorded prefill of `context` tokens."""
    context = int(request.context or 0)
    token, text = request.ids(1), f"[{request.batch}, 1] against a cache of {context} tokens"
    if getattr(request.config, "is_encoder_decoder", False):
        kwargs, main, output = _encoded(request, context)
        cache = _cache_of(request, output)
        step = {
            "decoder_input_ids": token,
            "encoder_outputs": _encoder_outputs(request, kwargs, output.encoder_last_hidden_state),
            _cache_name(request): cache,
            "use_cache": True,
        }
        books = getattr(getattr(request.config, "decoder_config", None), "num_channels", None)
        wide = iter(() if books is None else ({**step, "decoder_input_ids": token[..., None].expand(-1, -1, books)},))
        return step, (cache,), f"decoder_input_ids {text}, encoder run on {main}", wide
    also = _also_required(request)
    try:
        cache = _cache_of(request, _prefill(request, {"input_ids": request.ids(context), "use_cache": True, **also}))
    except Exception:
        found = _decode_with_media(request, context)
        if found is None:
            raise
        return found
    step = {"input_ids": token, _cache_name(request): cache, "use_cache": True, **also}
    return step, (cache,), f"input_ids {text}", iter(())


def _decode_with_media(request: _Request, context: int) -> _Decode | None:
    """Decode of a model whose prefill does not run on token ids alone; the media's tokens count as context."""
    for made in _of_length(request, context):
        with suppress(Exception):
            cache = _cache_of(request, _prefill(request, {**made, "use_cache": True}))
            ids = made.pop("input_ids")
            token = torch.empty_like(ids[:, :1], device="meta")
            step = {"input_ids": token, _cache_name(request): cache, "use_cache": True}
            again = {k: v[:, -1:] if v.shape[1:2] == ids.shape[1:2] else v for k, v in made.items()}
            text = f"input_ids {list(token.shape)} against a cache of {context} tokens"
            return step, (cache,), text, iter(({**step, **again},) if again else ())
    return None


def _of_length(request: _Request, context: int) -> Iterator[dict[str, Any]]:
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


def _encoded(request: _Request, context: int) -> tuple[dict[str, Any], str, Any]:
    """The encoder's inputs and the output of a prefill, with the first inputs that the model runs with."""
    more = {"decoder_input_ids": request.ids(context), "use_cache": True}
    kwargs, main = _main(request)
    try:
        return kwargs, main, _prefill(request, {**kwargs, **more})
    except Exception:
        for other in candidates(request.model, request.batch, int(request.seq_len or 1)):
            with suppress(Exception):
                shape = (*other["decoder_input_ids"].shape[2:],)
                ids = torch.ones(request.batch, context, *shape, dtype=torch.int64)
                output = _prefill(request, {**other, **more, "decoder_input_ids": ids})
                other.pop("decoder_input_ids")
                return other, describe_inputs(other), output
        raise


def _also_required(request: _Request) -> dict[str, Any]:
    """What the model cannot be called without besides token ids (BLIP: the image)."""
    found = inspect.signature(request.model.forward).parameters.values()
    required = {p.name for p in found if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD} - {"input_ids"}
    made = next(candidates(request.model, request.batch, 1), {}) if required else {}
    return {name: value for name, value in made.items() if name in required}


def _prefill(request: _Request, kwargs: dict[str, Any]) -> Any:
    """The output of a prefill: plain where that runs, else as capturing runs it, which knows more values."""
    try:
        return run_prefill(request.model, kwargs)
    except Exception:
        real = {k: torch.ones_like(v, device="cpu") if _is_ids(v) else v for k, v in kwargs.items()}
        return capture_with_result(request.model, (), real, restore=False).result


def _is_ids(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta and value.dtype is torch.int64


def _encoder_outputs(request: _Request, kwargs: dict[str, Any], hidden: Tensor) -> Any:
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


_CACHE_NAMES = ("past_key_values", "cache_params", "state")


def _cache_name(request: _Request) -> str:
    """The parameter that takes the cache; a cache under another name would be ignored."""
    parameters = inspect.signature(request.model.forward).parameters
    return next((name for name in _CACHE_NAMES if name in parameters), _CACHE_NAMES[0])


def _cache_of(request: _Request, output: Any) -> Any:
    """Return the cache in a prefill's output, whatever the model calls it."""
    for name in _CACHE_NAMES:
        found = getattr(output, name, None)
        if found is not None:
            return found
    if isinstance(output, tuple) and len(output) == 2 and output[1] is not None:
        return output[1]
    why = "; set is_decoder in its configuration" if getattr(request.config, "is_decoder", None) is False else ""
    raise CaptureError(f"{request.name} returned no cache from its prefill, so decode cannot be prepared{why}")


def _main(request: _Request) -> tuple[dict[str, Any], str]:
    """Return the main input: token ids, an image or log-mel features, in the model's dtype."""
    name, config = _main_input(request), request.config
    if name == "input_ids":
        return {name: request.ids(int(request.seq_len or 1))}, f"{name} [{request.batch}, {request.seq_len}]"
    if name == "pixel_values" and _is_plain(request):
        size = getattr(config, "image_size", None) or 224
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        shape: tuple[int, ...] = (getattr(config, "num_channels", 3), height, width)
    elif name == "input_features" and hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions"):
        shape = (config.num_mel_bins, 2 * config.max_source_positions)  # the encoder's convolutions halve the frames
    else:
        made = next(candidates(request.model, request.batch, int(request.seq_len or 1)), {})
        made.pop("decoder_input_ids", None)
        if name not in made:
            raise InputError(
                f"{request.name} reads {name!r}, whose shape its configuration does not give; {_OWN_INPUTS}"
            )
        return made, describe_inputs(made)
    value = torch.empty(request.batch, *shape, dtype=request.dtype, device="meta")
    return {name: value}, f"{name} {list(value.shape)}"
