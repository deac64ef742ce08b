"""New tokens against a filled cache: chunks of prompts, turns of a conversation, drafts to check."""

from __future__ import annotations

import pytest

import zoo
from torch_regflat import InputError
from torch_regflat.models.gpt4_moe import Gpt4MoeConfig, Gpt4MoeEstimate
from torch_regflat.profiler import capture_model
from torch_regflat.workload import Workload


def workload(phase: str, model: object = None, **sizes: int) -> Workload:
    if model is None:
        model, _ = zoo.small_llama(num_key_value_heads=2, max_position_embeddings=1024)
    return capture_model(model, phase=phase, mode="serving", **sizes).workload  # type: ignore[arg-type]


def executed(work: Workload, *kinds: str) -> float:
    return sum(nest.work for op in work for nest in op.nests if not kinds or nest.kind in kinds)


def small_moe() -> Gpt4MoeEstimate:
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Gpt4MoeConfig(vocab_size=1000, num_local_experts=4, max_position_embeddings=512, **sizes)
    return Gpt4MoeEstimate(config).eval()


@pytest.mark.parametrize("model", [None, small_moe()], ids=["llama", "gpt4-moe"])
def test_two_halves_do_the_work_of_the_whole(model: object) -> None:
    """Reading 128 tokens, then 128 more, executes what reading 256 does: the causal triangle is cut, not doubled."""
    whole = workload("prefill", model, seq_len=256)
    halves = [workload("prefill", model, seq_len=128), workload("extend", model, seq_len=128, context=128)]
    for kinds in (("attention",), ("product", "experts")):
        assert sum(executed(half, *kinds) for half in halves) == pytest.approx(executed(whole, *kinds), rel=1e-6)


def test_the_cache_is_read_as_it_is() -> None:
    """Query heads share keys: nothing makes a copy of the cache for each of them."""
    work = workload("extend", seq_len=16, context=512, batch=2)
    attention = [nest for op in work for nest in op.nests if nest.kind == "attention"]
    dims = dict(attention[0].dims)
    assert (dims["b"], dims["g"], dims["q"], dims["s"]) == (4, 4, 16, 528)


def test_logits_of_the_last_tokens() -> None:
    model, _ = zoo.small_llama()
    works = [capture_model(model, phase="prefill", seq_len=64, logits=n).workload for n in (None, 1, 4)]
    heads = [sum(op.flops for op in work if "head" in op.path) for work in works]
    assert heads[0] == 16 * heads[2] == 64 * heads[1] > 0


def test_lengths() -> None:
    with pytest.raises(InputError, match="context 1000 and 100 new tokens are beyond the 1024 positions of"):
        workload("extend", seq_len=100, context=1000)
    default = capture_model(zoo.small_llama(max_position_embeddings=1024)[0], phase="extend").labels
    assert (default.seq_len, default.context) == (512, 512)
