"""What a library or compiler makes of a chip: its menu of kernels and its losses. Never a property of a chip."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from ..errors import ChipError, near
from .chip import Chip, Engine, Number, OpEnergy, Share
from .library import read_toml
from .quantity import Frozen, Measures, Quantity, check_sources, content_hash, quantities
from .validation import explain

Cycles = Annotated[Quantity, Measures(("cycles", "time"), zero=True)]
Efficiency = Annotated[Quantity, Measures(("number",), at_most=1.0)]
Positive = Annotated[Quantity, Measures(("number",))]
Duration = Annotated[Quantity, Measures(("time",), zero=True)]
Traffic = Annotated[Quantity, Measures(("bytes/clk/core",))]
Held = Annotated[Quantity, Measures(("bytes",))]

_SHIPPED = Path(__file__).parent / "softwares"


def _positive(value: Any) -> Any:
    for item in value:
        for size in item if isinstance(item, tuple) else (item,):
            if size < 1:
                raise ValueError(f"{size} is not a size; sizes are whole numbers from 1 on")
    return value


Tiles = Annotated[tuple[tuple[int, int], ...], AfterValidator(_positive)]
Sizes = Annotated[tuple[int, ...], AfterValidator(_positive)]


class Menu(Frozen):
    """The kernels a library has for matrix products; an empty list leaves that choice free.

    `order` says how blocks walk over the tiles: those that run together form a square, which takes least from memory,
    or lines along the shorter side of the result. `cluster` is how many blocks along m load what they have in common
    once, where the engine reads shared memory. `tiles` are the (m, n) that one block computes, `wide_tiles` those it
    has in addition where the matrix engine takes its operands from memory, `k` the depth of one step, `split_k` the
    ways to divide k over blocks.
    """

    tiles: Tiles = ()
    wide_tiles: Tiles = ()
    k: Sizes = ()
    split_k: Sizes = (1,)
    order: Literal["square", "line"] = "square"
    cluster: int = 1
    source: str
    kind: Literal["datasheet", "measured", "paper", "fit", "estimate"]
    note: str = ""


class AttentionKernels(Frozen):
    """The kernels a library has for fused attention, and what they lose.

    - `rows`: queries that one block holds; `splits`: ways to divide the keys over blocks
    - `block_latency`: chain of accesses before and after a block's arithmetic, paid by a kernel and each further wave
    - `softmax_exposed`: share of the shorter of product and softmax that the longer does not hide, where the engine
      takes operands from memory
    - `register_feed`: rate of products whose operands go through registers, as a share of long matrix products'
    - `wide_head`: likewise where heads are so wide that they fill the registers
    - `memory_efficiency`: share of datasheet external bandwidth that keys and values reach, where not that of streams
    - `widening_ops`: vector operations to widen an element that is stored in fewer bits than the queries
    - `narrow_feeds`: feeds of matrix engines that multiply 8-bit queries and keys as they are; others widen them first
    - `narrow_cache_head`: widest head whose 8-bit keys are multiplied as they are where queries have 16 bits
    """

    rows: Sizes
    splits: Sizes
    block_latency: Cycles
    softmax_exposed: Share
    register_feed: Efficiency
    wide_head: Efficiency
    memory_efficiency: Efficiency | None = None
    widening_ops: Number
    narrow_feeds: tuple[Literal["registers", "memory"], ...] = ("registers", "memory")
    narrow_cache_head: int = 0
    source: str
    note: str = ""


class Launches(Frozen):
    """What the time of a kernel includes where it is not one of a replayed graph (see `conditions`).

    - `stream_ratio`: gap to the kernel before in a stream, as a multiple of the chip's `launch_gap_stream`
    - `host_time`: what the host needs to launch a kernel of a stream; kernels cannot follow each other faster
    - `single_gap`: from the launch of a single kernel to its start, and from its end until that is noticed
    - `single_floor`: the least a single launch takes, which is the host's own time; `single_call` likewise of a call
      into a library of products
    - `convolution_time`: the host's own time of a single convolution (its plan is looked up, its workspace allocated),
      in which the device waits
    - `timer_ratio`: what a profiler's span of a kernel includes, as a multiple of the chip's `launch_gap_graph`
    """

    stream_ratio: Number
    host_time: Duration
    single_gap: Duration
    single_floor: Duration
    single_call: Duration
    timer_ratio: Number
    convolution_time: Duration | None = None


class Switching(Frozen):
    """What a board spends on switching beside the sum of its parts, and how its power limit acts.

    - `product_energy`: all that a board spends on a FLOP of a product of 16-bit factors, at 7 nm and 1.7 GHz. At
      another node and clock it is (node / 7 nm)^0.75 x (clock / 1.7 GHz)^0.5 times as much, unless the chip's file says
      what was measured; it goes with the width of the factors
    - `vector_product_energy`: the same for products of fp32 factors on vector engines
    - `zero_share`: part of it that is left where one factor is all zeros
    - `settle_time`: how long a load lasts until the limit acts in full; `instant_share`: the part that acts at once
    """

    product_energy: OpEnergy
    vector_product_energy: OpEnergy
    zero_share: Share
    settle_time: Duration
    instant_share: Share


class RowKernels(Frozen):
    """The kernels of norms and softmaxes: a block of threads goes over each row as often as it must.

    - `norm_threads`, `softmax_threads`: threads of a block; a softmax takes fewer for shorter rows
    - `softmax_held`: longest row of a softmax that stays in registers
    - `vector_bytes`: what a thread loads at a time
    - `block_waits`: latencies of external memory for which a block waits beside its loads: reductions, start and end
    - `reread_from`, `reread_range`: rows of all blocks, read and written, as a share of the L2: from there on parts
      of a row are fetched again, and all of it where the share is larger by the range
    """

    norm_threads: int
    softmax_threads: int
    softmax_held: int
    vector_bytes: int
    block_waits: Number
    reread_from: Positive
    reread_range: Positive
    source: str
    note: str = ""


class Narrowing(Frozen):
    """How products in a narrow format (fp8, fp4) get narrow activations from wide ones.

    - `kernels`: launches beside the product's own; `reads`: how often they read the activations
    - `scales`: what has a scale of its own: the whole tensor, or each row, which a block of threads goes over twice
    - `rate`: share of a long product's rate that the product sustains, with scales that change along k for example
    """

    kernels: Number
    reads: Number
    scales: Literal["tensor", "rows"]
    rate: Efficiency
    source: str
    note: str = ""


class WinogradKernels(Frozen):
    """What a library's Winograd convolutions lose.

    - `fused_rate`: share of a long product's rate of the kernel that transforms input and output on the way
    - `filter_passes`: time to transform the filters, as a multiple of reading and writing them once
    """

    fused_rate: Efficiency
    filter_passes: Number
    source: str
    note: str = ""


Family = Literal["stream", "in-network", "direct"]


class Protocol(Frozen):
    """How messages are handed over: `start` is what it takes until bytes flow, beside the start that all share, `hop` a
    message's latency as a multiple of the link's, `rate` a share of what long messages get."""

    start: Duration
    hop: Positive
    rate: Efficiency


class Collectives(Frozen):
    """What a library's collectives lose on the links.

    - `start`: what its kernel needs before the first hop, launch apart, where the chip's file does not say
    - `link_rate`, `host_pair_rate`, `host_rate`, `fabric_rate`: share of the bandwidth that long messages get over
      links of their own; between two chips over their host; among more over hosts; over a network of switches. What a
      protocol or a kernel gets is its `rate` times that
    - `own_copy`: what a rank keeps of a message takes this share of the time that sending it would
    - `families`: what it has: algorithms in protocols, reductions by the switch, kernels that read their peers' memory
    - `direct_ranks`: for how many ranks it has those; beyond a board of 8 only where links reach further
    - `protocols`: ways to hand messages over, of which the fastest is taken
    - `in_network`: reductions by the switch; `direct`: kernels that read their peers' memory, whose start is all they
      have; none without them
    """

    start: Duration
    link_rate: Efficiency
    host_pair_rate: Efficiency
    host_rate: Efficiency
    fabric_rate: Efficiency
    own_copy: Share
    protocols: dict[str, Protocol] = Field(min_length=1)
    families: tuple[Family, ...] = ("stream", "in-network", "direct")
    direct_ranks: Annotated[int, Field(ge=2)] = 8
    in_network: Protocol | None = None
    direct: Protocol | None = None


class Software(Frozen):
    """Losses and habits of a library or mapper.

    - `issue_efficiency`, `vector_issue_efficiency`: share of the peak that a matrix engine, that vector engines sustain
      inside a long product
    - `other_instructions`: instructions that a product on vector engines issues beside each multiplication; none is no
      limit
    - `memory_efficiency`, `stream_efficiency`: share of datasheet external bandwidth that products, that kernels which
      only stream reach; `l2_efficiency`: share of measured L2 bandwidth
    - `prologue`: once a wave of blocks; `split_cost`: once a kernel that splits k
    - `store_rate`: bytes of results a core writes a clock at the end of a block; none is a limit
    - `pipeline_depth`, `deep_pipeline`: bytes of a row of a factor that a block has in flight where operands go through
      registers, where the engine takes them from memory
    - `stream_in_flight`: bytes a core has in flight in kernels that only stream; none is enough for any latency
    - `launch_ratio`: time floor of a small kernel as a multiple of the chip's `launch_gap_graph`
    - `residency_share`: share of the last on-chip level that counts as holding data between kernels
    - `overlap`: how arithmetic and transfers combine: "sum", a 4-norm ("soft"), an 8-norm ("sharp"), or the maximum
      ("max")
    - `wave_softness`: 0 rounds waves of blocks up to whole ones, 1 not at all
    - `launches`: what other ways to launch than a graph cost; without it they cost the same
    - `switching`: energy of a board; without it that is the sum of the parts in the chip's file
    - `attention`: kernels of fused attention; without it they lose nothing
    - `widening_exposed`: share of the vector operations on narrow weights that loading them does not hide
    - `rows`: kernels of norms and softmaxes; without it they stream each row once
    - `narrowing`: products of narrowed activations; without it they are narrowed on the way into the product
    - `winograd`: Winograd convolutions; without it there are none
    - `experts`: the menu for grouped products; without it the tiles of all products, not split along k
    - `collectives`: exchanges between chips; without it they are those of `cuda-libraries`, see `collectives_of`
    """

    schema_: Literal[1] = Field(alias="schema")
    name: str = Field(min_length=1)
    title: str
    description: str = ""
    variant_of: str = ""
    menu: Menu
    attention: AttentionKernels | None = None
    launches: Launches | None = None
    switching: Switching | None = None
    experts: Menu | None = None
    narrowing: Narrowing | None = None
    winograd: WinogradKernels | None = None
    widening_exposed: Share | None = None
    rows: RowKernels | None = None
    collectives: Collectives | None = None
    issue_efficiency: Efficiency
    vector_issue_efficiency: Efficiency
    other_instructions: Number | None = None
    memory_efficiency: Efficiency
    stream_efficiency: Efficiency
    l2_efficiency: Positive
    prologue: Cycles
    split_cost: Cycles
    launch_ratio: Number
    residency_share: Share
    overlap: Literal["sum", "soft", "sharp", "max"]
    wave_softness: Share
    store_rate: Traffic | None = None
    pipeline_depth: Held | None = None
    deep_pipeline: Held | None = None
    stream_in_flight: Held | None = None
    sources: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str = "software", *, replacing: bool = False) -> Software:
        """Validate the contents of a software file; `where` begins the message of the `ChipError` it may raise."""
        try:
            return cls.model_validate(data, context={"replacing": replacing})
        except ValidationError as error:
            raise ChipError(explain(error, data, cls, where)) from None

    @functools.cached_property
    def hash(self) -> str:
        """As `Chip.hash`."""
        return content_hash(self)

    def replace(self, changes: dict[str, Any], where: str = "software with changes") -> Software:
        """New, validated software with some fields changed, named by dotted paths (`attention.wide_head`).

        None removes an optional field.
        """
        data = self.model_dump(by_alias=True, exclude_none=True, exclude_unset=True)
        for path, value in changes.items():
            *steps, last = path.split(".")
            place = data
            for i, step in enumerate(steps):
                if not isinstance(place.get(step), dict):
                    at = ".".join(steps[:i]) or "software"
                    hint = near(step, place) or ";"
                    raise ChipError(f"{where}: {at} has no table {step!r}{hint} it has {', '.join(place)}")
                place = place[step]
            merged = isinstance(place.get(last), dict) and isinstance(value, dict)
            place[last] = {**place[last], **value} if merged else value
        return Software.from_dict(data, where, replacing=True)

    @model_validator(mode="after")
    def _consistent(self) -> Software:
        check_sources(self, self.sources)
        for name in ("menu", "attention", "experts", "narrowing", "winograd", "rows"):
            part = getattr(self, name)
            if part is not None and part.source not in self.sources and " " not in part.source:
                raise ValueError(f"{name}: source {part.source!r} is not a key of [sources]")
        return self

    @property
    def tiles(self) -> tuple[tuple[int, int], ...]:
        """(m, n) tiles that any engine has; empty where the choice is free."""
        return self.menu.tiles

    @property
    def tile_k(self) -> tuple[int, ...]:
        """Depths of one step; empty where the choice is free."""
        return self.menu.k

    @property
    def split_k(self) -> tuple[int, ...]:
        """Ways to divide k over blocks; (1,) where it is never divided."""
        return self.menu.split_k

    def tiles_for(self, engine: Engine | None) -> tuple[tuple[int, int], ...]:
        """(m, n) tiles for a matrix engine; the wide ones only where operands come from memory."""
        wide = engine is not None and engine.feed == "memory"
        return self.menu.tiles + self.menu.wide_tiles if wide else self.menu.tiles

    def quantities(self) -> Iterable[tuple[str, Quantity]]:
        """Every number with its path."""
        return quantities(self)


def names() -> list[str]:
    """Names of the software that ships."""
    return sorted(path.stem for path in _SHIPPED.glob("*.toml"))


def load(name_or_path: str | Path | Software) -> Software:
    """Load software by name (`cuda-libraries`) or by the path of a TOML file. A `Software` passes through."""
    if isinstance(name_or_path, Software):
        return name_or_path
    text = str(name_or_path)
    if text.endswith(".toml"):
        path = Path(text).expanduser()
        if not path.is_file():
            raise ChipError(f"software file {text}: there is no such file; known are {', '.join(names())}")
        return _from_file(path)
    if text.strip().lower() not in names():
        hint = near(text, names()) or f"; known are {', '.join(names())}"
        raise ChipError(f"unknown software {text!r}{hint}")
    return _shipped(text.strip().lower())


def for_chip(chip: Chip, wanted: str | Path | Software | None = None) -> Software:
    """The software a chip's file names, or the wanted one where it is a variant of that or of nothing."""
    own = load(chip.software)
    if wanted is None:
        return own
    chosen = load(wanted)
    return chosen if chosen.variant_of in ("", own.name) else own


