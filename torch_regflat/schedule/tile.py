"""The fx pass that puts tiled operations into a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import fx
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from ..hardware.chip import Chip
from ..hardware.library import load
from ..hardware.software import for_chip
from ..operators.lowering import workload
from ..result import ChipResult, KernelCost
from ..workload import Operation
from .fit import fit
from .kernels import Kernel, form_kernels
from .program import Prices
from .run import check_dtypes, run

META_KEY = "tiled"


@dataclass(frozen=True, slots=True)
class TiledOp:
    """An operation on a chip: its loop nests, and the kernel it became part of with its tiles, cost and reason."""

    operation: Operation
    kernel: KernelCost

    def __str__(self) -> str:
        return f"{self.kernel.name} [{self.kernel.mapping}] {self.kernel.latency_s:.3e} s, {self.kernel.bound_by}"


class Tile(PassBase):
    """Schedule a captured graph on a chip: `node.meta["tiled"][chip.name]` becomes a `TiledOp`.

    Works in a `torch.fx.passes` `PassManager`, after `Lower` or on its own. `chip` is a name, a file or a `Chip`.
    """

    def __init__(self, chip: str | Path | Chip) -> None:
        super().__init__()
        self.chip = load(chip)

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        work = workload(graph_module)
        kernels = form_kernels(work)
        check_dtypes(kernels, self.chip)
        fits = fit(work, self.chip)
        prices = Prices()
        result = run(work, kernels, self.chip, for_chip(self.chip), fits, prices=prices)
        annotate(graph_module, prices.executed(kernels), result)
        return PassResult(graph_module, True)


def annotate(graph_module: fx.GraphModule, kernels: Sequence[Kernel], result: ChipResult) -> None:
    """Put each operation's `TiledOp` on its node."""
    nodes: dict[str, dict[str, Any]] = {node.name: node.meta for node in graph_module.graph.nodes}
    for kernel, cost in zip(kernels, result.kernels, strict=True):
        for op in kernel.operations:
            if op.node in nodes:
                nodes[op.node].setdefault(META_KEY, {})[result.chip] = TiledOp(op, cost)
