"""torch's own list of modules, `module_db`: every entry profiles, with formulas and with the FLOPs torch counts."""

from __future__ import annotations

import warnings

import op_coverage
import pytest
import torch

import torch_regflat as regflat

pytest.importorskip("expecttest")


@pytest.mark.slow
def test_every_module_profiles() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        entries = op_coverage.module_entries()
        outcomes = [op_coverage.run(info.name, op_coverage.module_calls(info, 3)) for info in entries]
    assert len(outcomes) > 100
    assert [f"{o.name} {o.status}: {o.reason}" for o in outcomes if o.status != "priced"] == []


def test_a_lazy_module_has_to_be_run_first() -> None:
    with pytest.raises(
        regflat.CaptureError,
        match=r"the parameter 'weight' has no shape yet, as its lazy module has not been run; call the model once",
    ):
        regflat.profile(torch.nn.LazyLinear(8), torch.ones(2, 4))


def test_sparse_tensors_are_refused() -> None:
    sparse = torch.eye(3).to_sparse()
    with pytest.raises(regflat.CaptureError, match=r"shape \(3, 3\) in the layout sparse_coo.*make it dense"):
        regflat.profile(torch.mm, (sparse, torch.ones(3, 3)))
    with pytest.raises(regflat.CaptureError, match=r"\.py:\d+ makes a tensor of shape \(3, 3\) in the layout"):
        regflat.profile(lambda x: x.to_sparse(), torch.ones(3, 3))
