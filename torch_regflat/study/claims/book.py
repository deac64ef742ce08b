"""The claims as they were made, with their sources: `claims.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import InputError, near

_FILE = Path(__file__).parent / "claims.toml"


@dataclass(frozen=True)
class Claim:
    """A claim, who says so, the rule that checks it (empty: none can, and `why`), and the numbers it states."""

    id: str
    text: str
    sources: tuple[str, ...]
    rule: str = ""
    why: str = ""
    note: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)


def book() -> list[Claim]:
    """All claims, in the order of the file."""
    data = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return [Claim(**{**item, "sources": tuple(item["sources"])}) for item in data["claim"]]


def chosen(ids: tuple[str, ...]) -> list[Claim]:
    """Some of the claims, all without ids. Raises `InputError` for one that there is not."""
    known = {claim.id: claim for claim in book()}
    for name in ids:
        if name not in known:
            raise InputError(f"there is no claim {name!r}{near(name, known) or ';'} there are {', '.join(known)}")
    return [known[name] for name in ids] if ids else list(known.values())
