"""The command line: a thin door. It reads options, calls the profiler, and writes what a report makes of the result."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .errors import ChipError, InputError, RegflatError
from .units import format_si

if TYPE_CHECKING:
    from .profiler import Profile

_PHASES = ("prefill", "decode", "encode", "forward", "train")
_MODES = ("eager", "compiled", "graph", "serving")
_OPTIMIZERS = ("adamw", "sgd", "sgd-momentum", "none")
_GROUPINGS = ("op", "kernel", "module", "layer")
_FORMATS = ("table", "json", "csv")
_REPORTS = (*_FORMATS, "html", "trace")
_TABLES = ("table", "markdown", "csv")
_DIFF_FORMATS = ("table", "markdown", "json")
_PATIENCE_S = 2.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name="regflat", message="%(prog)s %(version)s")
def main() -> None:
    """What a PyTorch model costs on a chip: latency, energy and memory traffic, without running it."""


@contextlib.contextmanager
def _one_sentence(verbose: bool = False) -> Iterator[None]:
    """Turn errors into one line on stderr and an exit code; the traceback only for `verbose`."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except RegflatError as error:
        message, code = str(error), error.exit_code
    except Exception as error:
        detail = " ".join(str(error).split())
        message = f"unexpected {type(error).__name__}: {detail}; this is a bug, please report it with the output of -v"
        code = 1
    else:
        return
    if verbose:
        traceback.print_exc()
    click.echo(f"regflat: {message}", err=True)
    raise click.exceptions.Exit(code)


