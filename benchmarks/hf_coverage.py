"""Which share of transformers can be profiled: every config class, shrunk to few layers, captured, lowered and priced.

    python benchmarks/hf_coverage.py coverage.csv            # resumes: types that are in the file are skipped
    python benchmarks/hf_coverage.py coverage.csv --only llama --only mamba
    python benchmarks/hf_coverage.py coverage.csv --redo     # those that failed once more
    python benchmarks/hf_coverage.py coverage.csv --show     # what is not ok, and the shares

Every model class that an Auto mapping offers for a type is built on meta from the default configuration; types without
an entry in any mapping get the first model class of their module that is made for their configuration. Models that
generate run prefill and decode, others one forward.

A row is "ok" when capture, lowering and pricing (one chip) succeed with inputs made by us; "hinted" when they do with
the `hints=` that `hf_hints.py` lists for the type, and not without; "transformers" when transformers itself cannot run
the model, shown without us (`hf_arbiter.py` says how); "inputs" when it runs with none of our inputs, with or without
us; else "refused", "timeout" or "crash". A config class counts by all its rows but those of "transformers". Every type
runs in a process of its own, every row has a time limit.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import faulthandler
import gc
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import hf_arbiter
from hf_arbiter import one_line
from hf_hints import HINTS
from hf_models import build, build_model, lengths, model_classes

LIMIT = 30  # seconds a row
ARBITER_LIMIT = 300  # seconds without us, for a row that failed
ARBITER = True


@dataclass
class Row:
    """One line of the table. status: ok | hinted | refused | inputs | transformers | timeout | crash"""

    type: str
    model: str
    phase: str
    status: str
    reason: str = ""
    shown_by: str = ""
    """How it was shown that transformers cannot run it."""
    hints: str = ""
    """What the hints mean, where there were any."""
    coverage: float | str = ""
    seconds: float = 0.0
    inputs: str = ""


# --- one type ---------------------------------------------------------------------------------------------------------


class Timeout(BaseException):
    pass


def _on_alarm(*_: Any) -> None:
    raise Timeout


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def rows_of(kind: str, most: int | None = None) -> Iterator[Row]:
    """All rows of one config class, or those of its first `most` models."""
    import transformers
    from transformers import CONFIG_MAPPING

    from torch_regflat.capture.phases import phases_of

    config_class = CONFIG_MAPPING[kind]
    classes = model_classes(transformers, kind, config_class)
    if not classes:
        reason = "transformers has no model class for this configuration"
        yield Row(kind, config_class.__name__, "", "transformers", reason, "no class")
    hopeless = False  # no other way of building it helped an earlier row
    last: Row | None = None
    for cls in classes[:most]:
        try:
            with limited(LIMIT):
                model = build_model(cls, config_class)
        except Timeout:
            yield Row(kind, cls.__name__, "", "timeout", "building")
            continue
        except Exception as error:
            yield not_built(kind, cls, config_class, error)
            continue
        phases = phases_of(model)
        for phase in ("prefill", "decode") if phases[0] == "prefill" else phases[:1]:
            if phase == "decode" and last is not None and last.status not in ("ok", "hinted"):
                yield replace(last, phase=phase, reason=f"its prefill: {last.reason}", seconds=0.0)
                continue
            row = best_row(kind, cls, config_class, model, phase, hopeless)
            failed = row.status not in ("ok", "hinted")
            if failed and ARBITER:
                arbitrate(row, cls, config_class, model)
            hopeless = hopeless or (failed and row.shown_by != "no cache")
            last = row
            yield row


def not_built(kind: str, cls: type, config_class: type, error: Exception) -> Row:
    """The row of a model that we cannot build; transformers alone may."""
    row = Row(kind, cls.__name__, "", "refused", one_line(error))
    with contextlib.suppress(Timeout), limited(ARBITER_LIMIT):
        own = hf_arbiter.cannot_build(cls, config_class)
        if own:
            row.status, row.shown_by, row.reason = "transformers", "build", own
    return row


def best_row(kind: str, cls: type, config_class: type, model: Any, phase: str, hopeless: bool) -> Row:
    """The row of a phase: as built; where that is refused with hints, if there are any, else built otherwise."""
    row = run_row(kind, cls.__name__, model, phase)
    hints, meaning = HINTS.get(f"{kind} {phase}", HINTS.get(kind, ({}, "")))
    for tested in (model, None) if row.status == "refused" and hints else ():
        tested = build(cls, config_class, "float32") if tested is None else tested
        hinted = run_row(kind, cls.__name__, tested, phase, hints)
        if hinted.status == "ok":
            return replace(hinted, status="hinted", hints=meaning, reason=row.reason)
    # Some models mix bfloat16 with float32 and run in float32 only; some configurations do not stand shrinking.
    for dtype, few in (("float32", True), ("bfloat16", False), ("float32", False)):
        if row.status not in ("refused", "crash") or hopeless:
            break
        with contextlib.suppress(Exception):
            again = run_row(kind, cls.__name__, build(cls, config_class, dtype, few), phase)
            row = again if again.status == "ok" else row
    return row


def run_row(kind: str, name: str, model: Any, phase: str, hints: dict[str, Any] | None = None) -> Row:
    from torch_regflat import profile_model
    from torch_regflat.errors import RegflatError

    row = Row(kind, name, phase, "ok")
    started = time.perf_counter()
    try:
        with limited(LIMIT):
            made = profile_model(model, phase=phase, chips="h100-sxm", hints=hints, **lengths(model, phase))
        row.coverage = round(made.coverage.modelled_bytes_share, 4)
        row.inputs = made.result.inputs
        if not made.total.latency_s > 0:
            row.status, row.reason = "crash", "no time at all"
    except Timeout:
        row.status, row.reason = "timeout", f"more than {LIMIT} s"
    except RegflatError as error:
        row.status, row.reason = "refused", one_line(error)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        row.status, row.reason = "crash", f"{one_line(error)} [{last.filename}:{last.lineno}]"
    row.seconds = round(time.perf_counter() - started, 2)
    return row


def arbitrate(row: Row, cls: type, config_class: type, model: Any) -> None:
    """Run what failed without us, and say in the row what came of it."""
    try:
        with limited(ARBITER_LIMIT):
            status, shown_by, said = hf_arbiter.verdict(row.type, cls, config_class, model, row.phase)
    except Timeout:
        row.reason += f" | without us: more than {ARBITER_LIMIT} s"
        return
    except Exception as error:
        row.reason += f" | without us: {one_line(error)}"
        return
    row.shown_by = shown_by
    if status == "refused":
        row.reason += f" | without us: {said}"
    else:
        row.status, row.reason = status, f"{said} || ours: {row.reason}"


# --- the table --------------------------------------------------------------------------------------------------------


def worker(kind: str, out: str) -> None:
    """Run in a process of its own: append rows to `out` as JSON lines."""
    resource.setrlimit(resource.RLIMIT_AS, (20 << 30, 20 << 30))
    signal.signal(signal.SIGALRM, _on_alarm)
    faulthandler.enable()
    gc.enable()
    with open(out, "w") as file:
        for row in rows_of(kind):
            file.write(json.dumps(asdict(row)) + "\n")
            file.flush()


def run_forked(kind: str) -> list[Row]:
    """All rows of a type from a forked process; a process that hangs or dies leaves a row that says so."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file, tempfile.NamedTemporaryFile(suffix=".err") as err:
        started = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(err.fileno(), 2)
                os.dup2(err.fileno(), 1)
                worker(kind, file.name)
                os._exit(0)
            except BaseException as error:
                print(one_line(error), flush=True)
                os._exit(1)
        status: int | None = None
        while time.perf_counter() - started < 2 * ARBITER_LIMIT + 8 * LIMIT:
            done, code = os.waitpid(pid, os.WNOHANG)
            if done:
                status = code
                break
            time.sleep(0.02)
        else:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        rows = [Row(**json.loads(line)) for line in Path(file.name).read_text().splitlines()]
        if status != 0:
            said = " ".join(Path(err.name).read_text(errors="replace").split())[-300:]
            rows.append(Row(kind, "", "", "timeout" if status is None else "crash", f"process ended: {status} {said}"))
        return rows


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    known = {field.name for field in fields(Row)}
    with path.open() as file:
        return [Row(**{k: v for k, v in line.items() if k in known}) for line in csv.DictReader(file)]  # type: ignore[arg-type]


