"""Break-even map over area: mm2 of flat registers against the H100's memories, for short and long prompts.

The flat memory's cells take 0.70 mm2 a MiB, as in regflat-physical; nothing but the on-chip memory differs. Areas in
mm2 may be given: python break_even_area.py 5 20 80 320
"""

import sys

import torch_regflat as regflat
from torch_regflat.study.alike import fair_pairs
from torch_regflat.study.maps import show
from torch_regflat.study.variants import Variant

AREAS, PROMPTS = [float(text) for text in sys.argv[1:]] or [10.0, 160.0], [256, 1024]  # mm2, tokens
MM2_PER_MIB = 0.70

gpu, flat = fair_pairs(Variant.of("h100-sxm"), Variant.of("regflat-physical"))[-1].both
shards = flat.chip.cores.count.value
flats = [flat.with_changes({"memory.registers.capacity": f"{a / MM2_PER_MIB / shards} MiB"}) for a in AREAS]
rows = regflat.sweep("llama-3-8b", [gpu, *flats], phases="prefill", contexts=PROMPTS)
for figure, words in (("latency_s", "times as fast"), ("energy_j", "times less energy")):
    values: dict[tuple[int, int], float | None] = {}
    for i in range(0, len(rows), 1 + len(AREAS)):
        base, *some = rows[i : i + 1 + len(AREAS)]
        for area, row in zip(AREAS, some, strict=True):
            values[area, base["context"]] = None if row["error"] else base[figure] / row[figure]
    show(f"area_{figure}.png", f"prompt on an H100 and a flat chip: {words}", "mm2 of registers", "tokens", values)
