"""Draws the pictures of gallery.md anew into docs/gallery: `python docs/make_gallery.py`, with extras html and plots.

Reports are photographed in a headless Chromium (see tests/browser.py), maps are what the examples draw.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import browser  # noqa: E402
import torch_regflat as regflat  # noqa: E402

PICTURES = ROOT / "docs" / "gallery"
MAPS = ("break_even_batch_context", "break_even_capacity_energy", "break_even_area")


def reports(folder: Path) -> None:
    """Two models on two chips each, at several widths, light and dark, with modules and parts chosen."""
    llama, kimi = folder / "llama.html", folder / "kimi.html"
    regflat.profile_model("llama-3-8b", seq_len=2048, chips=["h100-sxm", "regflat-physical"]).save(llama)
    decode = {"phase": "decode", "batch": 64, "context": 4096}
    regflat.profile_model("kimi-k2", **decode, chips=["b200", "regflat-physical"]).save(kimi)
    with browser.opened() as page:
        page.open(llama, 1600, 1280)
        page.picture(PICTURES / "overview.png", whole=False)
        page.choose("#chip", "1")
        page.ask("document.querySelector('#timeline').closest('section').scrollIntoView()")
        page.ask("Plotly.relayout('timeline', {'xaxis.range': [4, 8]}).then(() => 0)")
        page.picture(PICTURES / "timeline.png", whole=False)
        page.open(kimi, 1600, 1280, dark=True)
        page.choose("#metric", "bytes")
        page.picture(PICTURES / "dark.png", whole=False)
        page.open(llama, 400, 900)
        page.picture(PICTURES / "phone.png", whole=False)
        page.open(kimi, 1400, 820)
        page.choose("#by", "op")
        page.click("#table th", 2)
        page.ask("document.querySelector('#layers').scrollIntoView()")
        page.picture(PICTURES / "operators.png", whole=False)
        assert not page.errors, page.errors


def maps(folder: Path) -> None:
    """Whatever the examples of break-even maps draw."""
    os.chdir(folder)
    for name in MAPS:
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    for drawn in sorted(folder.glob("*.png")):
        shutil.copy(drawn, PICTURES / drawn.name)


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        reports(Path(made))
        maps(Path(made))
