"""ATen operators to loop nests: one decorated formula an operator, one file a family.

Importing this package fills the table. To add an operator, write a function in the family's file (or anywhere else)
and register it with `@operator(torch.ops.aten.name)`.
"""

from __future__ import annotations

from . import (
    attention,
    collectives,
    contraction,
    convolution,
    factory,
    linalg,
    movement,
    normalization,
    optimizers,
    pointwise,
    products,
    recurrent,
    reduction,
    routing,
    state_space,
    transformer,
    views,
)
from .lowering import Lower, Lowered, lower_call, workload
from .registry import Call, formula_of, operator

__all__ = [
    "Call",
    "Lower",
    "Lowered",
    "attention",
    "collectives",
    "contraction",
    "convolution",
    "factory",
    "formula_of",
    "linalg",
    "lower_call",
    "movement",
    "normalization",
    "operator",
    "optimizers",
    "pointwise",
    "products",
    "recurrent",
    "reduction",
    "routing",
    "state_space",
    "transformer",
    "views",
    "workload",
]
