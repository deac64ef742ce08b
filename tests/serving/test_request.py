"""Requests: the integrated cost of an answer is the sum of its steps, each priced at its own context."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

import torch_regflat as regflat
import zoo
from torch_regflat import InputError
from torch_regflat.serving import request
from torch_regflat.serving.drafts import drafting
from torch_regflat.serving.request import Ask, Prefill, Pricer, RequestProfile
from torch_regflat.serving.steps import Model, Step, Steps

MODEL = zoo.small_llama


def model(**options: Any) -> torch.nn.Module:
    found, _ = zoo.small_llama(num_key_value_heads=4, max_position_embeddings=4096, **options)
    return found


@pytest.fixture(scope="module")
def steps() -> Steps:
    return Steps(Model(model()), "h100-sxm")


def test_an_answer_is_the_sum_of_its_steps(steps: Steps) -> None:
    ask = Ask.of(700, 60, batch=4)
    found = Pricer(steps, ask).request()
    one_by_one = steps.costs([Step(4, 1, context) for context in range(700, 759)])
    assert found.turns[0].decode.seconds == pytest.approx(math.fsum(c.seconds for c in one_by_one), rel=0.005)
    joules = math.fsum(cost.joules for cost in one_by_one) + found.turns[0].prefill.joules
    assert found.j_per_request * 4 == pytest.approx(joules, rel=0.005)
    assert found.turns[0].first_token_s == one_by_one[0].seconds
    assert found.turns[0].last_token_s == one_by_one[-1].seconds


def test_few_contexts_stand_for_many(steps: Steps) -> None:
    """Over a long answer, where lines are long; every 37th context is priced to check."""
    found = Pricer(steps, Ask.of(100, 3000)).request()
    some = steps.costs([Step(1, 1, context) for context in range(100, 3099, 37)])
    mean = math.fsum(cost.seconds for cost in some) / len(some)
    assert found.tpot_s == pytest.approx(mean, rel=0.01)


def test_times_add_up(steps: Steps) -> None:
    found = Pricer(steps, Ask.of(512, 33, batch=2, turns=3, turn_tokens=50)).request()
    decode = math.fsum(turn.decode.seconds for turn in found.turns)
    later = math.fsum(turn.prefill.seconds for turn in found.turns[1:])
    assert found.seconds == pytest.approx(found.ttft_s + later + decode)
    assert decode == pytest.approx(found.tpot_s * 3 * 32)
    assert found.tokens_per_s == pytest.approx(2 * 99 / found.seconds)
    assert found.total.low_s is not None and found.total.high_s is not None
    assert found.total.low_s < found.total.seconds < found.total.high_s
    assert math.fsum(found.energy_j.values()) == pytest.approx(found.j_per_request)
    assert {"weight", "activation", "kv_cache", "arithmetic", "static"} <= set(found.energy_j)


def test_turns_grow_the_context() -> None:
    kept = Ask.of(100, 10, turns=3, turn_tokens=20)
    assert [kept.turn(i) for i in range(3)] == [(0, 100), (109, 21), (139, 21)]
    anew = Ask.of(100, 10, turns=3, turn_tokens=20, kept=False)
    assert [anew.turn(i) for i in range(3)] == [(0, 100), (0, 130), (0, 160)]
    assert kept.longest == anew.longest == 170


def test_a_kept_cache_saves_prefill_and_changes_no_decode(steps: Steps) -> None:
    kept = Pricer(steps, Ask.of(1000, 20, turns=2, turn_tokens=100)).request()
    anew = Pricer(steps, Ask.of(1000, 20, turns=2, turn_tokens=100, kept=False)).request()
    assert kept.turns[1].prefill.executed_flops < 0.3 * anew.turns[1].prefill.executed_flops
    assert kept.turns[1].decode.seconds == pytest.approx(anew.turns[1].decode.seconds)


def test_one_chunk_is_the_whole_prompt(steps: Steps) -> None:
    whole = Prefill(steps, 1, None).cost(0, 1024)
    assert Prefill(steps, 1, 1024).cost(0, 1024) == whole == Prefill(steps, 1, 4096).cost(0, 1024)
    chunked = Prefill(steps, 1, 128).cost(0, 1024)
    assert chunked.seconds > whole.seconds
    one_by_one = steps.costs([Step(1, 128, cached) for cached in range(0, 1024, 128)])
    assert chunked.seconds == pytest.approx(math.fsum(cost.seconds for cost in one_by_one), rel=0.005)
    rest = Prefill(steps, 1, 300).cost(0, 1024)
    parts = [Step(1, 300, 0), Step(1, 300, 300), Step(1, 300, 600), Step(1, 124, 900)]
    assert rest.seconds == pytest.approx(math.fsum(cost.seconds for cost in steps.costs(parts)))


def test_a_cached_prefix_is_not_read_again(steps: Steps) -> None:
    half, none = (Pricer(steps, Ask.of(1024, 2, prefix_share=share)).request() for share in (0.5, 0.0))
    assert half.prefix == 512 and half.turns[0].new == 512
    assert half.turns[0].prefill.executed_flops < 0.6 * none.turns[0].prefill.executed_flops
    assert Ask.of(1024, 2, prefix_share=1.0).prefix == 1023  # the last token's logits are needed


def test_only_the_last_logits_are_computed(steps: Steps) -> None:
    """Of a prompt of 512 tokens the head of 1 is computed: the model's products without it."""
    config = model().config
    found = steps.model.captured(Step(1, 512)).workload
    head = [op.flops for op in found if "lm_head" in op.path]
    assert head == [2 * config.hidden_size * config.vocab_size]


