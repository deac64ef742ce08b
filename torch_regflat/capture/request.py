"""What is asked of a model: the phase and the lengths, checked against what the model has."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import InputError
from .hints import Hints

Phase = Literal["prefill", "decode", "extend", "encode", "forward", "train"]
DEFAULT_TOKENS = 2048
_PROMPT_TOKENS = 4  # Whisper's start, language, task and no-timestamps tokens


@dataclass(frozen=True)
class Call:
    """One way to call a model in a phase."""

    kwargs: dict[str, Any]
    text: str
    """What goes in, for a reader."""
    kv_cache: tuple[Any, ...] = ()
    fn: Callable[..., Any] | None = None
    """What is called where that is not the model itself."""


@dataclass
class Request:
    """What was asked for, checked, with the defaults filled in."""

    model: nn.Module
    name: str
    phase: Phase
    batch: int
    seq_len: int | None
    context: int | None
    dtype: torch.dtype
    hints: Hints | None = None
    logits: int | None = None
    """Of how many last tokens the logits are computed; None: as the model does it, of all."""

    @property
    def new_tokens(self) -> int:
        """Tokens that each sequence adds to its cache."""
        return 1 if self.phase == "decode" else int(self.seq_len or 1)

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def main_input(self) -> str:
        """The name of the model's main input."""
        return str(self.model.main_input_name)

    @property
    def is_encoder_decoder(self) -> bool:
        return bool(getattr(self.config, "is_encoder_decoder", False))

    @property
    def keeping_logits(self) -> dict[str, int]:
        """The argument that limits logits to the last tokens, where that was asked for and the model takes it."""
        takes = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        return {"logits_to_keep": self.logits} if takes and self.logits is not None else {}

    def ids(self, tokens: int) -> Tensor:
        """Token ids without values. [batch, tokens]"""
        return torch.empty(self.batch, tokens, dtype=torch.int64, device="meta")


def phases_of(model: nn.Module) -> tuple[Phase, ...]:
    """Return the phases a model has, its usual one first."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "main_input_name"):
        return ("forward", "train")
    generates = getattr(model, "can_generate", lambda: False)()
    return ("prefill", "decode", "extend", "forward", "train") if generates else ("encode", "forward", "train")


def positions_of(model: nn.Module) -> int | None:
    """Return how many positions a model has, or None where it sets no limit."""
    config: Any = getattr(model, "config", None)
    with suppress(ValueError):  # of several configurations for text none is the one
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in ("max_target_positions", "max_position_embeddings", "n_positions", "max_text_positions"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def checked(
    model: nn.Module, name: str, phase: str | None, batch: int, seq_len: int | None, context: int | None
) -> Request:
    """The request with its defaults, or an error that says what the model has instead."""
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
    request = Request(model, name, chosen, batch, seq_len, context, dtype)
    if chosen not in ("decode", "extend") and context is not None:
        raise InputError(f"context is the length of the cache that decode and extend read; {chosen} takes seq_len")
    if chosen == "extend" and request.is_encoder_decoder:
        raise InputError(f"{name} has an encoder, and a cache that grows by one token; its phase is decode")
    _check_lengths(request)
    return request


def _check_lengths(request: Request) -> None:
    """Fill in the default lengths and refuse those beyond the model's positions."""
    reads_tokens = request.main_input == "input_ids"
    takes_tokens = reads_tokens or "input_ids" in inspect.signature(request.model.forward).parameters
    two_stacks = request.is_encoder_decoder
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
    if not takes_tokens and not two_stacks:
        if request.seq_len is not None:
            raise InputError(f"{request.name} reads {request.main_input} of a fixed size; it takes no seq_len")
        return
    if request.phase == "extend":
        _check_extend(request, limit)
        return
    default = DEFAULT_TOKENS if reads_tokens or not two_stacks else _PROMPT_TOKENS
    request.seq_len = request.seq_len or min(default, limit or default)
    if limit is not None and request.seq_len > limit:
        raise InputError(f"seq_len {request.seq_len} is beyond the {limit} positions of {request.name}")


def _check_extend(request: Request, limit: int | None) -> None:
    """The lengths of `seq_len` new tokens against a cache of `context`, and their defaults."""
    share = DEFAULT_TOKENS if limit is None else min(DEFAULT_TOKENS, limit // 2)
    request.context, request.seq_len = request.context or share, request.seq_len or share
    if limit is not None and request.context + request.seq_len > limit:
        raise InputError(
            f"context {request.context} and {request.seq_len} new tokens are beyond the {limit} positions of "
            f"{request.name}"
        )
