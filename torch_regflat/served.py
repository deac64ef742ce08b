"""What requests and served models cost, as plain SI data: seconds, joules, bytes, dollars.

`StepCost` is one forward pass; costs of requests and of served models are sums of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from .errors import InputError, ResultError
from .layout import Layout
from .plain import build, plain

SCHEMA = 1
_Saved = TypeVar("_Saved")


@dataclass(frozen=True, slots=True)
class StepCost:
    """One forward pass over a batch, or several of them: times from start to end, energy of all chips together.

    `energy_j` goes by part: of the external memory by what is moved (`weight`, `activation`, `kv_cache`, `state`), of
    each memory on chip by its name, `arithmetic`, `static`, `network`, and `unattributed`. `bound_s` is how long each
    bound lasted. The bytes are those of the fullest chip, the most that is needed at once.
    """

    seconds: float
    low_s: float | None = None
    high_s: float | None = None
    energy_j: dict[str, float] = field(default_factory=dict)
    bound_s: dict[str, float] = field(default_factory=dict)
    executed_flops: float = 0.0
    weights_bytes: float = 0.0
    kv_cache_bytes: float = 0.0
    activations_bytes: float = 0.0
    has_bytes: float = 0.0

    @property
    def joules(self) -> float:
        return math.fsum(self.energy_j.values())

    @property
    def needs_bytes(self) -> float:
        """Bytes needed of the external memory of the fullest chip."""
        return self.weights_bytes + self.kv_cache_bytes + self.activations_bytes

    @property
    def fits(self) -> bool:
        return self.needs_bytes <= self.has_bytes

    @property
    def bound_by(self) -> str:
        """What bounds most of the time."""
        return max(self.bound_s, key=lambda name: (self.bound_s[name], name), default="")


_MEMORY = ("weights_bytes", "kv_cache_bytes", "activations_bytes", "has_bytes")
_SUMMED = tuple(f.name for f in fields(StepCost) if f.name not in _MEMORY)


def total(parts: Iterable[tuple[StepCost, float]]) -> StepCost:
    """The sum of (cost, how often) pairs. Steps of one model err alike, so ends of intervals add up as times do.

    Of memory it is the most that any of them needs.
    """
    listed = list(parts)
    made: dict[str, Any] = {name: _sum(name, listed) for name in _SUMMED}
    made |= {name: max((getattr(cost, name) for cost, _ in listed), default=0.0) for name in _MEMORY}
    return StepCost(**made)


def between(low: StepCost, high: StepCost, share: float) -> StepCost:
    """The cost at a point between two, `share` of the way from the first to the second; of memory as well."""
    pairs = [(low, 1.0 - share), (high, share)]
    return StepCost(**{name: _sum(name, pairs) for name in (*_SUMMED, *_MEMORY)})


def _sum(name: str, pairs: list[tuple[StepCost, float]]) -> Any:
    values = [(getattr(cost, name), times) for cost, times in pairs]
    if any(value is None for value, _ in values):
        return None
    if values and isinstance(values[0][0], dict):
        keys = dict.fromkeys(key for value, _ in values for key in value)
        return {key: math.fsum(value.get(key, 0.0) * times for value, times in values) for key in keys}
    return math.fsum(value * times for value, times in values)


@dataclass(frozen=True, slots=True)
class Drafting:
    """Speculative decoding: a small model drafts `length` tokens, of which each is accepted with `acceptance`, alone.

    The drafts are checked in one pass of the model. `share` is the cost of a drafted token as a share of that of a
    decoded one, where no `model` is named.
    """

    length: int
    acceptance: float
    model: str = ""
    share: float | None = None

    @property
    def tokens(self) -> float:
        """Expected tokens of a round (Leviathan et al., Fast Inference from Transformers via Speculative Decoding, ICML
        2023, equation 1): (1 - a^(n + 1)) / (1 - a).
        """
        if self.acceptance == 1.0:
            return self.length + 1.0
        return (1.0 - self.acceptance ** (self.length + 1)) / (1.0 - self.acceptance)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a request: `new` tokens read on top of `cached` ones, then the answer, token by token."""

    cached: int
    new: int
    prefill: StepCost
    decode: StepCost
    first_token_s: float
    """The step after the first token: what the second one takes."""
    last_token_s: float

    @property
    def seconds(self) -> float:
        return self.prefill.seconds + self.decode.seconds


