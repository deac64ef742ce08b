"""What is not as before: the user's code, a library, the chip file, how the model is called, or our cost model."""

from __future__ import annotations

from .snapshot import Provenance

LIBRARIES = ("torch", "transformers")


def moved(before: Provenance, now: Provenance, chips: dict[str, tuple[str, str]] | None = None) -> list[str]:
    """What may be why figures changed, a phrase each. `chips` holds phrases and the hashes before and now.

    An empty hash says nothing. A library is suspected only where the graph changed: it decides nothing else.
    """
    found = []
    if before.cost_model != now.cost_model:
        found.append(f"our cost model ({before.cost_model or 'unknown'} -> {now.cost_model or 'unknown'})")
    for words, (old, new) in (chips or {}).items():
        if old != new and old and new:
            found.append(words)
    settings = [
        f"{name}: {_shown(before.settings.get(name))} -> {_shown(now.settings.get(name))}"
        for name in dict.fromkeys((*before.settings, *now.settings))
        if before.settings.get(name) != now.settings.get(name)
    ]
    if settings:
        found.append(f"how the model is called ({', '.join(settings)})")
    if before.graph_hash and now.graph_hash and before.graph_hash != now.graph_hash:
        found.append(_code(before, now))
    return found


def sentence(found: list[str], before: Provenance, now: Provenance) -> str:
    """One sentence for a report."""
    if found:
        return f"what moved: {'; '.join(found)}"
    ours = (before.versions.get("torch_regflat", ""), now.versions.get("torch_regflat", ""))
    if ours[0] != ours[1]:
        return f"what moved: torch_regflat ({ours[0] or 'none'} -> {ours[1] or 'none'}); all else is as it was"
    if not (before.graph_hash and now.graph_hash):
        return "what moved: not known, for one of the two has no fingerprint of its graph"
    return (
        "what moved: nothing that is recorded (graph, libraries, chip file and cost model are as they were); "
        "a formula registered with @regflat.operator may be another"
    )


def _code(before: Provenance, now: Provenance) -> str:
    changed = [
        f"{name} {before.versions.get(name, 'none')} -> {now.versions.get(name, 'none')}"
        for name in LIBRARIES
        if before.versions.get(name) != now.versions.get(name)
    ]
    if not changed:
        kept = [name for name in LIBRARIES if name in now.versions]
        return f"your code (the graph is another, {' and '.join(kept) or 'libraries'} the same)"
    return f"a library or your code (the graph is another, and so is {' and '.join(changed)})"


def _shown(value: str | None) -> str:
    if not value:
        return "none"
    return value if len(value) <= 60 else value[:57] + "..."
