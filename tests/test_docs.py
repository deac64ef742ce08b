"""The Python in the documents runs as it stands: all blocks of a document in order, in one namespace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
RUN = ("adding-an-operator.md", "quantised-weights.md")


@pytest.mark.parametrize("name", RUN)
def test_the_blocks_run(name: str) -> None:
    text = (DOCS / name).read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert blocks
    space: dict[str, object] = {"__name__": name}
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block.group(1), str(DOCS / name), "exec"), space)
