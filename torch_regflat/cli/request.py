"""`regflat profile --phase request`: a prompt and its answer, token by token, perhaps in many turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ..errors import InputError
from .running import check_positive, check_writable, silenced, waiting

PHASE = "request"
_MODEL = (
    "batch", "dtype", "kv_dtype", "weights", "activations", "routing_skew", "software", "strict", "trust_remote_code",
)  # fmt: skip
_NOT = ("seq_len", "context", "by", "expand", "sort_by", "row_limit", "sensitivity", "timeline", "optimizer")
"""Options of other phases."""

_OPTIONS = (
    click.option("--prompt", type=int, help="Of request: tokens of the prompt."),
    click.option("--chunk", type=int, help="Of request: tokens of a prompt that a pass reads at most."),
    click.option("--prefix-share", type=float, default=0.0, help="Of request: share of the prompt cached already."),
    click.option("--turns", type=int, default=1, help="Of request: so many turns over one growing context."),
    click.option("--turn-tokens", type=int, default=0, help="Of request: tokens that each later turn adds."),
    click.option("--drop-cache", is_flag=True, help="Of request: each turn reads the whole context anew."),
    click.option("--draft-length", type=int, help="Of request: tokens drafted at a time."),
    click.option("--acceptance", type=float, default=0.8, help="Of request: share of drafted tokens accepted."),
    click.option("--draft-model", default="", help="Of request: the model that drafts."),
    click.option("--draft-share", type=float, help="Of request: cost of a drafted token, of a decoded one's."),
)
_OWN = (
    "prompt", "chunk", "prefix_share", "turns", "turn_tokens", "drop_cache", "draft_length", "acceptance",
    "draft_model", "draft_share",
)  # fmt: skip


def request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of requests."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _written(context: click.Context, names: tuple[str, ...]) -> list[str]:
    given = click.core.ParameterSource.COMMANDLINE
    return [f"--{n.replace('_', '-')}" for n in names if context.get_parameter_source(n) is given]


def refuse(context: click.Context) -> None:
    """Raise `InputError` for options of requests where another phase is priced."""
    written = _written(context, _OWN)
    if written:
        raise InputError(f"{written[0]} is about requests; give --phase {PHASE}")


def requests(context: click.Context, model: str, file: str | None, options: dict[str, Any]) -> str:
    """The report of a request."""
    written = _written(context, _NOT)
    if written:
        raise InputError(f"{written[0]} is not about requests; leave it out, or price another phase")
    if len(options["phases"]) > 1:
        raise InputError("a request has its own phases inside; give --phase request alone")
    if options["format_"] not in ("table", "json"):
        raise InputError(f"--format {options['format_']} is for one phase; a request is a table or json")
    prompt, output = options["prompt"], _tokens(options["output"])
    if prompt is None or output is None:
        raise InputError("a request has a prompt and an answer; give --prompt and --output, in tokens")
    for name in ("prompt", "batch", "chunk", "turns", "draft_length"):
        check_positive(f"--{name.replace('_', '-')}", options[name])
    check_positive("--output", output)
    check_writable(file)
    from ..serving.request import profile_request

    given = {name: options[name] for name in (*_MODEL, *_OWN) if name not in ("prompt", "drop_cache")}
    if context.get_parameter_source("mode") is click.core.ParameterSource.COMMANDLINE:
        given["mode"] = options["mode"]
    chips = list(options["chips"]) or ["h100-sxm"]
    with waiting(f"profiling {model}", options["quiet"]), silenced(options["quiet"]):
        found = profile_request(
            model, prompt=prompt, output=output, chips=chips, keep_cache=not options["drop_cache"], **given
        )
    return found.to_json() if options["format_"] == "json" else str(found)


def _tokens(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(
            f"--output is {text!r}; of a request it is the tokens of the answer (-o names a file)"
        ) from None
