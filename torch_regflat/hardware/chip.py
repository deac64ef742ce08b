"""The schema of a chip file. Frozen, SI, unknown keys refused, every number a `Quantity` with a source."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PrivateAttr, ValidationError, model_validator

from ..errors import ChipError, near
from .contention import port_efficiency
from .quantity import Frozen, Measures, Quantity, check_sources, content_hash, quantities
from .validation import explain

EngineKind = Literal["matrix", "vector", "special"]
Placement = Literal["local", "interleaved", "worst"]
Conflicts = Literal["none", "random"]

Frequency = Annotated[Quantity, Measures(("frequency",))]
Count = Annotated[Quantity, Measures(("number",), whole=True)]
Share = Annotated[Quantity, Measures(("number",), zero=True, at_most=1.0)]
Capacity = Annotated[Quantity, Measures(("bytes",))]
Bandwidth = Annotated[Quantity, Measures(("bytes/s", "bytes/clk", "bytes/clk/core"))]
Latency = Annotated[Quantity, Measures(("time", "cycles"), zero=True)]
Bits = Annotated[Quantity, Measures(("bits", "bytes"))]
Pins = Annotated[Quantity, Measures(("bits",), whole=True)]
PinRate = Annotated[Quantity, Measures(("bits/s",))]
BitEnergy = Annotated[Quantity, Measures(("energy/bit",), zero=True)]
WireEnergy = Annotated[Quantity, Measures(("energy/bit/length",), zero=True)]
WireDelay = Annotated[Quantity, Measures(("delay/length",), zero=True)]
OpEnergy = Annotated[Quantity, Measures(("energy/op",), zero=True)]
OpRate = Annotated[Quantity, Measures(("flop/clk/core",))]
OpsPerSecond = Annotated[Quantity, Measures(("flop/s",))]
Length = Annotated[Quantity, Measures(("length",), zero=True)]
Area = Annotated[Quantity, Measures(("area",))]
Power = Annotated[Quantity, Measures(("power",), zero=True)]
Limit = Annotated[Quantity, Measures(("power",))]
Number = Annotated[Quantity, Measures(("number",), zero=True)]
Money = Annotated[Quantity, Measures(("money",))]
Rent = Annotated[Quantity, Measures(("money/hour",))]

DTYPES = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int32", "int16", "int8", "int4")
"""Names of number formats in chip files. fp8 is either of e4m3 and e5m2, fp4 is e2m1 with or without block scales."""

_TORCH_DTYPES = {
    "float64": "fp64",
    "double": "fp64",
    "float32": "fp32",
    "float": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "nvfp4": "fp4",
    "mxfp4": "fp4",
    "uint8": "int8",
    "uint16": "int16",
    "uint32": "int32",
    "int64": "int32",  # indices; engines work on 32 bits
    "long": "int32",
    "int": "int32",
    "bool": "int8",
}


@functools.cache
def dtype_name(dtype: str) -> str:
    """The chip files' name of a number format: `torch.bfloat16`, `bfloat16` and `bf16` are all `bf16`.

    An unknown name comes back as it is; whether a chip does it is for `Chip.supports` to say.
    """
    name = dtype.removeprefix("torch.").lower()
    for prefix, short in (("float8", "fp8"), ("fp8", "fp8"), ("float4", "fp4")):
        if name.startswith(prefix):
            return short
    return _TORCH_DTYPES.get(name, name)


def dtype_bits(dtype: str) -> int:
    """Bits of a number format, by its chip-file or torch name; tf32 counts as the 19 bits it holds."""
    name = dtype_name(dtype)
    return 19 if name == "tf32" else int("".join(c for c in name if c.isdigit()) or 16)


def _known_dtypes(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        if name not in DTYPES:
            raise ValueError(f"unknown number format {name!r}{near(name, DTYPES) or ';'} known are {', '.join(DTYPES)}")
    return value


Rates = Annotated[dict[str, OpRate], AfterValidator(_known_dtypes)]
Energies = Annotated[dict[str, OpEnergy], AfterValidator(_known_dtypes)]
Peaks = Annotated[dict[str, OpsPerSecond], AfterValidator(_known_dtypes)]


class Cores(Frozen):
    """The units that a chip repeats: streaming multiprocessors, tiles, tensor cores with their own memory.

    `issue` is how many instructions (of single threads) the schedulers of one start a clock, where they limit it.
    `threads` is how many threads one holds at a time; 2048 where a file of a GPU does not say.
    """

    name: str
    count: Count
    issue: OpRate | None = None
    threads: Count | None = None


class Engine(Frozen):
    """Arithmetic units of one kind in every core.

    `rate` is dense and counts 1 MAC as 2 FLOP; for `special` it counts results (exp, rsqrt, ...). `rows`, `columns`
    and `depth` are the smallest m, n, k that the array works on at once: smaller tiles waste it. `feed` says from
    where a matrix engine takes its operands, and `feed_rows` for how many rows of the result it then takes a column of
    the other factor once (64 where it is not given). `energy` is the datapath alone, without fetching operands, at the
    nominal voltage of the process.

    With a `dataflow` the engine is `count` systolic arrays (one where it is not given) of `rows` x `columns`
    processing elements, each doing one MAC a clock of the widest format that runs at full rate: "weight-stationary"
    arrays hold a tile of the weights, (k, n) = (rows, columns), through which the other factor streams;
    "output-stationary" ones hold a tile of the result, (m, n) = (rows, columns).
    """

    name: str
    kind: EngineKind
    rate: Rates = Field(min_length=1)
    clock: Frequency | None = None
    energy: Energies = Field(default_factory=dict)
    datasheet_peak: Peaks = Field(default_factory=dict)
    rows: Count | None = None
    columns: Count | None = None
    depth: Count | None = None
    count: Count | None = None
    feed: Literal["registers", "memory"] | None = None
    feed_rows: Count | None = None
    dataflow: Literal["output-stationary", "weight-stationary"] | None = None

    @model_validator(mode="after")
    def _known(self) -> Engine:
        if self.dataflow is not None and self.kind != "matrix":
            raise ValueError(f'dataflow = "{self.dataflow}" is for a matrix engine; this is a {self.kind} engine')
        for field in ("energy", "datasheet_peak"):
            for dtype in getattr(self, field):
                if dtype not in self.rate:
                    raise ValueError(f"{field}.{dtype} has no rate; add rate.{dtype}")
        return self

    def native_tile(self) -> tuple[int, int, int]:
        """Smallest (m, n, k) the array works on; 1 where unknown. Rows of a weight-stationary array are its k."""
        given = (self.rows, self.columns, self.depth)
        if self.dataflow == "weight-stationary":
            given = (None, self.columns, self.rows)
        m, n, k = (1 if quantity is None else int(quantity.value) for quantity in given)
        return m, n, k


class MemoryLevel(Frozen):
    """One level of memory. Numbers are as in the file; the properties convert them for the whole chip.

    `scope = "core"` means each core has its own, and `capacity` is that of one core. Energies: a bit that leaves
    the level towards the engines costs `read_energy + interface_energy + wire_energy x distance + router_energy`,
    a bit that arrives costs `write_energy` (plus the wire of the level it came from).

    `placement` says where operands lie. "local": in the core that works on them. What several cores work on is then
    passed on from core to core, `remote_distance / remote_hops` further each time, at `remote_bandwidth` a core.
    "interleaved" and "worst": every access goes to another core, over `remote_distance` or `worst_distance` and
    `remote_hops` routers, at no more than `remote_bandwidth`. `conflicts = "random"`: accesses fall on `banks` of
    `bank_width` bytes a clock at random, so some wait (`contention`); "none": software picks the banks of every step.
    `leakage` is that of all copies, and a part of the chip's static power. `host` is true where the external level is
    the host's memory, of a chip without DRAM.
    `sustained_bandwidth` is what long copies are measured to reach, where somebody measured.
    `bus_width` and `data_rate` (a pin) of an external level are where its bandwidth comes from; a test multiplies them.
    """

    name: str
    scope: Literal["core", "chip"]
    capacity: Capacity
    read_bandwidth: Bandwidth
    usable: Capacity | None = None
    write_bandwidth: Bandwidth | None = None
    sustained_bandwidth: Bandwidth | None = None
    remote_bandwidth: Bandwidth | None = None
    bus_width: Pins | None = None
    data_rate: PinRate | None = None
    shared_port: bool = False
    latency: Latency | None = None
    wire_delay: WireDelay | None = None
    read_energy: BitEnergy | None = None
    write_energy: BitEnergy | None = None
    interface_energy: BitEnergy | None = None
    wire_energy: WireEnergy | None = None
    router_energy: BitEnergy | None = None
    distance: Length | None = None
    remote_distance: Length | None = None
    worst_distance: Length | None = None
    remote_hops: Number | None = None
    placement: Placement = "local"
    bank_bits: Bits | None = None
    bank_width: Bits | None = None
    banks: Count | None = None
    conflicts: Conflicts = "none"
    leakage: Power | None = None
    area: Area | None = None
    external: bool = False
    host: bool = False

    _clock: float = PrivateAttr(default=1.0)
    _cores: float = PrivateAttr(default=1.0)

    @model_validator(mode="after")
    def _consistent(self) -> MemoryLevel:
        if self.usable is not None and self.usable.value > self.capacity.value:
            raise ValueError(f"usable = {self.usable} is more than capacity = {self.capacity}")
        if self.external and self.scope != "chip":
            raise ValueError('an external level serves the whole chip; write scope = "chip"')
        if self.host and not self.external:
            raise ValueError("host = true is for the external level of a chip that has no DRAM of its own")
        if self.scope == "chip" and self.banks is None and self.bank_bits is not None:
            raise ValueError("bank_bits without banks; say how many banks there are")
        lacking = [field for field in ("banks", "bank_width") if getattr(self, field) is None]
        if self.conflicts == "random" and lacking:
            raise ValueError(f'conflicts = "random" needs {" and ".join(lacking)}, of one copy of the level')
        return self

    @property
    def copies(self) -> float:
        """How many of this level the chip has: one, or one a core."""
        return self._cores if self.scope == "core" else 1.0

    @property
    def capacity_bytes(self) -> float:
        """Bytes of all copies together."""
        return self.capacity.value * self.copies

    @property
    def usable_bytes(self) -> float:
        """Bytes a kernel may use, all copies together."""
        return (self.usable or self.capacity).value * self.copies

    @property
    def usable_bytes_per_copy(self) -> float:
        """Bytes a kernel may use in one core (scope "core") or in the chip's one copy."""
        return (self.usable or self.capacity).value

    @property
    def read_bytes_per_s(self) -> float:
        """Read bandwidth of the whole chip in bytes/s at the chip's clock."""
        return self._rate(self.read_bandwidth)

    @property
    def write_bytes_per_s(self) -> float:
        """Write bandwidth of the whole chip; that of reads where the file gives none."""
        return self._rate(self.write_bandwidth or self.read_bandwidth)

    @property
    def sustained_bytes_per_s(self) -> float:
        """What long copies are measured to reach, whole chip; the read bandwidth where nothing was measured."""
        return self._rate(self.sustained_bandwidth or self.read_bandwidth)

    @property
    def remote_bytes_per_s(self) -> float:
        """Bandwidth to words in other cores, whole chip; the read bandwidth where the file gives none."""
        return self._rate(self.remote_bandwidth or self.read_bandwidth)

    @property
    def latency_s(self) -> float:
        """Access latency in seconds, 0 where the file gives none."""
        if self.latency is None:
            return 0.0
        return self.latency.value / (self._clock if self.latency.dimension == "cycles" else 1.0)

    @property
    def placed_latency_s(self) -> float:
        """Latency of one access under this level's `placement`: that of an array, then wires and a cycle a hop."""
        if self.placement == "local":
            return self.latency_s
        return self.latency_s + _value(self.wire_delay) * self.placed_distance + _value(self.remote_hops) / self._clock

    @property
    def placed_read_bytes_per_s(self) -> float:
        """Read bandwidth of the whole chip under this level's `placement` and `conflicts`."""
        return self._placed(self.read_bytes_per_s)

    @property
    def placed_write_bytes_per_s(self) -> float:
        """Write bandwidth of the whole chip under this level's `placement` and `conflicts`."""
        return self._placed(self.write_bytes_per_s)

    def _placed(self, port: float) -> float:
        """Remote words come over the network; accesses that fall on the same bank wait for each other."""
        offered = port if self.placement == "local" else min(port, self.remote_bytes_per_s)
        if self.conflicts == "none" or self.bank_width is None or self.banks is None:
            return offered
        clocks = self._clock * self.copies
        return offered * port_efficiency(offered / clocks, _bytes(self.bank_width), self.banks.value)

    @property
    def exchanges(self) -> bool:
        """Whether what several cores work on is passed on between them: they read only their own part of the level."""
        if self.scope != "core" or self.placement != "local" or self.remote_bandwidth is None:
            return False
        return self.remote_bytes_per_s < self.read_bytes_per_s

    @property
    def network_j_per_bit(self) -> float:
        """Joules of wires and routers for a bit that leaves its core: to the next, or as far as `placement` says."""
        hops = _value(self.remote_hops) or 1.0
        if self.placement == "local":
            step = _value(self.remote_distance) / hops if self.exchanges else 0.0
            return _value(self.wire_energy) * step + (_value(self.router_energy) if self.exchanges else 0.0)
        return _value(self.wire_energy) * self.placed_distance + _value(self.router_energy) * hops

    @property
    def leakage_w(self) -> float:
        """Leakage of all copies in watts, as given for the whole chip."""
        return 0.0 if self.leakage is None else self.leakage.value

    @property
    def placed_distance(self) -> float:
        """Mean wire length of one access in metres under this level's `placement`."""
        chosen = {"local": self.distance, "interleaved": self.remote_distance, "worst": self.worst_distance}
        found = chosen[self.placement]
        return 0.0 if found is None else found.value

    @property
    def read_j_per_bit(self) -> float:
        """Joules for a bit to leave this level: array, interface, wires and routers under its `placement`."""
        hops = self.remote_hops.value if self.remote_hops is not None else 1.0
        routed = _value(self.router_energy) * (hops if self.placement != "local" or self.scope == "chip" else 0.0)
        return (
            _value(self.read_energy)
            + _value(self.interface_energy)
            + _value(self.wire_energy) * self.placed_distance
            + routed
        )

    @property
    def write_j_per_bit(self) -> float:
        """Joules for a bit to be written into this level's array; that of reads where the file gives none."""
        return _value(self.write_energy or self.read_energy)

    def _rate(self, bandwidth: Quantity) -> float:
        per_clock = {"bytes/clk": self._clock, "bytes/clk/core": self._clock * self._cores}
        return bandwidth.value * per_clock.get(bandwidth.dimension, 1.0)

    def _bind(self, clock: float, cores: float) -> None:
        self._clock, self._cores = clock, cores


