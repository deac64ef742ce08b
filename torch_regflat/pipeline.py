"""How long a batch takes through the stages of a pipeline: micro-batches one behind the other.

All stages work at once, each on another micro-batch, but for the ramp at either end (the bubble).

- Huang et al. 2019, "GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism", section 2.3: with
  p stages of equal time and m micro-batches, a chip waits (p - 1) / (m + p - 1) of the time.
- Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM", section
  2.2: under PipeDream-Flush (1F1B) the bubble is the same, (p - 1) / m of the ideal time, and a stage keeps the
  activations of at most p micro-batches instead of m.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def batch_s(stages_s: Sequence[float], micro_batches: int = 1) -> float:
    """Seconds until the last micro-batch has left the last stage: once through all, and then as the slowest lets them.

    `stages_s` is the time of one micro-batch on each stage; of training, forward and backward together. Exact for
    stages of any times where no stage waits for memory (a flow shop of equal jobs).
    """
    return math.fsum(stages_s) + (micro_batches - 1) * max(stages_s, default=0.0)


def round_s(stages_s: Sequence[float], micro_batches: int = 1) -> float:
    """Seconds from one token of a sequence to its next while `micro_batches` groups of sequences take turns.

    The next token needs the one before, so a round is no shorter than once through all stages.
    """
    return max(math.fsum(stages_s), micro_batches * max(stages_s, default=0.0))


def bubble(stages_s: Sequence[float], micro_batches: int, step_s: float) -> float:
    """Share of a step in which chips wait, on average over the stages."""
    if not stages_s or step_s <= 0:
        return 0.0
    return max(1.0 - micro_batches * math.fsum(stages_s) / (len(stages_s) * step_s), 0.0)


def in_flight(stage: int, stages: int, micro_batches: int) -> int:
    """Micro-batches whose activations a stage (the first is 0) keeps for their backward, under 1F1B."""
    return max(1, min(stages - stage, micro_batches))
