"""From what a user writes to a module on meta tensors: shipped names, folders, hub ids, `module:factory`.

Only configurations are read, never weights, and no code from a repository runs unless `trust_remote_code` is set.
transformers is imported when a configuration has to be built, not before.
"""

from __future__ import annotations

import gc
import importlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..errors import InputError, ModelError, near
from ..models import OWN_MODEL_TYPES, describe, facts, names
from . import factory
from ._torch_private import KeepsConstants
from .hints import Hints
from .phases import Phase, Prepared, phases_of, prepare_model, torch_dtype

__all__ = ["ModelSpec", "Phase", "Prepared", "build", "describe", "names", "phases_of", "prepare", "resolve"]

Kind = Literal["shipped", "folder", "hub", "factory"]
Divide = Callable[[nn.Module, str], tuple[str, ...]]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_NO_DTYPE = "dtype can only be chosen for a model that is built here; cast the module itself instead"
# Tried in this order when a configuration names no architecture.
_AUTO_CLASSES = (
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForMaskedLM",
    "AutoModelForImageClassification",
    "AutoModel",
)


@dataclass(frozen=True)
class ModelSpec:
    """A model that was found but not built. `dtype` is the checkpoint's own; `config` is None for a factory."""

    name: str
    kind: Kind
    config: Any = None
    dtype: str = "float32"
    source: str = ""
    notes: tuple[str, ...] = ()
    trust_remote_code: bool = False


def resolve(spec: str, *, trust_remote_code: bool = False) -> ModelSpec:
    """Find what `spec` names: a shipped model, a folder with a `config.json`, `module:factory`, or a hub id."""
    if spec in names():
        return _shipped(spec)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _folder(path, trust_remote_code)
    if _FACTORY.fullmatch(spec):
        return ModelSpec(name=spec, kind="factory", source=spec)
    if path.is_file():
        raise ModelError(f"{spec} is a file; give the folder that holds its config.json")
    if spec.startswith((".", "/", "~")):
        raise ModelError(f"there is no folder {spec}")
    if _HUB_ID.fullmatch(spec):
        return _hub(spec, trust_remote_code)
    raise ModelError(
        f"unknown model {spec!r}{near(spec, names()) or ';'} give a shipped name (regflat models lists them), "
        "a folder with a config.json, a hub id as owner/name, or module:factory"
    )


def build(spec: ModelSpec, *, dtype: str | None = None) -> nn.Module:
    """Build the module on the meta device, in eval mode, without initialising or loading any weight.

    `dtype` overrides the checkpoint's own. A factory's module comes back as the factory made it.
    """
    if spec.kind == "factory":
        if dtype is not None:
            raise InputError(_NO_DTYPE)
        return factory.load(spec.name)[0].eval()
    chosen = torch_dtype(dtype or spec.dtype)
    if isinstance(spec.config, dict):
        return _build_own(spec.config, chosen)
    with _collector_paused():
        return _build_transformers(spec, chosen)


def prepare(
    model: str | ModelSpec | nn.Module,
    phase: str | None = None,
    *,
    batch: int = 1,
    seq_len: int | None = None,
    context: int | None = None,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    trust_remote_code: bool = False,
    hints: Hints | None = None,
    divide: Divide | None = None,
    logits: int | None = None,
) -> Prepared:
    """Build a model where need be and make the inputs of one phase; see `Prepared`.

    Lengths that are not given are 2048 tokens, or the model's positions where it has fewer. A module of the user's
    own needs `example_inputs()`, or a factory that returns `(model, args[, kwargs])`. `divide` is called with the
    model and its name before its inputs are made, and may change it; what it returns is said.
    """
    if isinstance(model, nn.Module):
        if dtype is not None:
            raise InputError(_NO_DTYPE)
        name = getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__
        notes = divide(model, name) if divide else ()
        return prepare_model(model, name, phase, batch, seq_len, context, kv_dtype, notes, hints, logits)
    spec = resolve(model, trust_remote_code=trust_remote_code) if isinstance(model, str) else model
    if spec.kind == "factory":
        if dtype is not None:
            raise InputError(_NO_DTYPE)
        return _prepare_factory(spec, phase, batch, seq_len, context, kv_dtype, hints, divide, logits)
    module = build(spec, dtype=dtype)
    notes = (*spec.notes, *_attention_note(spec.name, module), *(divide(module, spec.name) if divide else ()))
    return prepare_model(module, spec.name, phase, batch, seq_len, context, kv_dtype, notes, hints, logits)


