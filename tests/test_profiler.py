"""The Python API: profile, profile_model, Profile, the fx passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx.passes.infra.pass_manager import PassManager

import torch_regflat as regflat
from torch_regflat.hardware.library import load, names
from torch_regflat.schedule.tile import TiledOp


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(64, 256)
        self.down = nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def meta_net() -> Net:
    with torch.device("meta"):
        return Net()


def test_a_module_on_meta_tensors() -> None:
    prof = regflat.profile(meta_net(), torch.empty(32, 64, device="meta"), chip="h100-sxm")
    assert prof.total.flops == 3 * 2 * (2 * 32 * 64 * 256)
    assert prof.total.latency_s > 0 and prof.total.energy_j > 0
    assert prof.coverage.modelled_bytes_share == 1.0
    assert "layers.*" in str(prof) and "TOTAL" in str(prof).upper()
    assert prof.result.dtype == "float32"
    # fp32 products run on the vector engine: TF32 is off by default in PyTorch.
    assert prof.chips[0].peak_flops_per_s == pytest.approx(66.9e12, rel=1e-3)


def test_real_tensors_give_the_same_and_stay_untouched() -> None:
    net, x = Net(), torch.randn(32, 64)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    real = regflat.profile(net, (x,))
    assert real.total == regflat.profile(meta_net(), (x.to("meta"),)).total
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_many_chips_and_save(tmp_path: Path) -> None:
    prof = regflat.profile(meta_net(), (torch.empty(8, 64, device="meta"),), chip=["h100-sxm", "regflat-physical"])
    assert prof["regflat-physical"].total != prof["h100-sxm"].total == prof.total
    prof.save(tmp_path / "run.json")
    assert regflat.load_result(tmp_path / "run.json") == prof.result
    with pytest.raises(regflat.InputError, match="no chip 'a100' in this profile; it has h100-sxm, regflat-physical"):
        prof["a100"]


def test_functions_and_keyword_inputs() -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    q = torch.empty(1, 8, 256, 64, device="meta", dtype=torch.bfloat16)
    full = regflat.profile(attend, (q, q, q))
    causal = regflat.profile(attend, (q, q), {"v": q, "causal": True})
    assert full.total.flops == causal.total.flops == 4 * 8 * 256 * 256 * 64
    assert causal.total.executed_flops == pytest.approx(full.total.executed_flops * 257 / 512)
    assert causal.result.model.endswith("attend")


def test_passes_work_in_a_pass_manager() -> None:
    graph = regflat.trace(meta_net(), (torch.empty(8, 64, device="meta"),))
    result = PassManager(passes=[regflat.Lower(), regflat.Tile("h100-sxm")])(graph)
    linear = [n for n in result.graph_module.graph.nodes if n.op == "call_function" and "linear" in str(n.target)]
    assert len(linear) == 6
    for node in linear:
        tiled = node.meta["tiled"]["h100-sxm"]
        assert isinstance(tiled, TiledOp)
        assert tiled.operation.flops == 2 * 8 * 64 * 256
        assert "tile m" in str(tiled)
    # The graph still runs as it did.
    x = torch.randn(8, 64)
    net = Net()
    again = PassManager(passes=[regflat.Tile("h100-sxm")])(regflat.trace(net, (x,))).graph_module
    assert torch.equal(torch.fx.Interpreter(again).run(x)[0], net(x))


def test_strict_refuses_what_has_no_formula_and_what_does_not_fit() -> None:
    lib = torch.library.Library("regflat_profiler_tests", "FRAGMENT")
    lib.define("mystery(Tensor x) -> Tensor")
    lib.impl("mystery", lambda x: torch.empty_like(x), "Meta")

    def program(x: Tensor) -> Tensor:
        return torch.ops.regflat_profiler_tests.mystery(x) + 1

    x = torch.empty(1024, device="meta")
    prof = regflat.profile(program, (x,))
    assert prof.coverage.unmodelled == {"regflat_profiler_tests.mystery.default": pytest.approx(0.5)}
    assert prof.coverage.modelled_bytes_share == pytest.approx(0.5)
    with pytest.raises(regflat.UnmodelledError, match=r"mystery.default \(50.00% of bytes\); give them one with"):
        regflat.profile(program, (x,), strict=True)
    with torch.device("meta"):
        huge = nn.Linear(300_000, 300_000)
        wide = torch.empty(1, 300_000)
    assert not regflat.profile(huge, (wide,)).chips[0].fit.fits
    with pytest.raises(
        regflat.CapacityError, match="Linear does not fit h100-sxm: needs 360.0 GB, has 80.0 GB, at least 5"
    ):
        regflat.profile(huge, (wide,), strict=True)


DOUBLE = nn.Linear(4, 4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("model", "args", "chip", "words"),
    [
        (3, (), "h100-sxm", "profile() takes a module, a function, a GraphModule or an ExportedProgram, found int"),
        (nn.Identity(), (), [], "no chip given; name at least one"),
        (nn.Identity(), (), "h1000", "unknown chip 'h1000'; did you mean h100"),
        (
            DOUBLE,
            (torch.ones(1, 4, dtype=torch.float64),),
            "regflat-physical",
            "regflat-physical cannot compute in float64, which the model (aten.linear.default) needs; it does fp32",
        ),
    ],
)
def test_bad_input_is_said_in_the_callers_words(model: object, args: tuple[Tensor], chip: object, words: str) -> None:
    with pytest.raises(regflat.RegflatError) as caught:
        regflat.profile(model, args, chip=chip)
    assert words in str(caught.value)


def test_every_chip_prices_a_layer_within_its_peaks() -> None:
    chips = [load(name) for name in names()]
    done = regflat.profile(nn.Linear(4096, 4096, device="meta"), (torch.empty(2048, 4096, device="meta"),), chip=chips)
    assert [chip.chip for chip in done.chips] == [chip.name for chip in chips]
    for priced, chip in zip(done.chips, chips, strict=True):
        assert priced.total.latency_s >= priced.total.executed_flops / chip.peak_flops("fp32")
        if chip.execution.weights == "streamed":
            assert priced.total.latency_s >= 4 * 4096 * 4096 / chip.external.read_bytes_per_s
        assert priced.total.energy_j / priced.total.latency_s <= 1.01 * chip.power.limit.value


def test_decode_reads_the_cache_and_writes_only_what_is_new() -> None:
    pytest.importorskip("transformers")
    decode = regflat.profile_model("llama-3-8b", phase="decode", context=1000)
    roles: dict[str, float] = {}
    for kernel in decode.chips[0].kernels:
        for role, moved in kernel.operand_bytes.items():
            roles[role] = roles.get(role, 0.0) + moved
    one_token = 32 * 2 * 8 * 128 * 2
    # Every layer reads 1001 entries of K and V (the new one may still be on chip) and appends one.
    assert 1000 * one_token <= roles["kv_cache"] <= 1002 * one_token
    assert decode.chips[0].fit.kv_cache_bytes == 1001 * one_token
    half = regflat.profile_model("llama-3-8b", phase="decode", context=1000, kv_dtype="fp8")
    assert half.chips[0].fit.kv_cache_bytes == pytest.approx(1001 * one_token / 2)


def test_published_llama_latencies_within_a_quarter() -> None:
    # Composed by others from measured kernels of a serving engine; nothing here is fitted to them.
    pytest.importorskip("transformers")
    published_ms = {"h100-sxm": (43.5, 6.24), "a100-sxm-80gb": (125.2, 12.0)}
    prefill = regflat.profile_model("llama-3-8b", seq_len=2048, chips=list(published_ms))
    decode = regflat.profile_model("llama-3-8b", phase="decode", context=2048, chips=list(published_ms))
    for chip, (first, token) in published_ms.items():
        assert prefill[chip].total.latency_s * 1e3 == pytest.approx(first, rel=0.25)
        assert decode[chip].total.latency_s * 1e3 == pytest.approx(token, rel=0.25)
    assert prefill.total.flops == 32_938_104_193_024


@pytest.mark.parametrize("model", ["deepseek-v3", "kimi-k2", "gpt-oss-120b", "mixtral-8x7b", "gpt4-moe-estimate"])
def test_the_largest_models_are_fully_modelled(model: str) -> None:
    pytest.importorskip("transformers")
    prof = regflat.profile_model(model, seq_len=256, chips=["h100-sxm", "regflat-physical"], batch=1)
    assert prof.coverage.modelled_bytes_share == 1.0
    assert prof.chips[0].fit.chips > 1 or model == "gpt2-xl"
    assert all(0 < chip.total.utilization < 1 for chip in prof.chips)


def test_sensitivity_and_explanations_of_a_profile() -> None:
    net = meta_net().to(torch.bfloat16)
    x = torch.empty(4096, 64, device="meta", dtype=torch.bfloat16)
    prof = regflat.profile(net, (x,), chip=["h100-sxm", "regflat-physical"])
    found = prof.sensitivity("regflat-physical", remap=True)
    assert sum(e.latency for e in found if e.kind == "rate") <= 0
    assert any(e.remapped is not None for e in found)
    (first,) = prof.explain("layers.1.up")
    assert first.chip == "h100-sxm" and first.path == "layers.1.up"
    with pytest.raises(regflat.InputError, match="no kernel runs 'layers.9'"):
        prof.explain("layers.9")
