"""Exchanges between chips as kernels: what the links take, and what it moves of this chip's own memory."""

from __future__ import annotations

from dataclasses import replace

from ..hardware.chip import Chip
from ..workload import Collective
from .select import Choice

LINK = "link"
"""What an exchange is busy with, beside this chip's own memory."""

# Until chip files say what their links are: an H100's NVLink 4, 450 GB/s each way (datasheet); the time to start and
# the energy of a bit are estimates.
_BYTES_PER_S = 450e9
_START_S = 5e-6
_J_PER_BYTE = 8 * 1.3e-12


def collective_s(chip: Chip, collective: Collective) -> tuple[float, float]:
    """Seconds and joules that one chip spends on an exchange."""
    sent = wire_bytes(collective)
    return (_START_S + sent / _BYTES_PER_S if collective.ranks > 1 else 0.0), sent * _J_PER_BYTE


def wire_bytes(collective: Collective) -> float:
    """Bytes that each chip sends at least, by the algorithms that need the fewest.

    Thakur, Rabenseifner, Gropp 2005, "Optimization of collective communication operations in MPICH".
    """
    n, size = collective.ranks, collective.nbytes
    shares = {
        "all_reduce": 2 * (n - 1) / n,
        "all_gather": n - 1,
        "reduce_scatter": (n - 1) / n,
        "all_to_all": (n - 1) / n,
        "broadcast": 1.0,
        "send": 1.0,
    }
    return size * shares[collective.kind]


def exchanged(choice: Choice, chip: Chip, collective: Collective) -> Choice:
    """The choice of a kernel that is an exchange: its memory traffic as it is, its time that of the exchange."""
    seconds, joules = collective_s(chip, collective)
    static = chip.power.static.value * seconds
    return replace(
        choice,
        latency_s=seconds,
        core_s=seconds,
        overhead_s=0.0,
        resources_s={LINK: seconds},
        stretch=1.0,
        static_energy_j=static,
        link_energy_j=joules,
        mapping=str(collective.kind).replace("_", "-") + f" of {collective.ranks}",
        reason="only one way",
    )
