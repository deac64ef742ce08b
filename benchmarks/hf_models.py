"""The models of transformers that the coverage benchmark builds: shrunk default configurations, and their classes."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

TOKENS = 64
_LAYERS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_encoder_layers",
    "num_decoder_layers", "depth", "num_blocks", "num_encoder_blocks", "encoder_num_layers", "decoder_num_layers",
    "text_num_hidden_layers", "vision_num_hidden_layers", "num_attention_layers",
)  # fmt: skip
_WHOLE = ("neck_hidden_sizes", "backbone_out_indices", "depths", "out_layers", "layers_to_extract")
"""A configuration with one of these picks states of certain layers, so it stays as it is."""
_EVERY = (
    "attn_layer_period", "expert_layer_period", "sliding_window_pattern", "full_attention_interval",
    "encoder_sparse_step", "decoder_sparse_step",
)  # fmt: skip
"""Every so many layers there is one of another kind: as many are kept."""
_BEFORE = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
"""So many layers come before those of another kind: one more is kept."""


def shrink(config: Any, few: int = 2) -> Any:
    """Cut the layers of a configuration and of those nested in it; per-layer lists are cut with them."""
    if any(getattr(config, name, None) for name in _WHOLE) or len(getattr(config, "out_indices", None) or ()) > 1:
        return config
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict") and not name.startswith("_"):
            shrink(value, few)
    counts = {name: value for name in _LAYERS if type(value := getattr(config, name, None)) is int and value > few}
    for name, old in counts.items():
        new = min(old, max(few, _kinds(config), _kinds_listed(config, old)))
        try:
            setattr(config, name, new)
        except Exception:
            continue
        _cut_lists(config, old, new)
    return config


def _kinds(config: Any) -> int:
    """As many layers as it takes to see every kind, by the configuration's periods and starts; at most 8."""
    counts = [getattr(config, name, None) for name in _EVERY]
    counts += [n + 1 for name in _BEFORE if isinstance(n := getattr(config, name, None), int)]
    return min(max((n for n in counts if isinstance(n, int)), default=0), 8)


def _kinds_listed(config: Any, old: int) -> int:
    """The same by a list that names the kind of each layer."""
    need = 0
    for name, value in vars(config).items():
        if (
            isinstance(value, (list, tuple))
            and len(value) == old
            and any(w in name for w in ("layer", "block"))
            and all(isinstance(v, str) for v in value)
        ):
            need = max(need, max(value.index(kind) for kind in set(value)) + 1)
    return min(need, 8)


def _cut_lists(config: Any, old: int, new: int) -> None:
    for name, value in list(vars(config).items()):
        if not isinstance(value, list) or name.startswith("_"):
            continue
        if len(value) == old and old > 4:
            setattr(config, name, value[:new])
        elif (
            value
            and all(type(v) is int for v in value)
            and max(value) <= old
            and ("index" in name or "layer" in name or "idx" in name)
        ):
            setattr(config, name, sorted({min(v, new - 1) if v >= 0 else v for v in value}))


def model_classes(transformers: Any, kind: str, config_class: type) -> list[type]:
    """Every model class that an Auto mapping offers for a type; without a mapping the model of its own module."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    tables = [t for n, t in vars(auto).items() if n.startswith("MODEL_") and n.endswith("MAPPING_NAMES")]
    found = [table[kind] for table in tables if kind in table]
    names = dict.fromkeys(name for entry in found for name in ([entry] if isinstance(entry, str) else entry))
    classes = [cls for name in names if (cls := getattr(transformers, name, None)) is not None]
    return classes or _own_classes(transformers, config_class)


def _own_classes(transformers: Any, config_class: type) -> list[type]:
    module_name = config_class.__module__.replace(".configuration_", ".modeling_")
    try:
        module = importlib.import_module(module_name)
    except ImportError:
        return []
    base = transformers.PreTrainedModel
    found = [
        cls for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, base) and getattr(cls, "config_class", None) is config_class
    ]  # fmt: skip
    return [cls for cls in found if getattr(cls.forward, "__name__", "") != "_forward_unimplemented"][:1]


def configured(cls: type, config_class: type, few: bool = True) -> Any:
    """The default configuration of a class, with few layers, as the class needs it.

    A model with a head for text is a decoder, so that it has a cache. The tokens that stand for images and videos get
    an id where the default is None, the last ones: the checkpoints name them, and without them a model cannot place its
    own image features.
    """
    config = config_class()
    if few:
        config = shrink(config)
    if (
        cls.__name__.endswith(("LMHeadModel", "ForCausalLM", "Decoder"))
        and getattr(config, "is_decoder", None) is False
    ):
        config.is_decoder = True
    vocabulary = getattr(getattr(config, "text_config", None), "vocab_size", None)
    for back, name in enumerate(("image_token_index", "video_token_index"), start=1):
        if name in vars(config) and getattr(config, name) is None and isinstance(vocabulary, int):
            setattr(config, name, vocabulary - back)
    return config


def build(cls: type, config_class: type, dtype: str = "bfloat16", few: bool = True) -> Any:
    """The model on meta, in the dtype of today's checkpoints unless another is given."""
    import torch

    from torch_regflat.capture.huggingface import build_class

    return build_class(cls, configured(cls, config_class, few), getattr(torch, dtype))


def build_model(cls: type, config_class: type) -> Any:
    """The shrunk model, or the whole one where the shrunk configuration cannot be built."""
    try:
        return build(cls, config_class)
    except Exception as error:
        try:
            return build(cls, config_class, few=False)
        except Exception:
            raise error from None


def lengths(model: Any, phase: str) -> dict[str, int]:
    """The lengths that a model takes: TOKENS, or what it has positions for."""
    from torch_regflat.capture.phases import positions_of

    limit = positions_of(model)
    takes_tokens = model.main_input_name == "input_ids" or "input_ids" in inspect.signature(model.forward).parameters
    if phase == "decode":
        return {"context": min(TOKENS - 1, limit - 2 if limit else TOKENS)}
    return {"seq_len": min(TOKENS, limit or TOKENS)} if takes_tokens else {}
