"""Conditions say what makes no sense in words."""

import pytest

from torch_regflat.conditions import SCHEDULED, Conditions
from torch_regflat.errors import InputError


def test_profiles_assume_a_graph_and_leave_residency_to_the_schedule():
    assert Conditions() == SCHEDULED
    assert (SCHEDULED.launch, SCHEDULED.weights, SCHEDULED.activations) == ("graph", "scheduled", "scheduled")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"launch": "eager"}, "launch = 'eager' is no condition; known are graph, stream, single, timer"),
        ({"weights": "rotate"}, "weights = 'rotate' is no condition; did you mean rotating?"),
        ({"activations": "hot"}, "activations = 'hot' is no condition; known are scheduled, cold, warm, rotating"),
        ({"values": "ones"}, "values = 'ones' is no condition; known are random, zero"),
        ({"copies": 0}, "copies = 0: the sets of weights"),
        ({"repeats": -1}, "repeats = -1: give how often the kernel runs in a row, or 0 for ever"),
    ],
)
def test_unknown_conditions_are_refused(change, words):
    with pytest.raises(InputError) as error:
        Conditions(**change)
    assert words in str(error.value)
