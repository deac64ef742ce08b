"""What a profile says, as plain SI data: seconds, joules, bytes. Nothing here knows torch, a chip file or a format.

`Result` holds one `ChipResult` a chip. Both convert to and from plain dictionaries without loss, with every key
ending in its unit. Rows for people (a row a layer, a module, a kernel, an operator) are made by `ChipResult.rows`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import InputError, ResultError, near
from .plain import build, plain

SCHEMA = 1
GroupBy = Literal["op", "kernel", "module", "layer"]


@dataclass(frozen=True, slots=True)
class Part:
    """One operation inside a kernel, with the share of the kernel's time and energy charged to it (shares sum to 1)."""

    target: str
    path: str
    share: float
    flops: int
    executed_flops: float
    shapes: str = ""


@dataclass(frozen=True, slots=True)
class KernelCost:
    """One kernel as scheduled. `latency_s` is its exclusive share of the makespan, so kernels sum to the total.

    `traffic_bytes` and `memory_energy_j` are keyed by memory level, `operand_bytes` by operand role (external
    traffic only). `busy_s` names every resource with the time it alone would need; the largest is `bound_by`.
    """

    name: str
    path: str
    parts: tuple[Part, ...]
    latency_s: float
    start_s: float
    flops: int
    executed_flops: float
    vector_ops: float
    traffic_bytes: dict[str, float]
    operand_bytes: dict[str, float]
    memory_energy_j: dict[str, float]
    compute_energy_j: float
    static_energy_j: float
    unattributed_energy_j: float
    utilization: float
    bandwidth_utilization: float
    bound_by: str
    busy_s: dict[str, float] = field(default_factory=dict)
    dtype: str = ""
    mapping: str = ""
    candidates: int = 1
    reason: str = ""
    modelled: bool = True
    phase: str = ""
    """Of a training step: `forward`, `recompute`, `backward` or `optimizer`."""
    kind: str = ""
    """Class of kernel: product, experts, attention, convolution, reduction, pointwise or sequential."""
    latency_low_s: float | None = None
    latency_high_s: float | None = None
    """Ends of the interval that `ChipResult.interval` describes; None where none is stated."""

    @property
    def energy_j(self) -> float:
        return math.fsum(
            (*self.memory_energy_j.values(), self.compute_energy_j, self.static_energy_j, self.unattributed_energy_j)
        )