def _model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what is priced, the same for every command that takes a model."""
    for option in reversed(
        (
            click.option(
                "--optimizer", type=click.Choice(_OPTIMIZERS), default="adamw", show_default=True, help="For train."
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
            click.option("--context", type=int, help="Tokens already in the KV cache, for --phase decode."),
            click.option(
                "--chip",
                "chips",
                multiple=True,
                help="A name `regflat chips` lists, a chip file, or auto for this machine's GPU; repeatable.",
            ),
            click.option(
                "--mode",
                type=click.Choice(_MODES),
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


@main.command()
@click.argument("model")
@click.option(
    "--phase",
    "phases",
    type=click.Choice(_PHASES),
    multiple=True,
    help="What to price; by default what the model is made for. Given several times: phases side by side on one chip.",
)
@_model_options
@click.option("--by", type=click.Choice(_GROUPINGS), default="layer", show_default=True, help="A row for each.")
@click.option("--expand", is_flag=True, help="Show each of the repeated layers.")
@click.option("--format", "format_", type=click.Choice(_REPORTS), default="table", show_default=True)
@click.option("-o", "--output", type=click.Path(), help="Write to this file instead of the terminal; .gz compresses.")
@click.option("--sort-by", help="latency, energy, flops, traffic, utilization, ...; by default in order of execution.")
@click.option("--row-limit", type=int, help="Show so many rows, and the sum of the others.")
@click.option("--sensitivity", is_flag=True, help="Also: what 1 % more of each number of the chip does.")
@click.option("--timeline", is_flag=True, help="Also: what the engines waited for, and what lay on chip.")
def profile(model: str, verbose: bool, **options: Any) -> None:
    """Price MODEL on one or more chips.

    MODEL is a name that `regflat models` lists, a folder with a config.json, a Hugging Face hub id, or module:factory.
    """
    with _one_sentence(verbose):
        text = _profile(model, verbose, **options)
    if options["output"] in (None, "-"):
        click.echo(text, nl=False)
        return
    from .report.files import write

    with _one_sentence(verbose):
        write(options["output"], text)


def _profile(model: str, verbose: bool, **options: Any) -> str:
    """Check what is cheap to check, do the work, render it."""
    for name in ("batch", "seq_len", "context", "row_limit"):
        _check_positive(f"--{name.replace('_', '-')}", options[name])
    layout = {name: options[name] for name in ("by", "expand", "sort_by", "row_limit")}
    _check_layout(options["sort_by"], options["output"])
    if options["format_"] == "trace" and (options["sort_by"] or options["row_limit"] or options["expand"]):
        raise InputError("--sort-by, --row-limit and --expand arrange rows; a trace has every kernel, in time")
    phases: tuple[str | None, ...] = options["phases"] or (None,)
    if len(phases) > 1:
        _check_side_by_side(options)
    for name in ("sensitivity", "timeline"):
        if options[name] and (options["format_"] != "table" or len(phases) > 1):
            raise InputError(f"--{name} is a table of one phase; leave out --format and give --phase once")
    with _waiting(f"profiling {model}", options["quiet"]), _warnings(options["quiet"]):
        profiles = [_profile_phase(model, phase, options) for phase in phases]
    from .report import render

    if len(profiles) > 1:
        from .report.compare import phases_side_by_side

        return phases_side_by_side([prof.result for prof in profiles])
    prof = profiles[0]
    if options["format_"] == "table":
        shown = render(prof.result, "table", **layout, wide=verbose, width=_width(options["output"]))
        shown += _timelines(prof) if options["timeline"] else ""
        return shown + _sensitivities(prof) if options["sensitivity"] else shown
    if options["format_"] == "trace":
        return render(prof.result, "trace", timelines=prof.timelines())
    if options["format_"] == "html":
        layout["timelines"] = prof.timelines()
    return render(prof.result, options["format_"], **layout)


def _timelines(prof: Profile) -> str:
    from .report.timeline import render

    return "".join(f"\n{render(prof.timeline(chip.chip))}" for chip in prof.chips)


def _sensitivities(prof: Profile) -> str:
    from .report.sensitivity import render

    return "".join(f"\n{render(chip.chip, prof.sensitivity(chip.chip, remap=True))}" for chip in prof.chips)


@main.command()
@click.argument("model")
@click.option("--layer", "path", required=True, help="The module whose kernels to explain, as --by module names it.")
@click.option("--phase", "phases", type=click.Choice(_PHASES), multiple=True, help="By default what the model is for.")
@click.option("--losers", type=int, default=5, show_default=True, help="How many mappings that lost to show.")
@_model_options
def explain(model: str, path: str, losers: int, verbose: bool, **options: Any) -> None:
    """Show why the kernels of one layer of MODEL run as they do: loops, traffic, times, and the mappings that lost."""
    with _one_sentence(verbose):
        for name in ("batch", "seq_len", "context"):
            _check_positive(f"--{name.replace('_', '-')}", options[name])
        _check_positive("--losers", losers)
        if len(options["phases"]) > 1:
            raise InputError("one phase is explained at a time; give --phase once")
        with _waiting(f"profiling {model}", options["quiet"]), _warnings(options["quiet"]):
            prof = _profile_phase(model, next(iter(options["phases"]), None), options)
        from .report.explain import render

        texts = [render(found) for chip in prof.chips for found in prof.explain(path, chip.chip, losers=losers)]
    click.echo(f"\n{'-' * 80}\n\n".join(texts), nl=False)


def _profile_phase(model: str, phase: str | None, options: dict[str, Any]) -> Profile:
    """One phase of a model; of several, each takes the lengths that it knows."""
    from .profiler import profile_model

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
    )


def _check_side_by_side(options: dict[str, Any]) -> None:
    if options["format_"] != "table":
        raise InputError(f"--format {options['format_']} holds one phase; give --phase once, or --format table")
    if len(options["chips"]) > 1:
        raise InputError("phases are compared on one chip; give --chip once, or --phase once")


def _check_positive(option: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise InputError(f"{option} is {value}; it must be 1 or more")


def _check_layout(sort_by: str | None, output: str | None) -> None:
    """Refuse before the work starts what would fail after it."""
    from .report.files import check_writable
    from .report.rows import check_sort_key

    if sort_by is not None:
        check_sort_key(sort_by)
    if output not in (None, "-"):
        check_writable(str(output))


def _width(output: str | None) -> int:
    """The terminal's width; a report's own where the text goes elsewhere."""
    from .report.text import WIDTH

    if output in (None, "-") and sys.stdout.isatty():
        return shutil.get_terminal_size((WIDTH, 24)).columns
    return WIDTH


@contextlib.contextmanager
def _warnings(quiet: bool) -> Iterator[None]:
    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _waiting(what: str, quiet: bool) -> Iterator[None]:
    """Show on a terminal that work goes on, once it has taken some seconds."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    shown = threading.Thread(target=_tick, args=(what, done), daemon=True)
    shown.start()
    try:
        yield
    finally:
        done.set()
        shown.join()


