"""Options that several commands have, and the choices of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

PHASES = ("prefill", "decode", "extend", "encode", "forward", "train")
MODES = ("eager", "compiled", "graph", "serving")
OPTIMIZERS = ("adamw", "sgd", "sgd-momentum", "none")
GROUPINGS = ("op", "kernel", "module", "layer")
FORMATS = ("table", "json", "csv")


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what is priced, the same for every command that takes a model."""
    for option in reversed(
        (
            click.option(
                "--optimizer", type=click.Choice(OPTIMIZERS), default="adamw", show_default=True, help="For train."
            ),
            click.option(
                "--autocast",
                type=click.Choice(("bf16", "fp16")),
                help="For train: forward and loss as under torch.autocast.",
            ),
            click.option(
                "--master-weights", is_flag=True, help="For train: the optimizer on a float32 copy of narrower weights."
            ),
            click.option("--batch", type=int, default=1, show_default=True, help="Sequences or images at a time."),
            click.option("--seq-len", type=int, help="Tokens a sequence."),
            click.option("--context", type=int, help="Tokens already in the KV cache, for --phase decode or extend."),
            click.option(
                "--chip",
                "chips",
                multiple=True,
                help="A name `regflat chips` lists, a chip file, or auto for this machine's GPU; repeatable.",
            ),
            click.option(
                "--mode",
                type=click.Choice(MODES),
                default="graph",
                show_default=True,
                help="How kernels are formed and launched: one an operator; fused; and replayed; and merged.",
            ),
            click.option("--software", help="A variant of the libraries by name, or a software file."),
            click.option("--dtype", help="Data type of weights and activations; by default the checkpoint's own."),
            click.option("--kv-dtype", help="Data type of the KV cache; by default that of the activations."),
            click.option("--weights", help="Format of linear layers' weights: fp8, mxfp8, int8, int4, mxfp4 or nvfp4."),
            click.option(
                "--activations", help="Multiply in this format too; by default only the stored weights are narrow."
            ),
            click.option(
                "--routing-skew",
                type=float,
                default=0.0,
                show_default=True,
                help="How unevenly a mixture of experts is used: 0 uniform, 1 Zipf's law.",
            ),
            click.option(
                "--strict", is_flag=True, help="Refuse what does not fit or has an operator without a formula."
            ),
            click.option("--trust-remote-code", is_flag=True, help="Let a hub model bring its own Python code."),
            click.option("-q", "--quiet", is_flag=True, help="No progress, no warnings."),
            click.option("-v", "--verbose", is_flag=True, help="Wide tables, versions, and tracebacks of errors."),
        )
    ):
        command = option(command)
    return command


def layout_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that divide a model among chips."""
    for option in reversed(_LAYOUT):
        command = option(command)
    return command


def layout_of(options: dict[str, Any]) -> dict[str, Any]:
    """What `profile_model` is told of the layout that was asked for; nothing where there was none."""
    from ..layout import Layout

    degrees = {name: options[name] for name in ("tp", "ep", "pp", "dp") if options[name] is not None}
    if not degrees and options["micro_batches"] == 1:
        return {}
    return {"layout": Layout(**degrees), "micro_batches": options["micro_batches"]}


_LAYOUT = (
    click.option("--tp", type=int, help="Divide each layer among so many chips (tensor parallel)."),
    click.option("--ep", type=int, help="Divide the experts so many ways (expert parallel), over tp x dp chips."),
    click.option("--pp", type=int, help="Divide the layers into so many stages (pipeline parallel)."),
    click.option("--dp", type=int, help="Divide the batch among so many groups of tp chips (data parallel)."),
    click.option(
        "--micro-batches", type=int, default=1, show_default=True, help="In how many parts a batch passes the stages."
    ),
)
