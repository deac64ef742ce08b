"""Does it fit? Weights, caches, gradients, optimizer state and live activations against a chip's external memory.

Activations are followed over the operators of the captured graph, one by one, as eager PyTorch runs them: a tensor
lives from the operator that writes it to the last one that reads it or a view of it, so what is kept for a backward
lives until that backward. Fused kernels need less, because what stays inside a kernel is never in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..hardware.chip import Chip
from ..result import Fit
from ..workload import Tensor, Workload, extended_caches


def fit(workload: Workload, chip: Chip, weights_bytes: int | None = None) -> Fit:
    """Bytes that have to be there at once. `weights_bytes`: of the whole module, where more exists than is used."""
    memory = memory_of(workload)
    weights = max(memory.weights, weights_bytes or 0)
    needs = weights + memory.kv_cache + memory.peak
    has = int(chip.capacity_bytes)
    return Fit(
        fits=needs <= has,
        needs_bytes=needs,
        has_bytes=has,
        weights_bytes=weights,
        kv_cache_bytes=memory.kv_cache,
        activations_bytes=memory.peak - memory.gradients - memory.optimizer,
        chips=math.ceil(needs / has),
        gradients_bytes=memory.gradients,
        optimizer_bytes=memory.optimizer,
    )


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a workload. `peak`: the most that is alive at once of all that is neither weights nor KV cache, with
    the share that gradients and optimizer state have at that moment."""

    weights: int
    kv_cache: int
    peak: int
    gradients: int = 0
    optimizer: int = 0


def memory_of(workload: Workload) -> Memory:
    """What has to be in memory, from the tensors of the workload and how long each is needed."""
    grown = {t for op in workload for t in extended_caches(op, workload.tensors)}
    kept = {t for op in workload if op.phase == "optimizer" for t in op.inputs if _is(workload, t, "state")}
    state = sum(workload.tensors[t].nbytes for t in kept)
    gradients = {t.id for t in workload.tensors.values() if t.is_output and _phase(workload, t) == "backward"}
    count = len(workload.operations)
    all_live, own = [0] * (count + 1), [0] * (count + 1)
    for tensor, spans in lifetimes(workload).items():
        nbytes = workload.tensors[tensor].nbytes
        for start, end in spans:
            for change in (all_live, own) if tensor in gradients else (all_live,):
                change[start] += nbytes
                change[end + 1] -= nbytes
    peak, at = _highest(all_live)
    return Memory(
        weights=workload.role_bytes("weight") + workload.role_bytes("state") - state,
        kv_cache=sum(t.nbytes for t in workload.tensors.values() if t.role == "kv_cache" and t.id not in grown),
        peak=peak + state,
        gradients=sum(own[: at + 1]),
        optimizer=state,
    )


def lifetimes(workload: Workload) -> dict[int, list[tuple[int, int]]]:
    """Of each activation, the operators (by index) that write it first and use it last; inputs live all along.

    What is written anew without being read (parameters that FSDP gathers again) was not needed in between.
    """
    found: dict[int, list[tuple[int, int]]] = {}
    last = max(len(workload.operations) - 1, 0)
    for index, op in enumerate(workload):
        for tensor in dict.fromkeys(op.tensors):
            known = workload.tensors[tensor]
            if known.role != "activation":
                continue
            spans = found.setdefault(tensor, [])
            if known.is_output or known.producer is None:
                spans[:] = [(spans[0][0] if spans else index if known.producer is not None else 0, last)]
            elif not spans or (tensor not in op.inputs and op.nests):
                spans.append((index, index))
            else:
                spans[-1] = (spans[-1][0], index)
    return found


def _highest(changes: list[int]) -> tuple[int, int]:
    """The highest running sum, and where."""
    peak = live = at = 0
    for index, change in enumerate(changes):
        live += change
        if live > peak:
            peak, at = live, index
    return peak, at


def _is(workload: Workload, tensor: int, role: str) -> bool:
    return workload.tensors[tensor].role == role


def _phase(workload: Workload, tensor: Tensor) -> str:
    return "" if tensor.producer is None else workload.operations[tensor.producer].phase