def collectives_of(chip: Chip, wanted: Software | None = None) -> Collectives:
    """How collectives run on a chip with its own or the wanted software.

    Where that says nothing of them they run as NVIDIA's do: links are alike, and of a chip that was never built nothing
    says that its library would be a better one, or a worse.
    """
    own = (wanted or load(chip.software)).collectives or load(_MEASURED).collectives
    assert own is not None
    return own


_MEASURED = "cuda-libraries"


@functools.cache
def _shipped(name: str) -> Software:
    return _from_file(_SHIPPED / f"{name}.toml")


def _from_file(path: Path) -> Software:
    """A software file, or a variant: `variant_of` another by name, with a table of `changes` by dotted path."""
    data = read_toml(path)
    if "variant_of" not in data:
        return Software.from_dict(data, path.name)
    allowed = ("schema", "name", "title", "description", "variant_of", "changes", "sources")
    for field in data:
        if field not in allowed:
            hint = near(field, allowed)
            raise ChipError(f"{path.name}: unknown field {field!r}{hint}; a variant has {', '.join(allowed)}")
    base = load(str(data["variant_of"]))
    named: dict[str, Any] = {f: data[f] for f in ("name", "title", "description", "variant_of") if f in data}
    sources = {f"sources.{key}": text for key, text in data.get("sources", {}).items()}
    return base.replace({**named, **sources, **data.get("changes", {})}, path.name)
