"""A run into a folder: every row written at once, skipped rows named, resumed where it stopped, read by validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from torch_regflat.errors import InputError
from torch_regflat.measurement.files import Folder
from torch_regflat.measurement.kernels import Networks, Work
from torch_regflat.measurement.run import MOST_SETS, Plan, folder_of, gpu_of, measure, plan_of, sets_of
from torch_regflat.validation.protocols import protocol_of
from torch_regflat.validation.reading import read
from torch_regflat.validation.rows import Power
from torch_regflat.validation.run import validate

from .fakes import FakeDevice

FEW = Plan(rows=30, models=())
TINY = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 99}


def test_rows_are_written_and_predicted(tmp_path: Path) -> None:
    folder, device = Folder(tmp_path / "rows", resume=False), FakeDevice()
    outcome = measure(Plan(rows=60, models=("bert-large",), modes=("graph",)), device, folder, "h100-sxm")
    assert (outcome.measured, outcome.skipped, outcome.left) == (62, [], 0)
    found = validate(folder.files())
    assert not found.malformed and not found.missed
    rows = [p.row for p in found.predictions]
    assert all(row.source.startswith("regflat-measure/") and row.gpu == "h100-sxm" for row in rows)
    assert all("unknown" not in protocol_of(row).note for row in rows)
    power = [row for row in rows if isinstance(row, Power)]
    assert {row.workload for row in power} >= {"gemm", "prefill", "decode", "moe"}
    assert all(row.runs is not None and row.measured == 500 for row in power)
    row = next(row for row in rows if row.kind == "gemm")
    assert row.measured == pytest.approx(100e-6)
    extra = {name: row.cells[name] for name in ("p10_us", "p90_us", "sm_mhz", "power_w", "energy_j", "device", "torch")}
    assert extra == {
        "p10_us": "90", "p90_us": "110", "sm_mhz": "1980", "power_w": "500", "energy_j": "0.05",
        "device": "NVIDIA H100 80GB HBM3", "torch": "2",
    }  # fmt: skip


def test_a_decode_step_is_written_as_tokens_a_second(tmp_path: Path) -> None:
    folder = Folder(tmp_path, resume=False)
    measure(Plan(rows=0, models=("llama-3-8b",), modes=("graph",)), FakeDevice(), folder, "h100-sxm")
    rates = {(r.shape, r.quantity): r.measured for r in read(tmp_path / "end_to_end.csv").rows if r.unit == "tok/s"}
    assert rates[("llama-3-8b", "decode", 1, 8, 2048, 0), "rate"] == pytest.approx(8 / 100e-6)


@pytest.mark.parametrize("launch", ["graph", "eager"])
@pytest.mark.parametrize("cache", ["cold", "warm"])
def test_how_kernels_are_measured_is_in_their_source(launch: Any, cache: Any, tmp_path: Path) -> None:
    device = FakeDevice()
    measure(Plan(rows=20, models=(), launch=launch, cache=cache), device, Folder(tmp_path, resume=False), "h100-sxm")
    assert {graph for _, graph in device.timed} == {launch == "graph"}
    assert (max(sets for sets, _ in device.timed) > 1) == (cache == "cold")
    for table in map(read, Folder(tmp_path, resume=True).files()):
        for row in table.rows:
            conditions = protocol_of(row).conditions
            assert conditions.launch == ("graph" if launch == "graph" else "stream")
            assert conditions.weights == conditions.activations == cache


def test_models_run_in_their_mode(tmp_path: Path) -> None:
    device = FakeDevice()
    measure(Plan(rows=0, models=("resnet-50",)), device, Folder(tmp_path, resume=False), "h100-sxm")
    assert device.timed == [(1, False), (1, False), (1, True)] * 3
    modes = [(protocol_of(row).mode.name, protocol_of(row).conditions.launch)
             for row in read(tmp_path / "end_to_end.csv").rows]  # fmt: skip
    assert modes == [("eager", "stream"), ("compiled", "stream"), ("graph", "graph")] * 3


def test_calls_really_run_on_the_cpu(tmp_path: Path) -> None:
    device = FakeDevice(torch.device("cpu"), runs=True, l2_bytes=2**14)
    networks = Networks(device.device, **TINY, num_key_value_heads=2)
    plan = Plan(rows=0, models=("llama-3-8b",), modes=("eager",))
    outcome = measure(plan, device, Folder(tmp_path, resume=False), "h100-sxm", networks=networks)
    assert (outcome.measured, outcome.skipped) == (6, [])


def test_a_row_that_needs_too_much_memory_is_skipped_by_name(tmp_path: Path) -> None:
    count = iter(range(1000))

    def fail() -> None:
        at = next(count)
        if at == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")
        if at == 5:
            raise RuntimeError("no kernel image is available\nfor this device")

    folder, device = Folder(tmp_path, resume=False), FakeDevice(before=fail)
    outcome = measure(FEW, device, folder, "h100-sxm")
    assert (outcome.measured, [why for _, why in outcome.skipped]) == (
        28, ["out of memory", "no kernel image is available for this device"],
    )  # fmt: skip
    lines = "\n".join(outcome.lines(folder, device, listed=True))
    assert "28 rows measured on NVIDIA H100 80GB HBM3" in lines and "2 rows skipped" in lines
    row = outcome.skipped[0][0]
    assert f"{row.kind} {row.dtype} {'x'.join(map(str, row.shape))}: out of memory" in lines


def test_a_gpu_that_has_failed_ends_the_run(tmp_path: Path) -> None:
    class Broken(FakeDevice):
        def release(self) -> None:
            if len(self.timed) == 4:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(InputError, match="the GPU has failed .CUDA error: an illegal.*run again with --resume"):
        measure(FEW, Broken(), Folder(tmp_path, resume=False), "h100-sxm")
    assert len(Folder(tmp_path, resume=True).done) == 4


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    def kill() -> None:
        if len(device.timed) == 11:
            raise KeyboardInterrupt

    device = FakeDevice(before=kill)
    with pytest.raises(KeyboardInterrupt):
        measure(FEW, device, Folder(tmp_path, resume=False), "h100-sxm")
    torn = sorted(tmp_path.glob("*.csv"))[0]
    torn.write_text(torn.read_text() + "regflat-measure/graph-co")
    outcome = measure(FEW, FakeDevice(), Folder(tmp_path, resume=True), "h100-sxm")
    assert (outcome.before, outcome.measured) == (11, 19)
    tables = [read(file) for file in Folder(tmp_path, resume=True).files()]
    assert not any(table.malformed for table in tables)
    rows = [(row.kind, row.dtype, row.shape) for table in tables for row in table.rows]
    assert len(rows) == len(set(rows))


def test_time_is_up(tmp_path: Path) -> None:
    device = FakeDevice()
    plan = Plan(rows=30, models=(), minutes=1)
    outcome = measure(plan, device, Folder(tmp_path, resume=False), "h100-sxm", now=lambda: 7.0 * len(device.timed))
    assert (outcome.measured, outcome.left) == (9, 21)
    assert "21 rows left when the time was up; --resume goes on" in outcome.lines(
        Folder(tmp_path, resume=True), device, listed=False
    )


def test_folders(tmp_path: Path) -> None:
    measure(FEW, FakeDevice(), Folder(tmp_path, resume=False), "h100-sxm")
    with pytest.raises(InputError, match="has measured rows .gemm.csv.; add --resume to go on, or name another folder"):
        Folder(tmp_path, resume=False)
    (tmp_path / "conv.csv").write_text("gpu,dtype\n")
    with pytest.raises(InputError, match="conv.csv has other columns than regflat measure writes"):
        Folder(tmp_path, resume=True)
    with pytest.raises(InputError, match="it is no folder"):
        Folder(tmp_path / "gemm.csv", resume=True)
    assert folder_of(None, "NVIDIA H100 80GB HBM3", resume=False).path == Path("measured-nvidia-h100-80gb-hbm3")


def test_nothing_measured_is_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError("no")

    folder, device = Folder(tmp_path, resume=False), FakeDevice(before=fail)
    outcome = measure(Plan(rows=1, models=()), device, folder, "h100-sxm")
    with pytest.raises(InputError, match="no row was measured: .*: out of memory"):
        outcome.lines(folder, device, listed=True)


def test_sets_of_operands_exceed_the_cache() -> None:
    def of(numbers: int) -> Work:
        return Work(lambda x: x + 1, lambda: (torch.empty(numbers, device="meta"),))

    l2 = 50 * 2**20
    for numbers in (2**12, 2**20, 2**22):
        sets = sets_of(of(numbers), l2)
        assert (sets - 1) * 8 * numbers >= 2 * l2 > (sets - 2) * 8 * numbers
    assert sets_of(of(2**25), l2) == 1  # evicts itself
    with pytest.raises(RuntimeError, match="sets of its 8 bytes to exceed the cache"):
        sets_of(of(1), l2)
    assert MOST_SETS > 2 * 126 * 2**20 / 2**14  # the smallest rows that are drawn, on a B200


def test_the_chip_of_the_device(tmp_path: Path) -> None:
    device = FakeDevice()
    assert gpu_of(device, "auto") == "h100-sxm"
    assert gpu_of(device, "H200") == "h200"
    device.name = "NVIDIA GeForce RTX 3090"
    assert gpu_of(device, "auto") == "NVIDIA GeForce RTX 3090"
    folder = Folder(tmp_path, resume=False)
    measure(Plan(rows=5, models=()), device, folder, device.name)
    assert len(validate(folder.files()).missed) >= 5


def test_plans_are_checked() -> None:
    assert plan_of(rows=640, models=(), classes=(), minutes=None) == Plan()
    assert plan_of(models=("none",)).models == ()
    for options, message in (
        ({"rows": -1}, "--rows is -1; it must be 0 or more"),
        ({"seconds": 0.0}, "--seconds is 0.0; it must be 0.01 or more"),
        ({"rows": 0, "models": ("none",)}, "nothing to measure"),
        ({"classes": ("conv",)}, "unknown class 'conv'; did you mean convolution"),
        ({"models": ("resnet50",)}, "unknown model 'resnet50'; did you mean resnet-50"),
    ):
        with pytest.raises(InputError, match=message):
            plan_of(**options)
