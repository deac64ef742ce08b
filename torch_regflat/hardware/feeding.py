"""What a reader of a report must know of a chip: engines that their memory cannot feed, numbers that are guesses."""

from __future__ import annotations

from .chip import Chip, Engine, dtype_bits

_SLACK = 1.0 + 1e-9


def needed_bytes(engine: Engine, dtype: str) -> float:
    """Bytes a clock that one core's engine takes at full rate: a row and a column of every tile for each step of it."""
    rows, columns, _ = engine.native_tile()
    macs = engine.rate[dtype].value / 2.0
    return macs * dtype_bits(dtype) / 8.0 * (1.0 / rows + 1.0 / columns)


def notes(chip: Chip) -> tuple[str, ...]:
    """What every report of a chip says of it, a sentence each."""
    found = starving(chip)
    if chip.speculative:
        guessed = [path for path, quantity in chip.quantities() if quantity.kind == "estimate"]
        found.append(
            f"{chip.name} guesses at a product whose maker has not published these {len(guessed)} numbers: "
            + ", ".join(guessed)
        )
    return tuple(found)


def starving(chip: Chip) -> list[str]:
    """What engines of a register-flat chip take at full rate and its port does not give, a sentence each."""
    if chip.memory_system != "register-flat":
        return []
    level = chip.on_chip[0]
    clocks = chip.clock.value * chip.cores.count.value
    given = level.placed_read_bytes_per_s / clocks
    found = []
    for engine in chip.engines:
        if engine.kind == "special":
            continue
        wanted = {dtype: needed_bytes(engine, dtype) for dtype in engine.rate}
        dtype = max(wanted, key=lambda d: wanted[d])
        if wanted[dtype] > given * _SLACK:
            found.append(
                f"{level.name} cannot feed {engine.name}: products in {dtype} take {wanted[dtype]:.0f} B a clock and "
                f"{chip.cores.name} at full rate, and its port gives {given:.0f} B "
                f"({100 * given / wanted[dtype]:.0f} % of the rate)"
            )
    return found