@dataclass(frozen=True, slots=True)
class LevelCost:
    """Traffic and energy of one memory level, nearest the engines first, and the peak rate of reading it."""

    name: str
    traffic_bytes: float
    energy_j: float
    bandwidth_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Total:
    """The whole run on one chip. `utilization` is executed FLOPs over what the engines could have done meanwhile."""

    latency_s: float
    energy_j: float
    memory_energy_j: float
    compute_energy_j: float
    static_energy_j: float
    unattributed_energy_j: float
    flops: int
    executed_flops: float
    vector_ops: float
    utilization: float
    bandwidth_utilization: float
    bound_by: str
    kernels: int
    latency_low_s: float | None = None
    latency_high_s: float | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """What the ends `latency_low_s` and `latency_high_s` mean.

    Where measured rows are the `basis`, a measurement lies between them in the share `coverage` of cases: rows of
    this very chip, or of chips of its architecture, with what differs between GPUs added. A parameter range has all
    numbers of the chip's file at the best, or the worst, end of their ranges, and no probability (`coverage` 0).
    `correlation` is taken for the errors of kernels of different classes, `class_correlation` for those of one class
    (kind, number format, bound and decade of duration): 1 adds them up, 0 adds their squares.
    """

    basis: str = ""
    """"rows of this chip", "rows of its relatives" or "parameter range"; empty where nothing is stated."""
    coverage: float = 0.0
    correlation: float = 1.0
    class_correlation: float = 1.0

    def __str__(self) -> str:
        if not self.basis:
            return "none stated"
        if self.basis == "parameter range":
            return "range of the chip's parameters, no probability"
        return f"{self.coverage:.0%} interval from measured {self.basis}"


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much traffic has a formula; `unmodelled` maps operators without one to their share of bytes (0 to 1)."""

    modelled_bytes_share: float = 1.0
    unmodelled: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fit:
    """Does it fit? `needs_bytes` is weights + KV cache + gradients + optimizer state + the peak of live activations.

    Buffers count as weights. Activations are those alive at once as the operators run one by one, those kept for the
    backward included; gradients of parameters are not among them.
    """

    fits: bool
    needs_bytes: int
    has_bytes: int
    weights_bytes: int
    kv_cache_bytes: int
    activations_bytes: int
    chips: int = 1
    """At least so many chips of this kind hold it."""
    gradients_bytes: int = 0
    optimizer_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """Kernels (or parts of kernels) that belong together, summed.

    `calls` counts operations or kernels for those groupings, and instances of the module (32 for
    `model.layers.*.mlp`) for the others. `shapes` and `mapping` are given where all members share one.
    """

    path: str
    calls: int
    latency_s: float
    energy_j: float
    memory_energy_j: dict[str, float]
    compute_energy_j: float
    static_energy_j: float
    unattributed_energy_j: float
    flops: int
    executed_flops: float
    traffic_bytes: dict[str, float]
    utilization: float
    bandwidth_utilization: float
    bound_by: str
    share: float
    shapes: str = ""
    kernels: int = 0
    mapping: str = ""
    latency_low_s: float | None = None
    latency_high_s: float | None = None


@dataclass(frozen=True, slots=True)
class ChipFigure:
    """A number of the chip's file as it is given: with its unit, range, kind of evidence, and source."""

    field: str
    value: str
    kind: str
    source: str
    range: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Parallel:
    """A model divided among chips of one kind, and what a step costs on all of them.

    A step is a whole batch: `micro_batches` go through the stages of a pipeline one after the other. `stages_s` is the
    time of one micro-batch on each stage, `step_s` that of all on all, `bubble` the share of a step in which a chip
    waits for others, `energy_j` what all `chips` take for a step, waiting included.
    """

    tp: int
    ep: int
    pp: int
    dp: int
    chips: int
    micro_batches: int
    stages_s: tuple[float, ...]
    step_s: float
    bubble: float
    energy_j: float

    def __str__(self) -> str:
        degrees = [(name, getattr(self, name)) for name in ("tp", "ep", "pp", "dp")]
        return " ".join(f"{name}{value}" for name, value in degrees if value > 1) or "tp1"


@dataclass(frozen=True, slots=True)
class ChipResult:
    """Everything about one chip. `peaks_flops_per_s` are the dense peaks of the number formats of its kernels.

    Of a model that is divided among chips (`parallel`) kernels and total are those of one chip of each stage, in the
    order in which a micro-batch passes them; `fit` is that of the fullest chip.
    """

    chip: str
    title: str
    memory_system: str
    chip_hash: str
    evidence: str
    fit: Fit
    total: Total
    coverage: Coverage
    levels: tuple[LevelCost, ...]
    kernels: tuple[KernelCost, ...]
    peak_flops_per_s: float = 0.0
    notes: tuple[str, ...] = ()
    interval: Interval = Interval()
    software_hash: str = ""
    peaks_flops_per_s: dict[str, float] = field(default_factory=dict)
    figures: tuple[ChipFigure, ...] = ()
    parallel: Parallel | None = None
    links: tuple[LevelCost, ...] = ()
    """Ways to other chips over which something is sent: the bytes that leave this chip, and what they cost."""

    @property
    def everywhere(self) -> tuple[LevelCost, ...]:
        """The memory levels, then the links: everything that `traffic_bytes` and `memory_energy_j` of rows may name."""
        return self.levels + self.links

    def rows(self, by: GroupBy = "layer", expand: bool = False) -> list[Row]:
        """Sum the kernels into rows, in order of first appearance.

        `by="kernel"`: one row a kernel; `"op"`: one a (module, ATen operator); `"module"`: one a module that itself
        runs operations; `"layer"`: one a child of a repeated block (`model.layers.*.mlp`), else a top-level part.
        Unless `expand`, members of repeated blocks are summed (`*` in place of the index).
        """
        return group(self, by, expand)


