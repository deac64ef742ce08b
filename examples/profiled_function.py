"""Decorate a function: it still computes, and each new shape of its inputs is profiled once."""

import torch

import torch_regflat as regflat


@regflat.profiled(chip="h100-sxm")
def step(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


q, k, v = (torch.randn(1, 8, 128, 64) for _ in range(3))
out = step(q, k, v)
expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
assert torch.equal(out, expected)

print(step.profile)
print(f"modelled latency {1e6 * step.profile.total.latency_s:.1f} us, bound by {step.profile.total.bound_by}")