@dataclass(frozen=True, slots=True)
class RequestCost:
    """`batch` requests that run side by side on the chips of a layout, from the first prompt to the last token.

    Times are those of each request, energies of one (a batch shares weights, so it costs less than a request alone).
    """

    chip: str
    layout: Layout
    batch: int
    prompt: int
    output: int
    chunk: int | None
    prefix: int
    """Tokens of the first prompt that were cached before."""
    turns: tuple[Turn, ...]
    kept: bool = True
    drafting: Drafting | None = None
    undrafted_s: float | None = None
    """What all decoding would take without drafts."""
    interval: str = ""
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> StepCost:
        """All turns of the whole batch."""
        return total((cost, 1.0) for turn in self.turns for cost in (turn.prefill, turn.decode))

    @property
    def ttft_s(self) -> float:
        """From the request to the first token of the first turn."""
        return self.turns[0].prefill.seconds

    @property
    def tpot_s(self) -> float:
        """Mean seconds a token after the first of each turn; 0 where there are none."""
        steps = len(self.turns) * (self.output - 1)
        return math.fsum(turn.decode.seconds for turn in self.turns) / steps if steps else 0.0

    @property
    def seconds(self) -> float:
        return math.fsum(turn.seconds for turn in self.turns)

    @property
    def tokens(self) -> int:
        """Tokens that one request is answered."""
        return self.output * len(self.turns)

    @property
    def tokens_per_s(self) -> float:
        """Tokens of the whole batch a second, prefills counted."""
        return self.batch * self.tokens / self.seconds

    @property
    def energy_j(self) -> dict[str, float]:
        """Of one request, by part."""
        return {part: joules / self.batch for part, joules in self.total.energy_j.items()}

    @property
    def j_per_request(self) -> float:
        return self.total.joules / self.batch

    @property
    def j_per_token(self) -> float:
        """Of a token of the answers, prefills counted."""
        return self.j_per_request / self.tokens


