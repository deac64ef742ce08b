"""Models of transformers divided among chips: nothing of the whole is lost, and what is exchanged is what has to be."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from torch_regflat.capture.huggingface import build_class
from torch_regflat.errors import InputError
from torch_regflat.layout import Layout
from torch_regflat.models.gpt4_moe import Gpt4MoeConfig, Gpt4MoeEstimate
from torch_regflat.profiler import capture_model
from torch_regflat.workload import Workload

transformers = pytest.importorskip("transformers")

LLAMA = transformers.LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4,
    vocab_size=256, max_position_embeddings=256,
)  # fmt: skip
MIXTRAL = transformers.MixtralConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4,
    vocab_size=256, num_local_experts=8, num_experts_per_tok=2, max_position_embeddings=256,
)  # fmt: skip
DEEPSEEK = transformers.DeepseekV3Config(
    hidden_size=64, intermediate_size=128, moe_intermediate_size=32, num_hidden_layers=3, num_attention_heads=8,
    num_key_value_heads=8, n_routed_experts=16, num_experts_per_tok=4, n_group=1, topk_group=1, n_shared_experts=1,
    first_k_dense_replace=1, q_lora_rank=24, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16,
    vocab_size=256, max_position_embeddings=256,
)  # fmt: skip
TIED = transformers.LlamaConfig(**{**LLAMA.to_dict(), "tie_word_embeddings": True})
GPT_OSS = transformers.GptOssConfig(
    hidden_size=64, intermediate_size=64, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4,
    head_dim=16, num_local_experts=8, num_experts_per_tok=2, vocab_size=256, max_position_embeddings=256,
)  # fmt: skip
MODELS = {
    "sinks": (transformers.GptOssForCausalLM, GPT_OSS),
    "tied": (transformers.LlamaForCausalLM, TIED),
    "dense": (transformers.LlamaForCausalLM, LLAMA),
    "experts": (transformers.MixtralForCausalLM, MIXTRAL),
    "latent attention": (transformers.DeepseekV3ForCausalLM, DEEPSEEK),
}
WHOLE = ("gate", "router", "embed_positions", "q_a_proj", "kv_a_proj_with_mqa", "rotary_emb", "layernorm", "norm")
"""What every chip of a tensor-parallel group does in full: routers, projections to latents, positions, norms."""


def model_of(kind: str) -> torch.nn.Module:
    if kind == "of our own":
        with torch.device("meta"):
            return Gpt4MoeEstimate(Gpt4MoeConfig(256, 64, 96, 2, 8, 8, 2, 256)).to(torch.bfloat16).eval()
    cls, config = MODELS[kind]
    return build_class(cls, config, torch.bfloat16)


def captured(kind: str, layout: Layout | None = None, **options: Any) -> Any:
    return capture_model(model_of(kind), layout=layout, **{"phase": "prefill", "batch": 4, "seq_len": 32, **options})


@functools.cache
def workload_of(kind: str, layout: Layout | None = None) -> Workload:
    """Of a prefill, captured once."""
    work: Workload = captured(kind, layout).workload
    return work


def flops_by_path(work: Workload) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for op in work:
        found[op.path] += op.flops
    return {path: flops for path, flops in found.items() if flops}


def weights_by_name(work: Workload) -> dict[str, int]:
    return {t.name: t.nbytes for t in work.tensors.values() if t.role == "weight"}


def is_whole(name: str) -> bool:
    return any(part.endswith(WHOLE) for part in name.removesuffix(".weight").split("."))


LAYOUTS = [
    ("dense", Layout(tp=4)),
    ("dense", Layout(tp=2, dp=2)),
    ("tied", Layout(tp=4)),
    ("dense", Layout(dp=4)),
    ("experts", Layout(tp=4)),
    ("experts", Layout(tp=4, ep=4)),
    ("experts", Layout(tp=4, ep=2)),
    ("experts", Layout(tp=2, ep=4, dp=2)),
    ("experts", Layout(ep=4, dp=4)),
    ("experts", Layout(tp=2, ep=2, dp=2)),
    ("experts", Layout(tp=4, ep=4, dp=2)),
    ("experts", Layout(tp=1, ep=2, dp=4)),
    ("latent attention", Layout(tp=4)),
    ("latent attention", Layout(tp=2, ep=8, dp=4)),
    ("latent attention", Layout(tp=8, ep=8)),
    ("sinks", Layout(tp=4)),
    ("sinks", Layout(tp=2, ep=4, dp=2)),
    ("of our own", Layout(tp=4)),
    ("of our own", Layout(tp=2, ep=4, dp=2)),
]


@pytest.mark.parametrize(("kind", "layout"), LAYOUTS, ids=lambda value: str(value))
def test_all_ranks_together_do_the_work_of_the_whole_model(kind: str, layout: Layout) -> None:
    whole, own = (flops_by_path(workload_of(kind, chosen)) for chosen in (None, layout))
    assert whole.keys() == own.keys()
    for path, flops in own.items():
        ranks = layout.dp if is_whole(path) else layout.tp * layout.dp
        assert flops * ranks == whole[path], path


@pytest.mark.parametrize(("kind", "layout"), LAYOUTS, ids=lambda value: str(value))
def test_all_ranks_together_hold_the_weights_of_the_whole_model(kind: str, layout: Layout) -> None:
    whole, own = (weights_by_name(workload_of(kind, chosen)) for chosen in (None, layout))
    assert whole.keys() == own.keys()
    for name, nbytes in own.items():
        if ".experts." in name and layout.ep > 1:
            assert nbytes * layout.tp * layout.dp == whole[name], name
        else:
            added_once = name.endswith(("o_proj.bias", "down_proj_bias"))  # after partial sums are added up
            assert nbytes * (1 if is_whole(name) or added_once else layout.tp) == whole[name], name


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_tensor_parallel_llama_reduces_twice_a_layer(phase: str) -> None:
    length = {"seq_len": 32} if phase == "prefill" else {"seq_len": None, "context": 32}
    work = captured("dense", Layout(tp=4), phase=phase, **length).workload
    reduced = Counter(op.path for op in work if op.collective and op.collective.kind == "all_reduce")
    layers = [f"model.layers.{i}.{name}" for i in range(3) for name in ("self_attn.o_proj", "mlp.down_proj")]
    assert reduced == Counter(["model.embed_tokens", *layers])
    tokens = 4 * (32 if phase == "prefill" else 1)
    sizes = {op.collective for op in work if op.collective and op.collective.kind == "all_reduce"}
    assert {(c.nbytes, c.ranks, c.stride) for c in sizes if c} == {(tokens * 64 * 2, 4, 1)}
    (gathered,) = [op for op in work if op.collective and op.collective.kind == "all_gather"]
    assert gathered.path == "lm_head"


def test_layers_are_traced_once_and_copied() -> None:
    graph = captured("experts", Layout(tp=2, ep=4, dp=2)).graph
    copies = [node for node in graph.graph.nodes if node.op == "call_function" and "template" in node.meta]
    assert {node.meta["module_path"].split(".")[2] for node in copies} == {"1"}
    assert any(node.meta.get("ranks") for node in copies)


def test_tokens_travel_to_their_experts_and_back() -> None:
    layout = Layout(tp=2, ep=4, dp=2)
    work = workload_of("experts", layout)
    sent = [op.collective for op in work if op.collective and op.path == "model.layers.0.mlp.experts"]
    copies = 4 // layout.dp * 32 // layout.tp * MIXTRAL.num_experts_per_tok
    there, back, gathered = sent
    assert there == back and there is not None and gathered is not None
    assert (there.kind, there.nbytes, there.ranks, there.stride) == ("all_to_all", copies * 64 * 2, 4, 1)
    assert (gathered.kind, gathered.ranks) == ("all_gather", 2)


@pytest.mark.parametrize(
    ("layout", "kinds"),
    [
        (Layout(tp=2, ep=2, dp=2), ["all_to_all", "all_to_all", "all_reduce"]),
        (Layout(tp=4, ep=4, dp=2), ["all_to_all", "all_to_all", "all_reduce", "all_gather"]),
        (Layout(tp=1, ep=2, dp=4), ["all_gather"] * 3 + ["all_to_all", "all_to_all", "reduce_scatter"]),
        (Layout(tp=4, ep=2), ["all_reduce"]),
    ],
    ids=lambda value: str(value),
)
def test_slices_of_one_expert_are_added_up(layout: Layout, kinds: list[str]) -> None:
    work = workload_of("experts", layout)
    sent = [op.collective for op in work if op.collective and op.path == "model.layers.0.mlp.experts"]
    assert [exchange.kind for exchange in sent if exchange] == kinds


def test_experts_that_are_hit_are_those_of_all_tokens() -> None:
    """A token goes to 2 of 8 experts, wherever they are."""
    whole = captured("experts", phase="decode", seq_len=None, context=32, batch=1).workload
    own = captured("experts", Layout(tp=2, ep=2), phase="decode", seq_len=None, context=32, batch=1).workload
    read = []
    for work in (whole, own):
        nests = [nest for op in work if op.path == "model.layers.0.mlp.experts" for nest in op.nests if nest.flops]
        read.append(sum(o.footprint_bytes(n.sizes) for n in nests for o in n.operands if o.role == "weight"))
    assert read[1] * 2 == pytest.approx(read[0])


@pytest.mark.parametrize("kind", ["dense", "latent attention"])
def test_training_is_divided_like_inference(kind: str) -> None:
    layout = Layout(tp=2, dp=2)
    whole, own = (flops_by_path(captured(kind, chosen, phase="train").workload) for chosen in (None, layout))
    assert whole.keys() == own.keys()
    for path, flops in own.items():
        ranks = layout.dp if is_whole(path) else layout.tp * layout.dp
        assert flops * ranks == whole[path], path


def test_data_parallel_training_averages_every_gradient_once() -> None:
    work = captured("dense", Layout(tp=2, dp=2), phase="train").workload
    averaged = [op for op in work if op.collective and op.phase == "optimizer"]
    updated = sum(work.tensors[op.inputs[0]].nbytes for op in work if "adamw" in op.target)
    assert sum(op.collective.nbytes for op in averaged if op.collective) == updated
    assert {(op.collective.ranks, op.collective.stride) for op in averaged if op.collective} == {(2, 2)}
    assert len(averaged) == 3 + 2  # one a layer, one before and one after


def test_tensor_parallel_training_reduces_forward_and_backward() -> None:
    """Forward twice a layer. Backward, as transformers has it, each product whose input is whole gives a part of that
    input's gradient: queries, keys, values, gate and up."""
    work = captured("dense", Layout(tp=2), phase="train", optimizer=None).workload
    found = Counter(op.phase for op in work if op.collective and op.path.startswith("model.layers.1."))
    assert found == {"forward": 2, "backward": 5}


