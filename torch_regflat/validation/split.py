"""Which shapes no constant may be fitted to: one rule for every fit and every score."""

from __future__ import annotations

import hashlib

HELD_OUT_SHARE = 0.35
"""Share of shapes that fits never see."""
TEST_GPUS = ("L4", "B200", "B300", "GB200", "GB300")
"""GPUs that no constant is fitted to and no choice is made by, as the measured files spell the start of their names."""


def is_held_out(kind: str, *shape: int | str) -> bool:
    """Whether a shape is kept out of fits: on all GPUs, from all sources and in all number formats alike.

    `kind` names the class of operation (`gemm`, `attention`, `moe`, `convolution`, `elementwise`, `norm`, `model`),
    `shape` what a row measures: sizes, and words that change the operation (the phase of an attention row).
    """
    key = "|".join((kind, *map(str, shape)))
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2.0**64


def is_test_gpu(gpu: str) -> bool:
    """Whether a GPU (`L4`, `B200-SXM`) belongs to the permanent test set. An L40S is not an L4."""
    return gpu.upper().replace("_", "-").split("-")[0] in TEST_GPUS
