"""The command line: what it passes on, what it prints, and how it fails. The profiler is a stand-in."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shlex
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from result_factory import result
from torch_regflat import __version__, cli
from torch_regflat.cli import running
from torch_regflat.errors import CapacityError, ModelError
from torch_regflat.layout import Layout
from torch_regflat.report import json_


class Profiler(types.ModuleType):
    """Stands in for `torch_regflat.profiler`: remembers what it was asked, answers or raises."""

    def __init__(self) -> None:
        super().__init__("torch_regflat.profiler")
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error: Exception | None = None

    def profile_model(self, spec: str, **options: Any) -> Any:
        self.calls.append((spec, options))
        if self.error is not None:
            raise self.error
        return types.SimpleNamespace(result=result(), timelines=lambda: [])


@pytest.fixture
def profiler(monkeypatch: pytest.MonkeyPatch) -> Profiler:
    module = Profiler()
    monkeypatch.setitem(sys.modules, "torch_regflat.profiler", module)
    return module


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments))


def test_main_job(profiler: Profiler) -> None:
    words = "profile llama-3-8b --phase prefill --batch 1 --seq-len 2048 --chip h100-sxm --chip regflat-physical"
    done = run(*shlex.split(words))
    assert done.exit_code == 0, done.output
    assert profiler.calls == [
        (
            "llama-3-8b",
            {
                "phase": "prefill",
                "batch": 1,
                "seq_len": 2048,
                "context": None,
                "chips": ["h100-sxm", "regflat-physical"],
                "dtype": None,
                "kv_dtype": None,
                "weights": None,
                "activations": None,
                "routing_skew": 0.0,
                "mode": "graph",
                "software": None,
                "optimizer": "adamw",
                "autocast": None,
                "master_weights": False,
                "strict": False,
                "trust_remote_code": False,
            },
        )
    ]
    assert "model.layers.*.mlp" in done.stdout
    assert "side by side, ratios to h100-sxm" in done.stdout
    assert done.stderr == ""


def test_a_layout_reaches_the_profiler(profiler: Profiler) -> None:
    words = "profile llama-3-8b --tp 4 --pp 2 --dp 2 --batch 8 --micro-batches 2"
    assert run(*words.split()).exit_code == 0
    _, options = profiler.calls[0]
    assert (options["layout"], options["micro_batches"]) == (Layout(tp=4, pp=2, dp=2), 2)


def test_a_layout_that_is_none_is_refused(profiler: Profiler) -> None:
    done = run("profile", "llama-3-8b", "--tp", "2", "--ep", "3")
    assert done.exit_code == 2
    assert "ep is 3, which does not divide the tp x dp = 2 chips of a stage; degrees that do: 1, 2" in done.stderr


def test_every_option_reaches_the_profiler(profiler: Profiler) -> None:
    words = "--phase decode --batch 4 --context 4096 --dtype fp16 --kv-dtype fp8 --strict --trust-remote-code"
    words += " --weights int4 --activations int8 --routing-skew 0.8 --mode serving --software triton-experts"
    assert run("profile", "org/model", *words.split()).exit_code == 0
    _, options = profiler.calls[0]
    assert options == {
        "phase": "decode",
        "batch": 4,
        "seq_len": None,
        "context": 4096,
        "chips": ["h100-sxm"],
        "dtype": "fp16",
        "kv_dtype": "fp8",
        "weights": "int4",
        "activations": "int8",
        "routing_skew": 0.8,
        "mode": "serving",
        "software": "triton-experts",
        "optimizer": "adamw",
        "autocast": None,
        "master_weights": False,
        "strict": True,
        "trust_remote_code": True,
    }


def test_phases_side_by_side(profiler: Profiler) -> None:
    words = "--phase prefill --phase decode --phase train --optimizer none --seq-len 64 --context 32 --autocast bf16"
    done = run("profile", "m", *words.split(), "--master-weights")
    assert done.exit_code == 0, done.output
    asked = [(o["phase"], o["seq_len"], o["context"], o["optimizer"]) for _, o in profiler.calls]
    assert asked == [("prefill", 64, None, None), ("decode", None, 32, None), ("train", 64, None, None)]
    mixed = [(o["autocast"], o["master_weights"]) for _, o in profiler.calls]
    assert mixed == [(None, False), (None, False), ("bf16", True)]
    assert "phases side by side" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--format json", "regflat: --format json holds one phase; give --phase once, or --format table"),
        ("--chip a --chip b", "regflat: phases are compared on one chip; give --chip once, or --phase once"),
    ],
)
def test_phases_side_by_side_are_one_table(profiler: Profiler, words: str, message: str) -> None:
    done = run("profile", "m", "--phase", "prefill", "--phase", "train", *words.split())
    assert (done.exit_code, done.stderr) == (2, message + "\n")
    assert profiler.calls == []


@pytest.mark.parametrize(
    ("by", "shown"), [("op", "aten.rms_norm.default"), ("kernel", "norm_gemm"), ("module", "gate_proj")]
)
def test_by(profiler: Profiler, by: str, shown: str) -> None:
    assert shown in run("profile", "m", "--by", by).stdout


def test_expand_sort_and_limit(profiler: Profiler) -> None:
    assert "model.layers.2.mlp" in run("profile", "m", "--expand").stdout
    limited = run("profile", "m", "--sort-by", "latency", "--row-limit", "2").stdout
    assert "(3 more)" in limited


def test_json_and_csv(profiler: Profiler) -> None:
    assert json_.load(run("profile", "m", "--format", "json").stdout) == result()
    rows = list(csv.DictReader(io.StringIO(run("profile", "m", "--format", "csv").stdout)))
    assert {row["chip"] for row in rows} == {"h100-sxm", "regflat"}


def test_output_file(profiler: Profiler, tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    done = run("profile", "m", "--format", "json", "-o", str(target))
    assert (done.exit_code, done.output) == (0, "")
    assert json.loads(target.read_text())["schema"] == 1
    assert os.listdir(tmp_path) == ["run.json"]
    assert run("profile", "m", "--format", "json", "-o", "-").stdout == target.read_text()


def test_verbose_is_wide(profiler: Profiler) -> None:
    assert "versions: cost model 1, torch 2.13.0" in run("profile", "m", "-v").stdout


@pytest.mark.parametrize("option", ["--batch", "--seq-len", "--context", "--row-limit"])
@pytest.mark.parametrize("value", ["0", "-1"])
def test_sizes_below_one(profiler: Profiler, option: str, value: str) -> None:
    done = run("profile", "m", option, value)
    assert (done.exit_code, done.stderr) == (2, f"regflat: {option} is {value}; it must be 1 or more\n")
    assert profiler.calls == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sort-by", "speed"], "regflat: cannot sort by 'speed'; rows sort by latency, energy, "),
        (["-o", "/nowhere/at/all.json"], "regflat: cannot write /nowhere/at/all.json: there is no directory /nowhere"),
        (["-o", "/"], "regflat: cannot write /: it is a directory; name a file\n"),
    ],
)
def test_refused_before_the_work_starts(profiler: Profiler, arguments: list[str], message: str) -> None:
    done = run("profile", "m", *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert profiler.calls == []


@pytest.mark.parametrize(
    "arguments", [["--format", "xml"], ["--phase", "learn"], ["--by", "row"], ["--batch", "two"], ["--no"]]
)
def test_click_refuses_the_rest(profiler: Profiler, arguments: list[str]) -> None:
    done = run("profile", "m", *arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.stderr
    assert profiler.calls == []


@pytest.mark.parametrize(
    "error", [ModelError("unknown model 'lama'; did you mean llama-3-8b?"), CapacityError("too big")]
)
def test_errors_are_one_sentence(profiler: Profiler, error: Exception, tmp_path: Path) -> None:
    profiler.error = error
    done = run("profile", "lama", "-o", str(tmp_path / "out.txt"))
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"regflat: {error}\n")
    assert os.listdir(tmp_path) == []


def test_traceback_only_when_verbose(profiler: Profiler) -> None:
    profiler.error = ModelError("no such model")
    done = run("profile", "m", "-v")
    assert done.exit_code == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.endswith("regflat: no such model\n")


def test_a_bug_is_said_to_be_one(profiler: Profiler) -> None:
    profiler.error = KeyError("x")
    done = run("profile", "m")
    assert done.exit_code == 1
    assert done.stderr == "regflat: unexpected KeyError: 'x'; this is a bug, please report it with the output of -v\n"


def test_a_failed_write_leaves_the_old_file(
    profiler: Profiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = run("profile", "m", "-o", str(target))
    assert (done.exit_code, done.stderr) == (2, f"regflat: cannot write {target}: No space left on device\n")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_chips() -> None:
    listed = run("chips")
    assert listed.exit_code == 0, listed.output
    assert {"name", "peak", "evidence"} <= set(listed.stdout.split())
    assert "h100-sxm" in listed.stdout
    shown = run("chips", "h100-sxm")
    assert shown.exit_code == 0
    assert "Sources" in shown.stdout
    unknown = run("chips", "h100-sxn")
    assert unknown.exit_code == 2
    assert unknown.stderr.startswith("regflat: unknown chip 'h100-sxn'; did you mean h100-sxm")


def test_a_broken_private_chip_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text("name = ")
    monkeypatch.setenv("REGFLAT_CHIP_PATH", str(tmp_path))
    done = run("chips")
    assert done.exit_code == 0
    assert "h100-sxm" in done.stdout
    assert done.stderr.startswith("regflat: mine.toml: not valid TOML")


def test_models() -> None:
    listed = run("models")
    assert listed.exit_code == 0, listed.output
    assert "llama-3-8b" in listed.stdout
    assert "4096" in run("models", "llama-3-8b").stdout
    unknown = run("models", "lama-3-8b")
    assert unknown.exit_code == 2
    assert unknown.stderr.startswith("regflat: ") and "llama-3-8b" in unknown.stderr


def test_waiting_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with running.waiting("x", quiet=False):
        pass
    assert capsys.readouterr().err == ""


def test_waiting_shows_itself_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown: list[str] = []
    for patience, quiet in ((0.0, False), (60.0, False), (0.0, True)):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(running, "PATIENCE_S", patience)
        with running.waiting("profiling m", quiet):
            time.sleep(0.2 if patience == 0 else 0)
        shown.append(terminal.getvalue())
    assert "profiling m, 00:00" in shown[0]
    assert shown[1:] == ["", ""]


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch_regflat", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"regflat {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["profile", "--help"], ["chips"]])
def test_starts_without_torch(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom torch_regflat.cli import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n"
        "    assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, check=True)


def test_the_flat_twin_of_a_chip() -> None:
    words = "profile gpt2-xl --phase prefill --batch 1 --seq-len 16 --chip h100-sxm:flat"
    done = run(*words.split())
    assert done.exit_code == 0, done.output
    assert "h100-sxm:flat: NVIDIA H100 SXM5 80 GB, its memories flattened" in done.stdout
    assert "evidence: estimate" in done.stdout
    assert "note: registers cannot feed cuda: products in fp64 take 516 B a clock and SM at full rate" in done.stdout
    shown = run("chips", "h100-sxm:flat-power")
    assert shown.exit_code == 0 and "as much as leaks no more than they did" in shown.output


def test_a_twin_whose_area_does_not_fit_is_refused() -> None:
    done = run("profile", "gpt2-xl", "--chip", "h100-sxm:flat+900MiB")
    assert done.exit_code == 2
    assert done.stderr == (
        "regflat: h100-sxm: 900 MiB of registers take 632 mm2 at 0.70 mm2/MiB, and shared and L2 free 179 mm2, enough "
        "for 255 MiB\n"
    )


def test_html_and_traces_are_written(profiler: Profiler, tmp_path: Path) -> None:
    page, packed = tmp_path / "run.html", tmp_path / "run.trace.json.gz"
    assert run("profile", "m", "--format", "html", "-o", str(page), "--sort-by", "energy").exit_code == 0
    assert page.read_text().startswith("<!doctype html>")
    assert run("profile", "m", "--format", "trace", "-o", str(packed)).exit_code == 0
    assert json.loads(gzip.decompress(packed.read_bytes()))["traceEvents"]


def test_a_trace_has_no_rows_to_arrange(profiler: Profiler) -> None:
    done = run("profile", "m", "--format", "trace", "--row-limit", "3")
    assert done.exit_code == 2
    said = "--sort-by, --row-limit and --expand arrange rows; a trace has every kernel, in time"
    assert done.stderr == f"regflat: {said}\n"
    assert profiler.calls == []