class PowerBudget(Frozen):
    """Board power. `static` is the floor while running, whatever runs; `idle` without work.

    What `static` leaves of `limit` may go into switching. `product_energy` is all that the board is measured to spend
    in its cores on a FLOP of a long product of 16-bit factors, at the clock of its engine, `vector_product_energy` on
    one of fp32 factors on vector engines; without them a law for all boards holds (`Switching`). The `unattributed`
    energies are what boards are measured to spend beyond the sum of the parts in this file; they are charged alike on
    every chip, and every report can leave them out.
    """

    limit: Limit
    static: Power
    idle: Power | None = None
    product_energy: OpEnergy | None = None
    vector_product_energy: OpEnergy | None = None
    unattributed_flop: OpEnergy | None = None
    unattributed_vector_flop: OpEnergy | None = None
    unattributed_bit: BitEnergy | None = None


class Execution(Frozen):
    """What it costs to start a kernel, beyond its own work.

    `phases` of a register-flat chip: "overlapped" engines, ports and network work side by side; "bulk-synchronous"
    cores first exchange what they share, then compute, their engines in turn.
    """

    launch_gap_stream: Latency
    launch_gap_graph: Latency
    kernel_floor: Latency | None = None
    phases: Literal["overlapped", "bulk-synchronous"] = "overlapped"


