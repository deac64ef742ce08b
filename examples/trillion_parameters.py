"""A mixture of a trillion parameters served on 64 chips: how fast, what limits it, and what a query costs."""

import torch_regflat as regflat
from torch_regflat.serving.steps import Model

model = Model("kimi-k2", weights="fp8")  # captured once, priced on each chip
for chip in ("h200", "regflat-physical"):
    served = regflat.serve(
        model,
        chip=chip,
        ep=8,  # experts over 8 chips; without degrees, chips=64 finds the best layout in minutes
        dp=8,
        pp=8,
        prompt=2048,
        output=512,
        chunk=2048,
        max_batch=32,  # requests at once of each of the 64 lanes; or give targets: ttft="5 s", tpot="100 ms"
        economics={"purchase": "35000 USD"},  # the same for both: a register-flat chip has no price
    )
    best, cost = served.best, served.costs["owned"]
    limit = best.limits[0]
    print(f"{chip}: {best.layout} on {best.chips} chips, {best.slots} requests at once")
    print(f"  {best.tokens_per_s_chip:.0f} tokens/s a chip, {best.tpot_s * 1e3:.0f} ms a token")
    print(f"  limited by {limit.name} ({limit.what})")
    print(f"  {best.j_per_request:.0f} J and ${cost.usd_per_request:.2g} a query")
