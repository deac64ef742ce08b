"""Layouts: which are legal, how many chips they take, how they read."""

from __future__ import annotations

import pytest

from torch_regflat.errors import InputError
from torch_regflat.layout import Layout


def test_chips_and_experts() -> None:
    layout = Layout(tp=4, dp=8, pp=2, ep=16)
    assert (layout.chips, layout.expert_tp, str(layout)) == (64, 2, "tp4 ep16 pp2 dp8")
    assert (Layout(tp=4, dp=8).expert_tp, str(Layout())) == (4, "tp1")


@pytest.mark.parametrize(
    ("degrees", "said"),
    [
        ({"tp": 0}, "tp is 0; it must be a whole number of 1 or more"),
        ({"pp": 2.5}, "pp is 2.5; it must be a whole number of 1 or more"),
        (
            {"tp": 4, "dp": 2, "ep": 3},
            "ep is 3, which does not divide the tp x dp = 8 chips of a stage; degrees that do: 1, 2, 4, 8",
        ),
    ],
)
def test_illegal(degrees: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Layout(**degrees)