def _tick(what: str, done: threading.Event) -> None:
    if done.wait(_PATIENCE_S):
        return
    from tqdm import tqdm

    with tqdm(desc=what, bar_format="{desc}, {elapsed}", leave=False, file=sys.stderr) as bar:
        while not done.wait(0.5):
            bar.refresh()


@main.command()
@click.argument("model")
@click.option("--chip", "chips", multiple=True, required=True, help="Two: the first is what the second is compared to.")
@click.option("--phase", "phases", type=click.Choice(_PHASES), multiple=True, help="By default what the model is for.")
@click.option("--batch", "batches", type=int, multiple=True, help="Sequences at a time; repeatable.  [default: 1]")
@click.option("--context", "contexts", type=int, multiple=True, help="Tokens in the cache, or of a prompt; repeatable.")
@click.option("--dtype", "dtypes", multiple=True, help="Data type of weights and activations; repeatable.")
@click.option("--kv-dtype", help="Data type of the KV cache; by default that of the activations.")
@click.option("--weights", help="Format of linear layers' weights: fp8, mxfp8, int8, int4, mxfp4 or nvfp4.")
@click.option("--activations", help="Multiply in this format too.")
@click.option("--mode", type=click.Choice(_MODES), default="graph", show_default=True, help="How kernels are formed.")
@click.option("--software", help="Runs on the first chip in place of its own: a variant by name, or a software file.")
@click.option("--format", "format_", type=click.Choice(_TABLES), default="table", show_default=True)
@click.option("-o", "--output", type=click.Path(), help="Write to this file instead of the terminal.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no warnings.")
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
def compare(model: str, chips: tuple[str, ...], verbose: bool, **options: Any) -> None:
    """Compare two chips on MODEL like for like, and say where the first one loses its time."""
    with _one_sentence(verbose):
        _emit(_compare(model, chips, **options), options["output"])


def _compare(
    model: str, chips: tuple[str, ...], output: str | None, format_: str, quiet: bool, **options: Any
) -> str:
    if len(chips) != 2:
        raise InputError(f"compare takes two chips, found {len(chips)}; give --chip twice")
    for name, single in (("batches", "--batch"), ("contexts", "--context")):
        for value in options[name]:
            _check_positive(single, value)
    _check_layout(None, output)
    from .study.compare import compare as compared
    from .study.rows import to_csv
    from .study.tables import render
    from .study.variants import Variant

    axes = {"phases": (None,), "batches": (1,), "contexts": (None,), "dtypes": (None,)}
    options |= {name: options[name] or default for name, default in axes.items()}
    one, other = (Variant.of(chip) for chip in chips)
    with _warnings(quiet):
        found = compared(model, one, other, progress=False if quiet else None, **options)
    if format_ == "csv":
        return to_csv(row for point in found for row in point.rows)
    return render(found, one.chip, other.chip, format_ == "markdown")


@main.command()
@click.argument("ids", nargs=-1)
@click.option("--rows", type=click.Path(), help="Keep the swept rows in this CSV, and take those that it holds.")
@click.option("--write", "to_docs", is_flag=True, help="Write the document docs/claims.md.")
@click.option("-o", "--output", type=click.Path(), help="Write the document to this file instead of the terminal.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no warnings.")
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
def claims(ids: tuple[str, ...], verbose: bool, **options: Any) -> None:
    """Check the claims of the founding article, or those of IDS: what the model gives, and whether each holds."""
    with _one_sentence(verbose):
        _claims(ids, **options)


def _claims(ids: tuple[str, ...], rows: str | None, to_docs: bool, output: str | None, quiet: bool) -> None:
    if to_docs and output is not None:
        raise InputError("--write is -o docs/claims.md; give one of them")
    path = "docs/claims.md" if to_docs else output
    for target in (path, rows):
        _check_layout(None, target)
    from .study.claims import Setup
    from .study.claims import claims as checked
    from .study.claims.render import markdown, text

    with _warnings(quiet):
        found = checked(ids=ids, csv=rows, progress=False if quiet else None)
    _emit(text(found) if path is None else markdown(found, Setup()), path)


