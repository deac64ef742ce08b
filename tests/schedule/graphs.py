"""Small captured programs for tests of the schedule."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

from torch_regflat.capture.record import capture
from torch_regflat.operators.lowering import workload
from torch_regflat.workload import Workload


def work_of(function: Callable[..., object], *args: object) -> Workload:
    """Capture a function or module on these inputs and lower it."""
    return workload(capture(function, args))


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


STEPS: dict[str, Callable[[list[Tensor], int, int], Tensor]] = {
    "add": lambda v, i, j: v[i] + v[j],
    "mul": lambda v, i, j: v[i] * 2,
    "silu": lambda v, i, j: torch.nn.functional.silu(v[i]),
    "softmax": lambda v, i, j: v[i].softmax(-1),
    "matmul": lambda v, i, j: v[i] @ v[j],
    "transpose": lambda v, i, j: v[i].t(),
    "cat": lambda v, i, j: torch.cat([v[i][:32], v[j][32:]]),
    "in place": lambda v, i, j: v[i].clone().add_(v[j]),
    "norm": lambda v, i, j: torch.nn.functional.layer_norm(v[i], (64,)),
}


@st.composite
def programs(draw: st.DrawFn, slices: bool = True) -> Callable[[Tensor, Tensor], Tensor]:
    """A random program on 64 x 64 matrices: each step takes two earlier values (and parts of them, with `slices`)."""
    choices = [name for name in sorted(STEPS) if slices or name != "cat"]
    count = draw(st.integers(1, 12))
    steps = [
        (draw(st.sampled_from(choices)), draw(st.integers(0, i + 1)), draw(st.integers(0, i + 1))) for i in range(count)
    ]

    def program(x: Tensor, y: Tensor) -> Tensor:
        values = [x, y]
        for name, i, j in steps:
            values.append(STEPS[name](values, i, j))
        return values[-1] + values[len(values) // 2]

    return program
