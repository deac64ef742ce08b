"""Rules over chips: energies, hierarchies, cycles, ports, area, generations."""

from __future__ import annotations

import itertools
from typing import Any

from ...hardware.area import MIB, level_mm2, mm2_per_mib
from ...hardware.chip import Chip, MemoryLevel, dtype_bits
from ...hardware.library import load
from ...progress import counted
from ..alike import fair_pairs
from ..depth import DEPTHS, largest_product, spent, with_levels
from ..rows import Row
from ..sweep import points_of
from ..variants import Variant
from .evidence import Evidence
from .rule import rule
from .verdict import Case, Finding, judge, percent, ratio, series_of, span


@rule
def memory_over_logic(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """Energy of memory over that of arithmetic: a word from external memory against one operation, and whole runs."""
    times, chips = numbers["times"], [load(chip) for chip in (*evidence.setup.gpus, *evidence.setup.flats)]
    words = [(chip, dtype, value) for chip in chips for dtype, value in _a_word(chip, evidence.unattributed)]
    rows = evidence.decode(evidence.setup.small, chips)
    runs = [(row, _memory_j(row, evidence.unattributed) / row["compute_energy_j"]) for row in rows]
    cases = [Case(value >= times, f"a word of {dtype} on {chip.name}") for chip, dtype, value in words]
    cases += [Case(value >= times, series_of(row), "batch", row["batch"]) for row, value in runs]
    gives = (
        f"a word from external memory to the engines: {span([v for _, _, v in words], ratio)} the energy of one "
        f"multiply-accumulate; whole decode steps: {span([v for _, v in runs], ratio)} that of all arithmetic"
    )
    charged = "all that is unattributed counted as memory's, which is the most it can be"
    charged = charged if evidence.unattributed else "sum of the parts"
    return judge(cases, gives, f"all number formats of the chips' engines, decode over all batches; {charged}")


def _a_word(chip: Chip, unattributed: bool) -> list[tuple[str, float]]:
    """Of each number format the energy of a word from external memory to the engines over that of a MAC."""
    extra = chip.power.unattributed_bit
    a_bit = chip.stream_j_per_bit + (extra.value if extra is not None and unattributed else 0.0)
    found = []
    for dtype in chip.dtypes:
        engine = chip.engine_for(dtype)
        energy = engine.energy.get(dtype) if engine is not None else None
        if energy is not None and energy.value:
            found.append((dtype, a_bit * dtype_bits(dtype) / (2.0 * energy.value)))
    return found


def _memory_j(row: Row, unattributed: bool) -> float:
    """Memory's energy; all that is unattributed counts as memory's, which is the most that it can be."""
    extra = row["unattributed_energy_j"] if unattributed else 0.0
    return float(row["on_chip_energy_j"] + row["external_energy_j"] + extra)


@rule
def hierarchy_depth(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """The same die with one to four levels on chip, on the same area: each level more is slower and costs energy."""
    flat, tolerance = evidence.setup.physical, numbers["tolerance"]
    chips = [with_levels(flat, depth) for depth in DEPTHS]
    cases, slower, costlier = [], [], []
    for phase, batch, length in _few_points(evidence):
        some = _by_depth(evidence, chips, phase, batch, length)
        for (s, j), (more_s, more_j), depth in zip(some, some[1:], DEPTHS[1:], strict=False):
            worse = more_s > s * (1.0 + tolerance) and more_j > j * (1.0 + tolerance)
            words = f"{depth} levels against {depth - 1}, {phase} of {length} tokens"
            cases.append(Case(worse, words, "batch", batch))
            slower.append(more_s / some[0][0])
            costlier.append(more_j / some[0][1])
    cycles = [sum(level.latency_s for level in chip.on_chip) * chip.clock.value for chip in chips]
    gives = (
        f"2 to 4 levels against 1: latency {span(slower, ratio)}, energy {span(costlier, ratio)}; an access through "
        f"all levels takes {', '.join(f'{count:.0f}' for count in cycles)} cycles"
    )
    assumed = (
        f"{flat.name}, its register area shared out over levels (ours), energies and cycles by size and distance; the "
        f"small model's largest product from cold memories, an ideal mapper; over {percent(tolerance)} counts"
    )
    return judge(cases, gives, assumed)


def _few_points(evidence: Evidence) -> list[tuple[str, int, int]]:
    """A few batches of a decode step and all prompts: a search over four levels takes its time."""
    setup = evidence.setup
    batches = setup.batches[:: max(len(setup.batches) // 2, 1)]
    return [("decode", batch, min(setup.contexts)) for batch in batches] + [("prefill", 1, n) for n in setup.prompts]


def _by_depth(
    evidence: Evidence, chips: list[Chip], phase: str, batch: int, length: int
) -> list[tuple[float, float]]:
    """Seconds and joules of the largest product on each chip."""
    point = points_of(evidence.setup.small, phase, batch, length)[0]
    shape = largest_product(point.capture())
    found = []
    with counted("levels", len(chips), evidence.progress) as step:
        for chip in chips:
            cost = spent(shape, chip)
            extra = 0.0 if evidence.unattributed else cost.unattributed_energy_j
            found.append((cost.latency_s, cost.energy_j - extra))
            step(1)
    return found


@rule
def one_cycle(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """Where a word lies, an access takes no more than one cycle of the chip's clock."""
    cases, cycles = [], []
    for chip in map(load, evidence.setup.flats):
        level = chip.on_chip[0]
        for where in ("local", "interleaved", "worst"):
            distance = {"interleaved": level.remote_distance, "worst": level.worst_distance}.get(where)
            if where != "local" and distance is None:
                continue
            placed = chip.replace(**{f"memory.{level.name}.placement": where}).on_chip[0]
            taken = placed.placed_latency_s * chip.clock.value
            cycles.append(taken)
            cases.append(Case(taken <= 1.0 + 1e-9, f"{chip.name} with words {_PLACES[where]}"))
    gives = f"{span(cycles, lambda value: f'{value:.0f}')} cycles by where the word lies"
    return judge(cases, gives, "array, repeated wires and a cycle a hop at each chip's own clock")


_PLACES = {"local": "in the tile's own shard", "interleaved": "anywhere", "worst": "in the farthest corner"}


@rule
def loads(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """With a load port as wide as its banks allow the flat chip is no more than the tolerance faster."""
    setup, model = evidence.setup, evidence.setup.small
    own = [Variant.of(flat) for flat in setup.flats]
    hardware = [variant for one in own for variant in (one, _free_loads(one))]
    rows = evidence.all_rows(model, hardware, "decode", setup.batches, setup.contexts)
    rows += evidence.all_rows(model, hardware, "prefill", setup.prompt_batches, setup.prompts)
    pairs = [(a, b) for a, b in zip(rows[::2], rows[1::2], strict=True) if not (a["error"] or b["error"])]
    slower = [a["latency_s"] / b["latency_s"] - 1.0 for a, b in pairs]
    within = [value <= numbers["tolerance"] for value in slower]
    cases = [Case(ok, series_of(a), "batch", a["batch"]) for ok, (a, _) in zip(within, pairs, strict=True)]
    least = span(slower, percent) if slower else "nothing"
    gives = f"{least} slower than with a load port as wide as the banks"
    assumed = f"up to {percent(numbers['tolerance'])} counts as undisturbed; ports as each reading has them"
    return judge(cases, gives, assumed)


def _free_loads(variant: Variant) -> Variant:
    level = variant.chip.on_chip[0]
    width = level.write_bandwidth or level.read_bandwidth
    at = f"memory.{level.name}."
    endless = f"{width.given * 1e4!r} {width.unit}"
    return variant.with_changes({at + "write_bandwidth": endless, at + "shared_port": False})


@rule
def area(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """A byte takes less area; and: the flat memory that is as fast, with no more external traffic, takes less than the
    GPU's memories, both under the flat chip's software.
    """
    setup, gpu, flat = evidence.setup, evidence.setup.gpu, evidence.setup.physical
    level, sizes = flat.on_chip[0], numbers["capacities"]
    pair = fair_pairs(Variant.of(gpu), Variant.of(flat))[-1]
    changes = [{f"memory.{level.name}.capacity": f"{mib / level.copies!r} MiB"} for mib in sizes]
    flats = [pair.other.with_changes(change) for change in changes]
    rows = evidence.all_rows(setup.small, [pair.one, *flats], "prefill", setup.prompt_batches, setup.prompts)
    a_mib, held = _mm2_per_mib(flat, level), sum(memory.capacity_bytes for memory in gpu.on_chip) / MIB
    # The flat memory's area is that of arrays with their overheads; a GPU's as built has tags, ports and switches too.
    bare, built = mm2_per_mib(gpu, "array"), {memory.name: _mm2_per_mib(gpu, memory) for memory in gpu.on_chip}
    taken = {"bare arrays": held * bare, "what is built": sum(level_mm2(gpu, memory) for memory in gpu.on_chip)}
    against = {"bare arrays of 6T SRAM": bare, **built}
    cases = [Case(a_mib < a_cache, f"a byte, against {name}") for name, a_cache in against.items()]
    needed = []
    for i in range(0, len(rows), len(flats) + 1):
        base, *some = rows[i : i + len(flats) + 1]
        enough = [mib for mib, row in zip(sizes, some, strict=True) if _as_good(row, base)]
        needed += enough[:1]
        for name, mm2 in taken.items():
            series = f"all that is needed, against {name}, prompts of {base['context']} tokens"
            cases.append(Case(bool(enough) and enough[0] * a_mib < mm2, series, "batch", base["batch"]))
    least = (
        f"{span(needed, lambda mib: f'{mib:.0f}')} MiB are as good as the {held:.0f} MiB of {gpu.name} "
        f"({span(needed, lambda mib: f'{mib * a_mib:.0f}')} mm2 against "
        f"{' and '.join(f'{mm2:.0f} mm2 of {name}' for name, mm2 in taken.items())})"
        if needed
        else f"no swept capacity is as good as the {held:.0f} MiB of {gpu.name}"
    )
    each = ", ".join(f"{a_cache:.2f} in {name}" for name, a_cache in built.items())
    each = f"{bare:.2f} in bare arrays of 6T SRAM, as built in {gpu.name} {each}"
    gives = f"a MiB takes {a_mib:.2f} mm2 flat, {each}; {least}"
    assumed = (
        f"flat memory of {sizes[0]} to {sizes[-1]} MiB swept, as good: no slower and no more external traffic in "
        "prefill under the same ideal mapper; areas by the area model (docs/model.md); the flat memory's are of "
        "arrays, without what else is built around them"
    )
    return judge(cases, gives, assumed)


def _mm2_per_mib(chip: Chip, level: MemoryLevel) -> float:
    return level_mm2(chip, level) / (level.capacity_bytes / MIB)


def _as_good(row: Row, base: Row) -> bool:
    if row["error"] or base["error"]:
        return False
    return all(row[figure] <= base[figure] * _SAME for figure in ("external_bytes", "latency_s"))


_SAME = 1.001
"""Differences that come from how bytes are counted, not from the memories."""


@rule
def memory_wall(evidence: Evidence, numbers: dict[str, Any]) -> Finding:
    """Dense peak over external bandwidth, FLOP a byte, rises from each generation to the next."""
    chips = [load(chip) for chip in evidence.setup.generations]
    cases, words = [], []
    for label, peak in (("fp16", _fp16), ("the narrowest format", _narrowest)):
        values = [peak(chip) / chip.external.read_bytes_per_s for chip in chips]
        words.append(f"{label}: {', '.join(f'{v:.0f}' for v in values)} FLOP/B")
        for (one, a), (other, b) in itertools.pairwise(zip(chips, values, strict=True)):
            cases.append(Case(b > a, f"{label} from {one.name} to {other.name}"))
    gives = f"{' to '.join(c.name for c in chips)}; {'; '.join(words)}"
    return judge(cases, gives, "datasheet peaks without sparsity, datasheet bandwidths")


def _fp16(chip: Chip) -> float:
    return chip.peak_flops("fp16")


def _narrowest(chip: Chip) -> float:
    """The highest peak of a floating-point format of 16 bits or fewer."""
    return max(chip.peak_flops(dtype) for dtype in ("fp16", "bf16", "fp8", "fp4") if chip.supports(dtype))
