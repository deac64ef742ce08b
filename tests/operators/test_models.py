"""Whole models: nothing without a formula, FLOPs equal to torch's counter (a closed form where it has none)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from torch_regflat.operators import workload
from torch_regflat.workload import Workload

from .tracing import trace

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers")


def x(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


class Bottleneck(nn.Module):
    """A ResNet's block in plain torch."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        sizes = ((channels, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1))
        self.convs = nn.ModuleList(nn.Conv2d(c, k, r, s, r // 2, bias=False) for c, k, r, s in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(k) for _, k, _, _ in sizes)
        self.skip = nn.Conv2d(channels, 4 * width, 1, stride)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out = image
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            out = norm(conv(out))
            out = out.relu_() if i < 2 else out
        return torch.relu(out + self.skip(image))


def resnet() -> nn.Module:
    blocks = [Bottleneck(16, 8, 1), Bottleneck(32, 16, 2)]
    stem = [nn.Conv2d(3, 16, 7, 2, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def check(model: nn.Module, *args: Any, **kwargs: Any) -> Workload:
    found = workload(trace(model, *args, **kwargs))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(*args, **kwargs)
    assert [op.target for op in found if not op.modelled] == []
    assert found.flops == counter.get_total_flops() > 0
    assert all(nest.compulsory_bytes() > 0 for op in found for nest in op.nests)
    return found


def test_resnet() -> None:
    model = resnet().to("meta").eval()
    found = check(model, x(2, 3, 64, 64, dtype=torch.float32))
    assert found.role_bytes("weight") >= 4 * sum(p.numel() for p in model.parameters())


def test_resnet_training_step() -> None:
    model = resnet().to("meta").train()
    image = x(2, 3, 64, 64, dtype=torch.float32)

    def step() -> None:
        model(image).sum().backward()

    with FlopCounterMode(display=False) as counter:
        step()
    for parameter in model.parameters():
        parameter.grad = None
    found = workload(trace(step, inference=False))
    assert [op.target for op in found if not op.modelled] == []
    assert found.flops == counter.get_total_flops()


def small(kind: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(kind)
    for name in LAYERS:
        if hasattr(config, name):
            setattr(config, name, 2)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2]
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config, dtype=torch.bfloat16).eval()
    return model


IDS = {"input_ids": x(1, 32, dtype=torch.int64)}
IMAGE = {"pixel_values": x(1, 3, 224, 224)}
INPUTS: dict[str, dict[str, torch.Tensor]] = {
    "llama": IDS, "qwen3": IDS, "gemma2": IDS, "gpt2": IDS, "bloom": IDS, "bert": IDS, "phi3": IDS, "falcon": IDS,
    "t5": {**IDS, "decoder_input_ids": IDS["input_ids"]}, "vit": IMAGE, "swin": IMAGE, "resnet": IMAGE,
    "whisper": {"input_features": x(1, 80, 3000), "decoder_input_ids": IDS["input_ids"]},
}  # fmt: skip


@pytest.mark.parametrize("kind", INPUTS)
def test_transformers(kind: str) -> None:
    found = check(small(kind), **INPUTS[kind])
    assert found.role_bytes("weight") > 0


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_mixture_of_experts(kind: str) -> None:
    """torch's counter has nothing for grouped products: they are 2·(T·k)·n·k each, up (gate and up in one) and down."""
    model = small(kind)
    config: Any = model.config
    model.set_experts_implementation("grouped_mm")  # type: ignore[operator]
    found = workload(trace(model, **IDS))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(**IDS)
    width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    per_layer = 2 * 32 * config.num_experts_per_tok * config.hidden_size * width * 3
    assert [op.target for op in found if not op.modelled] == []
    assert found.flops == counter.get_total_flops() + 2 * per_layer
