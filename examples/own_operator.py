"""Price an operator of your own: without a formula it counts its bytes alone and is listed, with one its work too."""

import torch

import torch_regflat as regflat


@torch.library.custom_op("example::gated_sum", mutates_args=())
def gated_sum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(a) * b + a


@gated_sum.register_fake  # shapes only: called while a model is captured
def _(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(a)


rows = torch.empty(8192, 4096, device="meta", dtype=torch.bfloat16)
before = regflat.profile(gated_sum, (rows, rows), chip="h100-sxm")
print("without a formula:", ", ".join(before.coverage.unmodelled))


@regflat.operator("example::gated_sum")
def _(call: regflat.Call) -> regflat.LoopNest:
    return regflat.elementwise(call, vector_ops=3, special_ops=2)  # exp and reciprocal; the rest on vectors


after = regflat.profile(gated_sum, (rows, rows), chip="h100-sxm")
print(f"with one: {1e6 * after.total.latency_s:.1f} us, bound by {after.total.bound_by}")
print(f"{100 * after.coverage.modelled_bytes_share:.0f} % of the traffic has a formula of its own")
