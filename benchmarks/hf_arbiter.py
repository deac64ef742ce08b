"""Transformers without us: whether a model that does not profile runs at all, and if not, whose fault that is.

"transformers itself cannot run it" takes two things. First a demonstration: built and called without any of our code
around it, the model raises an error with every input, on meta and in real memory on the CPU, with the shrunk
configuration and with the whole one. Second the error has to be one that no input could help. Either that can be seen
without reading the message:

- "no class": transformers has no model class for the configuration;
- "build": the plain constructor raises (among these: a library that is not installed);
- "no forward": the class does not define `forward`;
- "no cache": the model generates, but a prefill returns no cache, so that there is no decode step;
- "configuration": it reads an attribute that its own configuration class does not have;

or it is "listed": a type of DEFAULTS, with the reason, looked up by hand, and an error that has to be raised again each
time. All else counts against us ("inputs"), as inputs that we do not know how to make may be to blame.
"""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Iterator
from typing import Any

from hf_models import TOKENS, configured

MAX_CPU_PARAMETERS = 6_000_000_000
MAX_WAYS = 8
MAX_LISTED = 2
"""Ways that have to raise the listed error, of each device and configuration."""

_NO_ATTENTION = "no layer of the default configuration has the attention whose cache is asked for"
_MROPE = "mrope_section, [8, 12, 12] where none is given, does not add up to half of the rotary part of a head"
_SLIDING = "sliding_window is None, and a mask for it is made in any case"
_ODD = "hidden_size 2048 / 28 heads gives an odd head size"

DEFAULTS: dict[str, tuple[str, str]] = {
    "bamba": ("get_seq_length", _NO_ATTENTION),
    "granitemoehybrid": ("get_seq_length", _NO_ATTENTION),
    "deepseek_v2": ("topk(): argument 'k' must be int", "num_experts_per_tok is None"),
    "step3p5": ("`sliding_window`", _SLIDING),
    "step3p7": ("`sliding_window`", _SLIDING),
    "glm46v": ("split_sizes", _MROPE),
    "glm4v": ("split_sizes", _MROPE),
    "glm4v_text": ("split_sizes", _MROPE),
    "glm4v_moe": ("split_sizes", _MROPE),
    "glm4v_moe_text": ("split_sizes", _MROPE),
    "glm_image": ("split_sizes", _MROPE),
    "glm_image_text": ("split_sizes", _MROPE),
    "glmga": ("split_sizes", _MROPE),
    "qwen3_omni_moe_text": ("(73) must match the size of tensor b (74)", _ODD),
    "qwen3_omni_moe_thinker": ("(73) must match the size of tensor b (74)", _ODD),
    "deepseek_ocr2_vision": ("Expected 896 in dimension 2 but got 4096", "encoder_config.hidden_size is not SAM's"),
    "pp_ocrv6_small_det": ("channels", "layer_list_out_channels are not the channels of the default backbone"),
    "uvdoc": ("channels", "the head takes the maps of all stages, the default backbone gives the last only"),
    "lw_detr": ("expected a non-empty list of Tensors", "projector_scale_factors is empty: there are no feature maps"),
    "pp_doclayout_v2": ("too many indices for tensor of dimension 0", "class_thresholds is None"),
    "blip-2": ("has no attribute 'intermediate'", "qformer_config.use_qformer_text_input is False"),
    "llama4_vision_model": ("3072", "intermediate_size is not that of the shuffled patches"),
}
"""Types whose default configuration contradicts itself -> (part of the error of a run on the CPU, what is wrong)."""


class NoCache(Exception):
    """A prefill has returned no cache."""


def one_line(error: BaseException) -> str:
    text = " ".join(re.sub(r"\S*/site-packages/", "", str(error)).split())
    return f"{type(error).__name__}: {text}"[:400]


def cannot_build(cls: type, config_class: type) -> str:
    """The error of the plain constructor, on meta and on the CPU, shrunk and whole; empty if any of these works."""
    import torch

    no_weights = importlib.import_module("transformers.initialization").no_init_weights
    first = ""
    for few in (True, False):
        for device in ("meta", "cpu"):
            try:
                with no_weights(), torch.device(device):
                    cls(configured(cls, config_class, few))
                return ""
            except Exception as error:
                first = first or one_line(error)
    return first


