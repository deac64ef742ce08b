"""A run in time, as plain SI data: when each kernel computes, when each transfer moves, what lies on chip meanwhile."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KernelSpan:
    """A kernel on the engines: launched from `start_s`, computing from `compute_s`, done at `end_s`.

    `waits_s` is for how long the engines had nothing to do before or during it, by cause: `launch`, `external
    bandwidth` (its loads or stores took longer than its arithmetic), `on-chip capacity` (they had no room to run
    ahead), `write-back` (what it loads had to leave first), `on-chip ports` (what it loads ahead took the port of the
    kernels before it, and held them up).
    """

    name: str
    path: str
    start_s: float
    compute_s: float
    end_s: float
    waits_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class TransferSpan:
    """Bytes that cross the external channel for the kernel with the index `kernel`: a `load`, `store` or `write-back`.

    It may share the channel, or pause, between `start_s` and `end_s`. `waited_for` says why it did not start sooner:
    `external bandwidth` (the channel was busy), `on-chip capacity`, `write-back`, `look-ahead` (loads run so many
    kernels ahead and no more), `kernel` (it moves as its kernel computes); empty where it did not wait.
    """

    kernel: int
    what: str
    resource: str
    tensors: tuple[str, ...]
    size_bytes: float
    start_s: float
    end_s: float
    waited_for: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Everything that happens on one chip. `computing_s` and the stalls, by cause, add up to `latency_s`.

    `on_chip` is the bytes taken in the last memory on chip from each time on (empty for caches, which are always
    full), of the `capacity_bytes` it has.
    """

    chip: str
    latency_s: float
    computing_s: float
    stalls_s: dict[str, float]
    kernels: tuple[KernelSpan, ...]
    transfers: tuple[TransferSpan, ...]
    on_chip: tuple[tuple[float, float], ...]
    capacity_bytes: float

    @property
    def peak_bytes(self) -> float:
        """The most bytes that are taken on chip at once."""
        return max((size for _, size in self.on_chip), default=0.0)
