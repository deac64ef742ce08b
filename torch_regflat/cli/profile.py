"""`regflat profile`: price a model on one or more chips."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from . import request
from .options import FORMATS, GROUPINGS, PHASES, layout_of, layout_options, model_options
from .running import check_positive, check_writable, emit, one_sentence, silenced, waiting, width

if TYPE_CHECKING:
    from ..profiler import Profile

_REPORTS = (*FORMATS, "html", "trace")


@click.command()
@click.argument("model")
@click.option(
    "--phase",
    "phases",
    type=click.Choice((*PHASES, request.PHASE)),
    multiple=True,
    help="What to price; by default what the model is made for. Given several times: phases side by side on one chip.",
)
@model_options
@layout_options
@request.request_options
@click.option("--by", type=click.Choice(GROUPINGS), default="layer", show_default=True, help="A row for each.")
@click.option("--expand", is_flag=True, help="Show each of the repeated layers.")
@click.option("--format", "format_", type=click.Choice(_REPORTS), default="table", show_default=True)
@click.option("-o", "file", type=click.Path(), help="Write to this file instead of the terminal; .gz compresses.")
@click.option("--output", help="The same; of --phase request, the tokens of the answer.")
@click.option("--sort-by", help="latency, energy, flops, traffic, utilization, ...; by default in order of execution.")
@click.option("--row-limit", type=int, help="Show so many rows, and the sum of the others.")
@click.option("--sensitivity", is_flag=True, help="Also: what 1 % more of each number of the chip does.")
@click.option("--timeline", is_flag=True, help="Also: what the engines waited for, and what lay on chip.")
@click.pass_context
def profile(context: click.Context, /, model: str, verbose: bool, file: str | None, **options: Any) -> None:
    """Price MODEL on one or more chips.

    MODEL is a name that `regflat models` lists, a folder with a config.json, a Hugging Face hub id, or module:factory.
    """
    with one_sentence(verbose):
        if request.PHASE in options["phases"]:
            emit(request.requests(context, model, file, options), file)
            return
        request.refuse(context)
        options["output"] = file or options["output"]
        text = _profile(model, verbose, **options)
        emit(text, options["output"])


def _profile(model: str, verbose: bool, **options: Any) -> str:
    """Check what is cheap to check, do the work, render it."""
    for name in ("batch", "seq_len", "context", "row_limit"):
        check_positive(f"--{name.replace('_', '-')}", options[name])
    layout = {name: options[name] for name in ("by", "expand", "sort_by", "row_limit")}
    check_writable(options["output"])
    if options["sort_by"] is not None:
        from ..report.rows import check_sort_key

        check_sort_key(options["sort_by"])
    if options["format_"] == "trace" and (options["sort_by"] or options["row_limit"] or options["expand"]):
        raise InputError("--sort-by, --row-limit and --expand arrange rows; a trace has every kernel, in time")
    phases: tuple[str | None, ...] = options["phases"] or (None,)
    if len(phases) > 1:
        _check_side_by_side(options)
    for name in ("sensitivity", "timeline"):
        if options[name] and (options["format_"] != "table" or len(phases) > 1):
            raise InputError(f"--{name} is a table of one phase; leave out --format and give --phase once")
    with waiting(f"profiling {model}", options["quiet"]), silenced(options["quiet"]):
        profiles = [profile_phase(model, phase, options) for phase in phases]
    from ..report import render

    if len(profiles) > 1:
        from ..report.compare import phases_side_by_side

        return phases_side_by_side([prof.result for prof in profiles])
    prof = profiles[0]
    if options["format_"] == "table":
        shown = render(prof.result, "table", **layout, wide=verbose, width=width(options["output"]))
        shown += _timelines(prof) if options["timeline"] else ""
        return shown + _sensitivities(prof) if options["sensitivity"] else shown
    if options["format_"] == "trace":
        return render(prof.result, "trace", timelines=prof.timelines())
    if options["format_"] == "html":
        layout["timelines"] = prof.timelines()
    return render(prof.result, options["format_"], **layout)


def _timelines(prof: Profile) -> str:
    from ..report.timeline import render

    return "".join(f"\n{render(prof.timeline(chip.chip))}" for chip in prof.chips)


def _sensitivities(prof: Profile) -> str:
    from ..report.sensitivity import render

    return "".join(f"\n{render(chip.chip, prof.sensitivity(chip.chip, remap=True))}" for chip in prof.chips)


def _check_side_by_side(options: dict[str, Any]) -> None:
    if options["format_"] != "table":
        raise InputError(f"--format {options['format_']} holds one phase; give --phase once, or --format table")
    if len(options["chips"]) > 1:
        raise InputError("phases are compared on one chip; give --chip once, or --phase once")


def profile_phase(model: str, phase: str | None, options: dict[str, Any]) -> Profile:
    """One phase of a model; of several, each takes the lengths that it knows."""
    from ..profiler import profile_model

    several = len(options["phases"]) > 1
    of_training = not several or phase == "train"
    return profile_model(
        model,
        phase=phase,
        batch=options["batch"],
        seq_len=None if several and phase == "decode" else options["seq_len"],
        context=None if several and phase != "decode" else options["context"],
        chips=list(options["chips"]) or ["h100-sxm"],
        dtype=options["dtype"],
        kv_dtype=options["kv_dtype"],
        weights=options["weights"],
        activations=options["activations"],
        routing_skew=options["routing_skew"],
        mode=options["mode"],
        software=options["software"],
        optimizer=None if options["optimizer"] == "none" else options["optimizer"],
        autocast=options["autocast"] if of_training else None,
        master_weights=options["master_weights"] and of_training,
        strict=options["strict"],
        trust_remote_code=options["trust_remote_code"],
        **layout_of(options),
    )