def test_a_process_group_is_there_only_meanwhile() -> None:
    captured("dense", Layout(tp=2))
    assert not dist.is_initialized()


def test_a_fake_process_group_that_is_there_is_used() -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        captured("dense", Layout(tp=4))
        assert dist.is_initialized()
        with pytest.raises(InputError, match="a process group of 4 ranks is initialized, and the layout has 2 chips"):
            captured("dense", Layout(tp=2))
    finally:
        dist.destroy_process_group()


def test_layouts_one_after_the_other_have_groups_of_their_own() -> None:
    """DTensor remembers placements by mesh, and equal meshes of other process groups are equal to it."""
    for layout in (Layout(tp=2, ep=2), Layout(tp=2, dp=2), Layout(tp=2), Layout(tp=2, ep=4, dp=2)):
        work = captured("experts", layout).workload
        assert {op.collective.ranks for op in work if op.collective} <= {2, layout.ep}


def test_the_model_is_left_as_it_was() -> None:
    model = model_of("experts")
    before = {name: (id(p), p.shape) for name, p in model.named_parameters()}
    forwards = [module.__dict__.get("forward") for module in model.modules()]
    capture_model(model, phase="prefill", batch=4, seq_len=32, layout=Layout(tp=2, ep=4, dp=2))
    assert {name: (id(p), p.shape) for name, p in model.named_parameters()} == before
    assert [module.__dict__.get("forward") for module in model.modules()] == forwards