def _emit(text: str, output: str | None) -> None:
    """To the terminal, or to a file in one step."""
    if output in (None, "-"):
        click.echo(text, nl=False)
        return
    from .report.files import write

    write(str(output), text)


@main.command()
@click.argument("before")
@click.argument("now")
@click.option("--metric", default="latency_s", show_default=True, help="What rows and --fail-above are about.")
@click.option("--fail-above", metavar="PERCENT", help="Exit with 1 if it grew by more on any chip, as in 2%.")
@click.option("--phase", "phases", type=click.Choice(_PHASES), multiple=True, help="Of factories; by default forward.")
@_model_options
@click.option("--by", type=click.Choice(_GROUPINGS), default="layer", show_default=True, help="A row for each.")
@click.option("--expand", is_flag=True, help="Show each of the repeated layers.")
@click.option("--row-limit", type=int, default=30, show_default=True, help="Show so many of the rows that changed.")
@click.option("--format", "format_", type=click.Choice(_DIFF_FORMATS), default="table", show_default=True)
@click.option("-o", "--output", type=click.Path(), help="Write to this file instead of the terminal.")
@click.pass_context
def diff(context: click.Context, /, before: str, now: str, verbose: bool, **options: Any) -> None:
    """Show what changed from BEFORE to NOW, layer by layer.

    Each is a profile saved as JSON, module:factory for what is in the current folder, or module:factory@REVISION for
    what git has of it. Options that say what is priced go to factories.
    """
    with _one_sentence(verbose):
        text, complaint = _diff(before, now, _given(context), **options)
        if options["output"] not in (None, "-"):
            from .report.files import write

            write(options["output"], text)
    if options["output"] in (None, "-"):
        click.echo(text, nl=False)
    if complaint:
        click.echo(f"regflat: {complaint}", err=True)
        raise click.exceptions.Exit(1)


def _diff(before: str, now: str, given: list[str], **options: Any) -> tuple[str, str]:
    """The report, and what is wrong where more than `--fail-above` was added."""
    from .regression.diff import diff as compare
    from .regression.diff_report import render
    from .regression.metrics import named
    from .regression.revision import obtain, source

    limit = _percentage(options["fail_above"])
    named(options["metric"])
    _check_positive("--row-limit", options["row_limit"])
    _check_layout(None, options["output"])
    sides = source(before), source(now)
    if given and not any(side.factory for side in sides):
        raise InputError(f"{given[0]} is for factories; both sides are saved profiles, which are compared as they are")
    with _waiting("profiling both", options["quiet"]):
        old, new = (obtain(side, given) for side in sides)
    layout = {name: options[name] for name in ("metric", "by", "expand")}
    found = compare(old, new, (before, now), **layout)
    text = render(found, options["format_"], options["row_limit"])
    if limit is None or found.worst() <= limit:
        return text, ""
    return text, f"{found.metric.words} grew by {100 * found.worst():.3g} %, more than {options['fail_above']}"


def _percentage(text: str | None) -> float | None:
    if text is None:
        return None
    from .units import parse

    try:
        value = parse(text, "number") if text.rstrip().endswith("%") else -1.0
    except InputError:
        value = -1.0
    if value < 0:
        raise InputError(f"--fail-above is {text!r}; it must be a percentage of 0 or more, as in 2%")
    return value


def _given(context: click.Context) -> list[str]:
    """The options of the model that were written on the command line, as `regflat profile` takes them."""
    found: list[str] = []
    for option in context.command.params:
        name = option.name or ""
        written = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if not isinstance(option, click.Option) or not written or name in _OF_DIFF:
            continue
        value = context.params[name]
        values = value if option.multiple else [value]
        found += [option.opts[0]] if option.is_flag else [word for v in values for word in (option.opts[0], str(v))]
    return found


_OF_DIFF = ("metric", "fail_above", "by", "expand", "row_limit", "format_", "output", "quiet", "verbose")


