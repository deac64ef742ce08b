"""Served models: targets, what limits, capacity, and the whole against a simulation with the model's own passes."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import pytest
import torch

import torch_regflat as regflat
import zoo
from serving.simulator import simulate
from torch_regflat import CapacityError, InputError, load_chip
from torch_regflat.served import StepCost
from torch_regflat.serving.apart import apart
from torch_regflat.serving.curve import Curve
from torch_regflat.serving.replica import Replica, Traffic
from torch_regflat.serving.search import Targets
from torch_regflat.serving.serve import ServingProfile, serve
from torch_regflat.serving.steps import Model, Steps


@functools.cache
def model() -> Model:
    """Captured once for all tests."""
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4}
    found, _ = zoo.small_llama(num_key_value_heads=4, max_position_embeddings=8192, **sizes)
    return Model(found.to(torch.bfloat16))


def served(**options: Any) -> ServingProfile:
    """On one chip, chunks of one size."""
    return serve(model(), **{"tp": 1, "chunk": 512, **options})


@pytest.fixture(scope="module")
def steps() -> Steps:
    return Steps(model(), "h100-sxm")


@pytest.fixture(scope="module")
def replica(steps: Steps) -> Replica:
    return Replica(steps, Traffic(512, 64))


@pytest.mark.parametrize(("slots", "chunk"), [(16, 256), (64, 2048)])
def test_a_simulation_with_the_same_passes(replica: Replica, slots: int, chunk: int) -> None:
    """The simulation asks for the time of every pass it makes, whole numbers of everything."""
    load = replica.load(chunk)

    def pass_s(decoding: int, prompts: int) -> float:
        plain, mixed = replica.passes(decoding, max(prompts, 1), chunk)
        return mixed.seconds if prompts else plain.seconds

    found = replica.state(slots, chunk)
    measured = simulate(slots, load.chunks, 64, pass_s, together=load.together, requests=1500)
    assert found.requests_per_s == pytest.approx(measured.requests_per_s, rel=0.03)
    assert found.tpot_s == pytest.approx(measured.tpot_s, rel=0.03)
    assert found.ttft_s == pytest.approx(measured.ttft_s, rel=0.10)


def test_a_pass_of_both_is_less_than_two_passes(replica: Replica) -> None:
    """A chunk beside sequences that decode shares the weights with them; never less than either alone."""
    plain, mixed = replica.passes(32.0, 1.0, 256)
    alone = replica.chunk(256)
    assert max(plain.seconds, alone.seconds) < mixed.seconds < plain.seconds + alone.seconds
    assert mixed.joules < plain.joules + alone.joules


def test_one_slot_is_one_request_after_the_other(steps: Steps, replica: Replica) -> None:
    alone = regflat.profile_request(steps.model, prompt=512, output=64)
    found = replica.state(1, 2048)
    assert found.requests_per_s == pytest.approx(1 / alone.chips[0].seconds, rel=0.01)
    assert found.ttft_s == pytest.approx(alone.chips[0].ttft_s, rel=1e-6)
    assert found.tpot_s == pytest.approx(alone.chips[0].tpot_s, rel=0.01)


@pytest.fixture(scope="module")
def free() -> ServingProfile:
    return served(prompt=512, output=64, max_batch=256)


def test_targets_are_met_and_tight(free: ServingProfile) -> None:
    target = 1.5 * free.curve[0].tpot_s
    found = served(prompt=512, output=64, max_batch=256, tpot=target)
    assert found.best.tpot_s <= target
    assert found.best.tokens_per_s < free.best.tokens_per_s
    slower = [point for point in found.curve if point.slots > 1.1 * found.best.slots]
    assert slower and all(point.tpot_s > target for point in slower)
    assert any(limit.name == "targets" and limit.tokens_per_s for limit in found.best.limits)
    looser = served(prompt=512, output=64, max_batch=256, tpot=1.5 * target)
    assert found.best.tokens_per_s <= looser.best.tokens_per_s <= free.best.tokens_per_s * 1.001


def test_more_bandwidth_never_serves_less(free: ServingProfile) -> None:
    faster = load_chip("h100-sxm").replace(**{"memory.HBM3.read_bandwidth": "5 TB/s", "name": "faster"})
    target = 2.0 * free.curve[0].tpot_s
    slow, fast = (served(chip=chip, prompt=512, output=64, tpot=target) for chip in ("h100-sxm", faster))
    assert fast.best.tokens_per_s >= slow.best.tokens_per_s


def test_energy_and_power_agree(free: ServingProfile) -> None:
    best = free.best
    assert best.power_w == pytest.approx(best.requests_per_s * best.j_per_request)
    limit = load_chip("h100-sxm").power
    assert limit.static.value < best.power_w <= limit.limit.value
    assert 0.0 < best.utilization <= 1.0
    assert best.tokens_per_s == pytest.approx(64 * best.requests_per_s)
    shares = [limit.share for limit in best.limits]
    assert math.fsum(shares) == pytest.approx(1.0)


def test_capacity_limits_the_slots() -> None:
    small = load_chip("h100-sxm").replace(**{"memory.HBM3.capacity": "1 GB", "name": "small"})
    found = served(chip=small, prompt=4096, output=512)
    each = 2 * 4 * 4 * 128 * 2 * (4096 + 511)  # keys and values, layers, heads, size, bytes, tokens
    assert found.best.kv_cache_bytes == pytest.approx(each * found.best.slots, rel=0.01)
    assert found.best.needs_bytes <= 0.9e9 < found.best.needs_bytes + 1.05 * each
    assert found.best.limits[0].name == "capacity"
    with pytest.raises(CapacityError, match="does not fit tiny in any layout; with tp1 a request needs .* weig"):
        served(chip=small.replace(**{"memory.HBM3.capacity": "100 MB", "name": "tiny"}), prompt=512, output=64)


def test_what_no_batch_can_meet() -> None:
    with pytest.raises(InputError, match="no batch of .* on h100-sxm meets ttft 1.00 us and tpot 1.00 s; the nearest"):
        served(prompt=512, output=64, ttft="1 us", tpot="1 s")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output": 1}, "answers of one token are all prefill"),
        ({"tpot": "5 GB"}, "unit 'GB' measures bytes; this field needs a time"),
        ({"ttft": 0.0}, "ttft is 0.0; it must be longer than 0"),
        ({"memory_use": 1.2}, "memory_use is 1.2"),
        ({"power_budget": "3 s"}, "unit 's' measures a time; this field needs a power"),
    ],
)
def test_what_makes_no_sense(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        served(**{"prompt": 512, "output": 64, **options})


def test_plain_data_and_text(free: ServingProfile) -> None:
    assert ServingProfile.from_dict(json.loads(free.to_json())) == free
    for words in ("limited by", "tokens/s a chip", "a million tokens of answers", "by requests at once", "assumed"):
        assert words in str(free)


def test_curves_price_only_what_they_need() -> None:
    asked: list[int] = []

    def price(numbers: Any) -> list[StepCost]:
        asked.extend(numbers)
        return [StepCost(seconds=float(number)) for number in numbers]

    curve = Curve(price)
    assert curve.at(5.5).seconds == 5.5
    assert asked == [4, 8]
    assert curve.at(1.0).seconds == 1.0 and curve.at(8).seconds == 8.0
    assert sorted(asked) == [1, 4, 8]


def test_prompts_and_answers_apart() -> None:
    """Each pool does what the other needs; the first token waits for its turn and for the cache to be handed over."""
    found = served(prompt=2048, output=256, ttft="100 ms", tpot="2 ms", disaggregated=True).disaggregated
    assert found is not None
    read, decode = found.prefill, found.decode
    assert read.share + decode.share == pytest.approx(1.0)
    assert read.share * read.point.requests_per_s == pytest.approx(decode.share * decode.point.requests_per_s)
    assert found.requests_per_s_chip == pytest.approx(read.share * read.point.requests_per_s)
    assert found.ttft_s <= 0.1 and decode.point.tpot_s <= 2e-3
    links = load_chip("h100-sxm").interconnect
    slow = max((link for link in links if link.reach), key=lambda link: link.reach.value if link.reach else 0.0)
    keys_and_values = 2 * 4 * 4 * 128 * 2 * 2048
    assert found.handover_s == pytest.approx(keys_and_values / slow.bandwidth.value, rel=0.01)
    service = read.busy / read.point.requests_per_s
    assert found.ttft_s == pytest.approx(service * (1 + read.busy / (2 * (1 - read.busy))) + found.handover_s)
    alone = served(prompt=2048, output=256)
    assert found.j_per_request == pytest.approx(read.point.j_per_request + decode.point.j_per_request)
    assert found.tokens_per_s_chip < 1.5 * alone.best.tokens_per_s_chip


def test_what_cannot_be_met_apart(replica: Replica) -> None:
    for targets, words in ((Targets(ttft_s=1e-6), "ttft 1.00 us"), (Targets(tpot_s=1e-6), "tpot 1.00 us")):
        with pytest.raises(InputError, match=f"no layout meets {words} with prompts and answers on separate chips"):
            apart([replica], targets, 512)
