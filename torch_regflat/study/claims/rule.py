"""The rules that check claims: a function each, under the name that `claims.toml` gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .evidence import Evidence
from .verdict import Finding

Rule = Callable[[Evidence, dict[str, Any]], Finding]
RULES: dict[str, Rule] = {}


def rule(made: Rule) -> Rule:
    """Register a rule under its function's name. It decides from swept rows and the chips' numbers alone."""
    name = getattr(made, "__name__", "")
    if name in RULES:
        raise ValueError(f"there are two rules {name}")
    RULES[name] = made
    return made
