"""A seeded sample of what `benchmarks/hf_coverage.csv` says can be profiled, of every modality, profiled again."""

from __future__ import annotations

import csv
import importlib.util
import random
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("transformers")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SEED, EACH = 20, 7
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


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hf_coverage", BENCHMARKS / "hf_coverage.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hf_coverage"] = module
    spec.loader.exec_module(module)
    return module


def sample() -> list[tuple[str, str]]:
    """(modality, type) drawn from the types of the table whose rows are all ok."""
    from transformers.models.auto import modeling_auto

    with (BENCHMARKS / "hf_coverage.csv").open() as file:
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
    assert len(SAMPLE) >= 55
    assert {modality for modality, _ in SAMPLE} == set(MODALITIES)


@pytest.mark.slow
@pytest.mark.parametrize(("modality", "kind"), SAMPLE, ids=[kind for _, kind in SAMPLE])
def test_a_model_of_transformers_is_profiled(modality: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    coverage = load()
    monkeypatch.setattr(coverage, "ARBITER", False)
    before = signal.signal(signal.SIGALRM, coverage._on_alarm)
    try:
        rows = list(coverage.rows_of(kind))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rows
    assert [(row.model, row.phase, row.status, row.reason) for row in rows if row.status != "ok"] == []
    assert all(0 < float(row.coverage) <= 1 for row in rows)
