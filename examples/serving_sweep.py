"""Decode throughput over batch and context on two GPUs: one capture a point, all chips priced together."""

import torch_regflat as regflat

rows = regflat.sweep(
    "llama-3-8b",
    ["h100-sxm", "l4"],
    phases="decode",
    batches=[1, 32],
    contexts=[1024, 4096],
)
print("chip      batch  context  tokens/s  J a token  bound by")
for row in rows:
    where = f"{row['chip']:8}  {row['batch']:5}  {row['context']:7}"
    if row["error"]:
        print(f"{where}  {row['error']}")
        continue
    speed = row["batch"] / row["latency_s"]
    print(f"{where}  {speed:8.0f}  {row['energy_per_token_j']:9.4f}  {row['bound_by']}")
