"""`regflat measure`: time kernels and models on this machine, and compare the model with them."""

from __future__ import annotations

from typing import Any

import click

from .options import FORMATS
from .running import bar, one_sentence


@click.command()
@click.option(
    "-o", "--output", type=click.Path(), help="The folder for the files of rows.  [default: measured-<the GPU>]"
)
@click.option("--resume", is_flag=True, help="Go on in a folder that has rows already; those are not measured again.")
@click.option("--chip", default="auto", show_default=True, help="What to compare with: a chip's name, or a chip file.")
@click.option(
    "--class",
    "classes",
    multiple=True,
    help="Only these kernels; repeatable: gemm, gemm-fp32, gemm-fp8, elementwise, norm, prefill, decode, convolution, "
    "experts.  [default: all]",
)
@click.option("--rows", type=int, default=640, show_default=True, help="Rows of kernels; 0 for models alone.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the shapes of kernels.")
@click.option(
    "--launch",
    type=click.Choice(("graph", "eager")),
    default="graph",
    show_default=True,
    help="Kernels from a replayed CUDA graph, or from the host.",
)
@click.option(
    "--cache",
    type=click.Choice(("cold", "warm")),
    default="cold",
    show_default=True,
    help="Kernels on operands that left the L2, or that are in it.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Only this whole model; repeatable: llama-3-8b, bert-large, resnet-50, or none.  [default: all]",
)
@click.option(
    "--mode",
    "modes",
    type=click.Choice(("eager", "compiled", "graph")),
    multiple=True,
    help="How whole models run; repeatable.  [default: all]",
)
@click.option("--seconds", type=float, default=1.0, show_default=True, help="How long to measure each row.")
@click.option("--minutes", type=float, help="Stop after so many minutes; --resume goes on.")
@click.option("--worst", type=int, default=0, help="Also show so many of the worst rows.")
@click.option("--format", "format_", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("-q", "--quiet", is_flag=True, help="No progress, no list of skipped rows.")
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
def measure(verbose: bool, **options: Any) -> None:
    """Time kernels and models on this machine's CUDA GPU, write them as rows, and compare the model with them."""
    with one_sentence(verbose):
        _measure(**options)


def _measure(output: str | None, resume: bool, chip: str, quiet: bool, **options: Any) -> None:
    from ..measurement import run
    from ..measurement.device import CudaDevice
    from ..validation.report import render
    from ..validation.run import validate as compare

    plan = run.plan_of(**{name: options[name] for name in run.OPTIONS})
    device = CudaDevice()
    gpu = run.gpu_of(device, chip)
    folder = run.folder_of(output, gpu, resume=resume)
    with bar("rows", quiet) as progress:
        outcome = run.measure(plan, device, folder, gpu, progress=progress)
    for line in outcome.lines(folder, device, listed=not quiet):
        click.echo(f"regflat: {line}", err=True)
    with bar("rows", quiet) as progress:
        found = compare(folder.files(), worst=options["worst"], progress=progress)
    click.echo(render(found, options["format_"]), nl=False)
