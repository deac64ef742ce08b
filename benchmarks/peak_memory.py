"""Peak memory by liveness over the captured graph, against torch's own tracker on fake tensors.

    python benchmarks/peak_memory.py [--bound 0.05]

`torch.distributed._tools.mem_tracker.MemTracker` runs the same step eagerly on fake tensors and counts every storage
that is alive. Both count parameters, buffers, gradients, optimizer state, inputs and everything live in between.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers.initialization import no_init_weights

from torch_regflat.capture.record import capture
from torch_regflat.capture.training import capture_training, total
from torch_regflat.operators.lowering import workload
from torch_regflat.schedule.fit import memory_of

Made = tuple[nn.Module, dict[str, Any]]


def llama(tokens: int = 512) -> Made:
    config = transformers.LlamaConfig(
        hidden_size=1024, intermediate_size=3072, num_hidden_layers=8, num_attention_heads=16, num_key_value_heads=4,
        vocab_size=32000,
    )  # fmt: skip
    ids = torch.zeros(2, tokens, dtype=torch.int64)
    return transformers.LlamaForCausalLM(config), {"input_ids": ids, "labels": ids, "use_cache": False}


def llama_checkpointed() -> Made:
    model, inputs = llama(2048)
    model.activation_checkpointing_enable()
    return model, inputs


def llama_inference() -> Made:
    model, inputs = llama(2048)
    return model, {**inputs, "labels": None}


def gpt2() -> Made:
    config = transformers.GPT2Config(n_embd=768, n_layer=6, n_head=12, vocab_size=50257, attn_pdrop=0.0)
    ids = torch.zeros(4, 512, dtype=torch.int64)
    return transformers.GPT2LMHeadModel(config), {"input_ids": ids, "labels": ids, "use_cache": False}


def bert() -> Made:
    config = transformers.BertConfig(num_hidden_layers=6, attention_probs_dropout_prob=0.0)
    ids = torch.zeros(8, 256, dtype=torch.int64)
    return transformers.BertForMaskedLM(config), {"input_ids": ids, "labels": ids}


def vit() -> Made:
    config = transformers.ViTConfig(num_hidden_layers=6, num_labels=1000)
    labels = torch.zeros(16, dtype=torch.int64)
    return transformers.ViTForImageClassification(config), {
        "pixel_values": torch.zeros(16, 3, 224, 224),
        "labels": labels,
    }


def resnet() -> Made:
    config = transformers.ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], num_labels=1000)
    config.layer_type = "basic"
    labels = torch.zeros(8, dtype=torch.int64)
    model = transformers.ResNetForImageClassification(config)
    return model, {"pixel_values": torch.zeros(8, 3, 224, 224), "labels": labels}


CASES: dict[str, tuple[Callable[[], Made], str | None]] = {
    "llama, AdamW": (llama, "adamw"),
    "llama, checkpointed, AdamW": (llama_checkpointed, "adamw"),
    "llama, inference": (llama_inference, "inference"),
    "gpt2, SGD": (gpt2, "sgd"),
    "bert, AdamW": (bert, "adamw"),
    "vit, SGD with momentum": (vit, "sgd-momentum"),
    "resnet, no optimizer": (resnet, None),
}


def built(make: Callable[[], Made], optimizer: str | None) -> Made:
    with no_init_weights():
        model, inputs = make()
    model.tie_weights()
    return model.train(optimizer != "inference"), inputs


def tracked(make: Callable[[], Made], optimizer: str | None) -> int:
    """Peak bytes that torch's tracker counts on fake tensors, in the second step (the optimizer has its state)."""
    with FakeTensorMode():
        model, inputs = built(make, optimizer)
        parameters = list(model.parameters())
        step: torch.optim.Optimizer | None = None
        if optimizer == "adamw":
            step = torch.optim.AdamW(parameters, fused=True)
        elif optimizer in ("sgd", "sgd-momentum"):
            step = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9 * (optimizer == "sgd-momentum"), fused=True)
        if step is not None:
            run(model, inputs, optimizer, step)
        tracker = MemTracker()
        tracker.track_external(
            model, *([step] if step else []), *[v for v in inputs.values() if isinstance(v, torch.Tensor)]
        )
        with tracker:
            run(model, inputs, optimizer, step)
        return sum(device["Total"] for device in tracker.get_tracker_snapshot("peak").values())


def run(model: nn.Module, inputs: dict[str, Any], optimizer: str | None, step: torch.optim.Optimizer | None) -> None:
    if optimizer == "inference":
        with torch.no_grad():
            model(**inputs)
        return
    total(model(**inputs)).backward()  # type: ignore[no-untyped-call]
    if step is not None:
        step.step()
        step.zero_grad()


def modelled(make: Callable[[], Made], optimizer: str | None) -> int:
    """Peak bytes by liveness over the captured graph."""
    with torch.device("meta"):
        model, inputs = built(make, optimizer)
    if optimizer == "inference":
        graph = capture(model, (), inputs)
    else:
        graph = capture_training(model, (), inputs, optimizer=optimizer)
    memory = memory_of(workload(graph))
    return memory.weights + memory.kv_cache + memory.peak


def compare(name: str) -> tuple[int, int]:
    """(ours, torch's) for one of `CASES`."""
    make, optimizer = CASES[name]
    return modelled(make, optimizer), tracked(make, optimizer)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bound", type=float, default=0.05, help="largest relative difference that passes")
    parser.add_argument("names", nargs="*", help=f"some of: {'; '.join(CASES)}")
    options = parser.parse_args()
    worst = 0.0
    print(f"{'model':30}{'ours MB':>10}{'torch MB':>10}{'difference':>12}")
    for name in options.names or CASES:
        ours, theirs = compare(name)
        difference = ours / theirs - 1
        worst = max(worst, abs(difference))
        print(f"{name:30}{ours / 1e6:10.1f}{theirs / 1e6:10.1f}{difference:+12.1%}", flush=True)
    return int(worst > options.bound)


if __name__ == "__main__":
    sys.exit(main())
