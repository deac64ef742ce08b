"""Published results of chips whose memory is all SRAM, one chip each.

| chip | result | published | source |
|---|---|---|---|
| Groq TSP | ResNet-50, -101, -152, int8, one image | 20.4 k, 14.3 k, 10.7 k images/s | Abts et al., ISCA 2020 |
| Graphcore Mk2 (C600) | ResNet-50, fp16, 32 images | 13542 images/s | ByteMLPerf, reports/IPU, result-fp16.json |

Groq measured the first and projected the others to the cycle. With four images ByteMLPerf has 7062 images/s, which the
model misses (9400): the time of the many small steps of each layer, and of the host, is not in it.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from torch_regflat.capture.record import capture
from torch_regflat.errors import CapacityError
from torch_regflat.hardware.library import load
from torch_regflat.hardware.software import for_chip
from torch_regflat.operators.lowering import workload
from torch_regflat.schedule.kernels import form_kernels
from torch_regflat.schedule.managed import choose
from torch_regflat.schedule.residency import preloaded
from torch_regflat.schedule.shape import shape_of

WITHIN = 0.25


class Convolution(nn.Module):
    """With batch norm folded in, in any number format."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, dtype: torch.dtype) -> None:
        super().__init__()
        weight = torch.empty(outputs, inputs, kernel, kernel, device="meta", dtype=dtype)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.stride, self.padding = stride, kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight, stride=self.stride, padding=self.padding)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.reduce = Convolution(inputs, width, 1, 1, dtype)
        self.conv = Convolution(width, width, 3, stride, dtype)
        self.expand = Convolution(width, 4 * width, 1, 1, dtype)
        same = inputs == 4 * width and stride == 1
        self.shortcut = nn.Identity() if same else Convolution(inputs, 4 * width, 1, stride, dtype)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(torch.relu(self.reduce(x))))
        return torch.relu(self.expand(y) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, blocks: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.stem, self.pool = Convolution(3, 64, 7, 2, dtype), nn.MaxPool2d(3, 2, 1)
        layers, inputs = [], 64
        for stage, count in enumerate(blocks):
            for block in range(count):
                layers.append(Bottleneck(inputs, 64 * 2**stage, 2 if stage and not block else 1, dtype))
                inputs = 256 * 2**stage
        self.layers, self.head = nn.Sequential(*layers), Convolution(inputs, 1000, 1, 1, dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.pool(torch.relu(self.stem(x))))
        return self.head(x.sum((2, 3), dtype=x.dtype, keepdim=True))


def images_per_s(name: str, blocks: tuple[int, ...], dtype: torch.dtype, batch: int) -> float:
    """Of one chip that holds the weights, one batch after the other."""
    chip = load(name)
    images = torch.empty(batch, 3, 224, 224, device="meta", dtype=dtype)
    work = workload(capture(ResNet(blocks, dtype), (images,)), "resnet", "forward")
    kernels = form_kernels(work)
    places = preloaded(kernels, work, chip.on_chip[-1].usable_bytes, 0.25)
    shapes = [shape_of(kernel, place, work) for kernel, place in zip(kernels, places, strict=True)]
    return batch / math.fsum(choice.latency_s for choice in choose(shapes, chip, for_chip(chip)))


@pytest.mark.parametrize(
    ("blocks", "published"),
    [((3, 4, 6, 3), 20.4e3), ((3, 4, 23, 3), 14.3e3), ((3, 8, 36, 3), 10.7e3)],
    ids=["ResNet-50", "ResNet-101", "ResNet-152"],
)
def test_groq(blocks: tuple[int, ...], published: float) -> None:
    assert images_per_s("groq-lpu", blocks, torch.int8, 1) == pytest.approx(published, rel=WITHIN)


def test_graphcore() -> None:
    assert images_per_s("graphcore-ipu", (3, 4, 6, 3), torch.float16, 32) == pytest.approx(13542, rel=WITHIN)


def test_weights_that_do_not_fit_the_chip_are_refused() -> None:
    chip = load("groq-lpu").replace(**{"memory.SRAM.capacity": "16 MiB"})
    images = torch.empty(1, 3, 224, 224, device="meta", dtype=torch.int8)
    work = workload(capture(ResNet((3, 4, 6, 3), torch.int8), (images,)), "resnet", "forward")
    with pytest.raises(CapacityError) as caught:
        preloaded(form_kernels(work), work, chip.on_chip[-1].usable_bytes, 0.25)
    assert str(caught.value) == "weights of 24 MiB do not fit the 16 MiB on one chip"