def _prepare_factory(
    spec: ModelSpec,
    phase: str | None,
    batch: int,
    seq_len: int | None,
    context: int | None,
    kv_dtype: str | None,
    hints: Hints | None,
    divide: Divide | None,
    logits: int | None,
) -> Prepared:
    model, args, kwargs = factory.load(spec.name)
    notes = divide(model, spec.name) if divide else ()
    if args is None:
        if phases_of(model)[0] != "forward":
            return prepare_model(model, spec.name, phase, batch, seq_len, context, kv_dtype, notes, hints, logits)
        raise ModelError(
            f"{spec.name} gave a module without inputs; return (model, args) or (model, args, kwargs), "
            "or give the module a method example_inputs()"
        )
    if phase not in (None, "forward", "train"):
        raise InputError(f"{spec.name} brings its own inputs and has no {phase}; its phases are forward, train")
    if batch != 1 or seq_len is not None or context is not None:
        raise InputError(f"{spec.name} brings its own inputs; choose batch, seq_len and context in that function")
    dtype = next((str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()), "float32")
    chosen: Phase = "train" if phase == "train" else "forward"
    return Prepared(model, args, kwargs, spec.name, chosen, f"inputs of {spec.name}", dtype, notes=notes)


def _shipped(name: str) -> ModelSpec:
    content = facts(name)
    config: dict[str, Any] = content["config"]
    dtype = str(config.pop("torch_dtype"))
    notes = (content["note"],) if content["note"] else ()
    found = ModelSpec(name=name, kind="shipped", config=config, dtype=dtype, source=content["source"], notes=notes)
    if config["model_type"] in OWN_MODEL_TYPES:
        return found
    config.pop("quantization_config", None)  # said in the file's note
    return replace(found, config=_transformers().AutoConfig.for_model(**config))


def _folder(path: Path, trust_remote_code: bool) -> ModelSpec:
    file = path / "config.json"
    if not file.is_file():
        raise ModelError(f"the folder {path} has no config.json")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {_line(error)}") from error
    model_type = raw.get("model_type") if isinstance(raw, dict) else None
    if not isinstance(model_type, str):
        raise ModelError(f"{file} has no model_type, so its architecture is unknown")
    transformers = _transformers()
    known = transformers.CONFIG_MAPPING
    if model_type not in known and not (trust_remote_code and "auto_map" in raw):
        hint = near(model_type, known.keys()) or ";"
        raise ModelError(
            f"{file} has the model_type {model_type!r}, which transformers {transformers.__version__} does not know"
            f"{hint} a newer transformers may, or --trust-remote-code if the folder brings its own code"
        )
    return _auto_config(path.resolve().name, str(path), "folder", str(file), trust_remote_code)


def _hub(hub_id: str, trust_remote_code: bool) -> ModelSpec:
    source = f"https://huggingface.co/{hub_id}/blob/main/config.json"
    if not _in_hub_cache(hub_id):
        _ask_hub(hub_id)
    return _auto_config(hub_id, hub_id, "hub", source, trust_remote_code)


def _in_hub_cache(hub_id: str) -> bool:
    _transformers()
    try:
        found = importlib.import_module("huggingface_hub").try_to_load_from_cache(hub_id, "config.json")
    except ValueError:  # not a valid hub id; asking the hub will say so
        return False
    return isinstance(found, str)


def _ask_hub(hub_id: str) -> None:
    """Ask once whether the file is there: transformers asks six times, half a minute when there is no network."""
    hub = importlib.import_module("huggingface_hub")
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(hub_id, "config.json"), timeout=10)
    except Exception as error:
        kind = type(error).__name__
        if kind == "GatedRepoError":
            why = "its owner asks for your agreement; accept it on the hub and log in"
        elif kind in ("RepositoryNotFoundError", "EntryNotFoundError", "RemoteEntryNotFoundError"):
            why = "the hub has no such model, or none with a config.json that you may read; check the name"
        else:
            why = f"the hub does not answer ({_line(error)}); check the network"
        raise ModelError(
            f"cannot read the configuration of {hub_id!r}: {why}, or give a folder with its config.json"
        ) from error


