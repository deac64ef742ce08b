"""Under which conditions a kernel runs: how it is launched, and what the last on-chip level holds when it starts.

A profile of a model needs none of this: its kernels follow one another, and the schedule knows what they leave on
chip. A kernel measured alone runs under the conditions of the program that timed it, and comparing a prediction with
that measurement means saying which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from .errors import InputError, near

Launch = Literal["graph", "stream", "single", "timer"]
Place = Literal["scheduled", "cold", "warm", "rotating"]
Values = Literal["random", "zero"]


@dataclass(frozen=True, slots=True)
class Conditions:
    """How kernels are launched and where their operands lie at the start.

    `launch` is what the time of a kernel includes beside its own work:

    - "graph": the interval between kernels of a replayed CUDA graph (or a static schedule)
    - "stream": the interval between kernels launched back to back from the host, which runs ahead
    - "single": one launch, with the host's time to start it and to see that it ended
    - "timer": the kernel's own span as a profiler records it, without the gaps around it

    `weights` and `activations` say what is on chip when a kernel starts:

    - "scheduled": what the kernels before it left there, by the memory system's policy
    - "cold": nothing; results are written out
    - "warm": what an identical kernel just before it touched, as far as it fits; results stay as far as they fit
    - "rotating": as warm, but `copies` sets of these operands take turns, so each was last touched `copies` kernels
      ago; results that rotate are written out unless all copies fit

    `repeats` says how often the kernel (with each copy, where they rotate) runs back to back, warm-up included: a short
    burst ends before the board's power controller has slowed the clock in full. 0 is for ever. `values` are what the
    weights hold: multiplying by zeros switches fewer wires, so that power slows it less.

    A "weight" is an operand with that role; in a product of two activations (attention written out) both factors are
    activations.
    """

    launch: Launch = "graph"
    weights: Place = "scheduled"
    activations: Place = "scheduled"
    copies: int = 6
    repeats: int = 0
    values: Values = "random"

    def __post_init__(self) -> None:
        for field, known in _CHOICES:
            value, names = getattr(self, field), get_args(known)
            if value not in names:
                raise InputError(
                    f"{field} = {value!r} is no condition{near(str(value), names)}; known are {', '.join(names)}"
                )
        if self.repeats < 0:
            raise InputError(f"repeats = {self.repeats}: give how often the kernel runs in a row, or 0 for ever")
        if self.copies < 1:
            raise InputError(f"copies = {self.copies}: the sets of weights that take turns are 1 or more")

    @property
    def in_a_row(self) -> float:
        """Kernels that run back to back; infinite where they never end."""
        if not self.repeats:
            return math.inf
        return float(self.repeats * (self.copies if "rotating" in (self.weights, self.activations) else 1))


_CHOICES = (("launch", Launch), ("weights", Place), ("activations", Place), ("values", Values))
SCHEDULED = Conditions()
"""What profiles use: kernels of a graph, with residency decided by the schedule."""
