"""Images and videos: pictures, clips, or patches with a grid that says how they lie."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .declared import Declared, Maker, first_int, nested
from .text import length

_FRAMES = 8  # of a video, where the configuration does not say
_PAIRS = ("efficientloftr", "superglue", "lightglue")
"""Types that match the points of two images."""
_GRIDS = ("image_grid_thw", "grid_thw", "image_grid_hws", "video_grid_thw")


def image_size(d: Declared) -> tuple[int, int]:
    """Height and width of a picture."""
    if d.layout.size is not None:
        return d.layout.size
    queries = getattr(d.config, "projector_patch_to_query_dict", None)
    if queries:
        side = math.isqrt(min(map(int, queries))) * patch(d)
        return side, side
    if hasattr(d.config, "scaled_images_ratios"):  # the smallest copy has to hold one patch
        side = int(d.config.patch_size / min(d.config.scaled_images_ratios))
        return side, side
    inner = nested(d.vision, "backbone", "encoder") or d.vision
    for config in (d.config, d.vision, inner):
        for name in ("image_size", "img_size", "input_size", "crop_size"):
            size = getattr(config, name, None)
            if isinstance(size, dict):
                return int(size.get("height", 224)), int(size.get("width", 224))
            if isinstance(size, (tuple, list)) and len(size) >= 2:
                return int(size[-2]), int(size[-1])
            if isinstance(size, int) and size > 1:
                return size, size
    size = 224 if 224 % patch(d) == 0 else 16 * patch(d)
    return size, size


def patch(d: Declared) -> int:
    """Pixels on a side of a patch."""
    value = getattr(d.vision, "patch_size", None) or 16
    return int(value[-1] if isinstance(value, (tuple, list)) else value)


def patches(d: Declared) -> list[int]:
    """Rows and columns of patches of a picture."""
    return [side // patch(d) for side in image_size(d)]


def channels(d: Declared) -> int:
    """Colours of a picture."""
    names = ("num_channels", "in_channels", "in_chans", "num_image_channels", "image_channels")
    found = first_int((d.vision, d.config), names)
    return 3 if found is None else found


def frames(d: Declared) -> int:
    """Pictures in a clip."""
    names = ("num_frames", "frames_per_clip", "num_video_frames")
    found = (getattr(config, name, None) for config in (d.config, d.vision) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), _FRAMES)


def is_patched(d: Declared) -> bool:
    """Whether pixels come cut into patches, with a grid that says how they lie."""
    return any(name in d.parameters for name in _GRIDS)


def merge(d: Declared) -> int:
    """Patches on a side of the square that becomes one token."""
    value = getattr(d.vision, "spatial_merge_size", None) or getattr(d.vision, "merge_size", None) or 2
    return int(value if isinstance(value, int) else value[-1])


def grid(d: Declared) -> tuple[int, int, int]:
    """Frames, rows and columns of patches of one picture."""
    side = 8 * merge(d)
    return 1, side, side


def patch_width(d: Declared) -> int:
    """Numbers in a patch."""
    embedding = _patch_embedding(d)
    if embedding is not None:
        return int(math.prod(embedding.weight.shape[1:]))
    temporal = int(getattr(d.vision, "temporal_patch_size", None) or 1)
    return channels(d) * temporal * patch(d) ** 2


def _patch_embedding(d: Declared) -> Any:
    """The product or convolution that makes a vector of a patch."""
    for name, module in d.model.named_modules():
        if "patch_emb" in name and isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            return module
    return None


def pixels(d: Declared) -> Tensor:
    """Pixels in the layout that the model's declarations suggest, or the one asked for."""
    if d.layout.pixels_as:
        return _other_pixels(d)
    flip, picture = d.layout.flip, (channels(d), *image_size(d))
    if is_patched(d):
        count = d.batch * math.prod(grid(d))
        return d.meta(count, channels(d), patch(d), patch(d)) if flip else d.meta(count, patch_width(d))
    embedding = _patch_embedding(d)
    if flip and isinstance(embedding, nn.Linear):
        return d.meta(d.batch, *picture)
    if "aspect_ratio_ids" in d.parameters:  # tiles of one picture
        return d.meta(d.batch, 1, int(getattr(d.vision, "max_num_tiles", 4)), *picture)
    if flip:  # a clip in place of a picture
        return d.meta(d.batch, frames(d), *picture)
    if getattr(d.config, "model_type", "") in _PAIRS:
        return d.meta(d.batch, 2, *picture)
    if isinstance(embedding, nn.Linear) and ("pixel_values" in d.required or "spatial_shapes" in d.parameters):
        found = embedding.in_features
        if found % (patch(d) ** 2) == 0:
            return d.meta(d.batch, math.prod(patches(d)), found)
    return d.meta(d.batch, *picture)


