"""What a user would say (`hints=`) of models whose work depends on values that only real weights and pixels give.

Each type, or type and phase: the hints, as `profile(..., hints=)` takes them, and what they mean. Line numbers are
those of transformers 5.23.
"""

from __future__ import annotations

from typing import Any

_FASTSPEECH = "modeling_fastspeech2_conformer.py"
_DURATIONS = (
    {f"{_FASTSPEECH}:108": False, f"{_FASTSPEECH}:115": 256, f"{_FASTSPEECH}:123": 256},
    "64 tokens are spoken for 256 frames",
)
_POINTS = ({"*keypoint_decoder": 512}, "512 points are found in each picture")

_WHOLE = "no token is padding, so that every four keys make a pool"

HINTS: dict[str, tuple[dict[str, Any], str]] = {
    "fastspeech2_conformer": _DURATIONS,
    "fastspeech2_conformer_with_hifigan": _DURATIONS,
    "glm5_next": ({"*indexer": 22}, _WHOLE),  # 90 tokens with those of an image
    "glm5_next decode": ({"*indexer": 16}, _WHOLE),  # 64
    "glm5_next_text": ({"*indexer": 16}, _WHOLE),
    "lightglue": (
        {
            "*keypoint_decoder": 512, "modeling_lightglue.py:600": 512,
            "modeling_lightglue.py:780": False, "modeling_lightglue.py:813": False,
        },
        "512 points are found in each picture; none is dropped, and no layer is skipped",
    ),
    "oneformer": ({"*decoder.layers.*": 0}, "no query has a mask that hides the whole picture"),
    "sam3_video": (
        {
            "modeling_sam3_video.py:628": 1, "modeling_sam3_video.py:1903": 1, "modeling_sam3_video.py:1904": 1,
            "modeling_sam3_video.py:1428": 0.9,
        },
        "one object is found in the frame, with a score of 0.9",
    ),
    "slanet": ({"modeling_slanet.py:181": False}, "the table is as long as the model allows"),
    "slanext": ({"modeling_slanext.py:589": False}, "the table is as long as the model allows"),
    "superglue": _POINTS,
    "superpoint": _POINTS,
    "vits": (
        {
            "modeling_vits.py:149": 0, "modeling_vits.py:150": 0, "modeling_vits.py:153": 64,
            "modeling_vits.py:154": 64, "modeling_vits.py:155": 64, "modeling_vits.py:156": 64,
            "modeling_vits.py:1352": 128,
        },
        "64 tokens are spoken for 128 frames; no noise is outside of the splines",
    ),
}  # fmt: skip