class Die(Frozen):
    """Silicon. `blocks` names parts of the area, for area models."""

    area: Area
    node: Annotated[Quantity, Measures(("length",))] | None = None
    blocks: dict[str, Area] = Field(default_factory=dict)


class Interconnect(Frozen):
    """A way to other chips, or to the host where it has no `reach`; nearest first.

    `bandwidth` is one direction, all links of the chip together. `reach` is how many chips see each other over it,
    this one included. `latency` is from the store of a word on one chip until another has read it; `start` is what the
    kernel of a collective needs before its first hop, where it was measured on this chip. `in_network` is for a switch
    that adds up what chips send and hands out the sum: how fast, against NVLink 4's. `energy` is for a bit over one
    link; over a switch it takes two.
    """

    name: str
    bandwidth: Annotated[Quantity, Measures(("bytes/s",))]
    latency: Annotated[Quantity, Measures(("time",), zero=True)] | None = None
    start: Annotated[Quantity, Measures(("time",), zero=True)] | None = None
    topology: Literal["switch", "ring", "mesh", "torus", "all-to-all", "fat-tree", "host"] | None = None
    in_network: Share | None = None
    energy: BitEnergy | None = None
    links: Count | None = None
    reach: Count | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Interconnect:
        if self.in_network is not None and self.topology not in ("switch", "fat-tree"):
            raise ValueError('in_network is for switches; write topology = "switch" or "fat-tree"')
        return self


