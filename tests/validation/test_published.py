"""The model against published figures (see published/README.md): errors that a change must not make much worse.

The bounds are the errors of the model when they were written, half as much again and rounded up: they catch a mistake
and leave room for honest changes. What the errors are is for docs/accuracy.md to say.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from torch_regflat.validation.predict import Prediction, predict
from torch_regflat.validation.reading import read
from torch_regflat.validation.score import score, scores

PUBLISHED = Path(__file__).parent / "published"
BOUNDS = {
    "gemm bf16/fp16": 0.20,
    "gemm fp32": 0.30,
    "attention decode": 0.30,
    "attention prefill": 0.35,
    "moe": 0.35,
    "elementwise": 0.20,
    "norm": 0.50,
    "softmax": 0.50,
    "convolution": 0.45,
    "model inference-forward, e2e_latency": 0.15,
    "model decode": 0.15,
}


@pytest.fixture(scope="module")
def predictions() -> list[Prediction]:
    return predict(row for path in sorted(PUBLISHED.glob("*.csv")) for row in read(path).rows)


def test_all_are_predicted_and_there_are_no_more_than_may_be_cited(predictions: list[Prediction]) -> None:
    assert 200 <= len(predictions) <= 300
    assert [p.reason for p in predictions if p.value is None] == []
    assert all(p.row.held_out and p.row.source for p in predictions)


@pytest.mark.parametrize("label", BOUNDS)
def test_errors_by_class(label: str, predictions: list[Prediction]) -> None:
    found = {s.labels[0]: s for s in scores(predictions, ("class",))}
    assert set(found) == set(BOUNDS)
    assert found[label].mape <= BOUNDS[label], f"{found[label].mape:.1%} of {found[label].rows} rows"


def test_the_model_beats_the_roofline(predictions: list[Prediction]) -> None:
    all_ = score(predictions)
    assert all_.mape < 0.6 * all_.roofline_mape


def test_intervals_hold_most_measurements(predictions: list[Prediction]) -> None:
    inside = score(predictions).inside
    assert inside is not None and 0.65 <= inside <= 0.97
