"""Weights in fewer bits: closed forms for what is read, stored and computed; and what keeps its bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import torch_regflat as regflat
from torch_regflat.operators import lower_call, workload
from torch_regflat.quantized import FORMATS, quantized
from torch_regflat.workload import LoopNest, Workload

M, N, K = 4, 256, 512


class Net(nn.Module):
    """An embedding, a linear layer with a bias, a norm, and a head."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(100, K)
        self.up = nn.Linear(K, N)
        self.norm = nn.LayerNorm(N)
        self.down = nn.Linear(N, K, bias=False)
        self.lm_head = nn.Linear(K, 100, bias=False)
        if tied:
            self.lm_head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.lm_head(self.down(self.norm(self.up(self.table(ids)))))
        return result


def traced(tied: bool = False) -> Workload:
    net = Net(tied).to("meta", torch.bfloat16)
    return workload(regflat.trace(net, (torch.empty(M, dtype=torch.int64, device="meta"),)))


def nest(found: Workload, path: str) -> LoopNest:
    (operation,) = [op for op in found if op.path == path and op.nests]
    return operation.nests[0]


@pytest.mark.parametrize(("name", "bits"), [("fp8", 8), ("int8", 8), ("mxfp8", 8.25), ("int4", 4.125), ("mxfp4", 4.25),
                                            ("nvfp4", 4.5)])  # fmt: skip
def test_weights_are_read_and_stored_in_their_bits(name: str, bits: float) -> None:
    before = traced()
    found = quantized(before, name)
    up = nest(found.workload, "up")
    assert up.compulsory_bytes() == M * K * 2 + N * K * bits / 8 + N * 2 + M * N * 2
    assert (up.dtype, up.flops) == ("bfloat16", 2 * M * N * K)
    assert up.vector_ops == M * N + 2 * N * K  # the bias, and dequantisation
    narrow = round(N * K * bits / 8)
    assert found.saved_bytes == 2 * (2 * N * K - narrow)
    assert before.role_bytes("weight") - found.workload.role_bytes("weight") == found.saved_bytes
    for path in ("table", "norm", "lm_head"):
        assert nest(found.workload, path) == nest(before, path)


def test_a_tied_table_keeps_its_bits() -> None:
    before = traced(tied=True)
    after = quantized(before, "int4").workload
    assert nest(after, "lm_head") == nest(before, "lm_head")


@pytest.mark.parametrize(
    ("weights", "activations", "dtype"),
    [("fp8", "fp8", "float8_e4m3fn"), ("int4", "int8", "int8"), ("mxfp4", "mxfp8", "float8_e4m3fn"),
     ("nvfp4", "nvfp4", "nvfp4"), ("int4", "fp8", "float8_e4m3fn")],
)  # fmt: skip
def test_arithmetic_is_narrow_when_activations_are(weights: str, activations: str, dtype: str) -> None:
    up = nest(quantized(traced(), weights, activations).workload, "up")
    assert up.dtype == dtype
    assert up.vector_ops == M * N + 2 * M * K  # the bias, and quantisation of the input
    assert up.compulsory_bytes() == M * K * 2 + N * K * FORMATS[weights].bits / 8 + N * 2 + M * N * 2


def test_a_weight_that_is_narrow_already_stays() -> None:
    net = Net().to("meta", torch.bfloat16)
    found = workload(regflat.trace(net, (torch.empty(M, dtype=torch.int64, device="meta"),)))
    narrow = quantized(found, "int4").workload
    again = quantized(narrow, "fp8")
    assert again.saved_bytes == 0 and again.workload.operations == narrow.operations
    assert again.notes == ("no weight of a linear layer could be stored in fp8: none is wider, or none is there",)


def test_profile_says_so_and_it_fits() -> None:
    net, given = nn.Linear(K, N, bias=False).to("meta", torch.bfloat16), torch.empty(M, K, dtype=torch.bfloat16)
    plain = regflat.profile(net, given)
    narrow = regflat.profile(net, given, weights="int4")
    assert plain.chips[0].fit.weights_bytes == 2 * N * K
    assert narrow.chips[0].fit.weights_bytes == round(N * K * 4.125 / 8)
    assert narrow.result.notes == (
        "1 weights of linear layers stored in int4 (4.125 bits an element), multiplied in the model's own dtype",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "fp9"}, "unknown format 'fp9' for weights; did you mean fp8"),
        ({"weights": "fp8", "activations": "bf17"}, "unknown format 'bf17' for activations"),
        ({"activations": "fp8"}, "activations in fp8 need weights in a format too; give weights"),
        ({"weights": "fp8", "activations": "nvfp4"}, "activations in nvfp4 are narrower than weights in fp8"),
        ({"weights": "int8", "activations": "fp8"}, "no engine multiplies int8 weights by fp8 activations"),
        ({"routing_skew": -1}, "routing_skew is -1; it must be a number of 0 (uniform) or more"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(regflat.InputError) as error:
        regflat.profile(nn.Linear(4, 4), torch.ones(2, 4), **options)
    assert message in str(error.value)


def x(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def test_torchs_own_packed_products_are_read_as_they_are_stored() -> None:
    aten = torch.ops.aten
    packed, scales = x(N // 8, K // 128, 32, 4, dtype=torch.int32), x(K // 128, N, 2)
    (four,) = lower_call(aten._weight_int4pack_mm.default, (x(M, K), packed, 128, scales), {}, x(M, N)).nests
    assert four.compulsory_bytes() == 2 * M * K + N * K / 2 + 2 * (K // 128) * N * 2 + 2 * M * N
    assert four.flops == 2 * M * N * K
    eight_args = (x(M, K), x(N, K, dtype=torch.int8), x(N))
    (eight,) = lower_call(aten._weight_int8pack_mm.default, eight_args, {}, x(M, N)).nests
    assert eight.compulsory_bytes() == 2 * M * K + N * K + 2 * N + 2 * M * N
    fp8 = torch.float8_e4m3fn
    scale = torch.empty((), dtype=torch.float32, device="meta")
    args = (x(M, K, dtype=fp8), x(N, K, dtype=fp8).t(), scale, scale)
    (scaled,) = lower_call(aten._scaled_mm.default, args, {"out_dtype": torch.bfloat16}, x(M, N)).nests
    assert scaled.compulsory_bytes() == M * K + N * K + 4 + 2 * M * N
    assert scaled.dtype == "float8_e4m3fn"


def test_fp8_parameters_that_the_forward_dequantises() -> None:
    class Dequantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(x(N, K, dtype=torch.float8_e4m3fn), requires_grad=False)
            self.scale = nn.Parameter(x(N, 1), requires_grad=False)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(hidden, self.weight.to(torch.bfloat16) * self.scale)

    found = workload(regflat.trace(Dequantised(), (x(M, K),)))
    assert found.role_bytes("weight") == N * K + 2 * N
    convert, scaled, product = [op.nests[0] for op in found if op.nests]
    assert convert.compulsory_bytes() == N * K + 2 * N * K
    assert scaled.compulsory_bytes() == 2 * N * K + 2 * N + 2 * N * K
    assert product.flops == 2 * M * N * K
