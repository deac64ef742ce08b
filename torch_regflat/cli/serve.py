"""`regflat serve`: a model served to many, within targets, and what that costs."""

from __future__ import annotations

from typing import Any

import click

from ..errors import InputError
from .options import MODES
from .running import check_positive, check_writable, emit, one_sentence, silenced

_FORMATS = ("table", "json")
_DEGREES = ("tp", "ep", "pp", "dp")
_PASSED = (
    "prompt", "ttft", "tpot", "tp", "ep", "pp", "dp", "chips", "chunk", "prefix_share", "draft_length", "acceptance",
    "draft_model", "draft_share", "disaggregated",
    "max_batch", "memory_use", "queries_per_s", "power_budget", "dtype", "kv_dtype", "weights", "activations",
    "routing_skew", "mode", "software", "trust_remote_code",
)  # fmt: skip


@click.command()
@click.argument("model")
@click.option("--chip", default="h100-sxm", show_default=True, help="A name `regflat chips` lists, or a chip file.")
@click.option("--prompt", type=int, required=True, help="Tokens of a prompt.")
@click.option("--output", "answer", type=int, required=True, help="Tokens of an answer.")
@click.option("--ttft", metavar="TIME", help="At most so long to the first token on average, as in 1s.")
@click.option("--tpot", metavar="TIME", help="At most so long for each later token on average, as in 50ms.")
@click.option("--tp", type=int, help="Divide each layer among so many chips (tensor parallel).")
@click.option("--ep", type=int, help="Divide the experts so many ways (expert parallel), over tp x dp chips.")
@click.option("--pp", type=int, help="Divide the layers into so many stages (pipeline parallel).")
@click.option("--dp", type=int, help="Divide the requests among so many groups of tp chips (data parallel).")
@click.option("--chips", type=int, help="The best layout on so many chips.  [default: on as many as are best]")
@click.option("--chunk", type=int, help="Tokens of prompts a pass reads at most.  [default: best of 512, 2048, 8192]")
@click.option("--prefix-share", type=float, default=0.0, show_default=True, help="Share of prompts cached already.")
@click.option("--draft-length", type=int, help="Speculative decoding: tokens drafted at a time.")
@click.option("--acceptance", type=float, default=0.8, show_default=True, help="Share of drafted tokens accepted.")
@click.option("--draft-model", default="", help="The model that drafts.")
@click.option("--draft-share", type=float, help="What drafting a token costs, as a share of decoding one.")
@click.option("--max-batch", type=int, default=1024, show_default=True, help="Requests at once at most, of a lane.")
@click.option("--memory-use", type=float, default=0.9, show_default=True, help="Share of the memory that is used.")
@click.option("--disaggregated", is_flag=True, help="Also: prompts and answers on chips of their own.")
@click.option("--economics", type=click.Path(), help="A TOML file with assumptions about costs, in place of some.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="One of them, as in life='3 year'.")
@click.option("--queries-per-s", type=float, help="Also the fleet that answers so many requests a second.")
@click.option("--power-budget", metavar="POWER", help="Also what a building with so much power serves, as in 20MW.")
@click.option("--mode", type=click.Choice(MODES), default="serving", show_default=True, help="How kernels are formed.")
@click.option("--software", help="A variant of the libraries by name, or a software file.")
@click.option("--dtype", help="Data type of weights and activations; by default the checkpoint's own.")
@click.option("--kv-dtype", help="Data type of the KV cache; by default that of the activations.")
@click.option("--weights", help="Format of linear layers' weights: fp8, mxfp8, int8, int4, mxfp4 or nvfp4.")
@click.option("--activations", help="Multiply in this format too.")
@click.option("--routing-skew", type=float, default=0.0, show_default=True, help="How unevenly experts are used.")
@click.option("--trust-remote-code", is_flag=True, help="Let a hub model bring its own Python code.")
@click.option("--format", "format_", type=click.Choice(_FORMATS), default="table", show_default=True)
@click.option("-o", "file", type=click.Path(), help="Write to this file instead of the terminal.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no warnings.")
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
def serve(model: str, verbose: bool, **options: Any) -> None:
    """Serve MODEL to many at once: the largest throughput within targets, what limits it, and what it costs."""
    with one_sentence(verbose):
        emit(_serve(model, options), options["file"])


def _serve(model: str, options: dict[str, Any]) -> str:
    check_writable(options["file"])
    for name in (*_DEGREES, "chips", "prompt", "chunk", "max_batch", "draft_length"):
        check_positive(f"--{name.replace('_', '-')}", options[name])
    check_positive("--output", options["answer"])
    from ..serving.economics import Economics
    from ..serving.serve import serve as served

    changes = dict(map(_change, options["changes"]))
    economics = Economics.of(options["economics"], changes) if changes or options["economics"] else None
    given = {name: options[name] for name in _PASSED}
    quiet = options["quiet"]
    with silenced(quiet):
        progress = False if quiet else None
        given |= {"economics": economics, "progress": progress}
        found = served(model, chip=options["chip"], output=options["answer"], **given)
    return found.to_json() if options["format_"] == "json" else str(found)


def _change(text: str) -> tuple[str, Any]:
    """`life=3 year` or `pue=1.1`, as a name and a value."""
    name, equals, value = text.partition("=")
    if not equals or not value.strip():
        raise InputError(f"--set is {text!r}; write NAME=VALUE, as in life='3 year' or pue=1.1")
    try:
        return name.strip(), float(value)
    except ValueError:
        return name.strip(), value.strip()