@main.command()
@click.argument("files", nargs=-1)
@click.option("--from-package", is_flag=True, help="Rows of the installed package aiconfigurator-core.")
@click.option("--sample", type=int, help="Of each table of that package so many rows.  [default: 200]")
@click.option(
    "--split",
    type=click.Choice(("all", "fit", "held-out")),
    help="Rows that constants may be fitted to, or those that they may not.  [default: all; held-out for --pairs]",
)
@click.option("--min-us", type=float, default=0.0, help="Leave out latencies shorter than this.")
@click.option("--where", multiple=True, metavar="KEY=PATTERN", help="Only such rows, as in gpu=H100*; repeatable.")
@click.option("--by", help="One table by these: class, gpu, dtype, decade, source, file, split; with commas between.")
@click.option("--worst", type=int, default=0, help="Also show so many of the worst rows.")
@click.option("--pairs", is_flag=True, help="Also compare rows that differ in one factor: is the faster one known?")
@click.option("--predictions", type=click.Path(), help="Write every row with what the model says of it, as CSV.")
@click.option("--format", "format_", type=click.Choice(_FORMATS), default="table", show_default=True)
@click.option("-o", "--output", type=click.Path(), help="Write to this file instead of the terminal.")
@click.option("--strict", is_flag=True, help="Malformed rows and unknown GPUs are an error.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
def validate(files: tuple[str, ...], verbose: bool, **options: Any) -> None:
    """Compare the model with measured rows in CSV FILES: errors by class, GPU, number format and size."""
    with _one_sentence(verbose):
        code = _validate(files, **options)
    if code:
        raise click.exceptions.Exit(code)


def _validate(files: tuple[str, ...], quiet: bool, **options: Any) -> int:
    from .report.files import check_writable, write
    from .validation.report import predictions_csv, render
    from .validation.run import validate as run

    _check_validation(files, options)
    for path in (options["output"], options["predictions"]):
        if path not in (None, "-"):
            check_writable(path)
    with _bar("rows", quiet) as progress:
        found = run(
            (*files, *_packaged(options)),
            split=options["split"] or ("held-out" if options["pairs"] else "all"),
            **{name: options[name] for name in ("min_us", "where", "by", "worst", "pairs")},
            progress=progress,
        )
    if options["strict"] and found.wrong:
        for line in found.wrong:
            click.echo(f"regflat: {line}", err=True)
        return 2
    if options["predictions"] is not None:
        write(options["predictions"], predictions_csv(found))
    text = render(found, options["format_"])
    if options["output"] in (None, "-"):
        click.echo(text, nl=False)
    else:
        write(options["output"], text)
    return 0


def _check_validation(files: tuple[str, ...], options: dict[str, Any]) -> None:
    if not files and not options["from_package"]:
        raise InputError("nothing to validate; give CSV files of measured rows, or --from-package")
    if options["sample"] is not None and not options["from_package"]:
        raise InputError("--sample is for --from-package; CSV files are taken whole")
    if options["predictions"] == "-":
        raise InputError("--predictions writes a file beside the tables; give it a name")
    if options["worst"] < 0 or options["min_us"] < 0:
        raise InputError("--worst and --min-us must be 0 or more")


@main.command()
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
@click.option("--format", "format_", type=click.Choice(_FORMATS), default="table", show_default=True)
@click.option("-q", "--quiet", is_flag=True, help="No progress, no list of skipped rows.")
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
def measure(verbose: bool, **options: Any) -> None:
    """Time kernels and models on this machine's CUDA GPU, write them as rows, and compare the model with them."""
    with _one_sentence(verbose):
        _measure(**options)


def _measure(output: str | None, resume: bool, chip: str, quiet: bool, **options: Any) -> None:
    from .measurement import run
    from .measurement.device import CudaDevice
    from .validation.report import render
    from .validation.run import validate as compare

    plan = run.plan_of(**{name: options[name] for name in run.OPTIONS})
    device = CudaDevice()
    gpu = run.gpu_of(device, chip)
    folder = run.folder_of(output, gpu, resume=resume)
    with _bar("rows", quiet) as progress:
        outcome = run.measure(plan, device, folder, gpu, progress=progress)
    for line in outcome.lines(folder, device, listed=not quiet):
        click.echo(f"regflat: {line}", err=True)
    with _bar("rows", quiet) as progress:
        found = compare(folder.files(), worst=options["worst"], progress=progress)
    click.echo(render(found, options["format_"]), nl=False)


def _packaged(options: dict[str, Any]) -> list[Any]:
    """The tables of the installed package, where they are asked for."""
    if not options["from_package"]:
        return []
    from .validation.package import SAMPLE, read_package

    return list(read_package(SAMPLE if options["sample"] is None else options["sample"]))


@contextlib.contextmanager
def _bar(what: str, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on a terminal, told (done, total)."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit=f" {what}", leave=False, file=sys.stderr, delay=_PATIENCE_S) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


class _Chips(click.Group):
    """`chips`, `chips NAME` and `chips new NAME`: what is not the name of a command is the name of a chip."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


@main.group(
    cls=_Chips, invoke_without_command=True, subcommand_metavar="[NAME | new NAME]", options_metavar="[OPTIONS]"
)
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
@click.pass_context
def chips(context: click.Context, verbose: bool) -> None:
    """List the chips that ship and those on REGFLAT_CHIP_PATH, or show every number of chip NAME with its source."""
    if context.invoked_subcommand is None:
        with _one_sentence(verbose):
            click.echo(_chip_table())


@chips.command(hidden=True)
@click.argument("name")
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
@click.pass_context
def show(context: click.Context, name: str, verbose: bool) -> None:
    """Show every number of chip NAME with its source."""
    with _one_sentence(verbose or (context.parent is not None and context.parent.params["verbose"])):
        from .hardware import library

        click.echo(library.describe(library.load(name)))


@chips.command()
@click.argument("name")
@click.option("--like", metavar="CHIP", help="Start from the numbers of this chip; by default from round ones.")
@click.option("-o", "--output", metavar="FILE", help="Where to write; by default NAME.toml, - is the terminal.")
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
def new(name: str, like: str | None, output: str | None, verbose: bool) -> None:
    """Write a chip file to fill in: valid as it stands, every number an estimate without a source."""
    with _one_sentence(verbose):
        from .hardware.template import template

        text, path = template(name, like), output or f"{name}.toml"
        if path != "-":
            _check_new(path)
        _emit(text, path)
        if path != "-":
            told = f"wrote {path}; see it with regflat chips {path}, price it with --chip {path}"
            click.echo(f"regflat: {told}", err=True)


def _check_new(path: str) -> None:
    from .report.files import check_writable

    if not path.endswith(".toml"):
        raise InputError(f"cannot write {path}: the name of a chip file ends in .toml")
    if os.path.lexists(path):
        raise InputError(f"cannot write {path}: it is there already; name another file with -o, or remove it first")
    check_writable(path)


def _chip_table() -> str:
    from .hardware import library

    rows = []
    for name in library.names():
        try:
            rows.append(library.summary(library.load(name)))
        except ChipError as error:  # one broken private file must not hide the others
            click.echo(f"regflat: {error}", err=True)
    return _listing([_one_peak(row) for row in rows])


def _one_peak(row: dict[str, str]) -> dict[str, str]:
    """`peak bf16: 989 TFLOP/s` to `peak: 989 TFLOP/s bf16`, so that chips of different types share a column."""
    return {
        "peak" if key.startswith("peak ") else key: f"{value} {key[5:]}" if key.startswith("peak ") else value
        for key, value in row.items()
    }


@main.command()
@click.argument("name", required=False)
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of errors.")
def models(name: str | None, verbose: bool) -> None:
    """List the models that ship, or show the configuration of model NAME."""
    with _one_sentence(verbose):
        click.echo(_model_facts(name) if name else _model_table())


def _model_table() -> str:
    from .models import describe, names

    shown = ("name", "kind", "architecture", "layers", "hidden", "heads", "kv_heads", "experts", "dtype", "positions")
    rows = []
    for facts in map(describe, names()):
        row = {key: "" if facts[key] is None else str(facts[key]) for key in shown}
        rows.append({**row, "parameters": format_si(facts["parameters"], "")})
    return _listing(rows)


def _model_facts(name: str) -> str:
    from tabulate import tabulate

    from .models import describe

    facts = [(key.replace("_", " "), str(value)) for key, value in describe(name).items() if value not in (None, "")]
    return tabulate(facts, tablefmt="plain", disable_numparse=True)


def _listing(rows: list[dict[str, str]]) -> str:
    from tabulate import tabulate

    return tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True)
