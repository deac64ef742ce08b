"""A transformers model divided among ranks by its own plans: what the first rank holds and does.

Tensor parallelism is transformers' own (`tp_plan`, DTensor). Of experts a rank has its share (`ep_plan`, `dispatch`).
Modules are put back as they were afterwards.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..errors import InputError
from ..layout import Layout, divisors
from . import state
from ._torch_distributed import Mesh, fake_ranks, local
from .dispatch import Groups, install

ADDED_RULES: dict[str, dict[str, str]] = {
    "deepseek_v3": {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.q_b_proj": "colwise",
        "layers.*.self_attn.kv_b_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
    },
    "gpt_oss": {
        "embed_tokens": "embedding_rowwise",
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.sinks": "colwise",
        "layers.*.self_attn": "local_params",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.experts.gate_up_proj": "rowwise",  # stored transposed
        "layers.*.mlp.experts.gate_up_proj_bias": "rowwise",
        "layers.*.mlp.experts.down_proj": "colwise",
        "layers.*.mlp.experts": "moe_tp_experts",
    },
}
"""By model_type, rules that transformers' own plan lacks: its DeepSeek-V3 leaves attention whole on every rank, while
its DeepSeek-V3.2 has these; its GPT-OSS divides only the head. Every serving engine divides all of these."""

WORTH_SAYING = 0.0005
"""Share of the weight bytes from which on it is said that they stay whole; norms alone are less."""

_TRAINING_ONLY = ("mla_kv_a_proj", "replicated_with_grad_allreduce")
"""Styles that do nothing to a forward but, the first, take its result apart and together again."""


@contextmanager
def divided(model: nn.Module, layout: Layout, name: str, train: bool = False) -> Iterator[tuple[str, ...]]:
    """Within this, `model` is what the first rank of a layout has of it. Gives notes on what could not be divided.

    Raises `InputError` for degrees that do not divide the model, naming the nearest that do.
    """
    if layout.tp == layout.ep == 1 and not (train and layout.dp > 1):
        yield ()
        return
    plan = Plan(model, layout, name, train)
    with fake_ranks(layout.chips):
        saved = state.Saved()
        for module in model.modules():
            saved.module(module)
        try:
            whole = _weights(model)
            plan.apply()
            yield _left_whole(model, whole, layout)
        finally:
            saved.restore()


def check_layout(model: nn.Module, layout: Layout, name: str, train: bool = False) -> None:
    """Refuse a layout whose degrees do not divide a model, naming the nearest that do."""
    Plan(model, layout, name, train)


def gradient_group(layout: Layout) -> str | None:
    """The name of the group whose ranks average their gradients; None where there is one such rank."""
    return Mesh((layout.pp, layout.dp, layout.tp)).group(1) if layout.dp > 1 else None


class Plan:
    """The rules of a model for one layout, checked."""

    def __init__(self, model: nn.Module, layout: Layout, name: str, train: bool) -> None:
        self.model, self.layout, self.name = model, layout, name
        self.config = _text_config(model)
        self.tp_rules, self.ep_rules = _rules(model, "tp_plan"), _rules(model, "ep_plan")
        if self.tp_rules:
            base: Any = getattr(model, "base_model_prefix", "")
            prefix = f"{base}." if model is not getattr(model, "base_model", model) else ""
            for rule, style in ADDED_RULES.get(getattr(self.config, "model_type", ""), {}).items():
                self.tp_rules.setdefault(f"{prefix}{rule}", style)
        if not train:
            self.tp_rules = {rule: style for rule, style in self.tp_rules.items() if style not in _TRAINING_ONLY}
        self._check(train)

    def _check(self, train: bool) -> None:
        layout, name = self.layout, self.name
        if layout.tp > 1 and not self.tp_rules:
            raise InputError(
                f"{name} has no tensor-parallel plan (tp_plan) in transformers, so tp must be 1; dp and pp work, and "
                "so does a model that you divide yourself with torch's parallelize_module and pass to profile()"
            )
        if layout.ep > 1 and not self.ep_rules:
            experts = "no expert-parallel plan (ep_plan) in transformers" if _experts(self.config) else "no experts"
            raise InputError(f"{name} has {experts}, so ep must be 1")
        if layout.ep > 1 and train:
            raise InputError("training with experts divided among chips is not captured; use an ep of 1")
        _check_divides("tp", layout.tp, self._heads(), name)
        if layout.ep > 1:
            _check_divides("ep", layout.ep, {"experts": _experts(self.config)}, name)
            same, tp = layout.expert_tp, layout.tp
            if layout.dp > 1 and tp % same and same % tp:
                raise InputError(
                    f"each expert would be divided among {same} chips (tp x dp / ep) and attention among tp = {tp}, "
                    f"and neither divides the other; use an ep of {tp * layout.dp} or {layout.dp}"
                )

    def _heads(self) -> dict[str, int]:
        """What tp has to divide."""
        divided = {rule.rpartition(".")[2] for rule, style in self.tp_rules.items() if style == "colwise"}
        found = {}
        if divided & {"q_proj", "q_b_proj", "qkv_proj", "query_key_value"}:
            found["attention heads"] = getattr(self.config, "num_attention_heads", 1)
        if divided & {"k_proj", "qkv_proj", "query_key_value"}:
            heads = getattr(self.config, "num_key_value_heads", None)
            if isinstance(heads, int):
                found["key-value heads"] = heads
        return found

    def apply(self) -> None:
        """Divide the model in place."""
        model: Any = self.model
        transformers = importlib.import_module("transformers.distributed.tensor_parallel")
        tp_rules = self.tp_rules
        if self.layout.ep > 1:
            inside = re.compile(rf"(?:{'|'.join(map(re.escape, self.ep_rules))})(?:\..+)?").fullmatch
            tp_rules = {rule: style for rule, style in tp_rules.items() if not inside(rule)}
        if self.layout.tp > 1:
            mesh = Mesh((self.layout.pp, self.layout.dp, self.layout.tp)).along(2)
            tied = _tied(model)
            if tied is not None:
                tp_rules = {**tp_rules, tied[0]: "embedding_rowwise"}
            plan = expanded(model, tp_rules)
            if tied is not None:  # divided once, as the embedding's
                plan.pop(f"{tied[1]}.weight", None)
            transformers.apply_tensor_parallelism(model, mesh, plan)
            if tied is not None:
                model.get_output_embeddings().weight = model.get_input_embeddings().weight
        if self.layout.ep > 1:
            self._divide_experts(transformers)

    def _divide_experts(self, transformers: Any) -> None:
        model: Any = self.model
        groups = Groups.of(self.layout, _experts(self.config))
        same = self.layout.expert_tp
        within = Mesh((self.layout.pp, self.layout.ep, same)).along(2) if same > 1 else None
        slices = expanded(model, self.tp_rules)
        for name, style in expanded(model, self.ep_rules).items():
            owner, _, parameter = name.rpartition(".")
            if style == "ep_dispatch_experts":
                install(model.get_submodule(name), groups)
                continue
            module = model.get_submodule(owner)
            if within is not None and name in slices:
                transformers.ALL_PARALLEL_STYLES[slices[name]].shard_param(module, parameter, within)
            held = local(module._parameters[parameter])
            count = held.shape[0] // self.layout.ep
            module._parameters[parameter] = nn.Parameter(held.new_empty(count, *held.shape[1:]), requires_grad=False)
            module.num_experts = count


def _check_divides(degree: str, value: int, counts: dict[str, int], name: str) -> None:
    for what, count in counts.items():
        if count % value:
            fit = divisors(math.gcd(*counts.values()))
            raise InputError(
                f"{degree} is {value}, which does not divide the {count} {what} of {name}; "
                f"degrees that do: {', '.join(map(str, fit[:16]))}"
            )


def expanded(model: nn.Module, rules: dict[str, str]) -> dict[str, str]:
    """Rules for layers (`layers.*.mlp`) as one for each module and parameter; parameters before their module."""
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        own = rules.get(_starred(name))
        for parameter, _ in module.named_parameters(recurse=False):
            full = f"{name}.{parameter}" if name else parameter
            style = rules.get(_starred(full), own)
            if style is not None:
                found[full] = style
        if own is not None:
            found[name] = own
    return found


def _starred(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)


def _rules(model: Any, name: str) -> dict[str, str]:
    return dict(getattr(model, name, None) or {})


def _text_config(model: Any) -> Any:
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _experts(config: Any) -> int:
    for name in ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"):
        found = getattr(config, name, None)
        if isinstance(found, int):
            return found
    return 0


def _tied(model: Any) -> tuple[str, str] | None:
    """The names of an embedding and of an output layer that have the same weights."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    if outputs is None or inputs is None or outputs.weight is not inputs.weight:
        return None
    names = {id(module): name for name, module in model.named_modules()}
    return names[id(inputs)], names[id(outputs)]


def _weights(model: nn.Module) -> dict[str, int]:
    return {name: p.numel() * p.dtype.itemsize for name, p in model.named_parameters()}


def _left_whole(model: nn.Module, before: dict[str, int], layout: Layout) -> tuple[str, ...]:
    """What every rank of a tensor-parallel group has in full, with its share of the model's weight bytes."""
    total = sum(before.values())
    shares: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        whole = before.get(name, 0)
        held = local(parameter)
        if whole and held.numel() * held.dtype.itemsize >= whole:
            key = _starred(name).rpartition(".")[0]
            shares[key] = shares.get(key, 0) + whole
    rest = sum(shares.values()) / total if total else 0.0
    if rest < WORTH_SAYING or layout.tp == 1:
        return ()
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    shown = [f"{key} {size / total:.2%}" for key, size in ordered if size / total >= WORTH_SAYING][:6]
    listed = f": {', '.join(shown)}" if shown else ""
    return (f"the plan leaves {rest:.2%} of weight bytes whole on every chip of a group of tp = {layout.tp}{listed}",)