@dataclass(frozen=True, slots=True)
class OperandUse:
    """An operand of an explained kernel, in bytes: what it touches at least, its tile at each level that holds one, and
    what crosses from each level towards the engines and back (of external memory: what leaves and enters the chip).
    """

    role: str
    access: str
    axes: str
    footprint_bytes: float
    tile_bytes: dict[str, float]
    traffic_bytes: dict[str, float]


@dataclass(frozen=True, slots=True)
class Alternative:
    """A legal mapping that lost, with what it would have cost."""

    mapping: str
    latency_s: float
    energy_j: float
    bound_by: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one kernel is run as it is on one chip. `rejected` counts candidates by the level they did not fit."""

    chip: str
    path: str
    kernel: str
    operations: tuple[str, ...]
    sizes: dict[str, int]
    loops: tuple[str, ...]
    operands: tuple[OperandUse, ...]
    busy_s: dict[str, float]
    latency_s: float
    energy_j: float
    bound_by: str
    mapping: str
    alternatives: tuple[Alternative, ...]
    candidates: int
    legal: int
    rejected: dict[str, int]


@dataclass(frozen=True, slots=True)
class Elasticity:
    """What 1 % more of one number of a chip does, in %: -0.8 means 0.8 % less.

    `latency` and `energy` hold the mappings fixed, but for a `count`, which is whole: there they are finite differences
    over new searches. `remapped` are the latency elasticities found by searching again
    with 10 % less and 10 % more; None where that was not asked for. `layers` splits `latency` by layer.
    """

    parameter: str
    kind: Literal["rate", "time", "energy", "count"]
    latency: float
    energy: float
    remapped: tuple[float, float] | None = None
    layers: dict[str, float] = field(default_factory=dict)

    @property
    def misleads(self) -> bool:
        """Whether a fixed mapping says something else than a new search: by over 0.1 and a quarter."""
        if self.remapped is None:
            return False
        return any(abs(r - self.latency) > max(0.1, 0.25 * abs(self.latency)) for r in self.remapped)


@dataclass(frozen=True, slots=True)
class Result:
    """A profile of one model and phase on one or more chips."""

    model: str
    phase: str
    chips: tuple[ChipResult, ...]
    inputs: str = ""
    dtype: str = ""
    batch: int | None = None
    seq_len: int | None = None
    context: int | None = None
    mode: str = ""
    model_version: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    graph_hash: str = ""
    """Fingerprint of the captured graph; equal graphs have equal ones."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, lossless: `Result.from_dict(r.to_dict()) == r`, also after a trip through JSON.

        Raises `ResultError` on a number that is not finite, naming its field.
        """
        return {"schema": SCHEMA, **plain(self, "profile")}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Result:
        """Read back what `to_dict` gave. Raises `ResultError` on a foreign or newer schema, naming the field."""
        if not isinstance(data, dict) or "schema" not in data:
            raise ResultError("this is not a saved profile: it has no 'schema' field; save one with Profile.save()")
        if data["schema"] != SCHEMA or isinstance(data["schema"], bool):
            raise ResultError(
                f"this profile has schema {data['schema']!r}, this version reads schema {SCHEMA}; "
                "use the torch_regflat that wrote it, or profile again"
            )
        built: Result = build(cls, {k: v for k, v in data.items() if k != "schema"}, "profile")
        return built


_Member = tuple[int, KernelCost, Part | None]
"""A kernel's position, the kernel, and the part of it that is meant (None: all of it)."""


def group(result: ChipResult, by: GroupBy, expand: bool = False) -> list[Row]:
    """See `ChipResult.rows`."""
    if by not in _KEYS:
        raise InputError(f"cannot group by {by!r}{near(str(by), _KEYS)}; the groupings are {', '.join(_KEYS)}")
    lists = different_members(result.kernels)
    found: dict[str, list[_Member]] = {}
    instances: dict[str, set[str]] = {}
    for index, kernel in enumerate(result.kernels):
        parts: tuple[Part | None, ...] = (None,) if by == "kernel" or not kernel.parts else kernel.parts
        for part in parts:
            path, name = (kernel.path, kernel.name) if part is None else (part.path, part.target)
            collapsed = collapse(path, lists)
            if by == "layer":
                collapsed = layer_of(collapsed)
                path = ".".join(path.split(".")[: collapsed.count(".") + 1])
            instance = _KEYS[by](path, name)
            label = instance if expand else _KEYS[by](collapsed, name)
            found.setdefault(label, []).append((index, kernel, part))
            instances.setdefault(label, set()).add(instance)
    by_module = by in ("module", "layer")
    return [
        _row(label, members, len(instances[label]) if by_module else len(members), result)
        for label, members in found.items()
    ]


