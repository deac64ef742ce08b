"""Norms and softmaxes: a block of threads goes over each row, more than once where it does not hold it.

How many blocks run at once, how many loads each makes in turn, and whether a row is still in L2 when its block comes
back to it, follow from the width of the kernel's blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...cost.chip_tensors import ChipTensors
from ...cost.shapes import KernelTensors

_NARROWEST = 64.0
"""Threads on a row that registers hold, and the least that go over one (two warps)."""
_DOUBLINGS = 4
"""From the narrowest block to one of 1024 threads."""
_SOFTMAX = 3.0
_TINY = 1e-30


class RowSweeps:
    """What reading rows again costs: bytes through L2 and from external memory, and the time blocks wait.

    Zero for kernels that normalize no rows, and with software that does not describe its kernels for them. Rows of a
    product are those that a kernel before it narrows.
    """

    def __init__(self, kernels: KernelTensors, chip: ChipTensors) -> None:
        self.kernels, self.chip = kernels, chip
        known = (kernels.rows > 0.0) & (chip.vector_bytes > 0.0)
        softmax = kernels.sweeps == _SOFTMAX
        held = softmax & (kernels.row_columns <= chip.softmax_held)
        self.sweeps = torch.where(known, torch.where(held, torch.ones_like(kernels.sweeps), kernels.sweeps), 0.0)
        self.threads = torch.where(softmax, self._softmax_threads(held), chip.norm_threads)
        self.loads = torch.where(held, torch.ones_like(self.threads), self._loads(softmax))
        self.at_once = chip.cores * torch.clamp(chip.threads / self.threads, min=1.0)

    def _vector(self) -> Tensor:
        """Elements of one load."""
        element = self.kernels.row_bytes / torch.clamp(self.kernels.row_columns, min=1.0)
        return torch.clamp(self.chip.vector_bytes / torch.clamp(element, min=_TINY), min=1.0)

    def _softmax_threads(self, held: Tensor) -> Tensor:
        """PyTorch's rule: the power of two from half of the loads of a row on."""
        wanted = torch.minimum(self.kernels.row_columns / self._vector(), self.chip.softmax_threads) / 2.0
        threads = torch.full_like(wanted, _NARROWEST)
        for _ in range(_DOUBLINGS):
            threads = torch.where(threads < wanted, 2.0 * threads, threads)
        return torch.where(held, torch.full_like(threads, _NARROWEST), threads)

    def _loads(self, softmax: Tensor) -> Tensor:
        """Loads a thread makes one after the other in a sweep; a softmax loads the last of a row element by element."""
        step = self.threads * self._vector()
        columns = self.kernels.row_columns
        rest = columns - torch.floor(columns / step) * step
        last = torch.where(softmax, torch.ceil(rest / self.threads), torch.ceil(rest / step))
        return torch.floor(columns / step) + last

    def again(self) -> tuple[Tensor, Tensor]:
        """Bytes that sweeps after the first read: all of them, and those that have left the L2."""
        bytes_again = self.kernels.rows * self.kernels.row_bytes * torch.clamp(self.sweeps - 1.0, min=0.0)
        bytes_again = bytes_again * (1.0 - self.kernels.tiled)
        # Rows of all blocks, and their results.
        share = 2.0 * self.at_once * self.kernels.row_bytes / self.chip.levels[2].capacity
        gone = torch.clamp((share - self.chip.reread_from) / self.chip.reread_range, min=0.0, max=1.0)
        return bytes_again, bytes_again * gone

    def wait_s(self) -> Tensor:
        """Time in which blocks wait for loads and for each other."""
        loads = self.sweeps * self.loads
        turns = self.kernels.rows / self.at_once
        waits = turns * (loads + self.chip.block_waits) + loads
        return torch.where(self.sweeps > 0.0, waits, torch.zeros_like(waits)) * self.chip.levels[3].latency