def _other_pixels(d: Declared) -> Tensor:
    """The frames of a clip one after the other; patches with colours last; pictures one to a prompt, one batch."""
    if d.layout.pixels_as == "colours last":
        count = d.batch * math.prod(grid(d) if is_patched(d) else patches(d))
        temporal = getattr(d.vision, "temporal_patch_size", None)
        side = patch(d) if temporal else patch(d) * merge(d)
        return d.meta(count, *([temporal] if temporal else []), side, side, channels(d))
    if d.layout.pixels_as == "frames":
        return d.meta(d.batch * frames(d), channels(d), *image_size(d))
    if is_patched(d):
        return d.meta(1, d.batch * math.prod(grid(d)), channels(d), patch(d), patch(d))
    if "pixel_position_ids" in d.required:
        return d.meta(d.batch, position_ids_2d(d).shape[1], patch_width(d))
    return d.meta(d.batch, 1, channels(d), *image_size(d))


def video(d: Declared) -> Tensor:
    """Frames, or the patches of a video."""
    if is_patched(d):
        return d.meta(d.batch * math.prod(grid(d)), patch_width(d))
    return d.meta(d.batch, frames(d), channels(d), *image_size(d))


def position_ids_2d(d: Declared) -> Tensor:
    """Column and row of each patch. [batch, patches, 2]"""
    side = 3 * 16
    positions = torch.cartesian_prod(torch.arange(side), torch.arange(side)).flip(-1)
    return positions[None].repeat(d.batch, 1, 1)


def _grids(d: Declared) -> Tensor:
    return torch.tensor([grid(d)] * d.batch)


def _first_tokens(d: Declared, count: int) -> Tensor:
    """Which of the tokens stand for an image: as many as it makes. [batch, tokens]"""
    return (torch.arange(length(d)) < count).repeat(d.batch, 1)


def _masked(d: Declared) -> Tensor:
    """Nine tenths of the patches of a picture or clip hidden, as in pretraining. [batch, patches]"""
    clips = frames(d) // d.config.tubelet_size if hasattr(d.config, "tubelet_size") else 1
    count = clips * math.prod(patches(d))
    return (torch.arange(count) >= count // 10).repeat(d.batch, 1)


MAKERS: dict[str, Maker] = {
    "pixel_values": pixels,
    "pixel_values_videos": video,
    "image": pixels,
    "prompt_pixel_values": pixels,
    "prompt_masks": pixels,
    "high_res_pixel_values": lambda d: d.meta(d.batch, 3, 1024, 1024),
    "pixel_position_ids": position_ids_2d,
    "image_position_ids": position_ids_2d,
    "image_patches": lambda d: d.meta(d.batch, 16, patch(d) ** 2 * channels(d)),
    "flattened_patches": lambda d: d.meta(d.batch, 64, patch(d) ** 2 * channels(d) + 2),
    "pixel_attention_mask": lambda d: torch.ones(
        d.batch, 1 if d.layout.pixels_as == "one" else math.prod(patches(d)), dtype=torch.long
    ),
    "spatial_shapes": lambda d: torch.tensor([patches(d)] * d.batch),
    "target_sizes": lambda d: torch.tensor([patches(d)] * d.batch),
    "aspect_ratio_ids": lambda d: torch.ones(d.batch, 1, dtype=torch.long),
    "aspect_ratio_mask": lambda d: torch.ones(d.batch, 1, int(getattr(d.vision, "max_num_tiles", 4)), dtype=torch.long),
    "merge_sizes": lambda d: torch.tensor([merge(d)] * d.batch),
    "image_sizes": lambda d: torch.tensor([image_size(d)] * d.batch),
    "grid_thw": _grids,
    "image_grid_thw": _grids,
    "video_grid_thw": _grids,
    "image_grid_hws": lambda d: _grids(d)[:, 1:],
    "pooled_patches_idx": lambda d: torch.arange(64).view(16, 4),
    "bbox": lambda d: torch.zeros(d.batch, length(d), 4, dtype=torch.long),
    "image_attention_mask": lambda d: torch.ones(d.batch, length(d), 1, dtype=torch.long),
    "image_embeds_position_mask": lambda d: _first_tokens(d, getattr(d.config, "latent_query_num", 64)),
    "bool_masked_pos": _masked,
    "visual_feats": lambda d: d.meta(d.batch, 36, d.config.visual_feat_dim),
    "visual_pos": lambda d: d.meta(d.batch, 36, d.config.visual_pos_dim),
}
