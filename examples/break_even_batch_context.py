"""Break-even map of a decode step over batch and context: H100 against a register-flat chip, like for like.

Both run an ideal mapper, with the same arithmetic, board and external memory: only the on-chip memory differs.
"""

import torch_regflat as regflat
from torch_regflat.study.alike import fair_pairs
from torch_regflat.study.maps import show
from torch_regflat.study.variants import Variant

BATCHES, CONTEXTS = [1, 32, 256], [512, 2048, 8000]

pair = fair_pairs(Variant.of("h100-sxm"), Variant.of("regflat-physical"))[-1]
rows = regflat.sweep("llama-3-8b", pair.both, phases="decode", batches=BATCHES, contexts=CONTEXTS)
for figure, words in (("latency_s", "times as fast"), ("energy_j", "times less energy")):
    values = {
        (gpu["context"], gpu["batch"]): gpu[figure] / flat[figure]
        for gpu, flat in zip(rows[::2], rows[1::2], strict=True)
    }
    show(f"batch_context_{figure}.png", f"decode of Llama-3-8B, flat chip: {words}", "context", "batch", values)
