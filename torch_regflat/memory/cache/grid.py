"""The thread blocks of a product: how many, in how many waves they run, and how long each takes its core."""

from __future__ import annotations

import torch
from torch import Tensor

from ...cost.chip_tensors import ChipTensors, RateTensors
from ...cost.shapes import KernelTensors
from ...mapping import MappingBatch

ACCUMULATOR_BYTES = 4.0


class Grid:
    """Blocks, waves and padded work of each mapping, and the seconds of what its busiest core does."""

    def __init__(self, kernels: KernelTensors, mapping: MappingBatch, chip: ChipTensors, rates: RateTensors) -> None:
        b, m, n, k = kernels.sizes
        self.kernels, self.mapping, self.chip, self.rates = kernels, mapping, chip, rates
        self.blocks_m, self.blocks_n = _tiles_a_group(kernels, mapping), torch.ceil(n / mapping.n)
        self.padded_k = torch.ceil(k / (mapping.k * mapping.split)) * mapping.k
        self.blocks = b * self.blocks_m * self.blocks_n * mapping.split
        self.padding = (self.blocks_m * mapping.m / m) * (self.blocks_n * mapping.n / n)
        self.padding = self.padding * (self.padded_k * mapping.split / k)
        exact = self.blocks / chip.cores
        self.whole_waves = torch.ceil(exact)
        softness = chip.wave_softness
        self.waves = (1.0 - softness) * self.whole_waves + softness * torch.clamp(exact, min=1.0)

    def per_core(self, whole: Tensor) -> Tensor:
        """Of seconds that all cores together need for all blocks, those that the busiest core needs for its own."""
        return torch.where(self.kernels.tiled > 0, whole * self.waves * self.chip.cores / self.blocks, whole)

    def compute_s(self) -> Tensor:
        """Matrix time of the busiest core."""
        matrix = self.kernels.work / (self.rates.rate * self.rates.issue * self.kernels.rate_share)
        return self.per_core(matrix * torch.where(self.kernels.tiled > 0, self.padding, torch.ones_like(self.padding)))

    def store_s(self, element: Tensor) -> Tensor:
        """Time to write results (`element` bytes each, or parts of the sum): a block's last step."""
        mapping = self.mapping
        parts = torch.where(mapping.split > 1.0, 2.0 * ACCUMULATOR_BYTES, torch.zeros_like(mapping.split))
        return self.per_core(self.blocks * mapping.m * mapping.n * (element + parts) / self.chip.store_rate)

    def port_s(self, loaded: Tensor) -> Tensor:
        """Time in which the busiest core takes its share of the bytes that all blocks load through its port to L2."""
        return self.per_core(loaded / self.chip.l2_ports)

    def chain_s(self, element: Tensor, near: Tensor) -> Tensor:
        """Time of a block's loop where each step waits for its loads: as many bytes of a row of a factor as the
        pipeline holds come every latency of the memory they lie in (`near`: the share that lies in L2).
        """
        l2, external = self.chip.levels[2].latency, self.chip.levels[3].latency
        latency = near * l2 + (1.0 - near) * external
        steps = self.whole_waves * self.padded_k * element / self.rates.pipeline_depth
        return steps * latency * self.kernels.tiled

    def starts(self) -> Tensor:
        """How often a core fills its pipelines: once, or for each block where it does not run ahead of the next."""
        again = torch.clamp(self.whole_waves - 1.0, min=0.0) * (1.0 - self.rates.runs_ahead) * self.kernels.tiled
        return 1.0 + again


def _tiles_a_group(kernels: KernelTensors, mapping: MappingBatch) -> Tensor:
    """Tiles along m of each group; their mean where groups differ."""
    b, m, _, _ = kernels.sizes
    if kernels.ragged is None:
        return torch.ceil(m / mapping.m)
    rows, counts = kernels.ragged
    return (torch.ceil(rows / mapping.m.unsqueeze(-1)) * counts).sum(-1) / b
