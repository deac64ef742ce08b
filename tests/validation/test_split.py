"""The split of measured shapes into fitted and held-out ones."""

import pytest

from torch_regflat.validation.split import HELD_OUT_SHARE, is_held_out, is_test_gpu


def test_the_share_of_shapes_is_kept_out():
    shapes = [(m, n, k) for m in (1, 7, 64, 1024) for n in range(64, 8192, 64) for k in (128, 512, 4096)]
    kept_out = sum(is_held_out("gemm", *shape) for shape in shapes) / len(shapes)
    assert kept_out == pytest.approx(HELD_OUT_SHARE, abs=0.03)


def test_the_split_never_changes():
    """A split that moved would let fitted shapes into the held-out set."""
    assert sum(is_held_out("gemm", 128, 128, k) for k in range(1000)) == 346


@pytest.mark.parametrize("gpu", ["L4", "B200", "b200-sxm", "GB200", "GB300", "B300-SXM"])
def test_permanent_test_set(gpu):
    assert is_test_gpu(gpu)


@pytest.mark.parametrize("gpu", ["L40S", "L40", "H100-SXM", "ARC-B60", "T4", "P4"])
def test_other_gpus(gpu):
    assert not is_test_gpu(gpu)
