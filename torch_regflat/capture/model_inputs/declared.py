"""What a transformers model says of its inputs: the parameters of its `forward`, and its configurations."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layout:
    """What declarations leave open; each combination that makes sense is tried until the model runs."""

    bins: int | None = None
    """Numbers in a state or a frame of sound, where the configuration's own does not fit."""
    flip: bool = False
    """The other of two usual layouts: frames before bins, a channel in front of samples, a clip for a picture."""
    optional: bool = False
    """With parameters that have a default, but that parts of models do not run without."""
    embeds: bool = False
    """Embeddings in place of token ids."""
    size: tuple[int, int] | None = None
    """Height and width of a picture in pixels, where the configuration's own do not fit."""
    pixels_as: str = ""
    states_as: str = ""
    frames_of_sound: int | None = None


class Declared:
    """A model's declarations, with the batch, the number of tokens and the layout asked for."""

    def __init__(self, model: nn.Module, batch: int, tokens: int, layout: Layout) -> None:
        self.model, self.batch, self.tokens, self.layout = model, batch, tokens, layout
        self.config: Any = model.config
        self.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        found = inspect.signature(model.forward).parameters.values()
        self.parameters = {p.name: p for p in found if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        self.required = [n for n, p in self.parameters.items() if p.default is p.empty]
        main = getattr(model, "main_input_name", "input_ids")
        self.main: list[str] = [main] if isinstance(main, str) else list(main)
        self.text = _text_config(self.config)
        self.vision = nested(self.config, "vision", "image", "backbone", "vit") or self.config
        self.audio = nested(self.config, "audio", "speech", "encoder") or self.config

    def meta(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor without values, in the model's dtype unless another is given."""
        return torch.empty(*shape, dtype=dtype or self.dtype, device="meta")

    @property
    def width(self) -> int:
        """Numbers in a state."""
        return int(self.layout.bins or self.text.hidden_size)


Maker: TypeAlias = Callable[[Declared], Any]
"""Makes the value of one parameter of `forward`."""


def first_int(configs: tuple[Any, ...], names: tuple[str, ...]) -> int | None:
    """The first of these names that is an integer in one of the configurations, in their order."""
    found = (getattr(config, name, None) for config in configs for name in names)
    return next((value for value in found if isinstance(value, int)), None)


def nested(config: Any, *kinds: str) -> Any:
    """The nested configuration of one of these kinds, None if there is none."""
    for kind in kinds:
        for name, value in vars(config).items():
            if kind in name and hasattr(value, "to_dict") and not name.startswith("_"):
                return value
    return None


def _text_config(config: Any) -> Any:
    try:
        return config.get_text_config()
    except Exception:
        return nested(config, "text", "decoder", "llm") or config
