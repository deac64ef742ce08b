"""torch_regflat: what a PyTorch model costs on a chip: latency, energy and traffic, before anything is run.

    import torch_regflat as regflat
    prof = regflat.profile(model, args, kwargs, chip="h100-sxm")
    print(prof)

Importing the package loads no torch: the names below are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .capture.record import capture as trace
    from .errors import (
        CapacityError,
        CaptureError,
        ChipError,
        InputError,
        ModelError,
        RegflatError,
        ResultError,
        UnmodelledError,
    )
    from .hardware.chip import Chip
    from .hardware.library import load as load_chip
    from .layout import Layout
    from .operators.building import Loop, elementwise, matmul, stream
    from .operators.lowering import Lower
    from .operators.registry import Call, operator
    from .profiler import Profile, profile, profile_model, profiled, profiling
    from .report.files import load as load_result
    from .report.files import save as save_result
    from .result import Result
    from .schedule.tile import Tile
    from .serving.request import profile_request
    from .serving.serve import serve
    from .study.compare import compare
    from .study.layouts import layouts
    from .study.sweep import sweep
    from .workload import LoopNest, Operand

__version__ = "0.1.0"

# Public name -> (module, name there). No submodule may bear one of these names: importing it would hide the name.
_PUBLIC = {
    "profile": ("profiler", "profile"),
    "profiled": ("profiler", "profiled"),
    "profiling": ("profiler", "profiling"),
    "profile_model": ("profiler", "profile_model"),
    "profile_request": ("serving.request", "profile_request"),
    "serve": ("serving.serve", "serve"),
    "profile_training": ("profiler", "profile_training"),
    "Profile": ("profiler", "Profile"),
    "Result": ("result", "Result"),
    "trace": ("capture.record", "capture"),
    "Lower": ("operators.lowering", "Lower"),
    "operator": ("operators", "operator"),
    "Call": ("operators", "Call"),
    "Loop": ("operators.building", "Loop"),
    "elementwise": ("operators.building", "elementwise"),
    "matmul": ("operators.building", "matmul"),
    "stream": ("operators.building", "stream"),
    "Layout": ("layout", "Layout"),
    "LoopNest": ("workload", "LoopNest"),
    "Operand": ("workload", "Operand"),
    "Tile": ("schedule.tile", "Tile"),
    "Chip": ("hardware.chip", "Chip"),
    "layouts": ("study.layouts", "layouts"),
    "sweep": ("study.sweep", "sweep"),
    "compare": ("study.compare", "compare"),
    "load_chip": ("hardware.library", "load"),
    "load_result": ("report.files", "load"),
    "save_result": ("report.files", "save"),
    "RegflatError": ("errors", "RegflatError"),
    "InputError": ("errors", "InputError"),
    "ChipError": ("errors", "ChipError"),
    "ModelError": ("errors", "ModelError"),
    "CaptureError": ("errors", "CaptureError"),
    "UnmodelledError": ("errors", "UnmodelledError"),
    "CapacityError": ("errors", "CapacityError"),
    "ResultError": ("errors", "ResultError"),
}

__all__ = [
    "Call",
    "CapacityError",
    "CaptureError",
    "Chip",
    "ChipError",
    "InputError",
    "Layout",
    "Loop",
    "LoopNest",
    "Lower",
    "ModelError",
    "Operand",
    "Profile",
    "RegflatError",
    "Result",
    "ResultError",
    "Tile",
    "UnmodelledError",
    "__version__",
    "compare",
    "elementwise",
    "layouts",
    "load_chip",
    "load_result",
    "matmul",
    "operator",
    "profile",
    "profile_model",
    "profile_request",
    "profile_training",
    "profiled",
    "profiling",
    "save_result",
    "serve",
    "stream",
    "sweep",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    value = getattr(importlib.import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
