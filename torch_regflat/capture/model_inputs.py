"""Inputs of a transformers model from its own declarations: the parameters of its `forward` and its configuration.

Large inputs (images, sound, states) are meta tensors. What models read the values of (token ids with placeholders for
images, grids, sizes, masks) is a small real tensor on the CPU, so that questions about it have an exact answer.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaptureError

_Made = Any
_FRAMES = 8  # of a video, where the configuration does not say
_SAMPLES = 19200  # of a sound
_SIDES = (448, 512, 1024)  # of an image, where the one that the configuration names does not fit
_STATES = ("hidden_states", "patch_embeds", "image_features", "context_hidden_states")
_MEDIA = (
    "pixel_values",
    "pixel_values_videos",
    "input_features",
    "input_values",
    "image_patches",
    "flattened_patches",
)


def candidates(model: nn.Module, batch: int, tokens: int) -> Iterator[dict[str, Any]]:
    """Inputs for `model`, the richest first: all its modalities, each alone with text, the main input alone."""
    seen: list[Any] = []
    errors: list[CaptureError] = []
    makers = [Maker(model, batch, tokens, **layout) for layout in _layouts(model)]
    further = (Maker(model, batch, tokens, **layout) for layout in _further_layouts(model, tokens))
    ways = (
        *(_all_media(maker, errors) for maker in makers),
        Maker(model, batch, tokens).least(),
        *(_all_media(maker, errors) for maker in further),
    )
    for made in itertools.chain.from_iterable(ways):
        shapes = sorted((k, _shape(v)) for k, v in made.items())
        if shapes not in seen:
            seen.append(shapes)
            yield made
    if not seen and errors:
        raise errors[0]


def _all_media(maker: Maker, errors: list[CaptureError]) -> Iterator[dict[str, Any]]:
    for media in maker.combinations():
        try:
            yield maker.make(media)
        except CaptureError as caught:  # its own feature extractor does not run: perhaps without that medium
            errors.append(caught)


def _shape(value: Any) -> Any:
    return [_shape(v) for v in value] if isinstance(value, list) else getattr(value, "shape", None)


def _layouts(model: nn.Module) -> list[dict[str, Any]]:
    """Layouts that a declaration leaves open: bins or frames first, one channel or none, a clip or a picture."""
    parameters = inspect.signature(model.forward).parameters
    if "input_features" in parameters:
        widths = dict.fromkeys((128, *_first_widths(model)))
        return [{}, {"flip": True}, *({"bins": w, "flip": flip} for w in widths for flip in (False, True))]
    if "input_values" in parameters:
        return [{}, {"flip": True}]
    config = getattr(model, "config", None)
    clip = "pixel_values" in parameters and any(hasattr(config, n) for n in ("num_frames", "frames_per_clip"))
    if clip:
        return [{"flip": True}, {}]
    return [{}, {"flip": True}] if "pixel_values" in parameters else [{}]


def _further_layouts(model: nn.Module, tokens: int) -> Iterator[dict[str, Any]]:
    """Layouts for models that none of the usual ones suits: parts of models, and sizes that no configuration names."""
    parameters = inspect.signature(model.forward).parameters
    config: Any = model.config
    sizes = [getattr(config, name, None) for name in ("input_size", "input_dim", "hidden_size_global", "mel_dim")]
    if hasattr(config, "target_layer_ids") and hasattr(config, "hidden_size"):  # the states of several layers at once
        sizes.append(config.hidden_size * len(config.target_layer_ids))
    widths = [{"bins": w} for w in (*_first_widths(model), *sizes) if isinstance(w, int)]
    if any(name in parameters for name in (*OPTIONAL, *_STATES)):
        yield {"optional": True}
        yield from ({"optional": True, "embeds": True, **width} for width in ({}, *widths))
        yield from ({"optional": True, **width} for width in widths)
    if "pixel_values" in parameters:
        yield from ({"pixels_as": way} for way in ("frames", "one"))
        yield {"pixels_as": "one", "optional": True}
        yield from ({"side": side} for side in _SIDES)
    if any(name in parameters for name in _STATES):
        yield {"states_as": "pixels"}
        yield from ({"states_as": "states", **width} for width in widths)
        yield {"states_as": "channels"}
    if "input_features" in parameters:
        factor = getattr(config, "downsample_factor", None)
        if isinstance(factor, int):  # as many sounds as tokens
            yield {"frames_of_sound": 2 * factor * tokens}
        hop = getattr(config, "hop_length", None)
        if isinstance(hop, int) and "input_values" in parameters:  # as many features as codes
            yield from ({"frames_of_sound": _SAMPLES // hop, **width} for width in widths)
    if "input_values" in parameters:
        yield from ({"states_as": "states", "optional": optional} for optional in (False, True))


def _first_widths(model: nn.Module) -> list[int]:
    """The width that the first product and the first norm of a model take: that of its features, for many."""
    linear = next((m.in_features for m in model.modules() if isinstance(m, nn.Linear)), None)
    norm = next((m.normalized_shape[-1] for m in model.modules() if isinstance(m, nn.LayerNorm)), None)
    return [width for width in (linear, norm) if width is not None]


def describe(kwargs: dict[str, Any]) -> str:
    """`input_ids [1, 8], pixel_values [1, 3, 224, 224]`."""
    tensors = ((k, t) for k, v in kwargs.items() for t in (v if isinstance(v, list) else [v]))
    return ", ".join(f"{k} {list(t.shape)}" for k, t in tensors if isinstance(t, Tensor))


class Maker:
    """Makes one value for each parameter of a model's `forward` that it has to be given."""

    def __init__(
        self,
        model: nn.Module,
        batch: int,
        tokens: int,
        bins: int | None = None,
        flip: bool = False,
        *,
        optional: bool = False,
        embeds: bool = False,
        side: int | None = None,
        pixels_as: str = "",
        states_as: str = "",
        frames_of_sound: int | None = None,
    ) -> None:
        self.model, self.batch, self.tokens, self.bins, self.flip = model, batch, tokens, bins, flip
        self.optional, self.embeds, self.side = optional, embeds, side
        self.pixels_as, self.states_as = pixels_as, states_as
        self.frames_of_sound = frames_of_sound
        self.config: Any = model.config
        self.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        found = inspect.signature(model.forward).parameters.values()
        self.parameters = {p.name: p for p in found if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        self.text = _text_config(self.config)
        self.vision = _sub(self.config, "vision", "image", "backbone", "vit") or self.config
        self.audio = _sub(self.config, "audio", "speech", "encoder") or self.config
        main = getattr(model, "main_input_name", "input_ids")
        self.main: list[str] = [main] if isinstance(main, str) else list(main)
        self.required = [n for n, p in self.parameters.items() if p.default is p.empty]

    # --- which inputs ----------------------------------------------------------------------------------------------

    def combinations(self) -> list[tuple[str, ...]]:
        """Which media go in together."""
        media = tuple(n for n in _MEDIA if n in self.parameters)
        still = tuple(n for n in media if n != "pixel_values_videos")
        text = () if "input_ids" in self.parameters else media[:1]
        ways = [still, *((m,) for m in media), text, media]
        return list(dict.fromkeys(ways))

    def make(self, media: tuple[str, ...]) -> dict[str, Any]:
        """The keyword arguments with these media."""
        names = [n for n in self.parameters if n in media or n in self.required]
        if not media or any(n in self.main for n in names) is False:
            names += [n for n in self.main if n in self.parameters and n not in names]
        if any(m in media for m in _MEDIA) and "input_ids" in self.parameters:
            names = ["input_ids", *[n for n in names if n != "input_ids"]]
        names = self._without_alternatives(names)
        made: dict[str, Any] = {}
        for name in names:
            if name == "input_ids":
                continue
            self._add(name, made)
        for name in self._companions(made, media):
            self._add(name, made)
        if self.optional:
            masks = ("attention_mask",) if "hidden_states" in made else ()
            for name in (n for n in (*OPTIONAL, *masks) if n in self.parameters and n not in made):
                self._add(name, made)
        if self.embeds and "inputs_embeds" in self.parameters:
            names = [n for n in names if n != "input_ids"]
            self._add("inputs_embeds", made)
        if "input_ids" in names:
            made = {**self._token_ids(made), **made}
            if "bbox" in self.parameters:
                made["bbox"] = torch.zeros(*made["input_ids"].shape, 4, dtype=torch.long)
        if self._has_decoder() and "decoder_input_ids" in self.parameters:
            ids = self._ids(min(self.tokens, 4), vocabulary=self._decoder_vocabulary())
            channels = getattr(getattr(self.config, "decoder_config", None), "num_channels", None)
            made["decoder_input_ids"] = ids if channels is None else ids[..., None].repeat(1, 1, channels)
        return made

    def least(self) -> Iterator[dict[str, Any]]:
        """The main input without anything around it, and embeddings in place of token ids."""
        required = {"input_ids", "inputs_embeds", *self.main}.issuperset(self.required)
        if required and "input_ids" in self.parameters:
            yield {"input_ids": self._ids(self.length)}
            ids = self._ids(self.length)[: self.batch, :, None]
            for books in self.codebooks:
                made: dict[str, Any] = {"input_ids": ids.repeat(1, 1, books)}
                yield made
                if "encoder_hidden_states" in self.parameters:
                    self._add("encoder_hidden_states", made := dict(made))
                    yield made
        if required and "inputs_embeds" in self.parameters and hasattr(self.text, "hidden_size"):
            yield {"inputs_embeds": self.meta(self.batch, self.length, self.text.hidden_size)}

    def _without_alternatives(self, names: list[str]) -> list[str]:
        if "inputs_embeds" in names and "input_ids" in names:
            names = [n for n in names if n != "inputs_embeds"]
        return list(dict.fromkeys(n for n in names if n not in ("past_key_values", "encoder_outputs", "labels")))

    def _has_decoder(self) -> bool:
        return bool(getattr(self.config, "is_encoder_decoder", False)) or "decoder_input_ids" in self.required

    def _add(self, name: str, made: dict[str, Any]) -> None:
        maker: Callable[[Maker], _Made] | None = MAKERS.get(name)
        if maker is None:
            if name in self.required and self.parameters[name].default is inspect.Parameter.empty:
                raise CaptureError(f"no input {name!r} can be made for {type(self.model).__name__}")
            return
        try:
            value = maker(self)
        except (AttributeError, TypeError, StopIteration) as error:
            if name not in self.required:
                return
            kind = type(self.model).__name__
            raise CaptureError(
                f"no input {name!r} can be made for {kind}: its configuration has no size for it"
            ) from error
        if value is not None:
            made[name] = value

    def _companions(self, made: dict[str, Any], media: tuple[str, ...]) -> list[str]:
        """Parameters without which the media cannot be read."""
        found: list[str] = []
        for name in made:
            found += [n for n in COMPANIONS.get(name, ()) if n in self.parameters]
        return [n for n in dict.fromkeys(found) if n not in made]

    # --- text ------------------------------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> int:
        for config in (self.text, self.config):
            for name in ("vocab_size", "text_vocab_size", "n_token", "codebook_size"):
                value = getattr(config, name, None)
                if isinstance(value, int) and value > 0:
                    return value
        return 100

    def _decoder_vocabulary(self) -> int:
        for name in ("decoder", "decoder_config", "text_config"):
            value = getattr(getattr(self.config, name, None), "vocab_size", None)
            if isinstance(value, int):
                return value
        return self.vocabulary

    def _ordinary(self, vocabulary: int) -> int:
        """A token id that means nothing special to the model."""
        special = _special_ids(self.config)
        return next((i for i in range(3, vocabulary) if i not in special), 0)

    def _ids(self, tokens: int, vocabulary: int | None = None) -> Tensor:
        books = getattr(self.config, "num_codebooks", None) if "Decoder" in type(self.model).__name__ else None
        return torch.full((self.batch * (books or 1), max(1, tokens)), self._ordinary(vocabulary or self.vocabulary))

    @property
    def codebooks(self) -> list[int]:
        """How many ids a step may have: one for each codebook, and one for the text."""
        found = (getattr(self.config, n, None) for n in ("num_codebooks", "num_channels"))
        counts = [n for n in found if isinstance(n, int)]
        return [n + more for n in counts for more in (0, 1)]

    @property
    def length(self) -> int:
        """Tokens of text, no more than the model has positions for."""
        for name in ("max_target_positions", "max_position_embeddings", "n_positions", "max_sequence_length"):
            value = getattr(self.text, name, None)
            if isinstance(value, int) and value > 4:
                return min(self.tokens, value - 2)
        return self.tokens

    def _token_ids(self, made: dict[str, Any]) -> dict[str, Any]:
        """Token ids with a placeholder for every feature of an image, video or sound, and what goes with them."""
        runs: list[tuple[int, int, int]] = []
        for kind, (token, method, keys) in _PLACEHOLDERS.items():
            token_id = next((v for n in token if isinstance(v := getattr(self.config, n, None), int)), None)
            given = {key: made[key] for key in keys if key in made}
            if token_id is None or not given:
                continue
            count = self._feature_count(method, made)
            if count:
                runs.append((kind, token_id, math.ceil(count / self.batch)))
        ids = self._ids(self.length)
        types = torch.zeros_like(ids)
        for kind, token_id, count in runs:
            start = self._before(kind)
            run = [
                torch.full((self.batch, n), t)
                for t, n in ((start, 1), (token_id, count), (self._after(kind), 1))
                if t is not None
            ]
            ids = torch.cat([ids[:, :1], *run, ids[:, 1:]], dim=1)
            of = torch.full((self.batch, sum(r.shape[1] for r in run)), 0)
            offset = 1 if start is not None else 0
            of[:, offset : offset + count] = kind
            types = torch.cat([types[:, :1], of, types[:, 1:]], dim=1)
        found: dict[str, Any] = {"input_ids": ids}
        if runs and "mm_token_type_ids" in self.parameters:
            found["mm_token_type_ids"] = types
        if runs and "token_type_ids" in self.parameters:
            found["token_type_ids"] = (types > 0).long()
        for name, role in (("image_token_mask", 1),):
            if name in self.parameters:
                found[name] = types == role
        return found

    def _before(self, kind: int) -> int | None:
        names = {1: ("vision_start_token_id", "image_start_token_id", "boi_token_id"), 2: ("vision_start_token_id",)}
        found = (getattr(self.config, n, None) for n in names.get(kind, ()))
        return next((f for f in found if isinstance(f, int)), None)

    def _after(self, kind: int) -> int | None:
        names = {1: ("vision_end_token_id", "image_end_token_id", "eoi_token_id"), 2: ("vision_end_token_id",)}
        found = (getattr(self.config, n, None) for n in names.get(kind, ()))
        return next((f for f in found if isinstance(f, int)), None)

    def _feature_count(self, method: str, made: dict[str, Any]) -> int:
        """How many tokens the model makes of its media, by asking its own feature extractor on meta tensors."""
        from .record import capture_with_result

        owner = next((m for m in self.model.modules() if hasattr(m, method)), None)
        if owner is None:
            return 0
        fn = getattr(owner, method)
        known = inspect.signature(fn).parameters
        open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
        for name, parameter in known.items():
            needed = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            if needed and name not in made and name in self.parameters:
                self._add(name, made)
        wanted = {k: v for k, v in made.items() if k in known}
        if open_ended and "args" in known:
            wanted = dict(made)
        result = capture_with_result(fn, (), {**wanted, **({"return_dict": True} if open_ended else {})}).result
        for name in ("pooler_output", "last_hidden_state"):
            if hasattr(result, name) and getattr(result, name) is not None:
                result = getattr(result, name)
                break
        width: Any = getattr(self.text, "hidden_size", None) or getattr(self.text, "d_model", 1)
        return _numel(result) // int(width)

    # --- images ----------------------------------------------------------------------------------------------------

    def image_size(self) -> tuple[int, int]:
        if self.side is not None:
            return self.side, self.side
        queries = getattr(self.config, "projector_patch_to_query_dict", None)
        if queries:
            side = math.isqrt(min(map(int, queries))) * self.patch
            return side, side
        if hasattr(self.config, "scaled_images_ratios"):  # the smallest copy has to hold one patch
            side = int(self.config.patch_size / min(self.config.scaled_images_ratios))
            return side, side
        inner = _sub(self.vision, "backbone", "encoder") or self.vision
        for config in (self.config, self.vision, inner):
            for name in ("image_size", "img_size", "input_size", "crop_size"):
                size = getattr(config, name, None)
                if isinstance(size, dict):
                    return int(size.get("height", 224)), int(size.get("width", 224))
                if isinstance(size, (tuple, list)) and len(size) >= 2:
                    return int(size[-2]), int(size[-1])
                if isinstance(size, int) and size > 1:
                    return size, size
        patch = self.patch
        size = 224 if 224 % patch == 0 else 16 * patch
        return size, size

    @property
    def patch(self) -> int:
        value = getattr(self.vision, "patch_size", None) or 16
        return int(value[-1] if isinstance(value, (tuple, list)) else value)

    @property
    def patches(self) -> list[int]:
        """Rows and columns of patches of a picture."""
        return [side // self.patch for side in self.image_size()]

    @property
    def channels(self) -> int:
        for config in (self.vision, self.config):
            for name in ("num_channels", "in_channels", "in_chans", "num_image_channels", "image_channels"):
                value = getattr(config, name, None)
                if isinstance(value, int):
                    return value
        return 3

    @property
    def is_patched(self) -> bool:
        """Whether pixels come cut into patches, with a grid that says how they lie."""
        return any(n in self.parameters for n in ("image_grid_thw", "grid_thw", "image_grid_hws", "video_grid_thw"))

    @property
    def merge(self) -> int:
        value = getattr(self.vision, "spatial_merge_size", None) or getattr(self.vision, "merge_size", None) or 2
        return int(value if isinstance(value, int) else value[-1])

    def grid(self) -> tuple[int, int, int]:
        """Frames, rows and columns of patches of one picture."""
        side = 8 * self.merge
        return 1, side, side

    @property
    def patch_width(self) -> int:
        embedding = self._patch_embedding()
        if embedding is not None:
            return int(math.prod(embedding.weight.shape[1:]))
        temporal = int(getattr(self.vision, "temporal_patch_size", None) or 1)
        return self.channels * temporal * self.patch**2

    def _patch_embedding(self) -> Any:
        """The product or convolution that makes a vector of a patch."""
        for name, module in self.model.named_modules():
            if "patch_emb" in name and isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
                return module
        return None

    def pixels(self) -> Tensor:
        if self.pixels_as:
            return self._other_pixels()
        if self.is_patched:
            count = self.batch * math.prod(self.grid())
            if self.flip:
                return self.meta(count, self.channels, self.patch, self.patch)
            return self.meta(count, self.patch_width)
        if self.flip and isinstance(self._patch_embedding(), nn.Linear):
            return self.meta(self.batch, self.channels, *self.image_size())
        if "aspect_ratio_ids" in self.parameters:  # tiles of one picture
            tiles = int(getattr(self.vision, "max_num_tiles", 4))
            return self.meta(self.batch, 1, tiles, self.channels, *self.image_size())
        if self.flip:  # a clip in place of a picture
            return self.meta(self.batch, self.frames, self.channels, *self.image_size())
        if getattr(self.config, "model_type", "") in _PAIRS:
            return self.meta(self.batch, 2, self.channels, *self.image_size())
        if isinstance(self._patch_embedding(), nn.Linear) and (
            "pixel_values" in self.required or "spatial_shapes" in self.parameters
        ):
            height, width = self.image_size()
            found = self._patch_embedding().in_features
            if found % (self.patch**2) == 0:
                return self.meta(self.batch, height // self.patch * (width // self.patch), found)
        return self.meta(self.batch, self.channels, *self.image_size())

    def _other_pixels(self) -> Tensor:
        """The frames of a clip one after the other; pictures one to a prompt, patches one batch."""
        if self.pixels_as == "frames":
            return self.meta(self.batch * self.frames, self.channels, *self.image_size())
        if self.is_patched:
            count = self.batch * math.prod(self.grid())
            return self.meta(1, count, self.channels, self.patch, self.patch)
        if "pixel_position_ids" in self.required:
            return self.meta(self.batch, self.position_ids_2d().shape[1], self.patch_width)
        return self.meta(self.batch, 1, self.channels, *self.image_size())

    @property
    def width(self) -> int:
        """Numbers in a state."""
        return int(self.bins or self.text.hidden_size)

    @property
    def cross_width(self) -> int:
        """Numbers in a state that cross-attention reads."""
        names = ("encoder_hidden_size", "cross_hidden_size", "hidden_size")
        return next(v for n in names if isinstance(v := getattr(self.config, n, None), int))

    def states(self) -> Tensor:
        """What a part of a model reads: states, or patches, or a picture or a sound, where it is the first part."""
        if self.states_as == "pixels":
            return self.meta(self.batch, self.channels, *self.image_size())
        if self.states_as == "channels" and "patch_embeds" in self.parameters:
            return self.meta(self.batch, self.width, 16, 16)
        if self.states_as == "channels":  # a sound
            first = next((m for m in self.model.modules() if isinstance(m, nn.Conv1d)), None)
            return self.meta(self.batch, 1 if first is None else first.in_channels, _SAMPLES)
        if self.is_patched:
            return self.pixels()
        return self.meta(self.batch, self.tokens, self.width)

    def position_ids_2d(self) -> Tensor:
        """Column and row of each patch. [batch, patches, 2]"""
        side = 3 * 16
        grid = torch.cartesian_prod(torch.arange(side), torch.arange(side)).flip(-1)
        return grid[None].repeat(self.batch, 1, 1)

    def meta(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(*shape, dtype=dtype or self.dtype, device="meta")

    # --- video, sound, states --------------------------------------------------------------------------------------

    @property
    def frames(self) -> int:
        for config in (self.config, self.vision):
            for name in ("num_frames", "frames_per_clip", "num_video_frames"):
                value = getattr(config, name, None)
                if isinstance(value, int) and value > 0:
                    return value
        return _FRAMES

    def video(self) -> Tensor:
        if self.is_patched:
            return self.meta(self.batch * math.prod(self.grid()), self.patch_width)
        return self.meta(self.batch, self.frames, self.channels, *self.image_size())

    def mels(self) -> int:
        if self.bins is not None:
            return self.bins
        for config in (self.audio, self.config):
            names = (
                "feature_projection_input_dim",
                "input_feat_per_channel",
                "num_mel_bins",
                "n_mels",
                "feature_size",
                "num_mels",
                "input_dim",
                "mel_bins",
                "input_feat_size",
                "feat_dim",
            )
            for name in names:
                value = getattr(config, name, None)
                if isinstance(value, int):
                    return value
        return 80

    def sound_frames(self) -> int:
        if self.frames_of_sound is not None:
            return self.frames_of_sound
        for config in (self.audio, self.config):
            value = getattr(config, "max_source_positions", None)
            if isinstance(value, int) and value <= 3000:
                return 2 * value
        return 400

    def features(self) -> Tensor:
        """Log-mel features: bins first where Whisper's convolutions read them, frames first elsewhere."""
        if "is_longer" in self.parameters or hasattr(self.audio, "spec_size"):  # CLAP: as an image
            return self.meta(self.batch, 1, 1001, self.mels())
        frames, bins = self.sound_frames(), self.mels()
        if "feature_lens" in self.parameters:  # all sounds in a row
            return self.meta(bins, 200 * self.batch)
        first = next((m for m in self.model.modules() if isinstance(m, nn.Conv1d)), None)
        bins_first = (first is not None and first.in_channels == bins) != self.flip
        return self.meta(self.batch, *((bins, frames) if bins_first else (frames, bins)))

    def samples(self) -> Tensor:
        if self.states_as:
            return self.meta(self.batch, self.tokens, self.width)
        if (
            hasattr(self.config, "num_mel_bins")
            and hasattr(self.config, "max_length")
            and hasattr(self.config, "patch_size")
        ):
            return self.meta(self.batch, self.config.max_length, self.config.num_mel_bins)  # a spectrogram as an image
        channels = getattr(self.config, "audio_channels", None)
        if isinstance(channels, int):
            return self.meta(self.batch, channels, _SAMPLES)
        if hasattr(self.model, "encode") and hasattr(self.model, "decode"):  # a codec
            return self.meta(self.batch, 1, _SAMPLES)
        return self.meta(self.batch, 1, _SAMPLES) if self.flip else self.meta(self.batch, _SAMPLES)

    # --- series ----------------------------------------------------------------------------------------------------

    @property
    def past(self) -> int:
        lags: list[int] = getattr(self.config, "lags_sequence", None) or [0]
        return int(getattr(self.config, "context_length", None) or 64) + max(lags)

    def past_values(self) -> Tensor:
        size: Any = getattr(self.config, "input_size", None) or getattr(self.config, "num_input_channels", 1)
        if (hasattr(self.config, "lags_sequence") and size == 1) or self.config.model_type.startswith("timesfm"):
            return self.meta(self.batch, self.past)
        return self.meta(self.batch, self.past, size)

    def trajectory(self, width: int) -> Tensor:
        return self.meta(self.batch, min(self.tokens, 16), width)


_PAIRS = ("efficientloftr", "superglue", "lightglue")
"""Types that match the points of two images."""


def _numel(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel()
    return sum(map(_numel, value)) if isinstance(value, (list, tuple)) else 0


def _sub(config: Any, *kinds: str) -> Any:
    """The nested configuration of one of these kinds."""
    for kind in kinds:
        for name, value in vars(config).items():
            if kind in name and hasattr(value, "to_dict") and not name.startswith("_"):
                return value
    return None


def _text_config(config: Any) -> Any:
    try:
        return config.get_text_config()
    except Exception:
        return _sub(config, "text", "decoder", "llm") or config


def _special_ids(config: Any, depth: int = 0) -> set[int]:
    found: set[int] = set()
    for name, value in vars(config).items():
        if "token" in name and isinstance(value, int):
            found.add(value)
        elif "token" in name and isinstance(value, (list, tuple)):
            found |= {v for v in value if isinstance(v, int)}
        elif hasattr(value, "to_dict") and depth < 3:
            found |= _special_ids(value, depth + 1)
    return found


_PLACEHOLDERS: dict[int, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    1: (("image_token_id", "image_token_index", "img_context_token_id"), "get_image_features", ("pixel_values",)),
    2: (("video_token_id", "video_token_index"), "get_video_features", ("pixel_values_videos",)),
    3: (("audio_token_id", "audio_token_index"), "get_audio_features", ("input_features", "input_values")),
}
"""Modality, as transformers numbers it -> (names of its token, method that makes its features, its inputs)."""

COMPANIONS: dict[str, tuple[str, ...]] = {
    "pixel_values": ("image_grid_thw", "image_sizes", "pixel_attention_mask", "spatial_shapes", "image_grid_hws",
                     "image_position_ids", "aspect_ratio_ids", "aspect_ratio_mask", "bbox",
                     "high_res_pixel_values", "pixel_position_ids", "target_sizes"),
    "image": (),
    "pixel_values_videos": ("video_grid_thw",),
    "input_features": ("input_features_mask", "feature_attention_mask", "feature_lens", "aftercnn_lens"),
    "flattened_patches": ("attention_mask",),
    "states": ("actions", "rewards", "returns_to_go", "timesteps"),
    "past_values": ("past_time_features", "past_observed_mask", "future_time_features", "future_values"),
}  # fmt: skip


OPTIONAL = (
    "encoder_hidden_states", "patch_embeds", "patch_ids", "num_patches", "last_hidden_state", "visual_feats",
    "visual_pos", "image_attention_mask", "image_embeds_position_mask", "question_positions", "vision_pos_embeds",
    "decoder_input_values", "grid_thw",
)  # fmt: skip
"""Parameters with a default without which some models, and many of their parts, do not run."""


def _first_tokens(m: Maker, count: int) -> Tensor:
    """Which of the tokens stand for an image: as many as it makes. [batch, tokens]"""
    return (torch.arange(m.length) < count).repeat(m.batch, 1)


def _grid_tensor(m: Maker) -> Tensor:
    return torch.tensor([m.grid()] * m.batch)


MAKERS: dict[str, Callable[[Maker], _Made]] = {
    "image": Maker.pixels,
    "feature_lens": lambda m: torch.tensor([200] * m.batch),
    "aftercnn_lens": lambda m: torch.tensor([50] * m.batch),
    "attention_mask": lambda m: torch.ones(m.batch, 64, dtype=torch.long),
    "mel_spectrogram": lambda m: m.meta(m.batch, getattr(m.config, "mel_dim", 80), 64),
    "action_embeds": lambda m: m.meta(
        m.batch, getattr(m.config, "chunk_size", 16), (_sub(m.config, "dit", "expert") or m.text).hidden_size
    ),
    "state": lambda m: m.meta(m.batch, getattr(m.config, "max_state_dim", 32)),
    "target_sizes": lambda m: torch.tensor([m.patches] * m.batch),
    "aspect_ratio_ids": lambda m: torch.ones(m.batch, 1, dtype=torch.long),
    "aspect_ratio_mask": lambda m: torch.ones(m.batch, 1, int(getattr(m.vision, "max_num_tiles", 4)), dtype=torch.long),
    "noise_embeds": lambda m: m.meta(m.batch, 16, m.text.hidden_size),
    "context_hidden_states": lambda m: m.meta(m.batch, m.tokens, m.width),
    "high_res_pixel_values": lambda m: m.meta(m.batch, 3, 1024, 1024),
    "prompt_pixel_values": Maker.pixels,
    "prompt_masks": Maker.pixels,
    "pixel_position_ids": Maker.position_ids_2d,
    "image_position_ids": Maker.position_ids_2d,
    "image_patches": lambda m: m.meta(m.batch, 16, m.patch**2 * m.channels),
    "flattened_patches": lambda m: m.meta(m.batch, 64, m.patch**2 * m.channels + 2),
    "pixel_attention_mask": lambda m: torch.ones(
        m.batch, 1 if m.pixels_as == "one" else math.prod(m.patches), dtype=torch.long
    ),
    "spatial_shapes": lambda m: torch.tensor([m.patches] * m.batch),
    "query_embeds": lambda m: m.meta(m.batch, 32, m.config.hidden_size),
    "qformer_input_ids": lambda m: m._ids(8, 1000),
    "bbox": lambda m: torch.zeros(m.batch, m.length, 4, dtype=torch.long),
    "spectrogram": lambda m: m.meta(m.batch, 64, m.config.model_in_dim),
    "audio_mel": lambda m: m.meta(m.batch, 128, m.config.input_feat_size),
    "audio_mel_mask": lambda m: torch.zeros(m.batch, 128, dtype=torch.bool),
    "states": lambda m: m.trajectory(m.config.state_dim),
    "actions": lambda m: m.trajectory(m.config.act_dim),
    "rewards": lambda m: m.trajectory(1),
    "returns_to_go": lambda m: m.trajectory(1),
    "timesteps": lambda m: torch.arange(min(m.tokens, 16))[None].repeat(m.batch, 1),
    "past_values": Maker.past_values,
    "past_time_features": lambda m: m.meta(m.batch, m.past, m.config.num_time_features),
    "past_observed_mask": lambda m: torch.ones(m.past_values().shape),
    "future_time_features": lambda m: m.meta(m.batch, m.config.prediction_length, m.config.num_time_features),
    "future_values": lambda m: m.meta(m.batch, m.config.prediction_length, *m.past_values().shape[2:]),
    "past_values_padding": lambda m: torch.zeros(m.batch, m.past, dtype=torch.long),
    "freq": lambda m: torch.zeros(m.batch, 1, dtype=torch.long),
    "latents": lambda m: m.meta(m.batch, m.config.hidden_size, 32),
    "inputs": lambda m: m.meta(m.batch, m.tokens, m.config.d_model) if hasattr(m.config, "d_model") else m.samples(),
    "patch_embeds": lambda m: m.meta(m.batch, 64, m.width) if not m.states_as else m.states(),
    "vision_features": lambda m: (
        [m.meta(m.batch, m.config.hidden_size, 8, 8)]
        if m.optional and "vision_pos_embeds" in m.parameters
        else m.meta(m.batch, 64, m.config.hidden_size)
    ),
    "text_features": lambda m: m.meta(m.batch, 8, m.config.hidden_size),
    "task_inputs": lambda m: m._ids(m.config.task_seq_len),
    "tasks_input_ids": lambda m: m._ids(16),
    "tasks_attention_mask": lambda m: torch.ones(m.batch, 16, dtype=torch.long),
    "classes_input_ids": lambda m: m._ids(16).repeat(2, 1),
    "classes_attention_mask": lambda m: torch.ones(2 * m.batch, 16, dtype=torch.long),
    "classes_structure": lambda m: torch.tensor([2] * m.batch),
    "merge_sizes": lambda m: torch.tensor([m.merge] * m.batch),
    "num_patches": lambda m: 64,
    "encoder_hidden_states": lambda m: m.meta(m.batch, m.tokens, m.cross_width),
    "pixel_values": Maker.pixels,
    "hidden_states": Maker.states,
    "context": lambda m: m.meta(m.batch, 64, m.width),
    "mask": lambda m: torch.ones(m.batch, m.tokens, dtype=torch.bool),
    "image_features": lambda m: m.meta(m.batch, 64, m.width),
    "pooled_patches_idx": lambda m: torch.arange(64).view(16, 4),
    "audio_input_ids": lambda m: torch.zeros(m.batch, m.tokens, m.mels(), dtype=torch.long),
    "chunk_sample_lengths": lambda m: torch.tensor([_SAMPLES] * m.batch),
    "vision_pos_encoding": lambda m: m.meta(m.batch, 64, m.config.hidden_size),
    "decoder_queries": lambda m: m.meta(m.batch, 32, m.config.hidden_size),
    "backbone_features": lambda m: [m.meta(m.batch, m.config.hidden_size, side, side) for side in (32, 16, 8)],
    "vision_pos_embeds": lambda m: [m.meta(m.batch, m.config.hidden_size, 8, 8)],
    "image_attention_mask": lambda m: torch.ones(m.batch, m.length, 1, dtype=torch.long),
    "image_embeds_position_mask": lambda m: _first_tokens(m, getattr(m.config, "latent_query_num", 64)),
    "visual_feats": lambda m: m.meta(m.batch, 36, m.config.visual_feat_dim),
    "visual_pos": lambda m: m.meta(m.batch, 36, m.config.visual_pos_dim),
    "question_positions": lambda m: torch.zeros(m.batch, 1, dtype=torch.long),
    "last_hidden_state": lambda m: m.meta(m.batch, 1, getattr(m.config, "input_size", m.width)),
    "condition_vector": lambda m: m.meta(m.batch, m.tokens, m.config.mel_dim),
    "speaker_embedding": lambda m: m.meta(m.batch, m.tokens, m.config.enc_emb_dim),
    "quantized_code": lambda m: torch.zeros(m.batch, m.tokens // getattr(m.config, "repeats", 1), dtype=torch.long),
    "time_step": lambda m: torch.zeros(m.batch, dtype=m.dtype),
    "marks": lambda m: torch.full((m.batch, 1), m.length // 2),
    "num_options": lambda m: torch.full((m.batch, 1), 2),
    "question_type_ids": lambda m: torch.zeros(m.batch, 1, dtype=torch.long),
    "decoder_input_values": Maker.samples,
    "patch_ids": lambda m: torch.arange(m.length)[None].repeat(m.batch, 1) // 4,
    "grid_thw": _grid_tensor,
    "image_grid_thw": _grid_tensor,
    "video_grid_thw": _grid_tensor,
    "image_grid_hws": lambda m: _grid_tensor(m)[:, 1:],
    "pixel_values_videos": Maker.video,
    "image_sizes": lambda m: torch.tensor([m.image_size()] * m.batch),
    "input_features": Maker.features,
    "input_values": Maker.samples,
    "inputs_embeds": lambda m: m.meta(m.batch, m.length, m.text.hidden_size),
    "input_features_mask": lambda m: torch.ones(m.batch, m.sound_frames(), dtype=torch.long),
    "feature_attention_mask": lambda m: torch.ones(m.batch, m.sound_frames(), dtype=torch.long),
}