def _auto_config(name: str, location: str, kind: Kind, source: str, trust_remote_code: bool) -> ModelSpec:
    # What was fetched before is used as it is: a profile then needs no network.
    local = kind == "folder" or _in_hub_cache(location)
    try:
        config = _transformers().AutoConfig.from_pretrained(
            location, trust_remote_code=trust_remote_code, local_files_only=local and not trust_remote_code
        )
    except Exception as error:
        why = _line(error)
        if "trust_remote_code" in str(error):
            why = "it needs Python code from its repository; read that code, then pass --trust-remote-code"
        raise ModelError(f"cannot read the configuration of {name!r}: {why}") from error
    dtype, notes = _stored_dtype(config)
    return ModelSpec(name, kind, config, dtype, source, notes, trust_remote_code)


def _stored_dtype(config: Any) -> tuple[str, tuple[str, ...]]:
    """Return the dtype to build in and what has to be said about it; a quantised configuration becomes a plain one."""
    stored = getattr(config, "dtype", None)
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
        del config.quantization_config
        dtype = str(stored or "bfloat16").removeprefix("torch.")
        return dtype, (f"weights are stored quantised ({method}) and built here in {dtype}",)
    if stored is None:
        return "float32", ("the configuration names no dtype; built in float32, torch's default",)
    return str(stored).removeprefix("torch."), ()


def _build_own(config: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    module_name, class_name = OWN_MODEL_TYPES[config["model_type"]]
    cls: type[nn.Module] = getattr(importlib.import_module(module_name), class_name)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            return cls(config).eval()
    finally:
        torch.set_default_dtype(before)


def build_class(cls: Any, config: Any, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build one model class of transformers on the meta device, in eval mode, without initialising any weight."""

    def make(attention: str) -> Any:
        return cls._from_config(config, dtype=dtype, attn_implementation=attention)

    return _on_meta(make, cls.__name__)


def _build_transformers(spec: ModelSpec, dtype: torch.dtype) -> nn.Module:
    transformers = _transformers()
    return _on_meta(lambda attention: _instantiate(transformers, spec, dtype, attention), spec.name)


def _on_meta(make: Callable[[str], Any], name: str) -> nn.Module:
    """What `make` gives on meta, with fused attention where transformers has it."""
    skip = importlib.import_module("transformers.initialization").no_init_weights
    error: Exception | None = None
    for attention, constants in (("sdpa", True), ("sdpa", False), ("eager", True), ("eager", False)):
        try:
            with torch.device("meta"), skip(), KeepsConstants() if constants else nullcontext():
                model = make(attention)
            # Tying shares parameters, so it decides their number; transformers does it while initialising, which
            # was skipped.
            model.tie_weights()
            _group_experts(model)
            built: nn.Module = model.eval()
            return built
        except Exception as caught:
            # That a model has no fused attention is not why it cannot be built.
            error = caught if error is None or "attention implementation" in str(error) else error
    raise ModelError(f"transformers cannot build {name}: {_line(error)}") from error


def _group_experts(model: Any) -> None:
    """Let experts run as grouped products where the model can but does not: a loop over those hit asks for values."""
    if getattr(model.config, "_experts_implementation", None) == "eager":
        with suppress(ValueError):
            model.set_experts_implementation("grouped_mm")


def _instantiate(transformers: Any, spec: ModelSpec, dtype: torch.dtype, attention: str) -> Any:
    options = {"dtype": dtype, "attn_implementation": attention, "trust_remote_code": spec.trust_remote_code}
    config = spec.config
    if not (spec.trust_remote_code and getattr(config, "auto_map", None)):
        for architecture in config.architectures or ():
            cls = getattr(transformers, architecture, None)
            if cls is not None and hasattr(cls, "_from_config"):
                del options["trust_remote_code"]
                return cls._from_config(config, **options)
    for auto in (getattr(transformers, name) for name in _AUTO_CLASSES):
        if type(config) in auto._model_mapping or auto.__name__ in (getattr(config, "auto_map", None) or {}):
            return auto.from_config(config, **options)
    raise ModelError(f"transformers has no model class for the configuration {type(config).__name__}")


def _attention_note(name: str, model: nn.Module) -> tuple[str, ...]:
    used = getattr(getattr(model, "config", None), "_attn_implementation", "sdpa")
    if used != "eager":
        return ()
    return (f"attention of {name} runs unfused (eager): transformers has no scaled_dot_product_attention for it",)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the cyclic garbage collector: thousands of new modules make it walk all of transformers, for nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError(
            "this model is built with transformers, which is not installed; pip install 'torch_regflat[hf]'"
        ) from error


def _line(error: BaseException | None) -> str:
    """Return an error's first sentence: its first line, and the next where that one only introduces it."""
    lines = [line.strip() for line in str(error).strip().split("\n") if line.strip()] or [type(error).__name__]
    first = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return first.rstrip(".")
