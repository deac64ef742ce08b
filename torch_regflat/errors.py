"""Errors a user can act on.

Every error here is one sentence in the user's words: what was found, where, and what would be right. The command
line prints it without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RegflatError(Exception):
    """Base of every error that torch_regflat raises on purpose."""

    exit_code = 2


class InputError(RegflatError, ValueError):
    """An argument that makes no sense: a batch of 0, an unknown dtype, an option that contradicts another."""


class ChipError(RegflatError, ValueError):
    """An unknown chip, or a chip file that does not describe one."""


class ModelError(RegflatError, ValueError):
    """An unknown model, a broken `config.json`, or a factory that cannot be called."""


class CaptureError(RegflatError, RuntimeError):
    """A module that could not be captured; the message names the module's path.

    `whatever_the_input` is true where no other inputs would help: it asks for values that depend on the weights.
    """

    whatever_the_input = False


class UnmodelledError(RegflatError, RuntimeError):
    """`strict=True` met an operation without a formula of its own."""


class CapacityError(RegflatError, RuntimeError):
    """`strict=True` met a model that does not fit, or nothing legal fits a memory level."""


class ResultError(RegflatError, ValueError):
    """A saved profile that cannot be read or written."""


def near(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return `", did you mean A or B?"` for the known names closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name.lower(), list(known), n=limit, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""
