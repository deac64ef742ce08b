"""The folder of measured rows: one CSV file a format that `regflat validate` reads, written a line at a time."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import InputError
from ..validation.formats import ATTENTION_KEYS, GEMM_KEYS, MOE_KEYS
from ..validation.rows import Attention, Convolution, Gemm, Moe, Row, Streaming, WholeModel
from .device import Timing

Key: TypeAlias = tuple[str, ...]

_HEAD = ("source", "gpu", "dtype")
SHAPES: dict[str, tuple[type[Row], tuple[str, ...]]] = {
    "gemm": (Gemm, ("m", "n", "k", "batch")),
    "attention": (Attention, ("phase", "batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim")),
    "moe": (Moe, ("num_tokens", "hidden", "inter", "topk", "num_experts", "tp", "ep", "distribution")),
    "elementwise_norm_softmax": (Streaming, ("op", "rows", "cols")),
    "conv": (Convolution, ("n", "c", "h", "w", "k", "r", "s", "stride", "pad_h", "pad_w", "algo")),
    "end_to_end": (WholeModel, ("n_gpus", "model", "phase", "batch", "in_len", "out_len", "metric")),
}
"""The files, and what in each says which row it is."""
FACTS = ("device", "torch", "cuda", "driver")
_ALSO = ("p10_us", "p90_us", "samples", "sets", "sm_mhz", "power_w", "energy_j", *FACTS)
_POWER = ("source", "gpu", "n_gpus", "workload", "config", "metric", "value", "unit", *FACTS)
_CONFIGS = {Gemm: GEMM_KEYS, Attention: ATTENTION_KEYS, Moe: MOE_KEYS}


class Folder:
    """Measured rows of a folder. With `resume` those that are there count as done, else there must be none."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self.done: set[Key] = set()
        if path.exists() and not path.is_dir():
            raise InputError(f"cannot write {path}: it is no folder; each class of rows gets a file there")
        old = self.files()
        if old and not resume:
            raise InputError(f"{path} has measured rows ({old[0].name}); add --resume to go on, or name another folder")
        for name, file in self._rows_of():
            self._read(name, file)
        if (path / "power.csv").exists():
            _drop_half_a_line(path / "power.csv")

    def _rows_of(self) -> list[tuple[str, Path]]:
        return [(name, file) for name in SHAPES if (file := self.path / f"{name}.csv").exists()]

    def _read(self, name: str, file: Path) -> None:
        _drop_half_a_line(file)
        with open(file, newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            if tuple(reader.fieldnames or ()) != _columns(name):
                raise InputError(f"{file} has other columns than regflat measure writes; give another folder")
            self.done.update((name, *(line[column] for column in (*_HEAD, *SHAPES[name][1]))) for line in reader)

    def files(self) -> list[Path]:
        """The files that are there, in a fixed order."""
        return [file for name in (*SHAPES, "power") if (file := self.path / f"{name}.csv").exists()]

    def has(self, row: Row) -> bool:
        return key_of(row) in self.done

    def add(self, row: Row, timing: Timing, sets: int, facts: dict[str, str]) -> None:
        """Write a row, and the one of its power where that is known, to disk before anything else happens."""
        name = file_of(row)
        found = {
            **_identity(row), **_value(row, timing.seconds), "sets": sets, "samples": timing.samples,
            "p10_us": _number(timing.p10, 1e6), "p90_us": _number(timing.p90, 1e6),
            "sm_mhz": _number(timing.clock_hz, 1e-6), "power_w": _number(timing.watts),
            "energy_j": _number(timing.joules), **facts,
        }  # fmt: skip
        self._append(name, _columns(name), found)
        self.done.add(key_of(row))
        if timing.watts is not None and type(row) in _CONFIGS:
            self._append("power", _POWER, {**_power(row, timing.watts), **facts})

    def _append(self, name: str, columns: tuple[str, ...], found: dict[str, Any]) -> None:
        file = self.path / f"{name}.csv"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            new = not file.exists()
            with open(file, "a", newline="", encoding="utf-8") as out:
                writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(found)
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise InputError(f"cannot write {file}: {error.strerror or error}") from None


def file_of(row: Row) -> str:
    """The name of the file that a row goes to, without its ending."""
    return next(name for name, (kind, _) in SHAPES.items() if type(row) is kind)


def key_of(row: Row) -> Key:
    """What tells a row from all others."""
    return (file_of(row), *_identity(row).values())


def _identity(row: Row) -> dict[str, str]:
    return {name: str(getattr(row, name)) for name in (*_HEAD, *SHAPES[file_of(row)][1])}


def _columns(name: str) -> tuple[str, ...]:
    result = ("value", "unit", "ref") if name == "end_to_end" else ("latency_us",)
    return (*_HEAD, *SHAPES[name][1], *result, *_ALSO)


def _value(row: Row, seconds: float) -> dict[str, str]:
    if not isinstance(row, WholeModel):
        return {"latency_us": _number(seconds, 1e6)}
    value = row.batch / seconds if row.quantity == "rate" else seconds * 1e3
    return {"value": _number(value), "unit": row.unit, "ref": "plain PyTorch of torch_regflat.models.plain"}


def _power(row: Row, watts: float) -> dict[str, str]:
    sizes = ";".join(f"{short}={getattr(row, name)}" for name, short in _CONFIGS[type(row)].items())
    spread = f";{row.distribution}" if isinstance(row, Moe) else ""
    workload = row.phase if isinstance(row, Attention) else "moe" if isinstance(row, Moe) else "gemm"
    return {
        "source": row.source, "gpu": row.gpu, "n_gpus": "1", "workload": workload,
        "config": f"{sizes};{row.dtype}{spread}", "metric": "avg_power_watts", "value": _number(watts), "unit": "W",
    }  # fmt: skip


def _number(value: float | None, scale: float = 1.0) -> str:
    return "" if value is None else f"{value * scale:.6g}"


def _drop_half_a_line(file: Path) -> None:
    """Cut off what a killed run has left after the last whole line."""
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole == 0:
        file.unlink()
    elif whole < len(content):
        os.truncate(file, whole)
