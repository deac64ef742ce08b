"""Sphinx with MyST: `make docs` builds these pages into docs/_build/html."""

import re
from pathlib import Path

project = "torch_regflat"
author = "The torch_regflat authors"
copyright = author
_package = (Path(__file__).parent.parent / "torch_regflat" / "__init__.py").read_text()
version = release = re.search(r'^__version__ = "(.*)"', _package, re.MULTILINE).group(1)

extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "alabaster"
html_theme_options = {
    "description": "What a PyTorch model costs on a chip, without running it",
    "page_width": "1200px",
    "body_max_width": "auto",
    "sidebar_width": "270px",
}
