"""Models that tests share: small ones that really run, and well-known ones at full size for meta tensors.

The vision models are written in plain torch as torchvision and timm have them; their parameter counts are the
published ones, to the last parameter (`tests/test_zoo.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Built = tuple[nn.Module, tuple[Any, ...]]


def images(batch: int = 1, size: int = 224) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 3, size, size),)


# --- small ones, in the memory of the default device -----------------------------------------------------------------


def mlp() -> Built:
    return nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 64)), (torch.randn(32, 64),)


def small_cnn() -> Built:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, stride=2, groups=2), nn.GroupNorm(4, 32), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    return model, images(2, 32)


def small_llama(**changes: Any) -> Built:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 2, "vocab_size": 2000}
    config = LlamaConfig(**{**sizes, "num_attention_heads": 8, "use_cache": False, **changes})
    return LlamaForCausalLM(config), (torch.randint(0, 2000, (2, 32)),)


def small_bert() -> Built:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8}
    return BertModel(BertConfig(vocab_size=2000, **sizes)), (torch.randint(0, 2000, (2, 32)),)


# --- convolutional networks ------------------------------------------------------------------------------------------


def conv(ins: int, outs: int, kernel: int, stride: int = 1, groups: int = 1, act: Any = nn.ReLU) -> nn.Sequential:
    """Convolution, batch norm and activation (None for none)."""
    layers = [nn.Conv2d(ins, outs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outs)]
    return nn.Sequential(*layers, *([] if act is None else [act()]))


class Bottleneck(nn.Module):
    def __init__(self, ins: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(ins, width, 1), conv(width, width, 3, stride), conv(width, 4 * width, 1, act=None)
        )
        changes = stride != 1 or ins != 4 * width
        self.shortcut = conv(ins, 4 * width, 1, stride, act=None) if changes else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))


def resnet50() -> Built:
    ins, stages = 64, []
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        blocks = [Bottleneck(ins if i == 0 else 4 * width, width, stride if i == 0 else 1) for i in range(count)]
        stages.append(nn.Sequential(*blocks))
        ins = 4 * width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)]
    return nn.Sequential(conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1), *stages, *head), images()


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int, act: Any, gate: Any) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.act = nn.Conv2d(channels, squeezed, 1), act()
        self.fc2, self.gate = nn.Conv2d(squeezed, channels, 1), gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.act(self.fc1(self.pool(x)))))


class InvertedResidual(nn.Module):
    def __init__(
        self, ins: int, wide: int, outs: int, kernel: int, stride: int, act: Any, squeeze: SqueezeExcite | None = None
    ) -> None:
        super().__init__()
        self.adds = stride == 1 and ins == outs
        layers = [conv(ins, wide, 1, act=act)] if wide != ins else []
        layers.append(conv(wide, wide, kernel, stride, groups=wide, act=act))
        layers += [squeeze] if squeeze is not None else []
        self.body = nn.Sequential(*layers, conv(wide, outs, 1, act=None))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def mobilenet_v2() -> Built:
    layers: list[nn.Module] = [conv(3, 32, 3, 2, act=nn.ReLU6)]
    ins = 32
    for expand, outs, count, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for i in range(count):
            layers.append(InvertedResidual(ins, ins * expand, outs, 3, stride if i == 0 else 1, nn.ReLU6))
            ins = outs
    layers += [conv(320, 1280, 1, act=nn.ReLU6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(1280, 1000)), images()


def _divisible(value: float, by: int = 8) -> int:
    rounded = max(by, int(value + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * value else rounded


def mobilenet_v3_large() -> Built:
    hs, re = nn.Hardswish, nn.ReLU
    rows = (
        (16, 3, 16, 16, False, re, 1), (16, 3, 64, 24, False, re, 2), (24, 3, 72, 24, False, re, 1),
        (24, 5, 72, 40, True, re, 2), (40, 5, 120, 40, True, re, 1), (40, 5, 120, 40, True, re, 1),
        (40, 3, 240, 80, False, hs, 2), (80, 3, 200, 80, False, hs, 1), (80, 3, 184, 80, False, hs, 1),
        (80, 3, 184, 80, False, hs, 1), (80, 3, 480, 112, True, hs, 1), (112, 3, 672, 112, True, hs, 1),
        (112, 5, 672, 160, True, hs, 2), (160, 5, 960, 160, True, hs, 1), (160, 5, 960, 160, True, hs, 1),
    )  # fmt: skip
    layers: list[nn.Module] = [conv(3, 16, 3, 2, act=hs)]
    for ins, kernel, wide, outs, squeezes, act, stride in rows:
        squeeze = SqueezeExcite(wide, _divisible(wide / 4), nn.ReLU, nn.Hardsigmoid) if squeezes else None
        layers.append(InvertedResidual(ins, wide, outs, kernel, stride, act, squeeze))
    layers += [conv(160, 960, 1, act=hs), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(960, 1280), hs(), nn.Dropout(0.2), nn.Linear(1280, 1000)), images()


def efficientnet_b0() -> Built:
    layers: list[nn.Module] = [conv(3, 32, 3, 2, act=nn.SiLU)]
    ins = 32
    for expand, kernel, stride, outs, count in (
        (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    ):  # fmt: skip
        for i in range(count):
            squeeze = SqueezeExcite(ins * expand, max(1, ins // 4), nn.SiLU, nn.Sigmoid)
            layers.append(InvertedResidual(ins, ins * expand, outs, kernel, stride if i == 0 else 1, nn.SiLU, squeeze))
            ins = outs
    layers += [conv(320, 1280, 1, act=nn.SiLU), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(1280, 1000)), images()


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(torch.full((width, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + self.scale * y.permute(0, 3, 1, 2)


def convnext_tiny() -> Built:
    widths = (96, 192, 384, 768)
    layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), LayerNorm2d(96, eps=1e-6)]
    for at, (width, count) in enumerate(zip(widths, (3, 3, 9, 3), strict=True)):
        if at:
            layers += [LayerNorm2d(widths[at - 1], eps=1e-6), nn.Conv2d(widths[at - 1], width, 2, 2)]
        layers.append(nn.Sequential(*(ConvNeXtBlock(width) for _ in range(count))))
    layers += [nn.AdaptiveAvgPool2d(1), LayerNorm2d(768, eps=1e-6), nn.Flatten(), nn.Linear(768, 1000)]
    return nn.Sequential(*layers), images()


class ViT(nn.Module):
    def __init__(self, size: int = 224, patch: int = 16, width: int = 768, depth: int = 12, heads: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(ViTBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x)[:, 0])
        return out


class ViTBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.project(y)
        return x + self.mlp(self.norm2(x))


def vit_b16() -> Built:
    return ViT(), images()


# --- recurrent networks ----------------------------------------------------------------------------------------------


def lstm() -> Built:
    return nn.LSTM(256, 512, num_layers=2, bidirectional=True), (torch.randn(20, 8, 256),)


def gru() -> Built:
    return nn.GRU(256, 512, num_layers=3, batch_first=True), (torch.randn(8, 20, 256),)


# --- diffusion, from the configurations their makers publish ---------------------------------------------------------


class Keywords(nn.Module):
    """A model that is always given the same inputs by name."""

    def __init__(self, model: nn.Module, **kwargs: Any) -> None:
        super().__init__()
        self.model, self.kwargs = model, kwargs

    def forward(self, *args: Any) -> Any:
        return self.model(*args, **self.kwargs)


def sdxl_unet() -> Built:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=128, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(5, 10, 20), cross_attention_dim=2048, transformer_layers_per_block=(1, 2, 10),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    added = {"text_embeds": torch.randn(1, 1280), "time_ids": torch.randn(1, 6)}
    time = torch.randn(1)
    return Keywords(model, added_cond_kwargs=added), (torch.randn(1, 4, 128, 128), time, torch.randn(1, 77, 2048))


def flux_transformer() -> Built:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=19, num_single_layers=38, attention_head_dim=128,
        num_attention_heads=24, joint_attention_dim=4096, pooled_projection_dim=768, guidance_embeds=True,
    )  # fmt: skip
    inputs = {
        "encoder_hidden_states": torch.randn(1, 512, 4096), "pooled_projections": torch.randn(1, 768),
        "timestep": torch.randn(1), "img_ids": torch.randn(4096, 3), "txt_ids": torch.randn(512, 3),
        "guidance": torch.randn(1),
    }  # fmt: skip
    return Keywords(model, **inputs), (torch.randn(1, 4096, 64),)


def dit_xl2() -> Built:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(sample_size=32, num_layers=28, num_attention_heads=16, attention_head_dim=72)
    steps = torch.zeros(1, dtype=torch.int64)
    return Keywords(model, timestep=steps, class_labels=steps), (torch.randn(1, 4, 32, 32),)


def vae_decoder() -> Built:
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=1024,
    )  # fmt: skip
    return nn.Sequential(model.post_quant_conv, model.decoder), (torch.randn(1, 4, 128, 128),)


SMALL: tuple[Callable[[], Built], ...] = (mlp, small_cnn, small_llama, small_bert)
VISION: tuple[Callable[[], Built], ...] = (
    resnet50, mobilenet_v2, mobilenet_v3_large, efficientnet_b0, convnext_tiny, vit_b16,
)  # fmt: skip
DIFFUSION: tuple[Callable[[], Built], ...] = (sdxl_unet, flux_transformer, dit_xl2, vae_decoder)


def ids(builders: Iterable[Callable[[], Built]]) -> list[str]:
    return [builder.__name__ for builder in builders]


def on_meta(build: Callable[[], Built]) -> Built:
    """A model of the zoo without memory."""
    with torch.device("meta"):
        model, args = build()
    return model.eval(), args


def real(build: Callable[[], Built], seed: int = 0) -> Built:
    """A model of the zoo with random numbers from `seed`, in evaluation mode."""
    torch.manual_seed(seed)
    model, args = build()
    return model.eval(), args