class Price(Frozen):
    """What a chip costs to buy, or to rent for an hour."""

    purchase: Money | None = None
    rent_per_hour: Rent | None = None


_DEFAULT_SOFTWARE = {"cache": "cuda-libraries", "register-flat": "ideal-mapper", "scratchpad": "ideal-mapper"}


class Chip(Frozen):
    """A validated chip file.

    `memory` is ordered from the engines outwards and ends with the external level. `memory_system` says how the
    levels between are used: caches fill themselves, a register-flat chip has one level of registers, and a scratchpad
    chip has any number of levels that its software manages, in front of systolic arrays. `clock` is what the cores run
    at unless power limits it; an engine may state another clock at which its datasheet peak holds. Chips of one
    `architecture` are relatives: what was measured on one says something about the others. A `speculative` file guesses
    at a product that exists: every report of it lists what is guessed.
    """

    schema_: Literal[1] = Field(alias="schema")
    name: str = Field(min_length=1)
    title: str
    vendor: str
    architecture: str = ""
    process: str
    memory_system: Literal["cache", "register-flat", "scratchpad"]
    software: str = ""
    description: str = ""
    aliases: tuple[str, ...] = ()
    speculative: bool = False
    clock: Frequency
    cores: Cores
    engines: tuple[Engine, ...]
    memory: tuple[MemoryLevel, ...]
    power: PowerBudget
    execution: Execution
    die: Die | None = None
    interconnect: tuple[Interconnect, ...] = ()
    price: Price | None = None
    sources: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str = "chip", *, replacing: bool = False) -> Chip:
        """Validate the contents of a chip file; `where` begins the message of the `ChipError` it may raise."""
        try:
            return cls.model_validate(data, context={"replacing": replacing})
        except ValidationError as error:
            raise ChipError(explain(error, data, cls, where)) from None

    def to_dict(self) -> dict[str, Any]:
        """The contents of a chip file that describes this chip: `Chip.from_dict(chip.to_dict()) == chip`."""
        return self.model_dump(by_alias=True, exclude_none=True, exclude_unset=True)

    @model_validator(mode="before")
    @classmethod
    def _default_software(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("software"):
            default = _DEFAULT_SOFTWARE.get(data.get("memory_system", ""))
            return {**data, "software": default} if default else data
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Chip:
        for field in ("engines", "memory", "interconnect"):
            _unique(field, (item.name for item in getattr(self, field)))
        _check_memory(self)
        if not any(engine.kind in ("matrix", "vector") for engine in self.engines):
            raise ValueError('engines: no matrix or vector engine; add an [[engines]] with kind = "matrix" or "vector"')
        check_sources(self, self.sources)
        for level in self.memory:
            level._bind(self.clock.value, self.cores.count.value)
        return self

    # Memory

    @property
    def external(self) -> MemoryLevel:
        """The last level: DRAM, HBM."""
        return self.memory[-1]

    @property
    def on_chip(self) -> tuple[MemoryLevel, ...]:
        """All levels but the external one, nearest the engines first."""
        return self.memory[:-1]

    @property
    def capacity_bytes(self) -> float:
        """Bytes of the external level."""
        return self.external.usable_bytes

    @property
    def on_chip_bytes(self) -> float:
        """Bytes of all on-chip levels together."""
        return sum(level.capacity_bytes for level in self.on_chip)

    def level(self, name: str) -> MemoryLevel:
        """The memory level with this name."""
        return _named(self, "memory", name)  # type: ignore[no-any-return]

    @property
    def stream_j_per_bit(self) -> float:
        """Joules, bottom up, for one bit that goes from external memory through every level to the engines once."""
        return sum(level.read_j_per_bit for level in self.memory) + sum(level.write_j_per_bit for level in self.on_chip)

    @property
    def ways(self) -> tuple[Interconnect, ...]:
        """The interconnects that lead to other chips, nearest first; those without a `reach` lead to the host alone."""
        return tuple(way for way in self.interconnect if way.reach is not None and way.reach.value > 1)

    # Arithmetic

    def engine_for(self, dtype: str, kind: EngineKind | None = None) -> Engine | None:
        """The fastest engine that does `dtype`; by default a matrix engine, else a vector engine. None if none does."""
        name = dtype_name(dtype)
        for wanted in ("matrix", "vector") if kind is None else (kind,):
            able = [e for e in self.engines if e.kind == wanted and name in e.rate]
            if able:
                return max(able, key=lambda engine: self.engine_rate(engine, name))
        return None

    def engine_rate(self, engine: Engine, dtype: str) -> float:
        """FLOP/s (for `special`, results/s) of one engine over all cores, at the clock its peak holds."""
        clock = engine.clock or self.clock
        return self.cores.count.value * engine.rate[dtype_name(dtype)].value * clock.value

    def peak_flops(self, dtype: str, kind: EngineKind | None = None) -> float:
        """Dense peak in FLOP/s (1 MAC = 2 FLOP). Raises `ChipError` when no engine does `dtype`."""
        engine = self.engine_for(dtype, kind)
        if engine is None:
            does = sorted({name for e in self.engines if kind is None or e.kind == kind for name in e.rate})
            what = f"{kind} engine" if kind else "engine"
            raise ChipError(f"{self.name} has no {what} for {dtype_name(dtype)}; it does {', '.join(does)}")
        return self.engine_rate(engine, dtype)

    def supports(self, dtype: str) -> bool:
        """Whether a matrix or vector engine does this number format."""
        return self.engine_for(dtype) is not None

    @property
    def dtypes(self) -> tuple[str, ...]:
        """All number formats that a matrix or vector engine does."""
        return tuple(name for name in DTYPES if self.supports(name))

    # Power and time

    @property
    def dynamic_power_w(self) -> float:
        """Watts that switching may draw: what the static floor leaves of the limit."""
        return self.power.limit.value - self.power.static.value

    @property
    def launch_gap_stream_s(self) -> float:
        """Seconds between two kernels launched back to back into a stream."""
        return self.seconds(self.execution.launch_gap_stream)

    @property
    def launch_gap_graph_s(self) -> float:
        """Seconds between two kernels of a captured graph (or a static schedule)."""
        return self.seconds(self.execution.launch_gap_graph)

    def seconds(self, quantity: Quantity | None) -> float:
        """A time of this chip's file in seconds, whether it was given in cycles or in seconds; 0 for None."""
        if quantity is None:
            return 0.0
        return quantity.value / (self.clock.value if quantity.dimension == "cycles" else 1.0)

    # Identity and variants

    @functools.cached_property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the contents; equal contents give equal hashes everywhere."""
        return content_hash(self)

    def quantities(self) -> Iterable[tuple[str, Quantity]]:
        """Every number with its path (`memory.HBM3.read_bandwidth`)."""
        return quantities(self)

    def replace(self, **changes: Any) -> Chip:
        """A new, validated chip with some fields changed, named by dotted paths.

            chip.replace(**{"memory.HBM3.read_bandwidth": "4.8 TB/s", "name": "h100-with-hbm3e"})

        A number is written with its unit; None removes an optional field. Members of lists go by their names.
        """
        data = copy.deepcopy(self.to_dict())
        for path, value in changes.items():
            _set(data, path, value, self)
        return Chip.from_dict(data, f"{self.name} with changes", replacing=True)


    def flatten(self, iso: Literal["area", "power"] = "area", **options: Any) -> Chip:
        """The register-flat twin: the area of caches and shared memories spent on registers (`flatten.flatten`)."""
        from .flatten import flatten

        return flatten(self, iso, **options)


def _value(quantity: Quantity | None) -> float:
    return 0.0 if quantity is None else quantity.value


def _bytes(quantity: Quantity) -> float:
    return quantity.value / (8.0 if quantity.dimension == "bits" else 1.0)


def _unique(field: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{field}: two are named {name!r}; give each its own name")
        if not name or "." in name:
            raise ValueError(f"{field}: {name!r} is no name; use one without dots that is not empty")
        seen.add(name)


def _check_memory(chip: Chip) -> None:
    external = [level.name for level in chip.memory if level.external]
    if not external:
        raise ValueError("memory: no external level (DRAM/HBM); add a [[memory]] with external = true")
    if len(external) > 1:
        raise ValueError(f"memory: {' and '.join(external)} are all external; exactly one level may be")
    if not chip.memory[-1].external:
        raise ValueError(f"memory: {external[0]} is external but not last; order the levels from the engines outwards")
    if len(chip.memory) == 1:
        raise ValueError("memory: no on-chip level; add a [[memory]] before the external one")
    if chip.memory_system == "register-flat":
        _check_flat(chip)
    if chip.memory_system == "scratchpad":
        _check_scratchpad(chip)


def _check_flat(chip: Chip) -> None:
    if len(chip.on_chip) > 1:
        names = ", ".join(level.name for level in chip.on_chip)
        raise ValueError(f'memory: a register-flat chip has one on-chip level, found {names}; or is it a "cache" chip?')
    level = chip.on_chip[0]
    if level.write_bandwidth is None and not level.shared_port:
        raise ValueError(
            f"memory.{level.name}: no write_bandwidth; give that of the load port, or write shared_port = true"
        )
    needed = {"interleaved": "remote_distance", "worst": "worst_distance"}.get(level.placement)
    if needed and getattr(level, needed) is None:
        raise ValueError(f'memory.{level.name}: placement = "{level.placement}" needs {needed}')


def _check_scratchpad(chip: Chip) -> None:
    arrays = [engine for engine in chip.engines if engine.kind == "matrix"]
    if not arrays:
        raise ValueError('engines: a scratchpad chip has systolic arrays, found none; add an engine of kind "matrix"')
    for engine in arrays:
        lacking = [field for field in ("rows", "columns", "dataflow") if getattr(engine, field) is None]
        if lacking:
            what = ", ".join(lacking)
            raise ValueError(f"engines.{engine.name}: a systolic array without {what}; add what is missing")
    seen_chip = ""
    for level in chip.on_chip:
        if level.scope == "core" and seen_chip:
            raise ValueError(f"memory: {level.name} of a core comes after {seen_chip} of the chip; order them outwards")
        seen_chip = level.name if level.scope == "chip" else seen_chip


def _named(chip: Chip, field: str, name: str) -> Any:
    items = {item.name: item for item in getattr(chip, field)}
    if name not in items:
        raise ChipError(f"{chip.name} has no {field}.{name}{near(name, items) or ';'} it has {', '.join(items)}")
    return items[name]


def _set(data: dict[str, Any], path: str, value: Any, chip: Chip) -> None:
    """Change the item at a dotted path of a chip's dictionary; the last step may be new, the others must exist."""
    steps = path.split(".")
    place: Any = data
    walked: list[str] = []
    for step in steps[:-1]:
        place = _step(place, step, walked, chip.name)
        walked.append(step)
    if isinstance(place, (list, tuple)) or not isinstance(place, dict):
        raise ChipError(f"{chip.name}: {path} cannot be replaced; name a field of {'.'.join(walked)}")
    if isinstance(value, Frozen):
        value = value.model_dump(by_alias=True, exclude_none=True)
    if value is None:
        place.pop(steps[-1], None)
    else:
        place["schema" if path == "schema_" else steps[-1]] = value


def _step(place: Any, step: str, walked: list[str], name: str) -> Any:
    if isinstance(place, (list, tuple)):
        choices = {item["name"]: item for item in place}
    else:
        choices = place if isinstance(place, dict) else {}
    if step not in choices:
        at = ".".join(walked) or "a chip"
        raise ChipError(f"{name}: {at} has no {step!r}{near(step, choices) or ';'} it has {', '.join(choices)}")
    return choices[step]
