"""The GPU of the machine that this runs on."""

from __future__ import annotations

import torch

from .errors import InputError

AUTO = "auto"
"""In place of a chip's name: this machine's GPU."""


def gpu_name(why: str = "--chip auto") -> str:
    """What torch calls the current CUDA device (`NVIDIA H100 80GB HBM3`), an alias of its chip file.

    Raises `InputError` where there is none, saying what was found; `why` is who needs it.
    """
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        found = f"is built for {built} but sees no device" if built else "is a CPU build"
        raise InputError(f"{why} needs a CUDA device, and there is none here: torch {torch.__version__} {found}")
    return str(torch.cuda.get_device_name())
