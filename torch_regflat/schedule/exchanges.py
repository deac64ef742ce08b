"""Exchanges between chips as kernels: what they move in the chip's own memories, and when they may run."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..hardware.chip import Chip
from ..hardware.software import Software
from ..interconnect import options, price
from ..result import Alternative, Explanation
from ..workload import LoopNest, Operand, Operation, Workload
from .timeline.graph import waits_for
from .timeline.records import NETWORK

if TYPE_CHECKING:
    from .kernels import Kernel
    from .select import Choice

AHEAD = 2
"""Exchanges of data from outside (weights that are gathered) that may be under way or waiting to be used: as many as
FSDP lets run ahead."""


def with_nests(op: Operation, workload: Workload) -> Operation:
    """An exchange with what it moves in the chip's own memories as a nest: its inputs are read, its outputs written."""
    if op.collective is None or op.nests:
        return op
    sizes = tuple(workload.tensors[t].nbytes for t in op.tensors)
    return replace(op, nests=_copy(sizes, len(op.inputs), op.dtype))


@functools.lru_cache(maxsize=4096)
def _copy(sizes: tuple[int, ...], inputs: int, dtype: str) -> tuple[LoopNest, ...]:
    """One nest, shared by all exchanges of these sizes. Elements are bytes."""
    dims = tuple((f"n{slot}", max(size, 1)) for slot, size in enumerate(sizes))
    operands = tuple(
        Operand(slot, (((slot, 1),),), 8.0, "read" if slot < inputs else "write") for slot in range(len(sizes))
    )
    return (LoopNest("movement", dims, operands, dtype or "bf16"),)


def exchanged(choices: Sequence[Choice], chip: Chip, software: Software) -> list[Choice]:
    """Kernels as priced, those that exchange with what that takes on the links.

    A rank reads and writes its own memories meanwhile, so that the slower of both counts.
    """
    return [_exchanged(choice, chip, software) for choice in choices]


def _exchanged(choice: Choice, chip: Chip, software: Software) -> Choice:
    collective = choice.shape.exchange
    if collective is None:
        return choice
    exchange = price(chip, collective, software)
    own = choice.latency_s - choice.overhead_s
    return replace(
        choice,
        latency_s=choice.overhead_s + max(exchange.seconds, own),
        core_s=exchange.seconds,
        resources_s={**choice.resources_s, exchange.level or "links": exchange.seconds},
        mapping=exchange.algorithm,
        reason="fastest of the library's algorithms",
        exchange=exchange,
        beside_s=own,
    )


def explained(found: Explanation, choice: Choice, chip: Chip, software: Software) -> Explanation:
    """What is said of a kernel, with what it exchanges: the algorithms that lost in place of mappings."""
    exchange, collective = choice.exchange, choice.shape.exchange
    if exchange is None or collective is None:
        return found
    ways = options(chip, collective, software)
    own = found.energy_j
    return replace(
        found,
        sizes={"ranks": collective.ranks, "bytes": round(collective.nbytes)},
        loops=(f"{collective.kind} by {exchange.algorithm}, over {exchange.level or 'nothing'}",),
        busy_s={**found.busy_s, exchange.level or "links": exchange.seconds},
        latency_s=choice.latency_s,
        energy_j=own + exchange.joules,
        bound_by=NETWORK,
        mapping=exchange.algorithm,
        alternatives=tuple(
            Alternative(way.algorithm, choice.overhead_s + way.seconds, own + way.joules, NETWORK) for way in ways[1:]
        ),
        candidates=len(ways),
        legal=len(ways),
    )


def waits_of(kernels: Sequence[Kernel]) -> list[tuple[int, ...]]:
    """Of each kernel, those that end before it starts, where some exchange; by data alone, for exchanges run beside
    the engines: a kernel waits for the exchange whose result it reads, an exchange for what it sends.

    An exchange that waits for no kernel (weights are gathered) runs ahead by `AHEAD` and no more: until the engines
    come to the first reader of the result of the one `AHEAD` before it.
    """
    found = waits_for([(kernel.reads, kernel.writes, ()) for kernel in kernels])
    reader: dict[int, int] = {}
    for index, waits in enumerate(found):
        for one in waits:
            reader.setdefault(one, index)
    free = [k.index for k in kernels if k.collective is not None and not found[k.index]]
    for earlier, later in zip(free, free[AHEAD:], strict=False):
        before = reader.get(earlier, 0) - 1
        while before >= 0 and kernels[before].collective is not None:
            before -= 1
        if 0 <= before < later:
            found[later] = (before,)
    return found
