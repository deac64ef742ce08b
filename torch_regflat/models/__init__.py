"""The models that ship with torch_regflat: configuration facts only, no weights, one JSON file a model in `configs/`.

Each file holds the fields of the published `config.json` under `config`, where they come from under `source`, what
differs from the checkpoint under `note`, the exact number of parameters of the module built from it under
`parameters`, and under `kind` whether the facts are `published` or an `estimate`. Reading them needs no torch.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from ..errors import ModelError, near

__all__ = ["OWN_MODEL_TYPES", "describe", "facts", "names"]

# Architectures written here because no library has them: model_type -> (module, class), imported when built.
OWN_MODEL_TYPES = {"gpt4_moe_estimate": ("torch_regflat.models.gpt4_moe", "Gpt4MoeEstimate")}

# What `describe` calls a thing, and the fields of a Hugging Face configuration that hold it, first match wins.
_FIELDS: dict[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "intermediate": ("intermediate_size", "encoder_ffn_dim"),
    "heads": ("num_attention_heads", "n_head", "encoder_attention_heads"),
    "kv_heads": ("num_key_value_heads",),
    "experts": ("num_local_experts", "n_routed_experts"),
    "experts_per_token": ("num_experts_per_tok",),
    "vocabulary": ("vocab_size",),
    "positions": ("max_position_embeddings", "n_positions", "max_target_positions"),
    "dtype": ("dtype", "torch_dtype"),
}


def names() -> list[str]:
    """Return the names of the shipped models, sorted."""
    return sorted(entry.name.removesuffix(".json") for entry in _configs().iterdir() if entry.name.endswith(".json"))


def facts(name: str) -> dict[str, Any]:
    """Return the content of a shipped model's file, a fresh copy each time."""
    if name not in names():
        raise ModelError(f"unknown model {name!r}{near(name, names()) or ';'} `regflat models` lists what ships")
    loaded: dict[str, Any] = json.loads(_configs().joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def describe(name: str) -> dict[str, Any]:
    """Return what is known of a shipped model: parameters, layers, sizes, experts, dtype, positions, source, note.

    A fact that the architecture does not have (experts of a dense model) is None. `kv_heads` is the number of heads
    whose keys and values are cached; where the configuration does not name it, it is the number of heads.
    """
    content = facts(name)
    config = content["config"]
    found = {label: _first(config, fields) for label, fields in _FIELDS.items()}
    if found["kv_heads"] is None:
        found["kv_heads"] = found["heads"]
    architecture = config["architectures"][0]
    head = {"name": name, "kind": content["kind"], "architecture": architecture, "parameters": content["parameters"]}
    return {**head, **found, **{key: content[key] for key in ("hub_id", "source", "note")}}


def _first(config: dict[str, Any], fields: tuple[str, ...]) -> Any:
    return next((config[field] for field in fields if config.get(field) is not None), None)


def _configs() -> Any:
    return files(__name__).joinpath("configs")
