"""Hand-made results for the tests of reports: small, but with everything a report has to show."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from torch_regflat.result import ChipResult, Coverage, Fit, KernelCost, LevelCost, Part, Result, Total

GPU_LEVELS = ("registers", "shared", "L2", "HBM")
FLAT_LEVELS = ("flat", "HBM")


def kernel(
    path: str = "model.layers.0.mlp.gate_proj", levels: Sequence[str] = GPU_LEVELS, **changes: Any
) -> KernelCost:
    """A product of 2 GFLOP; traffic grows towards the engines."""
    depth = len(levels)
    values: dict[str, Any] = {
        "name": "gemm",
        "path": path,
        "parts": (Part("aten.mm.default", path, 1.0, 2_000_000_000, 2e9, "[2048, 4096] x [4096, 4096]"),),
        "latency_s": 1e-3,
        "start_s": 0.0,
        "flops": 2_000_000_000,
        "executed_flops": 2e9,
        "vector_ops": 0.0,
        "traffic_bytes": {level: 1e6 * 4.0 ** (depth - 1 - i) for i, level in enumerate(levels)},
        "operand_bytes": {"weight": 8e5, "activation": 2e5},
        "memory_energy_j": {level: 1e-4 * (i + 1) for i, level in enumerate(levels)},
        "compute_energy_j": 2e-3,
        "static_energy_j": 1e-3,
        "unattributed_energy_j": 0.0,
        "utilization": 0.7,
        "bandwidth_utilization": 0.3,
        "bound_by": "matrix",
        "busy_s": {"matrix": 7e-4, "HBM": 3e-4},
        "dtype": "bfloat16",
        "mapping": "128x128x64",
        "candidates": 12,
        "reason": "least latency",
    }
    return KernelCost(**{**values, **changes})


def layers(count: int = 3, levels: Sequence[str] = GPU_LEVELS, scale: float = 1.0) -> list[KernelCost]:
    """A small decoder: an embedding, `count` layers of attention, norm and MLP, and a head."""
    rows = Part("aten.embedding.default", "model.embed_tokens", 1.0, 0, 0.0, "[128256, 4096] [1, 2048]")
    kernels = [
        kernel(
            rows.path,
            levels,
            name="gather",
            parts=(rows,),
            flops=0,
            executed_flops=0.0,
            utilization=0.0,
            bound_by="HBM",
        ),
    ]
    for i in range(count):
        at = f"model.layers.{i}"
        norm = Part("aten.rms_norm.default", f"{at}.input_layernorm", 0.25, 0, 0.0)
        product = Part("aten.mm.default", f"{at}.self_attn.q_proj", 0.75, 10**9, 1e9, "[2048, 4096] x [4096, 4096]")
        kernels.append(
            kernel(at, levels, name="norm_gemm", parts=(norm, product), flops=10**9, executed_flops=1e9, latency_s=2e-3)
        )
        kernels.append(kernel(f"{at}.mlp.gate_proj", levels, latency_s=3e-3))
    kernels.append(kernel("lm_head", levels, bound_by="HBM"))
    start, placed = 0.0, []
    for k in kernels:
        placed.append(dataclasses.replace(k, latency_s=k.latency_s * scale, start_s=start))
        start += k.latency_s * scale
    return placed


def total_of(kernels: Sequence[KernelCost]) -> Total:
    """Totals as a profiler would add them up."""
    latency = math.fsum(k.latency_s for k in kernels)
    memory = math.fsum(e for k in kernels for e in k.memory_energy_j.values())

    def mean(values: Sequence[float]) -> float:
        return math.fsum(v * k.latency_s for v, k in zip(values, kernels, strict=True)) / latency if latency else 0.0

    return Total(
        latency_s=latency,
        energy_j=math.fsum(k.energy_j for k in kernels),
        memory_energy_j=memory,
        compute_energy_j=math.fsum(k.compute_energy_j for k in kernels),
        static_energy_j=math.fsum(k.static_energy_j for k in kernels),
        unattributed_energy_j=math.fsum(k.unattributed_energy_j for k in kernels),
        flops=sum(k.flops for k in kernels),
        executed_flops=math.fsum(k.executed_flops for k in kernels),
        vector_ops=math.fsum(k.vector_ops for k in kernels),
        utilization=mean([k.utilization for k in kernels]),
        bandwidth_utilization=mean([k.bandwidth_utilization for k in kernels]),
        bound_by="matrix",
        kernels=len(kernels),
    )


def levels_of(kernels: Sequence[KernelCost], names: Sequence[str]) -> tuple[LevelCost, ...]:
    return tuple(
        LevelCost(
            name,
            math.fsum(k.traffic_bytes.get(name, 0.0) for k in kernels),
            math.fsum(k.memory_energy_j.get(name, 0.0) for k in kernels),
        )
        for name in names
    )


def fit(fits: bool = True) -> Fit:
    if fits:
        return Fit(True, 17_000_000_000, 80_000_000_000, 16_000_000_000, 500_000_000, 500_000_000)
    return Fit(False, 141_000_000_000, 80_000_000_000, 140_000_000_000, 500_000_000, 500_000_000, chips=2)


def chip_result(
    name: str = "h100-sxm",
    kernels: Sequence[KernelCost] | None = None,
    levels: Sequence[str] = GPU_LEVELS,
    **changes: Any,
) -> ChipResult:
    kernels = layers(levels=levels) if kernels is None else kernels
    values: dict[str, Any] = {
        "chip": name,
        "title": f"A chip called {name}",
        "memory_system": "cache",
        "chip_hash": "0123456789abcdef",
        "evidence": "datasheet only",
        "fit": fit(),
        "total": total_of(kernels),
        "coverage": Coverage(),
        "levels": levels_of(kernels, levels),
        "kernels": tuple(kernels),
        "peak_flops_per_s": 989.4e12,
    }
    return ChipResult(**{**values, **changes})


def result(*chips: ChipResult, **changes: Any) -> Result:
    values: dict[str, Any] = {
        "model": "llama-3-8b",
        "phase": "prefill",
        "chips": chips or (chip_result(), chip_result("regflat", layers(levels=FLAT_LEVELS, scale=0.5), FLAT_LEVELS)),
        "dtype": "bfloat16",
        "batch": 1,
        "seq_len": 2048,
        "model_version": "1",
        "versions": {"torch": "2.13.0"},
    }
    return Result(**{**values, **changes})
