"""The claims as a table for the terminal, and as a document."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tabulate import tabulate

from ...cost import MODEL_VERSION
from .check import Checked
from .evidence import Setup
from .verdict import Finding

_WIDTHS = (20, 34, 16, 58)


def text(found: Sequence[Checked]) -> str:
    """Claim, verdict with and without unattributed energy, where it holds, and what the model gives."""
    rows = [
        [
            "\n".join(textwrap.wrap(one.claim.id, _WIDTHS[0])),
            "\n".join(textwrap.wrap(one.claim.text, _WIDTHS[1]) + textwrap.wrap(_sources(one), _WIDTHS[1])),
            _verdicts(one),
            "\n".join(line for words in _given(one) for line in textwrap.wrap(words, _WIDTHS[3])),
        ]
        for one in found
    ]
    header = ("claim", "in words, and who says so", "verdict", "what the model gives")
    return f"{tabulate(rows, headers=header, tablefmt='simple_grid', disable_numparse=True)}\n\n{_counted(found)}\n"


def _sources(one: Checked) -> str:
    return f"({'; '.join(source.split(':')[0] if '://' not in source else source for source in one.claim.sources)})"


def _verdicts(one: Checked) -> str:
    if one.finding.verdict == one.without.verdict:
        return one.finding.verdict
    return f"{one.finding.verdict};\nwithout\nunattributed:\n{one.without.verdict}"


def _given(one: Checked) -> list[str]:
    found = one.finding
    words = [found.gives]
    if found.where:
        words.append(f"Holds at: {found.where}.")
    if found.assumptions:
        words.append(f"Assumed: {found.assumptions}.")
    if one.without != found:
        words.append(f"Without unattributed: {one.without.verdict}: {one.without.gives}")
    return words


def _counted(found: Sequence[Checked]) -> str:
    counts: dict[str, int] = {}
    for one in found:
        counts[one.finding.verdict] = counts.get(one.finding.verdict, 0) + 1
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))


HEAD = """# The founding claims, checked

This page is written by `regflat claims --write`; nothing in it is typed by hand. Each claim is checked by a rule
(`torch_regflat/study/claims`) over swept points of the model, and *holds* at all of them, *does not hold* at any, or
*holds only if*: then the points are named. Forecasts, products without a specification and the quality of answers are
*not checkable*. Verdicts are given twice: with what GPU boards are measured to spend beyond the sum of their parts
(`unattributed`) charged to every chip alike, and without it.

What is compared with a GPU is compared like for like: same arithmetic, board, external memory and software, so that
only the on-chip memory differs ([comparing.md](comparing.md)). Register-flat chips do not exist; their files are
estimates. All of it is a model: see [accuracy.md](accuracy.md) for how far it is off.
"""


def markdown(found: Sequence[Checked], setup: Setup) -> str:
    """The document: what was swept, a table of verdicts, and each claim with its sources."""
    named = (setup.gpus, setup.flats, setup.generations)
    chips = [", ".join(str(getattr(chip, "name", chip)) for chip in some) for some in named]
    swept = (
        f"Swept, model {MODEL_VERSION}: GPUs {chips[0]}; flat chips {chips[1]}; generations {chips[2]}; "
        f"decode at batch {_listed(setup.batches)} and context {_listed(setup.contexts)}; prompts of "
        f"{_listed(setup.prompts)} tokens at batch {_listed(setup.prompt_batches)}; answers of "
        f"{_listed(setup.answers)} tokens. The small model is {_name(setup.small)}, the mixture of experts "
        f"{_name(setup.moe)}."
    )
    lines = ["| claim | verdict | without unattributed |", "|---|---|---|"]
    for one in found:
        words = f"[{_cell(one.claim.text)}](#{one.claim.id})"
        lines.append(f"| {words} | {one.finding.verdict} | {one.without.verdict} |")
    parts = [HEAD.strip(), textwrap.fill(swept, 120), "\n".join(lines), f"{_counted(found)}."]
    return "\n\n".join([*parts, *map(_section, found)]) + "\n"


def _section(one: Checked) -> str:
    claim = one.claim
    lines = [f"## {claim.id}", "", f"> {claim.text}.", ""]
    lines += [f"- *Claimed by*: {source}" for source in claim.sources]
    lines += _finding("", one.finding)
    if one.without != one.finding:
        lines += _finding(" without unattributed", one.without)
    if claim.note:
        lines.append(f"- *Note*: {claim.note}.")
    return "\n".join(lines)


def _finding(when: str, found: Finding) -> list[str]:
    lines = [f"- *Verdict{when}*: **{found.verdict}**" + (f": {found.where}." if found.where else ".")]
    lines.append(f"- *What the model gives{when}*: {found.gives}.")
    if found.assumptions and not when:
        lines.append(f"- *Assumed*: {found.assumptions}.")
    return lines


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _name(model: object) -> str:
    return model if isinstance(model, str) else type(model).__name__


def _cell(words: str) -> str:
    return words.replace("|", "/")