@functools.lru_cache(maxsize=65536)
def collapse(path: str, lists: frozenset[str] = frozenset()) -> str:
    """Replace the index of repeated layers by a star: `model.layers.3.mlp` becomes `model.layers.*.mlp`.

    Members of the containers named in `lists` (already collapsed names) keep their index.
    """
    names: list[str] = []
    for name in path.split("."):
        repeated = name.isascii() and name.isdigit() and ".".join(names) not in lists
        names.append("*" if repeated else name)
    return ".".join(names)


def layer_of(path: str) -> str:
    """The part of a collapsed module path that a layer table shows: up to one name below the last repeated block."""
    names = path.split(".")
    last = max((i for i, name in enumerate(names) if name == "*"), default=0)
    return ".".join(names[: last + 2])


def different_members(kernels: Iterable[KernelCost]) -> frozenset[str]:
    """Numbered containers that do not repeat a layer, such as `Sequential(Linear, ReLU, Linear)`.

    Their members have no modules of their own, and do not all run the same operators.
    """
    targets: dict[str, dict[str, set[str]]] = {}
    nested: set[str] = set()
    seen = {(part.path, part.target) for kernel in kernels for part in kernel.parts}
    for path, target in sorted(seen):
        names, stars = path.split("."), collapse(path).split(".")
        for i, name in enumerate(names):
            if stars[i] == "*":
                container = ".".join(stars[:i])
                targets.setdefault(container, {}).setdefault(name, set()).add(target)
                if i + 1 < len(names):
                    nested.add(container)
    return frozenset(
        container
        for container, members in targets.items()
        if container not in nested and any(ran != next(iter(members.values())) for ran in members.values())
    )


_KEYS: dict[GroupBy, Callable[[str, str], str]] = {
    "op": lambda path, name: f"{path}  {name}".lstrip(),
    "kernel": lambda path, name: f"{path}  {name}".lstrip(),
    "module": lambda path, name: path,
    "layer": lambda path, name: path,
}


def ends(kernels: Iterable[tuple[KernelCost, float]], interval: Interval) -> tuple[float | None, float | None]:
    """The interval of the summed latency of (kernel, share) pairs; None where a kernel has none.

    Kernels that are the same err alike, so their widths w add up. Of the others those of one class have the
    correlation c of the interval (a class is a kind, a number format, a bound and a decade of duration), those of
    different classes r, and the width of the sum is, each side on its own,
    sqrt(r (sum of all w)^2 + (c - r) (sum over classes of (sum of w)^2) + (1 - c) (sum of w^2)).
    """
    seconds: list[float] = []
    classes: dict[tuple[str, str, str, int], dict[tuple[str, str, str], list[tuple[float, float]]]] = {}
    for kernel, share in kernels:
        if kernel.latency_low_s is None or kernel.latency_high_s is None:
            return None, None
        seconds.append(kernel.latency_s * share)
        same = (kernel.name, kernel.mapping, kernel.parts[0].shapes if kernel.parts else "")
        decade = math.floor(math.log10(kernel.latency_s)) if kernel.latency_s > 0 else 0
        alike = classes.setdefault((kernel.kind, kernel.dtype, kernel.bound_by, decade), {})
        down, up = kernel.latency_s - kernel.latency_low_s, kernel.latency_high_s - kernel.latency_s
        alike.setdefault(same, []).append((down * share, up * share))
    total = math.fsum(seconds)
    down, up = (_width(classes.values(), side, interval) for side in range(2))
    return max(total - down, 0.0), total + up


