"""Break-even map over capacity and energy of a register-flat memory: what must it hold, and at how many pJ a bit?

A prompt of Llama-3-8B on an H100 and on a flat chip that differs in nothing but its on-chip memory. Capacities in MiB
may be given: python break_even_capacity_energy.py 8 32 128 512
"""

import sys

import torch_regflat as regflat
from torch_regflat.study.alike import fair_pairs
from torch_regflat.study.maps import show
from torch_regflat.study.variants import Variant

MIB = [float(text) for text in sys.argv[1:]] or [16.0, 256.0]  # of the whole chip
PICOJOULES = [0.05, 0.8]  # a bit read or written

gpu, flat = fair_pairs(Variant.of("h100-sxm"), Variant.of("regflat-physical"))[-1].both
shards = flat.chip.cores.count.value
flats = {
    (mib, pj): flat.with_changes(
        {
            "memory.registers.capacity": f"{mib / shards} MiB",
            "memory.registers.read_energy": f"{pj} pJ/bit",
            "memory.registers.write_energy": f"{pj} pJ/bit",
        }
    )
    for mib in MIB
    for pj in PICOJOULES
}
base, *rows = regflat.sweep("llama-3-8b", [gpu, *flats.values()], phases="prefill", contexts=512)
for figure, words in (("latency_s", "times as fast"), ("energy_j", "times less energy")):
    values = {at: None if row["error"] else base[figure] / row[figure] for at, row in zip(flats, rows, strict=True)}
    show(f"capacity_energy_{figure}.png", f"prompt of 512 tokens, flat chip: {words}", "MiB", "pJ/bit", values)
