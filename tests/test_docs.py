"""The Python in the documents runs as it stands: all blocks of a document in order, in one namespace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import torch_regflat as regflat

DOCS = Path(__file__).parent.parent / "docs"
RUN = ("adding-an-operator.md", "comparing.md", "quantised-weights.md")


@pytest.mark.parametrize("name", RUN)
def test_the_blocks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / name).read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert blocks
    space: dict[str, object] = {"__name__": name}
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block.group(1), str(DOCS / name), "exec"), space)


def test_the_chip_file_of_the_document_can_be_priced(tmp_path: Path) -> None:
    text = (DOCS / "chip-files.md").read_text()
    blocks = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    path = tmp_path / "mine.toml"
    path.write_text(next(block for block in blocks if "schema = 1" in block))
    layer = nn.Linear(64, 64, device="meta", dtype=torch.bfloat16)
    done = regflat.profile(layer, torch.empty(8, 64, device="meta", dtype=torch.bfloat16), chip=path)
    assert done.chips[0].total.latency_s > 0
