"""Does it fit? Weights, caches and live activations against a chip's external memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..hardware.chip import Chip
from ..result import Fit
from ..workload import Workload, extended_caches
from .kernels import Kernel


def fit(workload: Workload, kernels: Sequence[Kernel], chip: Chip, weights_bytes: int | None = None) -> Fit:
    """Bytes that have to be there at once. `weights_bytes`: of the whole module, where more exists than is used."""
    used = workload.role_bytes("weight") + workload.role_bytes("state")
    weights = max(used, weights_bytes or 0)
    grown = {t for op in workload for t in extended_caches(op, workload.tensors)}
    cache = sum(t.nbytes for t in workload.tensors.values() if t.role == "kv_cache" and t.id not in grown)
    live = peak_live_bytes(workload, kernels)
    needs = weights + cache + live
    has = int(chip.capacity_bytes)
    return Fit(
        fits=needs <= has,
        needs_bytes=needs,
        has_bytes=has,
        weights_bytes=weights,
        kv_cache_bytes=cache,
        activations_bytes=live,
        chips=math.ceil(needs / has),
    )


def peak_live_bytes(workload: Workload, kernels: Sequence[Kernel]) -> int:
    """Most bytes of activations alive at once: from the kernel that writes each to the last that reads it."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for kernel in kernels:
        for tensor in (*kernel.writes, *kernel.reads):
            if workload.tensors[tensor].role == "activation":
                first.setdefault(tensor, kernel.index if workload.tensors[tensor].producer is not None else 0)
                last[tensor] = kernel.index
    change = [0] * (len(kernels) + 1)
    for tensor, start in first.items():
        known = workload.tensors[tensor]
        end = len(kernels) - 1 if known.is_output else last[tensor]
        change[start] += known.nbytes
        change[end + 1] -= known.nbytes
    peak = live = 0
    for delta in change:
        live += delta
        peak = max(peak, live)
    return peak