def write(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def verdict(rows: list[Row]) -> str:
    """Of one config class: the worst of its rows that transformers can run; transformers when it runs none."""
    ours = {row.status for row in rows if row.status != "transformers"}
    if not ours:
        return "transformers"
    if ours <= {"ok", "hinted"}:
        return "ok" if ours == {"ok"} else "hinted"
    return "not ok"


@dataclass(frozen=True)
class Shares:
    """Config classes by their verdict."""

    tried: int
    ok: int
    hinted: int
    not_ok: int
    crashed: int
    """Rows that crashed or hung."""
    shown: dict[str, int]
    """Classes that transformers cannot run, by how that was shown."""

    @property
    def runnable(self) -> int:
        return self.ok + self.hinted + self.not_ok


def shares(rows: list[Row], types: dict[str, str]) -> Shares:
    """The shares over all config classes; several types may share one."""
    by_class: dict[str, list[Row]] = collections.defaultdict(list)
    for row in rows:
        if row.type in types:
            by_class[types[row.type]].append(row)
    count = collections.Counter(verdict(found) for found in by_class.values())
    shown = collections.Counter(
        found[0].shown_by.partition(":")[0] for found in by_class.values() if verdict(found) == "transformers"
    )
    crashed = sum(row.status in ("crash", "timeout") for row in rows)
    return Shares(len(by_class), count["ok"], count["hinted"], count["not ok"], crashed, dict(shown.most_common()))


def summary(rows: list[Row], types: dict[str, str]) -> str:
    """The shares over all config classes, and why what is not covered is not."""
    found = shares(rows, types)
    runnable, hinted = max(found.runnable, 1), found.ok + found.hinted
    lines = [
        f"config classes: {len(set(types.values()))}, tried {found.tried}",
        f"  transformers itself cannot run: {sum(found.shown.values())}"
        f" ({', '.join(f'{how} {n}' for how, n in found.shown.items())})",
        f"  runnable: {found.runnable}",
        f"  profiled without hints: {found.ok} = {found.ok / runnable:.1%}"
        f" (of all classes: {found.ok / max(found.tried, 1):.1%})",
        f"  profiled with the hints of hf_hints.py: {hinted} = {hinted / runnable:.1%}",
        "rows: " + ", ".join(f"{name} {n}" for name, n in collections.Counter(r.status for r in rows).most_common()),
    ]
    covered = [float(row.coverage) for row in rows if row.status == "ok" and row.coverage != ""]
    if covered:
        lines.append(
            f"bytes in operators with a formula: mean {sum(covered) / len(covered):.4f}, least {min(covered):.4f}"
        )
        slowest = max((row for row in rows if row.status == "ok"), key=lambda row: float(row.seconds))
        lines.append(f"slowest row: {slowest.type} {slowest.phase}, {float(slowest.seconds):.1f} s (limit {LIMIT} s)")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--redo", action="store_true", help="run the types again that are not ok")
    parser.add_argument("--redo-all", action="store_true", help="those that transformers could not run as well")
    parser.add_argument("--show", action="store_true", help="print the rows that are not ok and stop")
    parser.add_argument("--no-arbiter", action="store_true", help="do not run failed models without us")
    arguments = parser.parse_args()
    global ARBITER
    ARBITER = not arguments.no_arbiter
    warnings.filterwarnings("ignore")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    rows = read(arguments.table)
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    types = dict(CONFIG_MAPPING_NAMES)
    if arguments.show:
        for row in rows:
            if row.status != "ok":
                why = row.shown_by or row.hints
                print(row.type, row.model, row.phase, row.status, *([why] if why else []), row.reason, sep=" | ")
        print(summary(rows, types))
        return
    again = {
        row.type for row in rows
        if (arguments.redo_all and row.status != "ok")
        or (arguments.redo and row.status not in ("ok", "hinted", "transformers"))
    } | {name for name in arguments.only}  # fmt: skip
    done = {row.type for row in rows} - again
    todo = [name for name in (arguments.only or types) if name not in done]
    if (arguments.redo or arguments.redo_all) and not arguments.only:
        todo = [name for name in todo if name in again]
    import torch
    import transformers.modeling_utils  # noqa: F401

    import torch_regflat.capture.huggingface
    import torch_regflat.profiler  # noqa: F401

    torch.set_num_threads(1)
    gc.freeze()
    for number, kind in enumerate(todo):
        started = time.perf_counter()
        found = run_forked(kind)
        rows = [row for row in rows if row.type != kind] + found
        write(arguments.table, rows)
        words = "; ".join(
            f"{r.model} {r.phase} {r.status}" + (f" ({r.reason[:150]})" if r.status != "ok" else "") for r in found
        )
        print(f"[{number + 1}/{len(todo)}] {kind} {time.perf_counter() - started:.1f} s: {words}", flush=True)
    print(summary(rows, types))


if __name__ == "__main__":
    sys.path.insert(0, ".")
    main()
