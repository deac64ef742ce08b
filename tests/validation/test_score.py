"""Error statistics, relative accuracy, and the spread that intervals are made of."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from torch_regflat.errors import InputError
from torch_regflat.schedule.uncertainty import key_of
from torch_regflat.validation.formats import FORMATS
from torch_regflat.validation.headline import headline
from torch_regflat.validation.pairs import pair_scores, pairs
from torch_regflat.validation.predict import Prediction
from torch_regflat.validation.reading import read
from torch_regflat.validation.rows import Row
from torch_regflat.validation.score import class_of, decade, keys, percent, quantile, score, scores
from torch_regflat.validation.split import fit_only, is_held_out
from torch_regflat.validation.spread import cells, correlations, render


def row(measured_us: float, *, gpu: str = "H100-SXM", **sizes: int) -> Row:
    """A GEMM row; its shape decides on which side of the split it is."""
    given = {"m": 64, "n": 64, "k": 64, "batch": 1, **sizes}
    cells = {"gpu": gpu, "dtype": "bf16", "latency_us": str(measured_us), **{k: str(v) for k, v in given.items()}}
    return next(f for f in FORMATS if f.name == "gemm").parse("made up", 2, cells)


def prediction(measured_us: float, modelled_us: float | None, **changes: object) -> Prediction:
    gpu, sizes = str(changes.pop("gpu", "H100-SXM")), {k: v for k, v in changes.items() if k in "mnk"}
    value = None if modelled_us is None else modelled_us * 1e-6
    rest = {k: v for k, v in changes.items() if k not in "mnk"}
    return Prediction(row(measured_us, gpu=gpu, **sizes), value=value, **rest)  # type: ignore[arg-type]


def test_statistics_by_hand() -> None:
    found = score(
        [
            prediction(100, 110, low=90e-6, high=120e-6, roofline=50e-6),
            prediction(100, 80, low=70e-6, high=90e-6, roofline=50e-6),
            prediction(100, 100, low=90e-6, high=110e-6, roofline=50e-6),
            prediction(100, None),
        ]
    )
    assert (found.rows, found.predicted) == (4, 3)
    assert found.mape == pytest.approx((0.1 + 0.2 + 0.0 + 1.0) / 4)
    assert found.median == pytest.approx(0.15)
    assert found.bias == pytest.approx((-0.2 + 0.0) / 2)
    assert found.inside == pytest.approx(2 / 3)
    assert found.roofline_mape == pytest.approx((0.5 * 3 + 1.0) / 4)
    assert found.within is None


def test_consensus_rows_are_scored_against_the_median_and_the_range() -> None:
    base = prediction(100, 130)
    rows = [replace(base.row, low=80e-6, high=140e-6), replace(base.row, low=40e-6, high=140e-6)]
    found = scores([replace(base, row=r) for r in rows], ("class",))
    assert [(s.labels[0], s.within) for s in found] == [
        ("gemm bf16/fp16, median, agree", 1.0),
        ("gemm bf16/fp16, median, differ", 1.0),
    ]


def test_quantiles_are_interpolated() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0, 5.0], 0.9) == pytest.approx(4.6)
    assert quantile([7.0], 0.1) == 7.0


@pytest.mark.parametrize(
    ("us", "label"),
    [(3.0, "1 us to 10 us"), (10.0, "10 us to 0.1 ms"), (150.0, "0.1 ms to 1 ms"), (2e6, "1 s to 10 s")],
)
def test_decades_read_well(us: float, label: str) -> None:
    assert decade(row(us)) == label


def test_decades_are_in_order() -> None:
    found = scores([prediction(us, us) for us in (5000, 3, 20, 300)], ("decade",))
    assert [s.labels[0].split(" to")[0] for s in found] == ["1 us", "10 us", "0.1 ms", "1 ms"]


def test_keys_to_group_by_are_checked() -> None:
    assert keys("class, gpu") == ("class", "gpu")
    with pytest.raises(InputError, match="cannot group by 'gpus'; did you mean gpu"):
        keys("gpus")
    with pytest.raises(InputError, match="--by is empty"):
        keys(",")


def test_percent() -> None:
    assert (percent(None), percent(0.0123), percent(1.5), percent(0.05, signed=True)) == ("-", "1.23", "150", "+5.00")


def test_figures_tell_gpus_that_nothing_is_fitted_to_apart() -> None:
    lines = {x.title: x for x in headline([prediction(100, 110), prediction(100, 150, gpu="B200")])}
    line = lines["GEMM bf16/fp16, 30 us and longer"]
    assert line.known is not None and line.known.mape == pytest.approx(0.1)
    assert line.unseen is not None and line.unseen.mape == pytest.approx(0.5)
    assert "whole models, forward" not in lines


def test_pairs_differ_in_one_factor_and_are_neighbours() -> None:
    found = pairs(
        [
            prediction(100, 100, m=64),
            prediction(200, 190, m=128),
            prediction(400, 420, m=256),
            prediction(300, 310, m=128, n=128),
            prediction(999, 999, m=64, gpu="A40"),
            prediction(150, None, m=96),
        ]
    )
    assert sorted((p.first.row.shape[:2], p.second.row.shape[:2]) for p in found) == [
        ((64, 64), (128, 64)),
        ((128, 64), (128, 128)),
        ((128, 64), (256, 64)),
    ]


def test_two_operations_are_no_pair_and_what_changes_together_is_one_factor(tmp_path: Path) -> None:
    def told(*lines: str) -> list[str]:
        path = tmp_path / "rows.csv"
        path.write_text("\n".join(lines) + "\n")
        return [pair.factor for pair in pairs(Prediction(row, value=1.0) for row in read(path).rows)]

    header = "source,gpu,dtype,op,rows,cols,latency_us"
    assert told(header, "neusight/test,T4,fp32,add,64,64,10", "neusight/test,T4,fp32,mul,64,64,20") == []
    header = "source,gpu,dtype,phase,batch,q_len,kv_len,heads,kv_heads,head_dim,latency_us"
    assert told(header, "a,T4,fp16,prefill,1,64,64,8,8,64,10", "a,T4,fp16,prefill,1,128,128,8,8,64,30") == ["3"]


def test_a_model_that_sees_no_difference_is_not_right() -> None:
    rows = [prediction(100, 100), prediction(200, 100, m=128), prediction(50, 100, m=256)]
    assert [pair.right for pair in pairs(rows)] == [False, False]


def test_number_formats_are_scored_apart() -> None:
    fast = prediction(60, 70)
    rows = [prediction(100, 100), replace(fast, row=replace(fast.row, dtype="fp8"))]
    assert [score.label for score in pair_scores(pairs(rows))] == ["gemm bf16/fp16, number formats", "all"]


def test_directions_and_the_smallest_change_to_believe() -> None:
    """Modelled changes of 50 % are always right, those of 5 % half the time; none says anything of 8 %."""
    rows = []
    for i in range(40):
        wrong = i % 2 == 0
        rows += [prediction(100, 100, k=8 * (i + 1)), prediction(80 if wrong else 120, 105, m=128, k=8 * (i + 1))]
        rows += [prediction(100, 100, k=4000 + i), prediction(170, 150, m=128, k=4000 + i)]
    found = [p for p in pairs(rows) if p.factor == "0"]
    last = pair_scores(found)[-1]
    assert (last.label, last.pairs, last.changed) == ("all", 80, 80)
    assert last.right == pytest.approx(0.75)
    assert last.believable == pytest.approx(0.3)


def test_what_is_held_out_must_not_be_fitted_to() -> None:
    held_out = next(k for k in range(1, 100) if is_held_out("gemm", 64, 64, k, 1))
    free = next(k for k in range(1, 100) if not is_held_out("gemm", 64, 64, k, 1))
    assert len(list(fit_only([row(1, k=free)], lambda r: r))) == 1
    with pytest.raises(InputError, match=r"made up:2 must not be fitted to: its shape is held out"):
        list(fit_only([row(1, k=held_out)], lambda r: r))
    with pytest.raises(InputError, match="one of L4, B200, B300, GB200, GB300"):
        cells([prediction(1, 1, k=free, gpu="GB200", cell=key_of("product", "bfloat16", 1e-6, "launch"))])


def fitted(count: int = 400, between: float = 0.3) -> list[Prediction]:
    """Rows of four GPUs whose log errors have a part of their own GPU and a part of their own."""
    chance = random.Random(7)
    shapes = [k for k in range(1, 4000) if not is_held_out("gemm", 64, 64, k, 1)][:count]
    own = {"A40": -between, "H100-SXM": 0.0, "H200-SXM": between, "T4": 0.0}
    key = key_of("product", "bfloat16", 100e-6, "compute")
    return [
        prediction(100 * math.exp(shift + chance.gauss(0, 0.1)), 100, gpu=gpu, k=k, cell=key)
        for gpu, shift in own.items()
        for k in shapes
    ]


def test_spread_of_measured_over_modelled() -> None:
    alone = next(c for c in cells(fitted(between=0.0)) if c.key[0] == "product" and c.key[3] == "compute")
    assert math.log(alone.low) == pytest.approx(-0.128, abs=0.01)
    assert math.log(alone.high) == pytest.approx(0.128, abs=0.01)
    assert (alone.wide_low, alone.wide_high) == pytest.approx((alone.low, alone.high), rel=0.02)
    apart = next(c for c in cells(fitted(between=0.3)) if c.key[0] == "product" and c.key[3] == "compute")
    assert apart.wide_low < apart.low < 1 < apart.high < apart.wide_high


def test_correlation_is_the_share_that_a_chip_has_in_common() -> None:
    assert correlations(fitted(between=0.0)) == pytest.approx((0.0, 0.0), abs=0.05)
    among, within = correlations(fitted(between=0.3))
    assert 0.7 < among <= within < 1.0


def test_a_cell_needs_rows_and_a_file_can_be_read_back(tmp_path: object) -> None:
    found = cells(fitted(count=5))
    assert [set(c.key) for c in found] == [{"*"}]
    text = render(found, (0.25, 0.5), "9.9")
    assert "class_correlation = 0.500" in text and 'class = "*"' in text


def test_classes_are_named() -> None:
    assert class_of(row(1)) == "gemm bf16/fp16"
