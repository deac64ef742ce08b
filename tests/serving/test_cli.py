"""`regflat serve` and `regflat profile --phase request`: what they pass on, and what they refuse."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from torch_regflat import cli

FACTORY = '''
import torch
from transformers import LlamaConfig, LlamaForCausalLM

def model():
    config = LlamaConfig(hidden_size=256, intermediate_size=704, num_hidden_layers=2, vocab_size=2000,
                         num_attention_heads=4)
    with torch.device("meta"):
        return LlamaForCausalLM(config)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "served_model.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def run(words: str) -> Result:
    return CliRunner().invoke(cli.main, shlex.split(words))


def test_serve(folder: Path) -> None:
    words = "serve served_model:model --prompt 64 --output 16 --tp 1 --chunk 512 --max-batch 16"
    done = run(f"{words} --tpot 1s --set pue=1.05")
    assert done.exit_code == 0, done.output
    for said in ("served_model:model on h100-sxm", "each later one within 1.00 s", "pue = 1.05", "limited by"):
        assert said in done.stdout
    done = run(f"{words} --format json -o out.json")
    assert done.exit_code == 0 and not done.stdout
    saved = json.loads((folder / "out.json").read_text())
    assert saved["kind"] == "serving" and saved["best"]["slots"] == 16


def test_a_request(folder: Path) -> None:
    done = run("profile served_model:model --phase request --prompt 64 --output 16 --batch 2 --chip l4 --chip h100-sxm")
    assert done.exit_code == 0, done.output
    for words in ("requests x 2 side by side of 64 tokens, answered with 16", "mode serving", "l4", "first token"):
        assert words in done.stdout
    done = run("profile served_model:model --phase request --prompt 64 --output 16 --mode graph --format json")
    assert json.loads(done.stdout)["mode"] == "graph"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("serve m --output 5", "Missing option '--prompt'"),
        ("serve m --prompt 0 --output 5", "--prompt is 0; it must be 1 or more"),
        ("serve m --prompt 5 --output 5 --set lief=3", "unknown assumption 'lief'; did you mean life?"),
        ("serve m --prompt 5 --output 5 --set life", "--set is 'life'; write NAME=VALUE"),
        ("serve m --prompt 5 --output 5 --economics none.toml", "cannot read none.toml"),
        ("profile m --phase request --prompt 5", "a request has a prompt and an answer; give --prompt and --output"),
        ("profile m --phase request --prompt 5 --output x.txt", "--output is 'x.txt'; of a request it is the tokens"),
        ("profile m --phase request --prompt 5 --output 5 --seq-len 3", "--seq-len is not about requests"),
        ("profile m --phase request --phase decode --prompt 5 --output 5", "give --phase request alone"),
        ("profile m --phase request --prompt 5 --output 5 --format html", "a request is a table or json"),
        ("profile m --prompt 5", "--prompt is about requests; give --phase request"),
    ],
)
def test_what_makes_no_sense(words: str, said: str) -> None:
    done = run(words)
    assert done.exit_code == 2
    assert said in done.output
