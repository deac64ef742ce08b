"""`regflat measure`, and `--chip auto`, with and without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import torch_regflat as regflat
from torch_regflat.cli import main
from torch_regflat.hardware import library
from torch_regflat.measurement import device
from torch_regflat.measurement.sampling import CLASSES
from torch_regflat.models.plain import NAMES

from .fakes import FakeDevice


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L4")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("args", [["measure"], ["profile", "bert-large", "--chip", "auto"]])
def test_without_a_gpu(args: list[str]) -> None:
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 2 and not done.stdout
    assert "needs a CUDA device, and there is none here: torch" in done.stderr


@pytest.mark.usefixtures("no_gpu")
def test_why_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "is built for 13.0 but sees no device" in CliRunner().invoke(main, ["measure"]).stderr
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert "is a CPU build" in CliRunner().invoke(main, ["measure"]).stderr


def test_help_names_all_classes_and_models() -> None:
    shown = "".join(CliRunner().invoke(main, ["measure", "-h"]).stdout.split())  # lines break after hyphens too
    assert f"repeatable:{','.join(CLASSES)}." in shown
    assert f"repeatable:{','.join(NAMES)},ornone." in shown


@pytest.mark.usefixtures("gpu")
def test_profile_on_this_machines_chip() -> None:
    layer = torch.nn.Linear(64, 64, device="meta")
    assert regflat.profile(layer, torch.empty(8, 64, device="meta"), chip="auto").chips[0].chip == "l4"


@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_no_chip_file_describes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA GeForce RTX 3090")
    done = CliRunner().invoke(main, ["profile", "bert-large", "--chip", "auto"])
    assert done.exit_code == 2
    assert "unknown chip 'NVIDIA GeForce RTX 3090'" in done.stderr


@pytest.mark.parametrize(
    ("name", "chip"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"), ("NVIDIA H100 PCIe", "h100-pcie"), ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"), ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"), ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA B200", "b200"), ("NVIDIA GB200", "gb200"), ("NVIDIA L4", "l4"), ("NVIDIA L40S", "l40s"),
        ("NVIDIA A10G", "a10g"), ("NVIDIA A40", "a40"), ("Tesla T4", "t4"), ("Tesla P4", "p4"),
        ("Tesla V100-SXM2-16GB", "v100-sxm2"), ("Tesla P100-PCIE-16GB", "p100-pcie-16gb"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"), ("NVIDIA GeForce GTX 1080 Ti", "gtx-1080-ti"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"), ("AMD Instinct MI300X", "mi300x"),
    ],
)  # fmt: skip
def test_what_torch_calls_a_gpu_is_an_alias_of_its_chip(name: str, chip: str) -> None:
    assert library.load(name).name == chip


def test_measuring_and_comparing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "CudaDevice", FakeDevice)
    folder = str(tmp_path / "mine")
    args = ["measure", "-o", folder, "--rows", "20", "--model", "none", "--class", "gemm", "--class", "norm"]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.stderr
    assert "20 rows measured on NVIDIA H100 80GB HBM3, 0 there before" in done.stderr
    assert "rows predicted" in done.stdout and "gemm bf16/fp16" in done.stdout
    assert "add --resume to go on" in CliRunner().invoke(main, args).stderr
    again = CliRunner().invoke(main, [*args, "--resume", "--format", "json"])
    assert "0 rows measured on NVIDIA H100 80GB HBM3, 20 there before" in again.stderr
    assert again.stdout.startswith("{")
    compared = CliRunner().invoke(main, ["validate", *map(str, sorted(Path(folder).glob("*.csv")))])
    assert compared.exit_code == 0 and "rows predicted" in compared.stdout