def test_what_stays_whole_is_said() -> None:
    (note,) = [n for n in captured("latent attention", Layout(tp=2)).labels.notes if "whole" in n]
    assert "kv_a_proj_with_mqa" in note and "%" in note


NOT_DIVIDED = [
    (
        ("dense", Layout(tp=3), 4),
        "tp is 3, which does not divide the 8 attention heads of LlamaForCausalLM; degrees that do: 1, 2, 4",
    ),
    (
        ("dense", Layout(tp=8), 4),
        "tp is 8, which does not divide the 4 key-value heads of LlamaForCausalLM; degrees that do: 1, 2, 4",
    ),
    (("dense", Layout(tp=2, ep=2), 4), "LlamaForCausalLM has no experts, so ep must be 1"),
    (
        ("dense", Layout(dp=8), 4),
        "batch is 4, fewer than the dp = 8 groups of chips that take different sequences; "
        "use a batch of 8 or more, or a dp of 1, 2, 4",
    ),
    (
        ("dense", Layout(pp=4), 4),
        "pp is 4, more stages than the 3 repeated layers of LlamaForCausalLM; use a pp of at most 3",
    ),
    (
        ("experts", Layout(tp=1, ep=16, dp=16), 16),
        "ep is 16, which does not divide the 8 experts of MixtralForCausalLM; degrees that do: 1, 2, 4, 8",
    ),
]


@pytest.mark.parametrize(("asked", "message"), NOT_DIVIDED, ids=lambda value: str(value)[:20])
def test_what_does_not_divide_is_said(asked: tuple[str, Layout, int], message: str) -> None:
    kind, layout, batch = asked
    with pytest.raises(InputError) as caught:
        captured(kind, layout, batch=batch)
    assert str(caught.value) == message


def test_a_model_without_a_plan_says_what_works() -> None:
    config = transformers.GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=128)
    model = build_class(transformers.GPT2LMHeadModel, config, torch.bfloat16)
    if model.tp_plan:
        pytest.skip("this transformers has a plan for it")
    with pytest.raises(InputError, match="has no tensor-parallel plan.*dp and pp work.*parallelize_module"):
        capture_model(model, phase="prefill", seq_len=16, layout=Layout(tp=2))
