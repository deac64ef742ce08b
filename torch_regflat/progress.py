"""A progress bar on stderr for what takes over two seconds."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

_PATIENCE_S = 2.0


@contextlib.contextmanager
def counted(what: str, total: int, shown: bool | None = None) -> Iterator[Callable[[int], None]]:
    """A bar that is told how many more are done; by default only where stderr is a terminal."""
    if not (sys.stderr.isatty() if shown is None else shown) or not total:
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {what}", leave=False, file=sys.stderr, delay=_PATIENCE_S) as bar:

        def step(count: int) -> None:
            bar.update(count)

        yield step
