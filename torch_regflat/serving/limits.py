"""What keeps an instance from serving more: what passes spend their time on, and what keeps more requests out."""

from __future__ import annotations

from ..served import Limit, StepCost

KINDS = ("compute", "bandwidth", "capacity", "network", "power", "launch", "targets", "prompts", "slots")
"""What limits are called; `what` of a `Limit` says more."""


def kind_of(bound: str, external: str, links: tuple[str, ...] = ()) -> str:
    """The kind of a bound of kernels: `HBM3 bandwidth`, `power (compute)`, `launch`, ..."""
    if bound.startswith("power"):
        return "power"
    if bound == "launch":
        return "launch"
    if bound == "network" or any(bound.startswith(link) for link in links):
        return "network"
    return "bandwidth" if bound.startswith(external) else "compute"


def resources(cost: StepCost, external: str, links: tuple[str, ...] = ()) -> list[Limit]:
    """What a mean pass spends its time on, the most first."""
    kinds: dict[str, dict[str, float]] = {}
    for bound, seconds in cost.bound_s.items():
        names = kinds.setdefault(kind_of(bound, external, links), {})
        names[bound] = names.get(bound, 0.0) + seconds
    whole = sum(cost.bound_s.values()) or 1.0
    found = [
        Limit(kind, max(names, key=lambda name: (names[name], name)), sum(names.values()) / whole)
        for kind, names in kinds.items()
    ]
    return sorted(found, key=lambda limit: (-limit.share, limit.name))
