"""Well-known models at full size, on meta tensors: everything modelled, and the FLOPs that torch counts.

Parameters and multiply-accumulates are the published ones: torchvision's model tables (as `num_params` and `_ops`),
the SD-XL, FLUX.1 and DiT papers and model cards.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import torch_regflat as regflat
import zoo

PUBLISHED = {  # parameters, 1e9 multiply-accumulates
    "resnet50": (25_557_032, 4.089),
    "mobilenet_v2": (3_504_872, 0.301),
    "mobilenet_v3_large": (5_483_032, 0.217),
    "efficientnet_b0": (5_288_548, 0.386),
    "convnext_tiny": (28_589_128, 4.456),
    "vit_b16": (86_567_656, 17.564),
}


def profiled(build: Callable[[], zoo.Built]) -> tuple[nn.Module, regflat.Profile]:
    """Profile a model of the zoo; its coverage and FLOPs must be what torch counts."""
    model, args = zoo.on_meta(build)
    profile = regflat.profile(model, args)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(*args)
    assert profile.workload.flops == counter.get_total_flops() > 0
    assert profile.coverage.modelled_bytes_share == 1.0 and not profile.coverage.unmodelled
    assert profile.total.latency_s > 0
    weights = {p.untyped_storage()._cdata: p.nbytes for p in model.parameters()}
    assert profile.workload.role_bytes("weight") == sum(weights.values())
    return model, profile


@pytest.mark.parametrize("build", zoo.VISION, ids=zoo.ids(zoo.VISION))
def test_vision(build: Callable[[], zoo.Built]) -> None:
    model, profile = profiled(build)
    parameters, operations = PUBLISHED[build.__name__]
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert profile.workload.flops / 2e9 == pytest.approx(operations, abs=0.0006)


@pytest.mark.slow
@pytest.mark.parametrize("build", zoo.DIFFUSION, ids=zoo.ids(zoo.DIFFUSION))
def test_diffusion(build: Callable[[], zoo.Built]) -> None:
    pytest.importorskip("diffusers")
    model, profile = profiled(build)
    count = sum(p.numel() for p in model.parameters())
    if build is zoo.sdxl_unet:
        assert count == 2_567_463_684
    elif build is zoo.flux_transformer:
        assert count == 11_901_408_320
    elif build is zoo.dit_xl2:
        assert profile.workload.flops / 2e9 == pytest.approx(118.6, abs=0.1)
    else:
        assert count == 49_490_179 + 4 * 4 + 4  # the decoder and its 1x1 convolution


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)], ids=["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(("layers", "ways"), [(1, 1), (3, 1), (2, 2)])
def test_recurrent(kind: type[nn.RNNBase], gates: int, layers: int, ways: int, batch_first: bool) -> None:
    """Each step and direction multiplies inputs and state by every gate's weights: 2·B·G·H·(I + H) FLOPs."""
    steps, batch, inputs, hidden = 7, 3, 24, 40
    with torch.device("meta"):
        model = kind(inputs, hidden, num_layers=layers, bidirectional=ways == 2, batch_first=batch_first)
        x = torch.randn(batch, steps, inputs) if batch_first else torch.randn(steps, batch, inputs)
    profile = regflat.profile(model, (x,))
    sizes = [inputs, *[ways * hidden] * (layers - 1)]
    assert profile.workload.flops == sum(2 * steps * batch * ways * gates * hidden * (i + hidden) for i in sizes)
    assert profile.coverage.modelled_bytes_share == 1.0
    assert profile.workload.role_bytes("weight") == sum(p.nbytes for p in model.parameters())
    # nothing can be faster than reading all weights once from memory, or than one step after the other
    reads = sum(nest.compulsory_bytes("read") for op in profile.workload for nest in op.nests)
    assert reads >= profile.workload.role_bytes("weight")


@pytest.mark.parametrize("build", [zoo.lstm, zoo.gru], ids=zoo.ids([zoo.lstm, zoo.gru]))
@pytest.mark.parametrize("door", ["profiling", "export"])
def test_recurrent_through_other_doors(build: Callable[[], zoo.Built], door: str) -> None:
    model, args = zoo.real(build)
    road = regflat.profile(model, args)
    if door == "export":
        other = regflat.profile(torch.export.export(model, args))
    else:
        with torch.no_grad(), regflat.profiling(model) as p:
            model(*args)
        other = p.profile
    assert other.workload.flops == road.workload.flops > 0


@pytest.mark.slow
@pytest.mark.parametrize("build", [zoo.mobilenet_v2, zoo.vit_b16], ids=zoo.ids([zoo.mobilenet_v2, zoo.vit_b16]))
def test_vision_through_other_doors(build: Callable[[], zoo.Built]) -> None:
    model, args = zoo.real(build)
    road = regflat.profile(model, args)
    exported = regflat.profile(torch.export.export(model, args))
    with torch.no_grad(), regflat.profiling(model) as p:
        model(*args)
    for other in (exported, p.profile):
        assert other.workload.flops == road.workload.flops
        moved = [sum(n.compulsory_bytes() for op in w for n in op.nests) for w in (other.workload, road.workload)]
        assert moved[0] == pytest.approx(moved[1], rel=0.01)
        assert {op.path for op in other.workload if op.flops} == {op.path for op in road.workload if op.flops}
