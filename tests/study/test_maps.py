"""Break-even maps: text for everyone, a plot where matplotlib is there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from torch_regflat.errors import InputError
from torch_regflat.study.maps import plot_map, show, text_map

VALUES = {(1, "a"): 1.5, (1, "b"): 0.5, (2, "a"): 1.0, (2, "b"): None}


def test_a_map_as_text() -> None:
    lines = text_map("gain", "batch", "pJ", VALUES).splitlines()
    assert lines[0] == "gain"
    assert lines[2].split() == ["batch", "\\", "pJ", "a", "b"]
    assert lines[4].split() == ["1", "1.50x", "+", "0.50x", "-"]
    assert lines[5].split() == ["2", "1.00x", "=", "no", "fit"]


def test_an_empty_map_is_refused() -> None:
    with pytest.raises(InputError, match="a map without values; sweep at least one point"):
        text_map("gain", "batch", "pJ", {})


def test_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "map.png"
    if importlib.util.find_spec("matplotlib") is not None:
        show(path, "gain", "batch", "pJ", VALUES)
        assert path.stat().st_size > 1000
        path.unlink()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    show(path, "gain", "batch", "pJ", VALUES)
    assert "1.50x" in capsys.readouterr().out and not path.exists()
    with pytest.raises(InputError, match="a plot needs matplotlib; pip install"):
        plot_map(path, "gain", "batch", "pJ", VALUES)