@dataclass(frozen=True, slots=True)
class Requests:
    """A request on one or more chips."""

    model: str
    chips: tuple[RequestCost, ...]
    dtype: str = ""
    mode: str = ""
    model_version: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __getitem__(self, chip: str) -> RequestCost:
        for found in self.chips:
            if found.chip == chip:
                return found
        raise InputError(f"no chip {chip!r} here; there are {', '.join(one.chip for one in self.chips)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, lossless."""
        return {"schema": SCHEMA, "kind": "request", **plain(self, "request")}

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Requests:
        """Read back what `to_dict` gave. Raises `ResultError` on another schema or kind."""
        return _load(cls, data, "request")

@dataclass(frozen=True, slots=True)
class Limit:
    """Something that keeps the throughput from growing.

    `share` is of the time of a mean pass for what passes spend their time on (compute, bandwidth, network, power,
    launch); for what keeps more requests from running at once (a target, the capacity, prompts), `tokens_per_s` is
    what would be reached without it, everything else as it is.
    """

    name: str
    what: str
    share: float = 0.0
    tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class ServingPoint:
    """One instance of a model in steady state: `slots` requests at once on the chips of a layout, all always taken.

    Rates are of the instance; `energy_j` is of one request, by part; bytes are those of the fullest chip. `mixed` is
    the share of passes that read prompts, `chunk` how many of their tokens at most.
    """

    layout: Layout
    slots: int
    decoding: float
    chunk: int
    requests_per_s: float
    tokens_per_s: float
    ttft_s: float
    tpot_s: float
    mixed: float
    energy_j: dict[str, float]
    power_w: float
    """Of a chip, on average."""
    utilization: float
    """Executed FLOPs over what the chips could have done meanwhile."""
    weights_bytes: float
    kv_cache_bytes: float
    activations_bytes: float
    has_bytes: float
    limits: tuple[Limit, ...] = ()
    """The first is what limits, the others are what would next."""
    tokens_per_s_low: float | None = None
    tokens_per_s_high: float | None = None

    @property
    def chips(self) -> int:
        return self.layout.chips

    @property
    def tokens_per_s_chip(self) -> float:
        return self.tokens_per_s / self.chips

    @property
    def j_per_request(self) -> float:
        return math.fsum(self.energy_j.values())

    @property
    def needs_bytes(self) -> float:
        return self.weights_bytes + self.kv_cache_bytes + self.activations_bytes


@dataclass(frozen=True, slots=True)
class Pool:
    """Instances that only read prompts, or only decode. `share` is of all chips."""

    role: str
    point: ServingPoint
    share: float
    busy: float
    """How much of the time they work."""


@dataclass(frozen=True, slots=True)
class Disaggregated:
    """Prompts and answers on chips of their own, as many of each as the other needs."""

    prefill: Pool
    decode: Pool
    handover_s: float
    """What moving the cache of a prompt takes, a part of the time to the first token."""
    ttft_s: float
    requests_per_s_chip: float
    tokens_per_s_chip: float
    j_per_request: float


@dataclass(frozen=True, slots=True)
class Serving:
    """A served model: the layout and batch of the largest throughput a chip that meets the targets."""

    model: str
    chip: str
    prompt: int
    output: int
    prefix: int
    best: ServingPoint
    ttft_target_s: float | None = None
    tpot_target_s: float | None = None
    curve: tuple[ServingPoint, ...] = ()
    """The best layout and chunk over numbers of slots, whether targets are met or not."""
    others: tuple[ServingPoint, ...] = ()
    """The best of each other layout."""
    refused: dict[str, str] = field(default_factory=dict)
    """Layouts that cannot do it, with why."""
    passed_over: dict[str, float] = field(default_factory=dict)
    """Layouts that were not looked at closely, with about how many requests a second and chip they give."""
    drafting: Drafting | None = None
    disaggregated: Disaggregated | None = None
    costs: Costs | None = None
    chunk_given: bool = False
    memory_use: float = 1.0
    dtype: str = ""
    mode: str = ""
    interval: str = ""
    model_version: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, lossless."""
        return {"schema": SCHEMA, "kind": "serving", **plain(self, "serving")}

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Serving:
        """Read back what `to_dict` gave. Raises `ResultError` on another schema or kind."""
        return _load(cls, data, "serving")


@dataclass(frozen=True, slots=True)
class Assumption:
    """A number that costs were computed with, as its file has it."""

    name: str
    value: str
    kind: str
    source: str
    range: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """Dollars on one basis: chips that are owned, or rented. `usd_per_hour` is of one chip, by what for."""

    basis: str
    usd_per_hour: dict[str, float]
    usd_per_request: float
    usd_per_million_tokens: float
    """Of the answers; what reading prompts costs is in it."""

    def share(self, part: str) -> float:
        """The share of a part of the cost (`electricity`)."""
        return self.usd_per_hour.get(part, 0.0) / math.fsum(self.usd_per_hour.values())


@dataclass(frozen=True, slots=True)
class Fleet:
    """What answers `queries_per_s` requests a second. Powers are of the whole building: what it must be able to give,
    and what it draws on average."""

    queries_per_s: float
    instances: int
    chips: int
    racks: int
    provided_w: float
    drawn_w: float
    usd_per_day: float
    basis: str


@dataclass(frozen=True, slots=True)
class Costs:
    """What a served model costs, and with which assumptions."""

    chip: str
    costs: tuple[Cost, ...]
    assumptions: tuple[Assumption, ...]
    fleet: Fleet | None = None
    budget_w: float | None = None
    budget: Fleet | None = None
    """What the power that is there serves."""

    def __getitem__(self, basis: str) -> Cost:
        for found in self.costs:
            if found.basis == basis:
                return found
        raise InputError(f"no cost of chips that are {basis!r}; there is {', '.join(c.basis for c in self.costs)}")


def _load(kind: type[_Saved], data: dict[str, Any], name: str) -> _Saved:
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or data.get("kind") != name:
        raise ResultError(f"this is not a saved {name} of schema {SCHEMA}; use the torch_regflat that wrote it")
    built: _Saved = build(kind, {k: v for k, v in data.items() if k not in ("schema", "kind")}, name)
    return built
