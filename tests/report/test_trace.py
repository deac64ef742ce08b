"""Traces: checked against the description of the Trace Event Format, by their sums, and by TensorBoard's own reader."""

from __future__ import annotations

import gzip
import itertools
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import torch_regflat as regflat
from result_factory import result
from torch_regflat.errors import ResultError
from torch_regflat.report import trace
from torch_regflat.report.spans import lanes, nested, sweep

Event = dict[str, Any]


@pytest.fixture(scope="module")
def prof() -> regflat.Profile:
    model = nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024)).to(torch.bfloat16)
    inputs = torch.empty(2048, 1024, dtype=torch.bfloat16, device="meta")
    return regflat.profile(model.to("meta"), inputs, chip=["h100-sxm", "regflat-physical"])


@pytest.fixture(scope="module")
def events(prof: regflat.Profile) -> list[Event]:
    return read(trace.render(prof.result, timelines=prof.timelines()))


def read(text: str) -> list[Event]:
    """The events, each with the fields that the format demands of its phase."""
    document = json.loads(text)
    assert document["displayTimeUnit"] in ("ms", "ns")
    for event in document["traceEvents"]:
        assert isinstance(event["name"], str) and event["name"] and isinstance(event["pid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "process_sort_index", "thread_name", "thread_sort_index")
            continue
        assert isinstance(event["tid"], int) and event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0 and isinstance(event["args"], dict)
        elif event["ph"] == "C":
            assert all(isinstance(value, float | int) and math.isfinite(value) for value in event["args"].values())
        else:
            assert event["ph"] in ("s", "f") and isinstance(event["id"], int)
    found: list[Event] = document["traceEvents"]
    return found


def slices(events: list[Event]) -> dict[tuple[int, int], list[tuple[int, int, Event]]]:
    """Slices by track, in whole nanoseconds."""
    found = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            begin = round(event["ts"] * 1000)
            found[event["pid"], event["tid"]].append((begin, begin + round(event["dur"] * 1000), event))
    return found


def tracks(events: list[Event]) -> dict[tuple[int, int], str]:
    return {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}


def test_tracks_are_named_and_slices_on_them_nest_or_follow(events: list[Event]) -> None:
    names = tracks(events)
    found = slices(events)
    assert found.keys() == names.keys()
    assert {"modules", "kernels", "waits", "HBM3 load", "HBM3 store", "compute"} <= set(names.values())
    for track, spans in found.items():
        open_ends: list[int] = []
        for begin, end, _ in sorted(spans, key=lambda s: (s[0], -s[1])):
            while open_ends and open_ends[-1] <= begin:
                open_ends.pop()
            assert not open_ends or (names[track] == "modules" and end <= open_ends[-1]), names[track]
            open_ends.append(end)


def test_kernels_last_as_long_as_the_run(prof: regflat.Profile, events: list[Event]) -> None:
    for number, chip in enumerate(prof.chips, 1):
        kernels = [e for e in events if e["ph"] == "X" and e["cat"] == "kernel" and e["pid"] == number]
        assert [e["name"] for e in kernels] == [k.name for k in chip.kernels]
        end = max(e["ts"] + e["dur"] for e in kernels)
        assert end * 1e-6 == pytest.approx(prof.timeline(chip.chip).kernels[-1].end_s, abs=2e-9)


def test_arrows_leave_and_reach_a_slice(events: list[Event]) -> None:
    found = slices(events)
    arrows = defaultdict(dict)
    for event in events:
        if event["ph"] in "sf":
            arrows[event["id"]][event["ph"]] = event
    assert arrows
    for ends in arrows.values():
        assert set(ends) == {"s", "f"} and ends["f"]["ts"] >= ends["s"]["ts"] and ends["f"]["bp"] == "e"
        kinds = []
        for end in (ends["s"], ends["f"]):
            time = round(end["ts"] * 1000)
            kinds += [e["cat"] for begin, stop, e in found[end["pid"], end["tid"]] if begin <= time <= stop][-1:]
        assert sorted(kinds) in (["kernel", "load"], ["kernel", "store"])


def integral(events: list[Event], pid: int, name: str) -> float:
    """Of a counter over time, in its unit times seconds."""
    steps = [
        (e["ts"] * 1e-6, e["args"]["value"]) for e in events if e["ph"] == "C" and (e["pid"], e["name"]) == (pid, name)
    ]
    assert steps and steps[-1][1] == 0
    return math.fsum((b[0] - a[0]) * a[1] for a, b in itertools.pairwise(steps))


def test_counters_add_up_to_the_totals(prof: regflat.Profile, events: list[Event]) -> None:
    for number, chip in enumerate(prof.chips, 1):
        assert integral(events, number, "power (W)") == pytest.approx(chip.total.energy_j, rel=1e-3)
        for level in chip.levels[:-1]:
            assert integral(events, number, f"{level.name} bandwidth (GB/s)") * 1e9 == pytest.approx(
                level.traffic_bytes, rel=1e-3
            )
        moved = math.fsum(one.size_bytes for one in prof.timeline(chip.chip).transfers)
        assert integral(events, number, "HBM3 bandwidth (GB/s)") * 1e9 == pytest.approx(moved, rel=1e-3)


def test_what_lies_on_chip_is_counted(prof: regflat.Profile, events: list[Event]) -> None:
    taken = [e["args"]["value"] for e in events if e["name"] == "on chip (MB)"]
    assert max(taken) * 1e6 == pytest.approx(prof.timeline("regflat-physical").peak_bytes)


def test_without_a_time_line_kernels_follow_one_another() -> None:
    found = read(trace.render(result()))
    kernels = [e for e in found if e["ph"] == "X" and e["cat"] == "kernel" and e["pid"] == 1]
    assert [e["ts"] for e in kernels] == [pytest.approx(1e6 * k.start_s) for k in result().chips[0].kernels]


def test_a_time_line_of_another_profile_is_refused(prof: regflat.Profile) -> None:
    with pytest.raises(ResultError, match="the time line of h100-sxm is not that of this profile"):
        trace.render(result(), timelines=prof.timelines())


def test_a_name_that_says_so_is_compressed(prof: regflat.Profile, tmp_path: Path) -> None:
    prof.save(tmp_path / "run.trace.json")
    prof.save(tmp_path / "run.trace.json.gz")
    assert gzip.decompress((tmp_path / "run.trace.json.gz").read_bytes()) == (tmp_path / "run.trace.json").read_bytes()


def test_tensorboard_reads_it(prof: regflat.Profile, tmp_path: Path) -> None:
    data = pytest.importorskip(
        "torch_tb_profiler.profiler.data", reason="pip install torch-tb-profiler to read it back"
    )
    path = tmp_path / "run.pt.trace.json"
    prof.save(path)
    read_back = data.RunProfileData.parse("worker", 0, str(path), str(tmp_path))
    kernels = [event for event in read_back.events if str(event.type) == "Kernel"]
    assert len(kernels) == sum(len(chip.kernels) for chip in prof.chips)


spans = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)).map(lambda s: (s[0], s[0] + s[1])), max_size=30)


