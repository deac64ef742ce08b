"""Which layouts are worth a look for a model on so many chips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..capture.huggingface import resolve
from ..errors import InputError
from ..layout import Layout
from .steps import Model

DEGREES = ("tp", "ep", "pp", "dp")
MOST_CHIPS = 128
TIMES = 4
"""Where no number of chips is given: up to so many times the fewest that hold the model."""
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def candidates(model: Model, chips: int | None, degrees: Mapping[str, int | None], fewest: int) -> list[Layout]:
    """Layouts with the degrees that are given, on `chips` in all; where neither is said, on powers of two of chips from
    `fewest` on. With degrees and no number of chips, what is not given is 1.

    Degrees that are not given are powers of two. Groups of sequences (dp) only where experts are divided over them, for
    they are else as many instances; experts whole on some chips (ep over all of a stage, or over as many as they are),
    or sliced like other weights.

    Raises `InputError` where none of these layouts has as many chips.
    """
    given = {name: value for name, value in degrees.items() if value is not None}
    if given and chips is None:
        return [Layout(**{name: given.get(name, 1) for name in DEGREES})]
    numbers = [chips] if chips is not None else _powers(fewest, min(TIMES * fewest, MOST_CHIPS))
    found = [layout for number in numbers for layout in _over(number, given, experts_of(model))]
    if not found:
        said = ", ".join(f"{name} {value}" for name, value in given.items()) or "powers of two"
        raise InputError(f"no layout with {said} has {chips} chips; tp x pp x dp is their number")
    return found


def _over(chips: int, given: Mapping[str, int], experts: int) -> Iterator[Layout]:
    for pp in _choices("pp", given, chips):
        for tp in _choices("tp", given, chips // pp):
            dp = chips // (pp * tp)
            if pp * tp * dp != chips or given.get("dp", dp) != dp or (dp > 1 and not experts and "dp" not in given):
                continue
            for ep in _expert_choices(given, tp * dp, dp, experts):
                yield Layout(tp=tp, ep=ep, pp=pp, dp=dp)


def _choices(name: str, given: Mapping[str, int], most: int) -> list[int]:
    return [given[name]] if name in given else _powers(1, most)


def _expert_choices(given: Mapping[str, int], chips: int, dp: int, experts: int) -> list[int]:
    if "ep" in given:
        return [given["ep"]] if chips % given["ep"] == 0 else []
    if not experts:
        return [1]
    divided = [ep for ep in _powers(2, chips) if chips % ep == 0 and experts % ep == 0]
    return ([1] if dp == 1 else []) + divided[-1:]


def _powers(low: int, high: int) -> list[int]:
    found, power = [], 1
    while power <= high:
        if power >= low:
            found.append(power)
        power *= 2
    return found


def experts_of(model: Model) -> int:
    """How many experts a layer of a model has; 0 for none, or where that is not known."""
    config: Any = getattr(model.spec, "config", None)
    if isinstance(model.spec, str):
        config = resolve(model.spec, trust_remote_code=model.trust_remote_code).config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in _EXPERTS:
        found = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
        if isinstance(found, int):
            return found
    return 0
