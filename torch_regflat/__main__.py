"""`python -m torch_regflat` is `regflat`."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main(prog_name="regflat")
