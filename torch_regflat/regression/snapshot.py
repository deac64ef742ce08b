"""What a baseline keeps of a result: its totals, its layers, and what it was made from."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..report.rows import external_level, select
from ..result import ChipResult, Result, Row, collapse, different_members, group, heaviest, layer_of
from .believable import label_of
from .metrics import LAYERED, MEMORY_PARTS, METRICS, figure

MOST_LAYERS = 1000
"""Layers kept one by one, the longest; the others are kept as one sum."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's share of each metric that adds up over layers, zeros left out.

    What bounds most of its time, and the class of kernels that takes most of it.
    """

    path: str
    bound_by: str
    kernels: str
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class ChipSnapshot:
    """One chip: metrics by name, parts of peak memory, layers in order of execution."""

    chip_hash: str
    software_hash: str
    fits: bool
    metrics: dict[str, float]
    memory_bytes: dict[str, float]
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What figures were made from, beside the chips: the graph, the versions, and how the model was called."""

    graph_hash: str = ""
    cost_model: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A result, as far as later ones are compared with it."""

    model: str
    provenance: Provenance
    chips: dict[str, ChipSnapshot]


def snapshot(result: Result) -> Snapshot:
    """What is kept of a result."""
    return Snapshot(result.model, provenance(result), {chip.chip: _chip(chip, result.phase) for chip in result.chips})


def provenance(result: Result) -> Provenance:
    """What a result was made from."""
    settings = {
        "phase": result.phase,
        "mode": result.mode,
        "dtype": result.dtype,
        "inputs": result.inputs,
        "batch": "" if result.batch is None else str(result.batch),
        "seq_len": "" if result.seq_len is None else str(result.seq_len),
        "context": "" if result.context is None else str(result.context),
        "notes": "; ".join(result.notes),
    }
    given = {name: value for name, value in settings.items() if value}
    return Provenance(result.graph_hash, result.model_version, dict(result.versions), given)


def _chip(chip: ChipResult, phase: str) -> ChipSnapshot:
    classes = _classes(chip, phase)
    return ChipSnapshot(
        chip_hash=chip.chip_hash,
        software_hash=chip.software_hash,
        fits=chip.fit.fits,
        metrics={name: figure(name, chip) for name in METRICS},
        memory_bytes={name: part(chip.fit) for name, part in MEMORY_PARTS.items() if part(chip.fit)},
        layers=tuple(_layer(row, external_level(chip), classes.get(row.path, "")) for row in _rows(chip)),
    )


def _layer(row: Row, external: str, kernels: str) -> Layer:
    """A row as a layer: every metric that rows have a share of."""
    figures = {name: share(row, external) for name in LAYERED if (share := METRICS[name].of_layer) is not None}
    return Layer(row.path, row.bound_by, kernels, {name: value for name, value in figures.items() if value})


def _classes(chip: ChipResult, phase: str) -> dict[str, str]:
    """For each layer the class of kernels that takes most of its time."""
    lists = different_members(chip.kernels)
    times: dict[str, list[tuple[str, float]]] = {}
    for kernel in chip.kernels:
        label = label_of(kernel.kind, kernel.dtype, phase)
        for path, share in [(p.path, p.share) for p in kernel.parts] or [(kernel.path, 1.0)]:
            times.setdefault(layer_of(collapse(path, lists)), []).append((label, kernel.latency_s * share))
    return {path: heaviest(found) for path, found in times.items()}


def _rows(chip: ChipResult) -> list[Row]:
    rows = group(chip, "layer")
    if len(rows) <= MOST_LAYERS:
        return rows
    return select(chip, "layer", False, "latency", MOST_LAYERS)
