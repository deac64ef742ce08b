"""FLOPs against torch's own counter (dense models) and against closed forms (mixtures of experts)."""

from __future__ import annotations

import torch
from tabulate import tabulate
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import torch_regflat as regflat
from torch_regflat.capture.huggingface import prepare
from torch_regflat.models.plain import ResNet

DENSE = {"llama-3-8b": 2048, "gpt2-xl": 1024, "bert-large": 512, "vit-large": None, "whisper-large-v3": None}
EXPERTS = ("mixtral-8x7b", "deepseek-v3", "kimi-k2", "gpt-oss-120b")
TOKENS = 2048


def counted(model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> int:
    """What FlopCounterMode says of one forward, with every tensor fake."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():

        def fake(value: object) -> object:
            return mode.from_tensor(value) if isinstance(value, torch.Tensor) else value

        counter = FlopCounterMode(display=False)
        with counter:
            model(*map(fake, args), **{k: fake(v) for k, v in kwargs.items()})
    return int(counter.get_total_flops())


def experts_closed_form(config: object, tokens: int) -> int:
    """FLOPs of a mixture-of-experts decoder from its configuration alone."""
    c = config
    hidden, layers, vocabulary = c.hidden_size, c.num_hidden_layers, c.vocab_size
    heads = c.num_attention_heads
    if hasattr(c, "kv_lora_rank") and c.kv_lora_rank:
        query = c.qk_nope_head_dim + c.qk_rope_head_dim
        projections = hidden * c.q_lora_rank + c.q_lora_rank * heads * query
        projections += hidden * (c.kv_lora_rank + c.qk_rope_head_dim)
        projections += c.kv_lora_rank * heads * (c.qk_nope_head_dim + c.v_head_dim) + heads * c.v_head_dim * hidden
        score = heads * (query + c.v_head_dim)
    else:
        size = getattr(c, "head_dim", None) or hidden // heads
        projections = 2 * hidden * heads * size + 2 * hidden * c.num_key_value_heads * size
        score = heads * 2 * size
    attention = 2 * tokens * projections + 2 * tokens * tokens * score
    chosen = c.num_experts_per_tok
    count = getattr(c, "n_routed_experts", None) or c.num_local_experts
    inner = getattr(c, "moe_intermediate_size", None) or c.intermediate_size
    dense_layers = getattr(c, "first_k_dense_replace", 0) or 0
    shared = getattr(c, "n_shared_experts", 0) or 0
    moe = 2 * tokens * (hidden * count + 3 * hidden * inner * (chosen + shared))
    dense = 2 * tokens * 3 * hidden * c.intermediate_size
    return layers * attention + (layers - dense_layers) * moe + dense_layers * dense + 2 * tokens * hidden * vocabulary


def main() -> None:
    rows = []
    for name, length in DENSE.items():
        ready = prepare(name, seq_len=length)
        flops = regflat.profile(ready.model, ready.args, ready.kwargs).total.flops
        rows.append((name, ready.inputs, flops, counted(ready.model, ready.args, ready.kwargs), "FlopCounterMode"))
    with torch.device("meta"):
        model, image = ResNet().eval(), torch.empty(1, 3, 224, 224)
    flops = regflat.profile(model, (image,)).total.flops
    rows.append(("resnet-50", "1x3x224x224", flops, counted(model, (image,), {}), "FlopCounterMode"))
    for name in EXPERTS:
        ready = prepare(name, seq_len=TOKENS)
        flops = regflat.profile(ready.model, ready.args, ready.kwargs).total.flops
        rows.append((name, ready.inputs, flops, experts_closed_form(ready.model.config, TOKENS), "closed form"))
    table = [(*row[:4], "equal" if row[2] == row[3] else f"{row[2] / row[3] - 1:+.2e}", row[4]) for row in rows]
    print(tabulate(table, ("model", "inputs", "flops", "reference", "difference", "reference is"), intfmt=","))


if __name__ == "__main__":
    main()
