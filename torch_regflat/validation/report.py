"""What `regflat validate` prints: tables for people, CSV and JSON for programs, and the file of predictions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from ..cost import MODEL_VERSION
from ..report.grid import Column, grid
from ..units import format_si, significant
from .headline import Line, headline
from .pairs import PairScore, pair_scores, pairs
from .predict import Prediction
from .reading import Table
from .rows import Row
from .score import KEYS, Score, percent, scores

DEFAULT_TABLES = (("class",), ("class", "gpu"), ("class", "dtype"), ("class", "decade"))
FORMATS = ("table", "json", "csv")
_STATISTICS = ("rows", "predicted", "mape", "median", "p90", "bias", "inside", "within", "roofline_mape")


@dataclass(frozen=True)
class Validation:
    """A finished run: the files that were read and a prediction for each of their rows that was asked for."""

    tables: Sequence[Table]
    predictions: Sequence[Prediction]
    by: Sequence[tuple[str, ...]] = field(default=DEFAULT_TABLES)
    headlines: bool = False
    worst: int = 0
    pairs: bool = False

    @property
    def malformed(self) -> list[str]:
        return [line for table in self.tables for line in table.malformed]

    @property
    def wrong(self) -> list[str]:
        """Lines that are no rows, and rows on GPUs that are not known."""
        return [*self.malformed, *(f"{p.row.place}: {p.reason}" for p in self.missed if not p.chip)]

    @property
    def missed(self) -> list[Prediction]:
        """Rows without a prediction."""
        return [p for p in self.predictions if p.value is None]


def render(found: Validation, format: str) -> str:
    return {"table": _text, "json": _json, "csv": _csv}[format](found)


def _text(found: Validation) -> str:
    parts = [_headlines(headline(found.predictions))] if found.headlines and found.predictions else []
    parts += [_table(scores(found.predictions, by), by) for by in found.by if found.predictions]
    if found.pairs:
        parts.append(_pairs(pair_scores(pairs(found.predictions))))
    if found.worst:
        parts.append(_worst(found))
    parts.append("\n".join(_notes(found)))
    return "\n\n".join(parts) + "\n"


def _headlines(lines: Sequence[Line]) -> str:
    columns = [Column("figure", tuple(line.title for line in lines), align="left")]
    columns += _figures("", [line.known for line in lines])
    unseen = [line.unseen for line in lines]
    if any(unseen):
        columns += _figures("GPUs never\nfitted, ", unseen)
    return grid(columns)


def _figures(prefix: str, found: Sequence[Score | None]) -> list[Column]:
    def column(heading: str, value: Callable[[Score], str]) -> Column:
        return Column(f"{prefix}{heading}", tuple("-" if score is None else value(score) for score in found))

    return [
        column("rows", lambda score: f"{score.rows}"),
        column("MAPE\n%", lambda score: percent(score.mape)),
        column("median\n%", lambda score: percent(score.median)),
        column("in interval\n%", lambda score: percent(score.inside)),
        column("roofline\nMAPE %", lambda score: percent(score.roofline_mape)),
    ]


def _pairs(found: Sequence[PairScore]) -> str:
    if not found:
        return "no pairs of rows that differ in one factor"
    columns = [
        Column("pairs that differ in one factor", tuple(score.label for score in found), align="left"),
        Column("pairs", tuple(f"{score.pairs}" for score in found)),
        Column("apart by\nover 10 %", tuple(f"{score.changed}" for score in found)),
        Column("direction\nright %", tuple(percent(score.right) for score in found)),
        Column("error of ratio,\nmedian %", tuple(percent(score.error) for score in found)),
        Column("smallest change\nto believe %", tuple(percent(score.believable) for score in found)),
    ]
    return grid(columns)


def _table(rows: Sequence[Score], by: tuple[str, ...]) -> str:
    columns = [Column(name, tuple(row.labels[i] for row in rows), align="left") for i, name in enumerate(by)]
    columns.append(Column("rows", tuple(f"{row.rows}" for row in rows)))
    if any(row.predicted < row.rows for row in rows):
        columns.append(Column("not\npredicted", tuple(f"{row.rows - row.predicted}" for row in rows)))
    columns += [
        Column("MAPE\n%", tuple(percent(row.mape) for row in rows)),
        Column("median\n%", tuple(percent(row.median) for row in rows)),
        Column("90th\n%", tuple(percent(row.p90) for row in rows)),
        Column("bias\n%", tuple(percent(row.bias, signed=True) for row in rows)),
        Column("in interval\n%", tuple(percent(row.inside) for row in rows)),
    ]
    if any(row.within is not None for row in rows):
        columns.append(Column("min to max\n%", tuple(percent(row.within) for row in rows)))
    columns.append(Column("roofline\nMAPE %", tuple(percent(row.roofline_mape) for row in rows)))
    return grid(columns)


def _worst(found: Validation) -> str:
    ranked = sorted(found.predictions, key=lambda p: (-abs(p.error), p.row.place))[: found.worst]
    columns = [
        Column("worst rows", tuple(p.row.place for p in ranked), align="left"),
        Column("gpu", tuple(p.row.gpu for p in ranked), align="left"),
        Column("class", tuple(KEYS["class"](p.row) for p in ranked), align="left"),
        Column("what", tuple(describe(p.row) for p in ranked), align="left"),
        Column("measured", tuple(amount(p.row, p.row.measured) for p in ranked)),
        Column("model", tuple(amount(p.row, p.value) for p in ranked)),
        Column("error\n%", tuple(percent(p.error, signed=True) for p in ranked)),
        Column("bound by", tuple(p.bound_by or "not predicted" for p in ranked), align="left"),
        Column("mapping", tuple(p.mapping for p in ranked), align="left"),
    ]
    return grid(columns)


def describe(row: Row) -> str:
    """What a row measures, in short: `bf16 512x1024x4096x1`."""
    return f"{row.dtype} {'x'.join(map(str, row.shape))}"


def amount(row: Row, value: float | None) -> str:
    if value is None:
        return "-"
    if row.quantity == "latency":
        return format_si(value, "s")
    return f"{significant(value)} {row.unit}"


def _notes(found: Validation) -> list[str]:
    total, missed = len(found.predictions), len(found.missed)
    lines = [f"{total - missed} of {total} rows predicted, model {MODEL_VERSION}"]
    reasons: dict[str, int] = {}
    for p in found.missed:
        reasons[p.reason] = reasons.get(p.reason, 0) + 1
    lines += [f"not predicted: {count} rows: {reason}" for reason, count in sorted(reasons.items())[:20]]
    if found.malformed:
        lines.append(f"{len(found.malformed)} malformed rows skipped:")
        lines += [f"  {line}" for line in found.malformed[:20]]
        if len(found.malformed) > 20:
            lines.append(f"  and {len(found.malformed) - 20} more")
    return lines


def _records(found: Validation) -> list[dict[str, object]]:
    records = []
    for by in found.by:
        for row in scores(found.predictions, by) if found.predictions else []:
            values = asdict(row)
            labels = dict(zip(by, values.pop("labels"), strict=True))
            records.append({"by": ",".join(by), **labels, **values})
    return records


def _csv(found: Validation) -> str:
    names = [name for name in KEYS if any(name in by for by in found.by)]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["by", *names, *_STATISTICS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_records(found))
    return out.getvalue()


def _json(found: Validation) -> str:
    lines = headline(found.predictions) if found.headlines else []
    data = {
        "model_version": MODEL_VERSION,
        "files": [{"path": t.path, "format": t.format.name, "rows": len(t.rows)} for t in found.tables],
        "predicted": len(found.predictions) - len(found.missed),
        "figures": [asdict(line) for line in lines],
        "scores": _records(found),
        **({"pairs": [asdict(score) for score in pair_scores(pairs(found.predictions))]} if found.pairs else {}),
        "not_predicted": [{"row": p.row.place, "reason": p.reason} for p in found.missed],
        "malformed": found.malformed,
    }
    return json.dumps(data, indent=1) + "\n"


ADDED = ("predicted", "low", "high", "roofline")


def predictions_csv(found: Validation) -> str:
    """Every row as it was read, with what the model says added, in microseconds or the row's own unit."""
    header = list(dict.fromkeys(column for table in found.tables for column in table.header))
    latencies = any(p.row.unit == "us" for p in found.predictions)
    unit = "_us" if latencies else ""
    names = [*(f"{name}{unit}" for name in ADDED), "bound_by"]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, [*header, *(name for name in names if name not in header)], lineterminator="\n")
    writer.writeheader()
    for p in found.predictions:
        scale = {"us": 1e6, "ms": 1e3}.get(p.row.unit, 1.0)
        values = (p.value, p.low, p.high, p.roofline)
        added = {n: "" if v is None else f"{v * scale:.6g}" for n, v in zip(names, values, strict=False)}
        writer.writerow({**p.row.cells, **added, "bound_by": p.bound_by})
    return out.getvalue()
