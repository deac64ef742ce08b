"""What rules look at: the chips and models that stand for the claims' words, and rows swept over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...hardware.chip import Chip
from ...hardware.library import load
from ...layout import Layout
from ..alike import fair_pairs, without_unattributed
from ..rows import Row
from ..sweep import ModelLike, fill, known_rows, points_of
from ..variants import ChipLike, Variant


@dataclass(frozen=True)
class Setup:
    """What stands for "a GPU", "the chip", "a model", and the ranges that are swept. Nothing here is picked to suit a
    claim: the table says for which part of the ranges it holds."""

    gpus: Sequence[ChipLike] = ("a100-sxm-80gb", "h100-sxm")
    flats: Sequence[ChipLike] = ("regflat-ideal", "regflat-physical", "regflat-pessimistic")
    twins: Sequence[ChipLike] = ("h100-sxm:flat",)
    """Register-flat twins of the last GPU, compared with it like for like beside the physical flat chip."""
    generations: Sequence[ChipLike] = ("p100-pcie-16gb", "v100-sxm2", "a100-sxm-40gb", "h100-sxm", "b200")
    moe: ModelLike = "gpt4-moe-estimate"
    small: ModelLike = "llama-3-8b"
    trillion: Sequence[ModelLike] = ("gpt4-moe-estimate", "kimi-k2")
    batches: Sequence[int] = (1, 4, 16, 64, 128, 256, 512)
    contexts: Sequence[int] = (1024, 4096)
    prompts: Sequence[int] = (512, 2048)
    prompt_batches: Sequence[int] = (1, 8)
    answers: Sequence[int] = (100, 500, 2000)
    """Tokens of an answer."""

    served: Layout = field(default_factory=lambda: Layout(ep=8, pp=8, dp=8))
    """The chips that serve a model too large for one."""
    served_weights: str | None = "fp8"

    @property
    def gpu(self) -> Chip:
        """The last of the GPUs: the one that flat chips are compared with."""
        return load(self.gpus[-1])

    @property
    def physical(self) -> Chip:
        """The middle reading of the flat chip: the one that claims about building it are about."""
        return load(self.flats[len(self.flats) // 2])


@dataclass(frozen=True)
class Evidence:
    """Rows by need, each point priced once. With `unattributed` False every chip is priced without what boards are
    measured to spend beyond the sum of their parts."""

    setup: Setup
    unattributed: bool = True
    known: dict[tuple[Any, ...], Row] = field(default_factory=dict)
    csv: str | Path | None = None
    progress: bool | None = None
    served: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    """Served models, each looked at once."""

    @classmethod
    def of(cls, setup: Setup, csv: str | Path | None = None, progress: bool | None = None) -> Evidence:
        """Evidence that keeps its rows in a CSV, and starts with those that it holds."""
        return cls(setup, known={} if csv is None else known_rows(csv), csv=csv, progress=progress)

    def without(self) -> Evidence:
        """The same without unattributed energy."""
        return Evidence(self.setup, False, self.known, self.csv, self.progress, self.served)

    def sweep(
        self,
        models: ModelLike | Sequence[ModelLike],
        chips: Iterable[ChipLike | Variant],
        phase: str,
        batches: Sequence[int],
        contexts: Sequence[int],
        **options: Any,
    ) -> list[Row]:
        """Rows that could be priced; with and without unattributed energy at once, those of this evidence are given."""
        return [row for row in self.all_rows(models, chips, phase, batches, contexts, **options) if not row["error"]]

    def all_rows(
        self,
        models: ModelLike | Sequence[ModelLike],
        chips: Iterable[ChipLike | Variant],
        phase: str,
        batches: Sequence[int],
        contexts: Sequence[int],
        **options: Any,
    ) -> list[Row]:
        """The same with those that could not be priced."""
        asked = [Variant.of(chip) for chip in chips]
        bare = [without_unattributed(variant) for variant in asked]
        points = points_of(models, phase, batches, contexts, None, options)
        rows = fill(self.known, points, [*asked, *bare], self.csv, self.progress)
        first = 0 if self.unattributed else len(asked)
        width = 2 * len(asked)
        return [r for i in range(0, len(rows), width) for r in rows[i + first : i + first + len(asked)]]

    def decode(self, models: ModelLike | Sequence[ModelLike], chips: Iterable[ChipLike | Variant]) -> list[Row]:
        """One token of every sequence, over all batches and contexts."""
        return self.sweep(models, chips, "decode", self.setup.batches, self.setup.contexts)

    def prefill(self, models: ModelLike | Sequence[ModelLike], chips: Iterable[ChipLike | Variant]) -> list[Row]:
        """Prompts of all lengths, alone and a few at a time."""
        return self.sweep(models, chips, "prefill", self.setup.prompt_batches, self.setup.prompts)

    def alike(self) -> list[tuple[str, Row, Row]]:
        """The GPU, and the physical flat chip and the GPU's twins, where only the on-chip memory differs, over decode
        and prefill of the small model: (whose software, the GPU's row, the flat chip's row)."""
        gpu, flats = Variant.of(self.setup.gpu), [self.setup.physical, *self.setup.twins]
        pairs = [pair for flat in flats for pair in fair_pairs(gpu, Variant.of(flat))]
        hardware = [variant for pair in pairs for variant in pair.both]
        setup = self.setup
        rows = self.all_rows(setup.small, hardware, "decode", setup.batches, setup.contexts)
        rows += self.all_rows(setup.small, hardware, "prefill", setup.prompt_batches, setup.prompts)
        found: list[tuple[str, Row, Row]] = []
        for i in range(0, len(rows), 2):
            pair = pairs[(i // 2) % len(pairs)]
            if not (rows[i]["error"] or rows[i + 1]["error"]):
                found.append((pair.name.split(": ")[-1], rows[i], rows[i + 1]))
        return found
