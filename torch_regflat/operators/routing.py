"""Which token copies a rank's experts get, where experts are divided among ranks, as one operator.

Which they are depends on values; how many are expected does not. `torch_regflat.capture.dispatch` records it, and what
it says of all experts and all tokens is found again by the grouped products of the experts (`graph.routing`).
"""

from __future__ import annotations

from typing import Any

import torch

from .registry import Call, Nests, operator
from .shapes import flat

_library: Any = torch.library.Library("regflat", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("rows_here(Tensor chosen, int rows, int experts, int ranks, int tokens) -> (Tensor, Tensor)")


def _rows_here(
    chosen: torch.Tensor, rows: int, experts: int, ranks: int, tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the choices [T, k] of `tokens` tokens among `experts`, divided among `ranks`, the first `rows` by expert.

    Where each stands among all T·k, and its expert's number on this rank. [rows], [rows]
    """
    ids = chosen.reshape(-1)
    at = torch.argsort(ids).repeat(-(-rows // max(ids.numel(), 1)))[:rows]
    return at, ids[at] % (experts // ranks)


def _on_meta(
    chosen: torch.Tensor, rows: int, experts: int, ranks: int, tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    return chosen.new_empty(rows), chosen.new_empty(rows)


_library.impl("rows_here", _rows_here, "CompositeExplicitAutograd")
_library.impl("rows_here", _on_meta, "Meta")


@operator("regflat::rows_here")
def rows_here(call: Call) -> Nests:
    """Two vector operations a choice: to compare its expert, and to count."""
    return flat(call, call.inputs, call.out, vector=2.0 * call.inputs[0].numel(), kind="reduction")