def test_drafts_follow_leviathan(steps: Steps) -> None:
    """Expected tokens of a round, and that a draft that costs nothing and never fails gives them all."""
    assert drafting(4, 0.8, share=0.1).tokens == pytest.approx(1 + 0.8 + 0.8**2 + 0.8**3 + 0.8**4)
    assert drafting(4, 1.0, share=0.1).tokens == 5.0
    assert drafting(4, 0.0, share=0.1).tokens == 1.0
    free = Pricer(steps, Ask.of(256, 41, drafting=drafting(3, 1.0, share=0.0))).request()
    checks = steps.costs([Step(1, 4, context, 4) for context in range(256, 296)])
    assert free.turns[0].decode.seconds == pytest.approx(math.fsum(c.seconds for c in checks) / 4, rel=0.01)
    plain = Pricer(steps, Ask.of(256, 41)).request()
    assert free.undrafted_s == pytest.approx(plain.turns[0].decode.seconds)
    useless = Pricer(steps, Ask.of(256, 41, drafting=drafting(3, 0.0, share=0.1))).request()
    assert useless.turns[0].decode.seconds > plain.turns[0].decode.seconds


def test_the_model_that_drafts_is_priced(steps: Steps) -> None:
    found = Pricer(steps, Ask.of(256, 5, drafting=drafting(2, 0.7, model="gpt2-xl"))).request()
    plain = Pricer(steps, Ask.of(256, 5)).request()
    assert found.turns[0].decode.weights_bytes > plain.turns[0].decode.weights_bytes + 3e9


def test_requests_are_plain_data() -> None:
    found = regflat.profile_request(model(), prompt=200, output=5, batch=2, chips=["h100-sxm", "regflat-physical"])
    again = RequestProfile.from_dict(json.loads(found.to_json()))
    assert again == found
    text = str(found)
    for words in ("time to first token", "requests x 2", "KV cache", "a token of the answer", "regflat-physical"):
        assert words in text
    assert found["regflat-physical"].chip == "regflat-physical"
    with pytest.raises(InputError, match="no chip 'l4' here; there are h100-sxm, regflat-physical"):
        found["l4"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": 0}, "prompt is 0; it must be a whole number of 1 or more"),
        ({"output": 2.5}, "output is 2.5; it must be a whole number"),
        ({"chunk": 0}, "chunk is 0"),
        ({"prefix_share": 1.5}, "prefix_share is 1.5; it is a share of the prompt, 0 to 1"),
        ({"turns": 2}, "later turns read something new; give turn_tokens, 1 or more"),
        ({"draft_length": 0, "draft_share": 0.1}, "the draft length is 0; it must be 1 or more"),
        ({"draft_length": 3}, "give either a draft model or draft_share"),
        ({"draft_length": 3, "draft_share": 0.1, "acceptance": 2.0}, "acceptance is 2; it is the share"),
        ({"draft_share": 0.1}, "a draft model or draft_share drafts nothing without draft_length"),
        ({"output": 5000}, "beyond the 4096 positions"),
    ],
)
def test_what_makes_no_sense(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        request.profile_request(model(), **{"prompt": 100, "output": 10, **options})