@given(spans)
def test_lanes_hold_every_span_without_overlap(found: list[tuple[int, int]]) -> None:
    placed = [members for _, members in lanes("track", found)]
    assert sorted(index for members in placed for index in members) == list(range(len(found)))
    for members in placed:
        for before, after in itertools.pairwise(members):
            assert found[before][1] <= found[after][0]
    busiest = max((sum(b <= t < e for b, e in found) for t in range(71)), default=0)
    assert len(placed) <= max(busiest, 1) + sum(b == e for b, e in found)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20), st.floats(0, 1e6)), max_size=20))
def test_a_sweep_keeps_amounts(amounts: list[tuple[int, int, float]]) -> None:
    steps = sweep((begin, begin + length, amount) for begin, length, amount in amounts)
    total = math.fsum(rate * (b - a) * 1e-9 for (a, rate), (b, _) in itertools.pairwise(steps))
    assert total == pytest.approx(math.fsum(amount for *_, amount in amounts), rel=1e-6, abs=1e-6)


def test_modules_nest() -> None:
    kernels = [("a.b", 0, 10), ("a.c", 10, 15), ("d", 15, 20), ("a.b", 20, 30)]
    assert list(nested(kernels)) == [
        ("a", 0, 15), ("a.b", 0, 10), ("a.c", 10, 15), ("d", 15, 20), ("a", 20, 30), ("a.b", 20, 30),
    ]  # fmt: skip