def _width(
    classes: Iterable[dict[tuple[str, str, str], list[tuple[float, float]]]], side: int, interval: Interval
) -> float:
    """The width of a sum of kernels on one side."""
    widths = [[math.fsum(pair[side] for pair in pairs) for pairs in alike.values()] for alike in classes]
    among, within = interval.correlation, interval.class_correlation
    sums = [math.fsum(own) for own in widths]
    squares = math.fsum(width * width for own in widths for width in own)
    variance = among * math.fsum(sums) ** 2
    variance += (within - among) * math.fsum(own * own for own in sums) + (1.0 - within) * squares
    return math.sqrt(max(variance, 0.0))


def _row(label: str, members: list[_Member], calls: int, result: ChipResult) -> Row:
    shares = [1.0 if part is None else part.share for _, _, part in members]
    kernels = [kernel for _, kernel, _ in members]
    works = [kernel if part is None else part for _, kernel, part in members]
    times = [kernel.latency_s * share for kernel, share in zip(kernels, shares, strict=True)]
    latency = math.fsum(times)

    def charged(amount: Callable[[KernelCost], float]) -> float:
        return math.fsum(amount(kernel) * share for kernel, share in zip(kernels, shares, strict=True))

    memory = _sum_dicts((k.memory_energy_j, s) for k, s in zip(kernels, shares, strict=True))
    compute = charged(lambda k: k.compute_energy_j)
    static = charged(lambda k: k.static_energy_j)
    unattributed = charged(lambda k: k.unattributed_energy_j)
    total_s = result.total.latency_s
    low, high = ends(zip(kernels, shares, strict=True), result.interval)
    return Row(
        path=label,
        calls=calls,
        latency_s=latency,
        energy_j=math.fsum((*memory.values(), compute, static, unattributed)),
        memory_energy_j=memory,
        compute_energy_j=compute,
        static_energy_j=static,
        unattributed_energy_j=unattributed,
        flops=sum(work.flops for work in works),
        executed_flops=math.fsum(work.executed_flops for work in works),
        traffic_bytes=_sum_dicts((k.traffic_bytes, s) for k, s in zip(kernels, shares, strict=True)),
        utilization=min(math.fsum(map(_ideal_s, kernels, works)) / latency, 1.0) if latency else 0.0,
        bandwidth_utilization=weighted(zip((k.bandwidth_utilization for k in kernels), times, strict=True)),
        bound_by=heaviest(zip((k.bound_by for k in kernels), times, strict=True)),
        share=latency / total_s if total_s else 0.0,
        shapes=_only(_shapes(kernel, part) for _, kernel, part in members),
        kernels=len({index for index, _, _ in members}),
        mapping=_only(kernel.mapping for kernel in kernels),
        latency_low_s=low,
        latency_high_s=high,
    )


def _ideal_s(kernel: KernelCost, work: KernelCost | Part) -> float:
    """Seconds that the executed FLOPs of a kernel, or of one of its parts, would take at the dense peak."""
    share = work.executed_flops / kernel.executed_flops if kernel.executed_flops else 0.0
    return kernel.utilization * kernel.latency_s * share


def _shapes(kernel: KernelCost, part: Part | None) -> str:
    if part is not None:
        return part.shapes
    return kernel.parts[0].shapes if kernel.parts else ""


def _only(values: Iterable[str]) -> str:
    """The one value that is given, or nothing if there are several."""
    found = set(values) - {""}
    return found.pop() if len(found) == 1 else ""


def weighted(pairs: Iterable[tuple[float, float]]) -> float:
    """Mean of (value, weight) pairs; 0 where there is no weight."""
    listed = list(pairs)
    weight = math.fsum(w for _, w in listed)
    return math.fsum(v * w for v, w in listed) / weight if weight else 0.0


def heaviest(pairs: Iterable[tuple[str, float]]) -> str:
    """The name with the largest summed weight; ties go by name."""
    sums: dict[str, list[float]] = {}
    for name, weight in pairs:
        sums.setdefault(name, []).append(weight)
    return max(sums, key=lambda name: (math.fsum(sums[name]), name), default="")


def _sum_dicts(scaled: Iterable[tuple[dict[str, float], float]]) -> dict[str, float]:
    terms: dict[str, list[float]] = {}
    for values, factor in scaled:
        for key, value in values.items():
            terms.setdefault(key, []).append(value * factor)
    return {key: math.fsum(values) for key, values in terms.items()}
