"""A seeded sample of what `benchmarks/hf_coverage.csv` says can be profiled, of every modality, profiled again."""

from __future__ import annotations

import csv
import random
import signal
from pathlib import Path

import hf_coverage as coverage
import pytest

pytest.importorskip("transformers")
TABLE = Path(coverage.__file__).with_suffix(".csv")
SEED, EACH = 20, 8
MODALITIES = {
    "text decoder": ("CAUSAL_LM",),
    "text encoder": ("MASKED_LM", "SEQUENCE_CLASSIFICATION"),
    "encoder-decoder": ("SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ"),
    "image": ("IMAGE_CLASSIFICATION", "DEPTH_ESTIMATION"),
    "detection and segmentation": ("OBJECT_DETECTION", "UNIVERSAL_SEGMENTATION", "SEMANTIC_SEGMENTATION"),
    "audio": ("AUDIO_CLASSIFICATION", "CTC", "TEXT_TO_WAVEFORM"),
    "video": ("VIDEO_CLASSIFICATION",),
    "image and text": ("IMAGE_TEXT_TO_TEXT", "ZERO_SHOT_IMAGE_CLASSIFICATION"),
    "series": ("TIME_SERIES_PREDICTION", "TIME_SERIES_CLASSIFICATION"),
    "parts": (),
}
"""Modality -> Auto mappings; parts are types without any, such as vision towers."""


def sample() -> list[tuple[str, str]]:
    """(modality, type) drawn from the types of the table whose rows are all ok."""
    from transformers.models.auto import modeling_auto

    with TABLE.open() as file:
        rows = list(csv.DictReader(file))
    slow = {row["type"] for row in rows if float(row["seconds"]) > 4}
    good = {row["type"] for row in rows} - {row["type"] for row in rows if row["status"] != "ok"} - slow
    mapped = {kind for name, table in vars(modeling_auto).items() if name.endswith("MAPPING_NAMES") for kind in table}
    found = []
    for modality, heads in MODALITIES.items():
        kinds = {kind for head in heads for kind in getattr(modeling_auto, f"MODEL_FOR_{head}_MAPPING_NAMES")}
        pool = sorted(good & kinds) if heads else sorted(good - mapped) or sorted(good)
        found += [(modality, kind) for kind in random.Random(SEED).sample(pool, min(EACH, len(pool)))]
    return list({kind: (modality, kind) for modality, kind in found}.values())


SAMPLE = sample()


def test_the_sample_is_large_enough() -> None:
    assert len(SAMPLE) >= 60
    assert {modality for modality, _ in SAMPLE} == set(MODALITIES)


def test_the_shares_of_the_table() -> None:
    """What the README says of it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    shares = coverage.shares(coverage.read(TABLE), dict(CONFIG_MAPPING_NAMES))
    assert shares.tried == len(set(CONFIG_MAPPING_NAMES.values()))
    assert shares.ok / shares.runnable >= 0.97
    assert not shares.crashed


@pytest.mark.slow
@pytest.mark.parametrize(("modality", "kind"), SAMPLE, ids=[kind for _, kind in SAMPLE])
def test_a_model_of_transformers_is_profiled(modality: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "ARBITER", False)
    before = signal.signal(signal.SIGALRM, coverage._on_alarm)
    try:
        rows = list(coverage.rows_of(kind, most=2))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rows
    assert [(row.model, row.phase, row.status, row.reason) for row in rows if row.status != "ok"] == []
    assert all(0 < float(row.coverage) <= 1 for row in rows)
