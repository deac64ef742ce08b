"""The operations of a row of a model's operator trace: the module or function it names, run forward and backward.

Each is captured by the ordinary recorder. For a backward the result is weighted by a gradient of its own size and
summed; that loss and its own backward are then left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..capture.record import capture
from ..capture.training import capture_training
from ..errors import InputError, near
from ..operators.lowering import workload
from ..workload import Workload
from .rows import Operator

VOCABULARIES = {
    ("bert_large", "word_embeddings"): 30522,
    ("bert_large", "position_embeddings"): 512,
    ("bert_large", "token_type_embeddings"): 2,
    ("gpt2_large", "wte"): 50257,
    ("gpt2_large", "wpe"): 1024,
    ("gpt3_xl", "wte"): 50257,
    ("gpt3_xl", "wpe"): 2048,
    ("gpt3_27", "wte"): 50257,
    ("gpt3_27", "wpe"): 2048,
    ("opt_13", "embed_tokens"): 50272,
}
"""Rows of the embedding tables, which a trace of shapes does not say (configurations of the models)."""

_LINEAR = (
    "dense", "query", "key", "value", "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "lm_head", "classifier",
    "decoder", "seq_relationship",
)  # fmt: skip
_NORMS = ("LayerNorm", "ln_1", "ln_2", "ln_f", "final_layer_norm", "self_attn_layer_norm")
_DROPOUTS = ("dropout", "drop", "attn_dropout", "resid_dropout")
_NUMBER = 2.0


def operations(row: Operator) -> Workload:
    """The workload of the operator, its backward included where that was timed."""
    return _operations(row.model, row.target, row.is_module, row.inputs, row.output, row.backward)


class _Alone(nn.Module):
    """The operator as the only child of a module, so that its operations can be told from those around it.

    What it computes on depends on parameters, so that the backward gives the gradients of all its inputs.
    """

    def __init__(self, operator: nn.Module, inputs: list[Tensor]) -> None:
        super().__init__()
        self.operator = operator
        wanted = [x.is_floating_point() and x.shape != (1,) for x in inputs]  # a number has no gradient
        self.inputs = nn.ParameterList(nn.Parameter(x, wants) for x, wants in zip(inputs, wanted, strict=True))

    def forward(self) -> Tensor:
        result: Tensor = self.operator(*(x.clone() for x in self.inputs))
        return result


class _Function(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


@functools.lru_cache(maxsize=4096)
def _operations(
    model: str, target: str, is_module: bool, inputs: tuple[tuple[int, ...], ...], output: tuple[int, ...], back: bool
) -> Workload:
    with torch.device("meta"):
        found = _module(model, target, inputs, output) if is_module else _function(target, inputs, output)
        tensors = [_input(found, target, place, shape) for place, shape in enumerate(inputs)]
        if not back:
            return workload(capture(found.eval(), tuple(tensors)))
        gradient = torch.empty(output)
        alone = _Alone(found, tensors)
    graph = capture_training(alone, optimizer=None, loss=lambda result: (result * gradient).sum(), train_mode=True)
    whole = workload(graph)
    return replace(whole, operations=tuple(op for op in whole if op.path.startswith("operator")))


def _input(found: nn.Module, target: str, place: int, shape: tuple[int, ...]) -> Tensor:
    if isinstance(found, nn.Embedding) or (target == "embedding" and place == 0):
        return torch.empty(shape, dtype=torch.int64)
    boolean = (target == "where" and place == 0) or (target.startswith("masked_fill") and place == 1)
    if boolean:
        return torch.empty(shape, dtype=torch.bool)
    if target in ("cumsum", "arange", "lt"):
        return torch.empty(shape, dtype=torch.int64)
    return torch.empty(shape)


def _module(model: str, target: str, inputs: tuple[tuple[int, ...], ...], output: tuple[int, ...]) -> nn.Module:
    name = target.rpartition(".")[2]
    width = inputs[0][-1]
    if name in _LINEAR:
        return nn.Linear(width, output[-1], bias=name != "lm_head")
    if name in _NORMS:
        return nn.LayerNorm(width)
    if name in _DROPOUTS:
        return nn.Dropout(0.1)
    if name == "activation_fn":
        return nn.ReLU()
    if name == "activation":
        return nn.Tanh()
    if (model, name) in VOCABULARIES:
        return nn.Embedding(VOCABULARIES[(model, name)], output[-1])
    known = (*_LINEAR, *_NORMS, *_DROPOUTS, "activation", "activation_fn", *(name for _, name in VOCABULARIES))
    raise InputError(f"no module is known by the name {name!r} of {target!r}{near(name, known)}")


def _function(target: str, inputs: tuple[tuple[int, ...], ...], output: tuple[int, ...]) -> nn.Module:
    found = _FUNCTIONS.get(target)
    if target in _MAKERS:
        make = _MAKERS[target]
        return _Function(lambda *_: make(output))
    if found is None:
        raise InputError(f"no function is known by the name {target!r}{near(target, (*_FUNCTIONS, *_MAKERS))}")
    return _Function(found)


def _other(rest: tuple[Tensor, ...]) -> Tensor | float:
    return rest[0] if rest else _NUMBER


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "add": lambda x, *rest: x + _other(rest),
    "sub": lambda x, *rest: x - _other(rest) if rest else 1.0 - x,
    "mul": lambda x, *rest: x * _other(rest),
    "truediv": lambda x, *rest: x / _NUMBER,
    "pow": lambda x, *rest: x**3.0,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "softmax": lambda x: F.softmax(x, -1),
    "dropout": lambda x: F.dropout(x, 0.1, True),
    "matmul": torch.matmul,
    "bmm": torch.bmm,
    "addmm": torch.addmm,
    "embedding": lambda indices, table: F.embedding(indices, table),
    "where": lambda mask, x, other: torch.where(mask, x, other),
    "max": lambda x, least: torch.max(x, least),
    "lt": lambda x, y: x < y,
    "cumsum": lambda x: torch.cumsum(x, 1),
    "bool": lambda x: x.to(torch.bool),
    "to": lambda x: x.to(torch.bool),
    "masked_fill": lambda x, mask, *_: x.masked_fill(mask, _NUMBER),
    "masked_fill_": lambda x, mask, *_: x.masked_fill_(mask, _NUMBER),
}
_MAKERS: dict[str, Callable[[tuple[int, ...]], Tensor]] = {
    "full": lambda shape: torch.full(shape, _NUMBER),
    "ones": lambda shape: torch.ones(shape),
    "tensor": lambda shape: torch.full(shape, _NUMBER),
    "arange": lambda shape: torch.arange(shape[0]),
}