def verdict(
    kind: str, cls: type, config_class: type, model: Any, phase: str, dtype: Any = None
) -> tuple[str, str, str]:
    """(status, how that was shown, what happened) of a model that does not profile.

    The status is "transformers", "inputs" (it runs with none of the inputs made here), or "refused" (it runs).
    """
    import torch

    from torch_regflat.capture.model_inputs import candidates

    if getattr(cls.forward, "__name__", "") == "_forward_unimplemented":
        return "transformers", "no forward", f"{cls.__name__} defines no forward"
    try:
        ways = list(itertools.islice(candidates(model, 1, TOKENS), MAX_WAYS))
    except Exception as error:
        return "refused", "", f"no inputs: {one_line(error)}"
    errors: list[Exception] = []
    fragment, _ = DEFAULTS.get(kind, ("", ""))
    for where, tested, precision in _settings(cls, config_class, model):
        shown = 0
        for kwargs in ways:
            if shown == MAX_LISTED:
                break
            try:
                with torch.inference_mode():
                    _run(tested, {k: _real(v, where, precision) for k, v in kwargs.items()}, phase)
                return "refused", "", f"it runs on {where} with {', '.join(kwargs)}"
            except NoCache as error:  # it does run, so that other inputs would give no cache either
                return "transformers", "no cache", one_line(error)
            except Exception as error:
                errors.append(error)
                shown += bool(fragment) and fragment in str(error)
    return _blame(kind, config_class, errors)


def _settings(cls: type, config_class: type, model: Any) -> Iterator[tuple[str, Any, Any]]:
    """(device, model, dtype): on meta, then in real memory, the shrunk model and the whole one, where they fit."""
    import torch

    yield "meta", model, next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    no_weights = importlib.import_module("transformers.initialization").no_init_weights
    for few in (True, False):
        config = configured(cls, config_class, few)
        try:
            with torch.device("meta"), no_weights():
                count = sum(p.numel() for p in cls(config).parameters())
            if count > MAX_CPU_PARAMETERS:
                continue
            dtype = torch.float32 if count < 1e9 else torch.bfloat16
            with no_weights():  # memory that was never written is zero, and takes no room
                model = cls._from_config(config, dtype=dtype).eval()  # type: ignore[attr-defined]
        except Exception:  # too large, or not to be built this way
            continue
        yield "the CPU", model, dtype


def _blame(kind: str, config_class: type, errors: list[Exception]) -> tuple[str, str, str]:
    base = config_class.__mro__[-2] if len(config_class.__mro__) > 1 else config_class
    for error in errors:
        owner = getattr(error, "obj", None)
        if isinstance(error, AttributeError) and isinstance(owner, base) and hasattr(owner, "to_dict"):
            return "transformers", "configuration", one_line(error)
    fragment, why = DEFAULTS.get(kind, ("", ""))
    if fragment:
        shown = next((error for error in errors if fragment in str(error)), None)
        if shown is not None:
            return "transformers", f"listed: {why}", one_line(shown)
    return "inputs", "", one_line(errors[-1])


def _run(model: Any, kwargs: dict[str, Any], phase: str) -> None:
    """One forward; for decode also a second one, of one token, with the cache that the first returned."""
    if phase != "decode":
        model(**kwargs)
        return
    output = model(**kwargs, use_cache=True)
    for name in ("past_key_values", "cache_params", "state"):
        cache = getattr(output, name, None)
        if cache is not None:
            break
    else:
        raise NoCache("no cache in the output of the model")
    if "decoder_input_ids" in kwargs:
        model(**{**kwargs, "decoder_input_ids": kwargs["decoder_input_ids"][:, -1:], name: cache}, use_cache=True)
    else:
        model(**{"input_ids": kwargs["input_ids"][:, -1:], name: cache}, use_cache=True)


def _real(value: Any, where: str, dtype: Any) -> Any:
    import torch

    if isinstance(value, list):
        return [_real(item, where, dtype) for item in value]
    if not isinstance(value, torch.Tensor):
        return value
    if where == "meta":
        return value.to("meta")
    if not value.is_meta:
        return value
    return torch.rand(value.shape, dtype=dtype) if value.is_floating_point() else torch.ones_like(value, device="cpu")
